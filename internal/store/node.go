package store

import (
	"time"

	"go.etcd.io/bbolt"
)

// Node is a host that was let into the mesh.
type Node struct {
	Name   string    `json:"name"`
	Grant  Grant     `json:"grant"` // the token's or the operator's; host blocks of the policy grant besides
	Joined time.Time `json:"joined"`
	Drain  *Drain    `json:"drain,omitempty"` // nil: it is not in maintenance
}

// Drain says that a host is in maintenance: none of its workloads takes new requests.
type Drain struct {
	Since  time.Time `json:"since"`
	Reason string    `json:"reason,omitempty"`
}

// SetDrain takes a node into maintenance, or with nil out of it. It reports false if the node was never let in.
func (s *Store) SetDrain(node string, d *Drain) (ok bool, err error) {
	err = s.db.Update(func(tx *bbolt.Tx) error {
		var n Node
		if n, ok, err = get[Node](tx, nodeBucket, []byte(node)); err != nil || !ok {
			return err
		}
		n.Drain = d
		return put(tx, nodeBucket, []byte(node), n)
	})
	return ok, err
}

// Admit lets a node in without a token. An empty grant leaves the node the one it has.
func (s *Store) Admit(node string, g Grant, now time.Time) error {
	return s.update(func(tx *bbolt.Tx) error { return admit(tx, node, g, now) })
}

func admit(tx *bbolt.Tx, node string, g Grant, now time.Time) error {
	n, _, err := get[Node](tx, nodeBucket, []byte(node))
	if err != nil {
		return err
	}
	n.Name, n.Joined = node, now
	if !g.Empty() {
		n.Grant = g
	}
	return put(tx, nodeBucket, []byte(node), n)
}

// Node returns the node of that name. It reports false if it was never let in.
func (s *Store) Node(name string) (n Node, ok bool, err error) {
	err = s.db.View(func(tx *bbolt.Tx) error {
		n, ok, err = get[Node](tx, nodeBucket, []byte(name))
		return err
	})
	return n, ok, err
}

// Nodes returns all nodes, sorted by name.
func (s *Store) Nodes() ([]Node, error) { return all[Node](s.db, nodeBucket) }
