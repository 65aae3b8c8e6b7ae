package store

import (
	"bytes"
	"encoding/json"
	"time"

	"go.etcd.io/bbolt"
)

// Departure says when a node left. What it was certified before then is of no use any more.
type Departure struct {
	Node string    `json:"node"`
	Left time.Time `json:"left"`
}

// Forget drops a node with its grant and its last report, and remembers that it left; departures before
// since are forgotten. It reports whether the node was known.
func (s *Store) Forget(node string, now, since time.Time) (known bool, err error) {
	err = s.update(func(tx *bbolt.Tx) error {
		for _, bucket := range []string{nodeBucket, reportBucket} {
			b := tx.Bucket([]byte(bucket))
			known = known || b.Get([]byte(node)) != nil
			if err := b.Delete([]byte(node)); err != nil {
				return err
			}
		}
		if err := dropDepartures(tx, since); err != nil {
			return err
		}
		return put(tx, leftBucket, []byte(node), Departure{node, now.UTC()})
	})
	return known, err
}

// Departures returns the nodes that left, sorted by name.
func (s *Store) Departures() ([]Departure, error) { return all[Departure](s.db, leftBucket) }

func dropDepartures(tx *bbolt.Tx, since time.Time) error {
	b := tx.Bucket([]byte(leftBucket))
	var old [][]byte
	err := b.ForEach(func(k, v []byte) error {
		var d Departure
		if err := json.Unmarshal(v, &d); err != nil {
			return err
		}
		if d.Left.Before(since) {
			old = append(old, bytes.Clone(k))
		}
		return nil
	})
	for _, k := range old {
		if err == nil {
			err = b.Delete(k)
		}
	}
	return err
}
