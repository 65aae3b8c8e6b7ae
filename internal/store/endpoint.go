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
