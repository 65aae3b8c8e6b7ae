package agent

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/wattle-mesh/wattle/internal/api"
)

// registeredFile keeps what was registered through the socket. Beside it are the generation before, and what could not be
// read, for a person to look at.
const (
	registeredFile = "registered.json"
	olderSuffix    = ".old"
	badSuffix      = ".bad"

	endedFile = "deregistered.json" // keeps what of that was ended by somebody
)

// registeredAlarm is the name of the alarm that the registrations could not be read.
const registeredAlarm = "registered"

// load takes over what was registered before. A file that is damaged is set aside: an agent that does not start serves nobody,
// and what is lost can be registered again.
func (d *desk) load() error {
	if err := d.loadEnded(); err != nil {
		return err
	}
	text, err := os.ReadFile(d.keep)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("what was registered with wattle service register: %w", err)
	}
	all, err := readEntries(text)
	if err != nil {
		if all, err = d.recover(text, err); err != nil {
			return err
		}
	}
	for _, e := range all {
		d.own[e.key()] = e.finish()
		d.bar(e)
	}
	if d.kept == nil {
		d.kept = text
	}
	d.warn()
	return nil
}

// readEntries reads all or nothing.
func readEntries(text []byte) ([]*entry, error) {
	var all []*entry
	if err := json.Unmarshal(text, &all); err != nil {
		return nil, err
	}
	for _, e := range all {
		if e == nil || e.Service == nil || e.Service.Namespace == "" || e.Service.Name == "" {
			return nil, errors.New("an entry is empty")
		}
	}
	return all, nil
}

// recover sets a damaged file aside and puts the generation before in its place, or nothing if that is damaged too. Whatever
// moment the host goes down at, the next agent finds one of the two.
func (d *desk) recover(text []byte, why error) ([]*entry, error) {
	if err := writeFile(d.keep+badSuffix, text); err != nil {
		return nil, fmt.Errorf("%s is damaged (%w) and cannot be set aside: %w", d.keep, why, err)
	}
	d.log.Error("what was registered with wattle service register is damaged and set aside", "file", d.keep, "as", d.keep+badSuffix, "error", why)
	older, err := os.ReadFile(d.keep + olderSuffix)
	var all []*entry
	if err == nil {
		all, err = readEntries(older)
	}
	if err != nil {
		older = []byte("[]")
		d.log.Error("the generation before cannot be read either, nothing is registered by command", "file", d.keep+olderSuffix, "error", err)
	}
	if err := writeFile(d.keep, older); err != nil {
		return nil, fmt.Errorf("%s is damaged (%w) and cannot be replaced: %w", d.keep, why, err)
	}
	d.kept = older
	return all, nil
}

// warn raises the alarm while there is a file that was set aside, and ends it when somebody has removed that.
func (d *desk) warn() {
	if _, err := os.Stat(d.keep + badSuffix); err != nil {
		d.disk.alarms.end(registeredAlarm)
		return
	}
	d.disk.alarms.raise(registeredAlarm, fmt.Sprintf("what was registered with wattle service register was damaged, and is what it was before the last change, or nothing: %s has what could not be read; "+
		"see wattle service list, register what is missing, then remove that file", d.keep+badSuffix))
}

// save writes what was registered through the socket. The generation before stays beside it.
func (d *desk) save(own map[workload]*entry) error {
	all := slices.SortedFunc(maps.Values(own), func(a, b *entry) int { return cmp.Compare(a.key().String(), b.key().String()) })
	text, err := json.Marshal(all)
	if err != nil {
		return err
	}
	if d.kept != nil && !bytes.Equal(d.kept, text) {
		err = writeFile(d.keep+olderSuffix, d.kept)
	}
	if err == nil {
		err = writeFile(d.keep, text)
	}
	if d.disk.note(d.keep, err); err != nil {
		return err
	}
	d.kept = text
	d.warn()
	return nil
}

// loadEnded takes over which registrations were ended. If that is damaged, runs that live bring back what was.
func (d *desk) loadEnded() error {
	path := filepath.Join(d.disk.dir, endedFile)
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("what was deregistered with wattle service deregister: %w", err)
	}
	if err := json.Unmarshal(text, &d.ended); err != nil {
		d.ended = nil
		d.log.Error("what was deregistered is damaged and forgotten, runs may bring it back", "file", path, "error", err)
	}
	return nil
}

// dismiss replaces what is remembered of registrations that were ended, on disk first. The caller holds d.mu.
func (d *desk) dismiss(next api.Dismissed) error {
	if slices.Equal(next, d.ended) {
		return nil
	}
	text, err := json.Marshal(next)
	path := filepath.Join(d.disk.dir, endedFile)
	if err == nil {
		err = writeFile(path, text)
	}
	if d.disk.note(path, err); err == nil {
		d.ended = next
	}
	return err
}
