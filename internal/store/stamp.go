package store

import (
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"

	"go.etcd.io/bbolt"
)

// Stamp says how late it is in this store's life: the number of its last revision, and how often it was written. Neither ever
// goes down, unless an older copy of the file is put in its place.
func (s *Store) Stamp() (revision, writes uint64, err error) {
	err = s.db.View(func(tx *bbolt.Tx) error {
		writes = uint64(tx.ID())
		if k, _ := tx.Bucket([]byte(revisionBucket)).Cursor().Last(); k != nil {
			revision = binary.BigEndian.Uint64(k)
		}
		return nil
	})
	return revision, writes, err
}

// Renew gives the store another id, so that what hosts have of it before is no measure any more.
func (s *Store) Renew() error {
	id, err := newID()
	if err != nil {
		return err
	}
	err = s.update(func(tx *bbolt.Tx) error { return tx.Bucket([]byte(metaBucket)).Put([]byte("id"), []byte(id)) })
	if err == nil {
		s.id = id
	}
	return err
}

func newID() (string, error) {
	id := make([]byte, 16)
	if _, err := rand.Read(id); err != nil {
		return "", err
	}
	return hex.EncodeToString(id), nil
}
