// Package lkg keeps last known good states on disk: bytes under a name, in two generations with a checksum. What is loaded
// is a state that was saved, whole: the newest, or if that is damaged the one before. A crash or a power cut at any moment
// leaves the old state or the new one.
package lkg

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
)

// A file is the magic (which also is the version of the format), the length of the state in 8 bytes, big-endian, the
// SHA-256 of the state, and the state.
const (
	magic  = "wattle-lkg 1\n"
	header = len(magic) + 8 + sha256.Size
)

// The files of a state: the newest generation, the one before, one that is being written, and the last damaged one, which is
// kept for whoever wants to look at it.
const (
	newest = ".state"
	older  = ".state.old"
	fresh  = ".state.tmp"
	bad    = ".state.bad"
)

// Store is a folder of states. Its methods may be called from any goroutine, but for one name by one at a time.
type Store struct {
	dir  string
	disk disk
}

// Open makes the folder, for this user alone.
func Open(dir string) (*Store, error) {
	s := &Store{dir, osDisk{}}
	return s, s.disk.makeFolder(dir)
}

func (s *Store) path(name, kind string) string { return filepath.Join(s.dir, name+kind) }

// Save makes data the newest generation, and what was the newest the one before. When it returns without an error, data
// outlives a power cut. After an error the states that were there are there yet.
func (s *Store) Save(name string, data []byte) error {
	text := make([]byte, 0, header+len(data))
	text = append(text, magic...)
	text = binary.BigEndian.AppendUint64(text, uint64(len(data)))
	sum := sha256.Sum256(data)
	text = append(append(text, sum[:]...), data...)
	if err := s.disk.write(s.path(name, fresh), text); err != nil {
		return fmt.Errorf("keep %s: %w", name, errors.Join(err, gone(s.disk.remove(s.path(name, fresh)))))
	}
	err := gone(s.disk.rename(s.path(name, newest), s.path(name, older)))
	if err == nil {
		err = s.disk.rename(s.path(name, fresh), s.path(name, newest))
	}
	if err == nil {
		err = s.disk.sync(s.dir)
	}
	if err != nil {
		return fmt.Errorf("keep %s: %w", name, err)
	}
	return nil
}

// Load returns the newest generation that is whole and that use accepts; nil if there is none. faults says what is wrong
// with newer ones, which are set aside.
func (s *Store) Load(name string, use func([]byte) error) (data []byte, faults []error) {
	for _, kind := range []string{newest, older} {
		text, err := s.disk.read(s.path(name, kind))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil {
			data, err = unwrap(text)
		}
		if err == nil {
			err = use(data)
		}
		if err == nil {
			return data, faults
		}
		aside := gone(s.disk.rename(s.path(name, kind), s.path(name, bad)))
		faults = append(faults, errors.Join(fmt.Errorf("%s: %w", s.path(name, kind), err), aside))
	}
	return nil, faults
}

func unwrap(text []byte) ([]byte, error) {
	if len(text) < header || !bytes.HasPrefix(text, []byte(magic)) {
		return nil, errors.New("it is no state of this format")
	}
	data := text[header:]
	if n := binary.BigEndian.Uint64(text[len(magic):]); n != uint64(len(data)) {
		return nil, fmt.Errorf("it has %d bytes of %d", len(data), n)
	}
	if sum := sha256.Sum256(data); !bytes.Equal(sum[:], text[len(magic)+8:header]) {
		return nil, errors.New("its checksum is wrong")
	}
	return data, nil
}

// Names lists the states that there are, sorted.
func (s *Store) Names() ([]string, error) {
	files, err := s.disk.list(s.dir)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, f := range files {
		for _, kind := range []string{newest, older} {
			if name, ok := strings.CutSuffix(f, kind); ok {
				out = append(out, name)
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out), nil
}

// Remove forgets a state.
func (s *Store) Remove(name string) error {
	var errs []error
	for _, kind := range []string{newest, older, fresh, bad} {
		errs = append(errs, gone(s.disk.remove(s.path(name, kind))))
	}
	return errors.Join(errs...)
}

// gone drops the error that a file is not there.
func gone(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
