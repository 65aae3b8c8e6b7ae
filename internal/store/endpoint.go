package store

import (
	"encoding/json"
	"time"

	"go.etcd.io/bbolt"
)

// Endpoint is a service without an agent that was registered at the server.
type Endpoint struct {
	Namespace  string          `json:"namespace"`
	Service    string          `json:"service"`
	Instance   string          `json:"instance,omitempty"`
	Body       json.RawMessage `json:"body"` // a configs.Service
	Registered time.Time       `json:"registered"`
	Run        string          `json:"run,omitempty"` // that registered it last
}

// key orders by namespace, service and instance. Names have no slash.
func (e Endpoint) key() []byte { return []byte(e.Namespace + "/" + e.Service + "/" + e.Instance) }

// SaveEndpoints adds endpoints or replaces them, all or none.
func (s *Store) SaveEndpoints(all []Endpoint) error {
	return s.update(func(tx *bbolt.Tx) error {
		for _, e := range all {
			if err := put(tx, endpointBucket, e.key(), e); err != nil {
				return err
			}
		}
		return nil
	})
}

// DeleteEndpoints removes endpoints, all or none. Those that are not there are no error.
func (s *Store) DeleteEndpoints(all []Endpoint) error {
	return s.update(func(tx *bbolt.Tx) error {
		for _, e := range all {
			if err := tx.Bucket([]byte(endpointBucket)).Delete(e.key()); err != nil {
				return err
			}
		}
		return nil
	})
}

// Endpoints returns all endpoints, sorted by namespace, service and instance.
func (s *Store) Endpoints() ([]Endpoint, error) { return all[Endpoint](s.db, endpointBucket) }

// dismissedKey is where the meta bucket has what SaveDismissed keeps.
const dismissedKey = "dismissed"

// SaveDismissed keeps which endpoints were ended by somebody, in JSON.
func (s *Store) SaveDismissed(text json.RawMessage) error {
	return s.update(func(tx *bbolt.Tx) error { return put(tx, metaBucket, []byte(dismissedKey), text) })
}

// Dismissed returns that, nil if there is none.
func (s *Store) Dismissed() (text json.RawMessage, err error) {
	err = s.db.View(func(tx *bbolt.Tx) error {
		text, _, err = get[json.RawMessage](tx, metaBucket, []byte(dismissedKey))
		return err
	})
	return text, err
}
