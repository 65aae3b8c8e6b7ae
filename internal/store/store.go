// Package store keeps what the server must not forget: join tokens, nodes and their grants, what agents reported
// last, endpoints without an agent, revisions and mesh ports. Typed values in, typed values out; private keys are never among them.
package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"go.etcd.io/bbolt"
	bberrors "go.etcd.io/bbolt/errors"
)

// The buckets. Values are JSON, so that a newer server reads what an older one wrote.
const (
	metaBucket     = "meta"
	tokenBucket    = "tokens"    // by hash of the secret
	nodeBucket     = "nodes"     // by name
	reportBucket   = "reports"   // by node
	revisionBucket = "revisions" // by number, big endian
	portBucket     = "ports"     // by workload
	sliceBucket    = "slices"    // by workload
	addressBucket  = "addresses" // by namespace/service
	endpointBucket = "endpoints" // by namespace/service/instance
	leftBucket     = "left"      // by node
)

// lockTimeout is how long Open waits for another process to let go of the file.
const lockTimeout = 2 * time.Second

// ErrLocked is what Open returns when another process has the store open.
var ErrLocked = errors.New("another wattle server uses it; end that one, or give this one a state folder of its own")

// ErrDamaged is what Open returns for a file that is broken.
var ErrDamaged = errors.New("the file is damaged; restore it from a backup, or move it away and start again to be told how to go on without it")

// Store is one open file. Its methods may be called from any goroutine; what they return is the caller's.
type Store struct {
	db *bbolt.DB
	id string

	fault fault
}

// Open opens the store in a file, wattle.db by custom, which is made if need be, 0600 in a folder that is 0700; more
// open ones are refused. All of the file is checked first. Errors match ErrLocked if another process has it open, and
// ErrDamaged if it is not what a Store wrote; the file then stays as it is, and locked until the process ends.
func Open(file string) (*Store, error) {
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	for _, path := range []string{filepath.Dir(file), file} {
		if err := private(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("store: %w", err)
		}
	}
	s := &Store{fault: fault{wake: make(chan struct{}, 1)}}
	if err := attempt(func() error { return s.open(file) }); err != nil {
		return nil, fmt.Errorf("store %s: %w", file, err)
	}
	return s, nil
}

// private refuses a file or folder that others than its owner may use.
func private(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return fmt.Errorf("%s is open to others (mode %04o): chmod go= %s", path, mode, path)
	}
	return nil
}

func (s *Store) open(file string) error {
	if info, err := os.Stat(file); err == nil && info.Size() < 2*int64(os.Getpagesize()) { // of an empty file bbolt would make a new store
		return fmt.Errorf("%w (it has %d bytes)", ErrDamaged, info.Size())
	}
	db, err := bbolt.Open(file, 0o600, &bbolt.Options{Timeout: lockTimeout})
	switch {
	case errors.Is(err, bberrors.ErrTimeout):
		return ErrLocked
	case errors.Is(err, bberrors.ErrInvalid), errors.Is(err, bberrors.ErrVersionMismatch), errors.Is(err, bberrors.ErrChecksum):
		return fmt.Errorf("%w (%w)", ErrDamaged, err)
	case err != nil:
		return err
	}
	s.db = db
	if err := db.View(check); err != nil {
		return errors.Join(err, db.Close())
	}
	if err := db.Update(s.prepare); err != nil {
		return errors.Join(err, db.Close())
	}
	return nil
}

// prepare makes the buckets, and the store's id the first time.
func (s *Store) prepare(tx *bbolt.Tx) error {
	for _, name := range []string{metaBucket, tokenBucket, nodeBucket, reportBucket, revisionBucket, portBucket, sliceBucket, addressBucket, endpointBucket, leftBucket} {
		if _, err := tx.CreateBucketIfNotExists([]byte(name)); err != nil {
			return err
		}
	}
	meta := tx.Bucket([]byte(metaBucket))
	if s.id = string(meta.Get([]byte("id"))); s.id != "" {
		return nil
	}
	id, err := newID()
	if err != nil {
		return err
	}
	s.id = id
	return meta.Put([]byte("id"), []byte(s.id))
}

// Close lets go of the file.
func (s *Store) Close() error { return s.db.Close() }

// ID identifies this store: one that was lost and made anew has another.
func (s *Store) ID() string { return s.id }

// put writes a value as JSON.
func put(tx *bbolt.Tx, bucket string, key []byte, value any) error {
	b, err := json.Marshal(value)
	if err != nil {
		return fmt.Errorf("store %s: %w", bucket, err)
	}
	return tx.Bucket([]byte(bucket)).Put(key, b)
}

// get reads a value. It reports false if there is none.
func get[T any](tx *bbolt.Tx, bucket string, key []byte) (value T, ok bool, err error) {
	b := tx.Bucket([]byte(bucket)).Get(key)
	if b == nil {
		return value, false, nil
	}
	if err := json.Unmarshal(b, &value); err != nil {
		return value, false, fmt.Errorf("store %s: %q: %w", bucket, key, err)
	}
	return value, true, nil
}

// all reads the values of a bucket in the order of their keys.
func all[T any](db *bbolt.DB, bucket string) ([]T, error) {
	var out []T
	err := db.View(func(tx *bbolt.Tx) error {
		return tx.Bucket([]byte(bucket)).ForEach(func(k, v []byte) error {
			var value T
			if err := json.Unmarshal(v, &value); err != nil {
				return fmt.Errorf("store %s: %q: %w", bucket, k, err)
			}
			out = append(out, value)
			return nil
		})
	})
	return out, err
}
