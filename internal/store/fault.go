package store

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"syscall"
	"time"

	"go.etcd.io/bbolt"
)

// ErrUnwritable is what every change returns while the file cannot be written, the disk being full. Nothing was changed
// then, and all that was there is there yet.
var ErrUnwritable = errors.New("the store cannot be written")

// mendEvery is how often a store that could not be written is tried again.
const mendEvery = 5 * time.Second

// fault is why the last change was not written.
type fault struct {
	mu    sync.Mutex
	err   error
	since time.Time
	wake  chan struct{}
}

// Fault returns since when the store cannot be written, and why; nil: it can.
func (s *Store) Fault() (since time.Time, err error) {
	s.fault.mu.Lock()
	defer s.fault.mu.Unlock()
	return s.fault.since, s.fault.err
}

// update changes the file, all or nothing.
func (s *Store) update(f func(*bbolt.Tx) error) error {
	err := s.db.Update(f)
	_, machine := errors.AsType[syscall.Errno](err)
	switch {
	case machine:
		err = fmt.Errorf("%w: %w", ErrUnwritable, err)
		s.note(err)
	case err == nil:
		s.note(nil)
	}
	return err
}

func (s *Store) note(err error) {
	s.fault.mu.Lock()
	defer s.fault.mu.Unlock()
	if err != nil && s.fault.err == nil {
		s.fault.since = time.Now()
		select {
		case s.fault.wake <- struct{}{}:
		default:
		}
	}
	s.fault.err = err
}

// Run tries a store that could not be written again until it can, so that Fault is true, until ctx is done. It returns nil.
func (s *Store) Run(ctx context.Context) error {
	for {
		select {
		case <-s.fault.wake:
		case <-ctx.Done():
			return nil
		}
		for _, err := s.Fault(); err != nil; _, err = s.Fault() {
			select {
			case <-time.After(mendEvery):
			case <-ctx.Done():
				return nil
			}
			s.try()
		}
	}
}

// try writes more than what usually is free in the file, and drops it again. Fault says how that went.
func (s *Store) try() {
	key := []byte("tried")
	err := s.update(func(tx *bbolt.Tx) error {
		return tx.Bucket([]byte(metaBucket)).Put(key, make([]byte, 16*tx.DB().Info().PageSize))
	})
	if err == nil {
		_ = s.update(func(tx *bbolt.Tx) error { return tx.Bucket([]byte(metaBucket)).Delete(key) })
	}
}
