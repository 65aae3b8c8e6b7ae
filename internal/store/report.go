package store

import (
	"encoding/json"
	"net/netip"

	"go.etcd.io/bbolt"
)

// Report is what a node's agent said last, as far as it was accepted.
type Report struct {
	Node          string         `json:"node"`
	Address       netip.Addr     `json:"address"` // as the server verified it
	MeshPort      uint16         `json:"mesh_port,omitempty"`
	Registrations []Registration `json:"registrations,omitempty"`
	Health        []Health       `json:"health,omitempty"`
	// Facts are what the host is, by name.
	Facts map[string]string `json:"facts,omitempty"`
}

// Registration is a workload that a node declared.
type Registration struct {
	Namespace string          `json:"namespace"`
	Service   string          `json:"service"`
	Instance  string          `json:"instance,omitempty"`
	Body      json.RawMessage `json:"body"` // a configs.Service
	Origin    string          `json:"origin,omitempty"`
}

// Health is what an agent said of one of its workloads.
type Health struct {
	Namespace string `json:"namespace"`
	Service   string `json:"service"`
	Instance  string `json:"instance,omitempty"`
	Healthy   bool   `json:"healthy"`
	Reason    string `json:"reason,omitempty"`
	Drain     uint64 `json:"drain,omitempty"` // not zero: it takes no new requests; grows with each time
	Idle      bool   `json:"idle,omitempty"`  // and nothing is under way to it
	Ready     string `json:"ready,omitempty"` // proxies of the host that could serve it; with spaces between
}

// SaveReports replaces what is kept of the nodes' reports, all or none.
func (s *Store) SaveReports(all []Report) error {
	return s.update(func(tx *bbolt.Tx) error {
		for _, r := range all {
			if err := put(tx, reportBucket, []byte(r.Node), r); err != nil {
				return err
			}
		}
		return nil
	})
}

// Reports returns the last report of every node, sorted by node.
func (s *Store) Reports() ([]Report, error) { return all[Report](s.db, reportBucket) }
