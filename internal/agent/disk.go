package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"

	"github.com/wattle-mesh/wattle/internal/seal"
)

// diskAlarm is the name of the alarm that the state folder cannot be written.
const diskAlarm = "disk"

// tryBytes is what a folder must take for writes to be tried: more than any of our small files.
const tryBytes = 64 << 10

// disk writes the agent's small files. What cannot be written, the disk being full, is in force from memory all the same, and
// written when that can be done; until then there is an alarm, and on disk is what was there before, whole. Safe for concurrent use.
type disk struct {
	seal *seal.Seal // of private keys; nil: they are not sealed

	dir    string // the state folder
	alarms *alarms
	wake   chan struct{}

	mu      sync.Mutex
	owed    map[string][]byte // by path
	failing map[string]error  // why others could not write, by what they write
}

func newDisk(dir string, a *alarms) *disk {
	return &disk{dir: dir, alarms: a, wake: make(chan struct{}, 1), owed: map[string][]byte{}, failing: map[string]error{}}
}

// write replaces a file, sooner or later.
func (d *disk) write(path string, data []byte) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := replace(path, data); err != nil {
		d.owed[path] = bytes.Clone(data)
		d.alarm(err)
		return
	}
	delete(d.owed, path)
	d.settle()
}

// remove removes a file, and what is still to be written of it.
func (d *disk) remove(path string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.owed, path)
	err := os.Remove(path)
	d.settle()
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// note says how a write went that is another's to try again; nil: well.
func (d *disk) note(what string, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err != nil {
		d.failing[what] = err
		d.alarm(err)
		return
	}
	delete(d.failing, what)
	d.settle()
}

// forgive forgets the failures of what nobody is to write any more.
func (d *disk) forgive(gone func(what string) bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	maps.DeleteFunc(d.failing, func(what string, _ error) bool { return gone(what) })
	d.settle()
}

// alarm says that something could not be written. The caller holds d.mu.
func (d *disk) alarm(err error) {
	if no, ok := errors.AsType[syscall.Errno](err); ok {
		err = no // without the name of a file that is another each time
	}
	d.alarms.raise(diskAlarm, fmt.Sprintf("%s cannot be written, and the agent goes on from memory: %v; free some space there (df)", d.dir, err))
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

// settle ends the alarm if all is written. The caller holds d.mu.
func (d *disk) settle() {
	if len(d.owed) == 0 && len(d.failing) == 0 {
		d.alarms.end(diskAlarm)
	}
}

// run writes what could not be written until it can be, and looks at the folder for the others, until ctx is done.
func (d *disk) run(ctx context.Context) error {
	for {
		select {
		case <-d.wake:
		case <-ctx.Done():
			d.again()
			return nil
		}
		pause := newPause()
		for {
			if !sleep(ctx, pause.NextBackOff()) {
				d.again()
				return nil
			}
			if d.again() {
				break
			}
		}
	}
}

// replace is writeFile in a folder that may be missing.
func replace(path string, data []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	return writeFile(path, data)
}

// again tries to write what is owed, in the order of the paths, and reports whether nothing is any more.
func (d *disk) again() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, path := range slices.Sorted(maps.Keys(d.owed)) {
		if err := replace(path, d.owed[path]); err != nil {
			d.alarm(err)
			return false
		}
		delete(d.owed, path)
	}
	if tryWrite(d.dir) == nil {
		for what := range d.failing {
			if filepath.Dir(what) == d.dir { // small ones, which nobody tries again; a proxy's state is tried by its keeper
				delete(d.failing, what)
			}
		}
	}
	d.settle()
	return len(d.failing) == 0
}

// tryWrite says why a folder cannot be written.
func tryWrite(dir string) error {
	f, err := os.CreateTemp(dir, ".try-")
	if err != nil {
		return err
	}
	_, err = f.Write(make([]byte, tryBytes))
	return errors.Join(err, f.Sync(), f.Close(), os.Remove(f.Name()))
}
