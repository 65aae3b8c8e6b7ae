package store

import (
	"encoding/binary"
	"encoding/json"
	"time"

	"go.etcd.io/bbolt"
)

// keptRevisions bounds how many revisions are remembered.
const keptRevisions = 1000

// Revision is a policy that was in force.
type Revision struct {
	Number uint64    `json:"number"`
	Hash   string    `json:"hash"` // of its content
	Time   time.Time `json:"time"` // when it came into force first
}

// Revision returns the number of the policy with this content hash: the last one's if it is the same, else the next.
func (s *Store) Revision(hash string) (number uint64, err error) {
	last, err := s.last()
	if err != nil || last.Hash == hash {
		return last.Number, err // also if the disk is full
	}
	err = s.update(func(tx *bbolt.Tx) error {
		b := tx.Bucket([]byte(revisionBucket))
		number = last.Number + 1 // there is one loop that numbers
		if number > keptRevisions {
			if err := b.Delete(numberKey(number - keptRevisions)); err != nil {
				return err
			}
		}
		return put(tx, revisionBucket, numberKey(number), Revision{number, hash, time.Now().UTC()})
	})
	return number, err
}

// last returns the newest revision, the zero one if there is none.
func (s *Store) last() (r Revision, err error) {
	err = s.db.View(func(tx *bbolt.Tx) error {
		if _, v := tx.Bucket([]byte(revisionBucket)).Cursor().Last(); v != nil {
			return json.Unmarshal(v, &r)
		}
		return nil
	})
	return r, err
}

// Revisions returns the last revisions, oldest first.
func (s *Store) Revisions() ([]Revision, error) { return all[Revision](s.db, revisionBucket) }

func numberKey(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }
