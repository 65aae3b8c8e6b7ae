package store

import (
	"errors"
	"fmt"

	"go.etcd.io/bbolt"
)

// caKey is where the bucket of meta has the pin of the CA.
var caKey = []byte("ca")

// ErrCA is the CA of another store.
var ErrCA = errors.New("the store belongs to another CA than the one in the ca folder; restore the two together from one backup, or no host can come back")

// HasCA reports whether there must be a CA already: the store was used with one, or has nodes.
func (s *Store) HasCA() (has bool, err error) {
	err = s.db.View(func(tx *bbolt.Tx) error {
		node, _ := tx.Bucket([]byte(nodeBucket)).Cursor().First()
		has = tx.Bucket([]byte(metaBucket)).Get(caKey) != nil || node != nil
		return nil
	})
	return has, err
}

// SetCA keeps the pin of the CA that the store is used with. Errors match ErrCA if that was another one before.
func (s *Store) SetCA(pin string) error {
	return s.update(func(tx *bbolt.Tx) error {
		meta := tx.Bucket([]byte(metaBucket))
		if was := string(meta.Get(caKey)); was == pin {
			return nil
		} else if was != "" {
			return fmt.Errorf("%w (its public key's SHA-256 was %s, and is %s)", ErrCA, was, pin)
		}
		return meta.Put(caKey, []byte(pin))
	})
}
