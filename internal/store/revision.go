package store

import (
	"cmp"
	"encoding/binary"
	"encoding/json"
	"time"

	"go.etcd.io/bbolt"

	"github.com/wattle-mesh/wattle/internal/mesh"
	"github.com/wattle-mesh/wattle/registry"
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

// allotted is where one workload is served.
type allotted struct {
	Host     string        `json:"host"`
	Service  registry.Name `json:"service"`
	Instance string        `json:"instance,omitempty"`
	Proxy    string        `json:"proxy,omitempty"` // none: "host"
	Port     uint16        `json:"port"`
	Other    mesh.Seat     `json:"other,omitzero"`
}

// sharedProxy serves the workloads of a host that have no proxy of their own.
const sharedProxy = "host"

// Allotment returns the mesh ports that were given to workloads.
func (s *Store) Allotment() (mesh.Allotment, error) {
	list, err := all[allotted](s.db, portBucket)
	out := make(mesh.Allotment, len(list))
	for _, a := range list {
		out[registry.WorkloadKey{Host: a.Host, Service: a.Service, Instance: a.Instance}] =
			mesh.Seats{Proxy: cmp.Or(a.Proxy, sharedProxy), MeshPort: a.Port, Other: a.Other}
	}
	return out, err
}

// SetAllotment replaces the mesh ports that were given to workloads. Only what differs is written.
func (s *Store) SetAllotment(ports mesh.Allotment) error {
	return s.update(func(tx *bbolt.Tx) error {
		b := tx.Bucket([]byte(portBucket))
		keep := make(map[string]bool, len(ports))
		for k, seats := range ports {
			key := k.String()
			keep[key] = true
			a := allotted{k.Host, k.Service, k.Instance, seats.Proxy, seats.MeshPort, seats.Other}
			if was, ok, err := get[allotted](tx, portBucket, []byte(key)); err == nil && ok && was == a {
				continue
			}
			if err := put(tx, portBucket, []byte(key), a); err != nil {
				return err
			}
		}
		var gone [][]byte
		err := b.ForEach(func(k, _ []byte) error {
			if !keep[string(k)] {
				gone = append(gone, append([]byte(nil), k...))
			}
			return nil
		})
		for _, k := range gone {
			if err == nil {
				err = b.Delete(k)
			}
		}
		return err
	})
}
