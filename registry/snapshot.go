package registry

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// How often sets are written: saveGap after a change, to gather what follows it, and then at most one part in
// saveShare of the time. After a failure it is tried again every saveRetry.
const (
	saveGap   = time.Second
	saveShare = 20
	saveRetry = 30 * time.Second
)

// generations is how many files a registry has: the newer ones replace the oldest, so that a write that was cut short
// leaves the one before it.
const generations = 2

const (
	snapshotEnding = ".snapshot"
	removedEnding  = ".removed" // behind it, of a registry whose block is gone
	keepRemoved    = 24 * time.Hour
	sweepEvery     = time.Hour
	snapshotMagic  = "wattle-registry-snapshot 1 " // then the SHA-256 of what follows the line, in hex
)

// snapshot is a set as it is kept on disk.
type snapshot struct {
	Name     string      `json:"name"`
	Type     string      `json:"type"`
	Choice   string      `json:"choice"`
	Sequence uint64      `json:"sequence"` // of a registry's snapshots the highest is the newest
	Said     time.Time   `json:"said"`     // when the registry said so
	Services []*Service  `json:"services"` // as they were served
	Held     []heldPlace `json:"held,omitempty"`
}

// heldPlace is an endpoint of a snapshot that is held.
type heldPlace struct {
	Service  int       `json:"service"`  // which of the services
	Endpoint int       `json:"endpoint"` // which of its endpoints
	Since    time.Time `json:"since"`
}

// file is where a generation stands.
func (m *member) file(generation uint64) string {
	return filepath.Join(m.a.o.Snapshots, fmt.Sprintf("%s.%d%s", m.Name, generation%generations, snapshotEnding))
}

func (m *member) snapshots() bool { return m.Snapshot && m.a.o.Snapshots != "" && isLabel(m.Name) }

// encode makes a file's content.
func (s *snapshot) encode() ([]byte, error) {
	body, err := json.Marshal(s)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(body)
	return slices.Concat([]byte(snapshotMagic+hex.EncodeToString(sum[:])+"\n"), body), nil
}

// errDamaged is a file that is not as it was written.
var errDamaged = errors.New("it is damaged")

// sealed is a file's content, of which only what comes before the services was decoded: of two generations one is used.
type sealed struct {
	snapshot
	body []byte
}

// unseal checks a file's content and reads whose it is, and which. Its error matches errDamaged.
func unseal(text []byte) (*sealed, error) {
	head, body, ok := bytes.Cut(text, []byte("\n"))
	want, magic := strings.CutPrefix(string(head), snapshotMagic)
	sum := sha256.Sum256(body)
	if !ok || !magic || want != hex.EncodeToString(sum[:]) {
		return nil, errDamaged
	}
	s := &sealed{body: body}
	if err := s.peek(); err != nil {
		return nil, fmt.Errorf("%w: %w", errDamaged, err)
	}
	return s, nil
}

// peek decodes what comes before the services.
func (s *sealed) peek() error {
	fields := map[json.Token]any{"name": &s.Name, "type": &s.Type, "choice": &s.Choice, "sequence": &s.Sequence, "said": &s.Said}
	d := json.NewDecoder(bytes.NewReader(s.body))
	for range 1 + len(fields) { // the bracket, and then a field at a time
		t, err := d.Token()
		if err != nil {
			return err
		}
		if into := fields[t]; into != nil {
			if err := d.Decode(into); err != nil {
				return err
			}
		}
	}
	return nil
}

// open decodes all of it. Its error matches errDamaged.
func (s *sealed) open() (*snapshot, error) {
	out := new(snapshot)
	if err := json.Unmarshal(s.body, out); err != nil {
		return nil, fmt.Errorf("%w: %w", errDamaged, err)
	}
	return out, nil
}

// restore begins with the newest snapshot that can be read. It is called before the member is run.
func (m *member) restore() {
	if !m.snapshots() {
		return
	}
	var all []*sealed
	var faults []string
	for g := range uint64(generations) {
		if err := os.Rename(m.file(g)+removedEnding, m.file(g)); err != nil && !errors.Is(err, fs.ErrNotExist) { // it is back
			faults = append(faults, fmt.Sprintf("%s: %v", filepath.Base(m.file(g)), err))
		}
		text, err := os.ReadFile(m.file(g))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		var s *sealed
		if err == nil {
			s, err = unseal(text)
		}
		if err != nil {
			faults = append(faults, fmt.Sprintf("%s: %v", filepath.Base(m.file(g)), err))
		} else if s.Name == m.Name && s.Type == m.Type { // else it is of another registry that had this name
			all = append(all, s)
		}
	}
	slices.SortFunc(all, func(a, b *sealed) int { return cmp.Compare(b.Sequence, a.Sequence) })
	var best *snapshot
	for _, s := range all {
		var err error
		if best, err = s.open(); err == nil {
			break
		}
		faults = append(faults, fmt.Sprintf("%s: %v", filepath.Base(m.file(s.Sequence)), err))
	}
	if len(faults) > 0 {
		m.damaged(faults, best)
	}
	if best != nil {
		m.adopt(best)
	}
}

// damaged notes that snapshots cannot be read.
func (m *member) damaged(faults []string, best *snapshot) {
	d := Diagnostic{Severity: Warning, Code: snapshotDamaged, Source: m.Name,
		Summary: "a snapshot cannot be read, there is none to go on with: " + strings.Join(faults, "; "),
		Detail:  "Until the registry answers, nothing of it is served. See whether the disk is well."}
	if best != nil {
		d.Summary = fmt.Sprintf("a snapshot cannot be read, the other one, of %s, is used: %s", best.Said.UTC().Format(time.RFC3339), strings.Join(faults, "; "))
		d.Detail = "It goes when the registry answers. See whether the disk is well."
	}
	m.diskFault = []Diagnostic{d}
	m.a.o.Log.Warn("registry is faulty", "registry", m.Name, "diagnostic", d.String())
}

// adopt begins with a snapshot's set.
func (m *member) adopt(s *snapshot) {
	kept := map[Name]map[identity]time.Time{}
	for _, h := range s.Held {
		if h.Service < 0 || h.Service >= len(s.Services) || h.Endpoint < 0 || h.Endpoint >= len(s.Services[h.Service].Endpoints) {
			continue
		}
		of := s.Services[h.Service]
		if kept[of.Name] == nil {
			kept[of.Name] = map[identity]time.Time{}
		}
		kept[of.Name][of.Endpoints[h.Endpoint].identity()] = h.Since
	}
	said := checked{}.next(m.Name, s.Services).clean
	m.keep.take(said, time.Now())
	m.keep.kept = kept
	m.fresh = s.Choice != m.Choice
	m.sequence = s.Sequence
	m.served = said
	m.status.LastPublish, m.status.Snapshot = s.Said, s.Said
	m.status.Services, m.status.Endpoints = len(said), countEndpoints(said)
	m.a.o.Log.Warn("registry begins with what it said before the restart", "registry", m.Name, "said", s.Said, "services", len(said))
}

// unkeep lets go of the snapshots. They stay for a day, for the case that the registry's block comes back.
func (m *member) unkeep() {
	if err := m.save(); err != nil { // what it said last
		m.a.o.Log.Warn("write the snapshot of a registry that is removed", "registry", m.Name, "error", err)
	}
	m.saving.Lock()
	defer m.saving.Unlock()
	m.removed = true
	if !m.snapshots() {
		return
	}
	for g := range uint64(generations) {
		if err := retire(m.file(g), time.Now()); err != nil && !errors.Is(err, fs.ErrNotExist) {
			m.a.o.Log.Warn("set the snapshot of a registry aside", "registry", m.Name, "error", err)
		}
	}
}

// retire sets a snapshot aside, from now on.
func retire(path string, now time.Time) error {
	return errors.Join(os.Chtimes(path, now, now), os.Rename(path, path+removedEnding))
}

// take makes a snapshot of what is served now, if the files do not have it.
func (m *member) take() *snapshot {
	m.work.Lock()
	defer m.work.Unlock()
	m.a.mu.Lock()
	defer m.a.mu.Unlock()
	if !m.unsaved || !m.snapshots() {
		return nil
	}
	m.unsaved = false
	s := &snapshot{Name: m.Name, Type: m.Type, Choice: m.Choice, Said: m.status.LastPublish, Services: m.served}
	if len(m.held) > 0 {
		s.Held = m.keep.places(m.served)
	}
	return s
}

// places lists where held endpoints stand in what is served.
func (k *keeper) places(served []*Service) []heldPlace {
	var out []heldPlace
	for i, s := range served {
		l := k.ledgers[s.Name]
		if l == nil || l.held == 0 {
			continue
		}
		for j, e := range s.Endpoints {
			if a := l.gone[e.identity()]; a != nil && a.held {
				out = append(out, heldPlace{i, j, a.at})
			}
		}
	}
	return out
}

// save writes a snapshot of what is served now, if the files do not have it.
func (m *member) save() error {
	m.saving.Lock()
	defer m.saving.Unlock()
	s := m.take()
	if s == nil || m.removed {
		return nil
	}
	s.Sequence = m.sequence + 1
	text, err := s.encode()
	if err == nil {
		err = replace(m.file(s.Sequence), text)
	}
	m.a.mu.Lock()
	defer m.a.mu.Unlock()
	if err != nil {
		m.unsaved = true
		m.diskFault = []Diagnostic{{Severity: Warning, Code: snapshotUnwritten, Source: m.Name,
			Summary: fmt.Sprintf("the snapshot cannot be written: %v", err),
			Detail:  "A restart while the registry is down would begin with an older set. It is tried again every half a minute."}}
		return err
	}
	m.sequence, m.diskFault = s.Sequence, nil
	return nil
}

// replace writes a file whole or not at all, 0600.
func replace(path string, text []byte) error {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, ".snapshot-") // 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(text)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// saveAll writes what the files do not have. It reports whether all of it is there now.
func (a *Aggregator) saveAll() bool {
	ok := true
	for _, m := range a.members() {
		if err := m.save(); err != nil {
			ok = false
			a.o.Log.Error("write the snapshot of a registry", "registry", m.Name, "error", err)
		}
	}
	return ok
}

// keepSnapshots writes sets some time after they changed.
func (a *Aggregator) keepSnapshots(ctx context.Context) {
	if a.o.Snapshots == "" {
		return
	}
	if err := a.sweep(); err != nil {
		a.o.Log.Error("the folder of registries' snapshots", "error", err)
	}
	wait := func(d time.Duration) bool {
		timer := time.NewTimer(d)
		defer timer.Stop()
		select {
		case <-timer.C:
			return true
		case <-ctx.Done():
			return false
		}
	}
	ticker := time.NewTicker(sweepEvery)
	defer ticker.Stop()
	for {
		select {
		case <-a.unkept:
		case <-ticker.C:
			if err := a.sweep(); err != nil {
				a.o.Log.Error("the folder of registries' snapshots", "error", err)
			}
			continue
		case <-ctx.Done():
			return
		}
		if !wait(saveGap) {
			return
		}
		began := time.Now()
		for !a.saveAll() {
			if !wait(saveRetry) {
				return
			}
			began = time.Now()
		}
		if !wait(saveShare * time.Since(began)) {
			return
		}
	}
}

// sweep sets aside what no registry owns, and removes what has been so for a day.
func (a *Aggregator) sweep() error {
	dir := a.o.Snapshots
	files, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	a.configure.Lock() // nor does one come or go meanwhile
	defer a.configure.Unlock()
	all := a.members()
	for _, f := range files {
		name, _, _ := strings.Cut(f.Name(), ".")
		m, path := named(all, name), filepath.Join(dir, f.Name())
		switch info, statErr := f.Info(); {
		case m != nil && m.snapshots() || statErr != nil:
		case strings.HasSuffix(f.Name(), snapshotEnding):
			err = errors.Join(err, retire(path, time.Now()))
		case strings.HasSuffix(f.Name(), snapshotEnding+removedEnding) && time.Since(info.ModTime()) > keepRemoved, strings.HasPrefix(f.Name(), ".snapshot-"):
			err = errors.Join(err, os.Remove(path))
		}
	}
	return err
}
