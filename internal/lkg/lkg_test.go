package lkg

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func open(t *testing.T) *Store {
	t.Helper()
	s, err := Open(filepath.Join(t.TempDir(), "lkg"))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func save(t *testing.T, s *Store, name, data string) {
	t.Helper()
	if err := s.Save(name, []byte(data)); err != nil {
		t.Fatal(err)
	}
}

func any([]byte) error { return nil }

func TestWhatWasSavedIsLoaded(t *testing.T) {
	s := open(t)
	if data, faults := s.Load("host", any); data != nil || faults != nil {
		t.Errorf("%q, %v of nothing", data, faults)
	}
	for _, text := range []string{"one", "two", ""} {
		save(t, s, "host", text)
		if data, faults := s.Load("host", any); string(data) != text || faults != nil {
			t.Errorf("%q, %v, want %q", data, faults, text)
		}
	}
	save(t, s, "gw-public", "x")
	if names, err := s.Names(); err != nil || !slices.Equal(names, []string{"gw-public", "host"}) {
		t.Errorf("%q, %v", names, err)
	}
	if err := s.Remove("host"); err != nil {
		t.Error(err)
	}
	if names, err := s.Names(); err != nil || !slices.Equal(names, []string{"gw-public"}) {
		t.Errorf("%q, %v", names, err)
	}
	info, err := os.Stat(s.path("gw-public", newest))
	if err != nil || info.Mode() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
}

func TestADamagedGenerationFallsBackToTheOlderOne(t *testing.T) {
	for name, c := range map[string]struct {
		harm func([]byte) []byte
		want string
	}{
		"truncated":           {func(b []byte) []byte { return b[:len(b)-1] }, "it has 2 bytes of 3"},
		"empty":               {func([]byte) []byte { return nil }, "no state of this format"},
		"a bit":               {func(b []byte) []byte { b[len(b)-1] ^= 1; return b }, "checksum"},
		"another format":      {func(b []byte) []byte { b[len(magic)-2] = '2'; return b }, "no state of this format"},
		"more than was saved": {func(b []byte) []byte { return append(b, 0) }, "it has 4 bytes of 3"},
	} {
		t.Run(name, func(t *testing.T) {
			s := open(t)
			save(t, s, "host", "old")
			save(t, s, "host", "new")
			for i, kind := range []string{newest, older} {
				path := s.path("host", kind)
				text, err := os.ReadFile(path)
				if err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, c.harm(text), 0o600); err != nil {
					t.Fatal(err)
				}
				data, faults := s.Load("host", any)
				want := []string{"old", ""}[i]
				if string(data) != want || len(faults) != 1 || !strings.Contains(faults[0].Error(), c.want) || !strings.Contains(faults[0].Error(), path) {
					t.Errorf("%q, %v, want %q because of %q", data, faults, want, c.want)
				}
				if _, err := os.Stat(s.path("host", bad)); err != nil {
					t.Errorf("the damaged one is not set aside: %v", err)
				}
			}
		})
	}
}

func TestAGenerationThatCannotBeUsedCountsAsDamaged(t *testing.T) {
	s := open(t)
	save(t, s, "host", "old")
	save(t, s, "host", "new")
	data, faults := s.Load("host", func(b []byte) error {
		if string(b) == "new" {
			return errors.New("of another host")
		}
		return nil
	})
	if string(data) != "old" || len(faults) != 1 || !strings.Contains(faults[0].Error(), "of another host") {
		t.Errorf("%q, %v", data, faults)
	}
}

func TestAFullDiskHarmsNothing(t *testing.T) {
	m := &memory{}
	s := &Store{"/s", m}
	save(t, s, "host", "old")
	m.full = true
	if err := s.Save("host", []byte("new")); err == nil {
		t.Error("no error")
	}
	if data, faults := s.Load("host", any); string(data) != "old" || faults != nil {
		t.Errorf("%q, %v", data, faults)
	}
	m.full = false
	save(t, s, "host", "new")
}

// TestKillPoints cuts the power at 1000 random moments of a history of saves: of the files that were not synced any part may
// be there, of the renames since the folder was synced any first ones.
func TestKillPoints(t *testing.T) {
	for seed := range uint64(1000) {
		r := rand.New(rand.NewPCG(seed, 1))
		m := &memory{}
		s := &Store{"/s", m}
		var states []string
		saved := -1 // the last one whose Save has returned
		m.fuel = 1 + r.IntN(60)
		for i := 0; ; i++ {
			states = append(states, fmt.Sprintf("state %d %s", i, strings.Repeat("x", r.IntN(100))))
			if s.Save("host", []byte(states[i])) != nil {
				break // the power went
			}
			saved = i
		}
		after := &Store{"/s", m.afterPowerCut(func(n int) int { return r.IntN(n + 1) })}
		data, _ := after.Load("host", any)
		i := slices.Index(states, string(data))
		if data == nil && saved < 0 {
			continue
		}
		if i < 0 || i < saved || i > saved+1 {
			t.Fatalf("seed %d: loaded %q; %d of %d saves have returned", seed, data, saved+1, len(states))
		}
		save(t, after, "host", "next")
	}
}

// TestEveryPrefix cuts the power after each step of a history of saves, with each number of renames that the disk may have taken
// since the folder was synced, and each length of a file whose write it cut.
func TestEveryPrefix(t *testing.T) {
	const saves, steps = 4, 6 // of one save: three of the write, two renames, one sync
	for fuel := 1; fuel <= saves*steps+1; fuel++ {
		for taken := 0; ; taken++ {
			m := &memory{fuel: fuel}
			s := &Store{"/s", m}
			states, saved := []string{}, -1
			for i := range saves {
				states = append(states, fmt.Sprintf("state %d", i))
				if s.Save("host", []byte(states[i])) != nil {
					break
				}
				saved = i
			}
			more := false
			after := &Store{"/s", m.afterPowerCut(func(n int) int {
				more = more || taken < n
				return min(taken, n)
			})}
			data, _ := after.Load("host", any)
			i := slices.Index(states, string(data))
			if data == nil && saved >= 0 || data != nil && (i < saved || i > saved+1) {
				t.Fatalf("after step %d, of which the disk took %d: %q; %d saves have returned", fuel, taken, data, saved+1)
			}
			if !more {
				break
			}
		}
	}
}

// memory is a disk that knows what would outlive a power cut.
type memory struct {
	files   map[string][]byte // as a running program sees them
	durable map[string][]byte // as of the last sync of the folder
	renames [][2]string       // since then
	partial map[string]bool   // files whose write the power cut
	full    bool
	fuel    int // steps until the power goes; zero: it stays
	used    int
}

var errPower = errors.New("no power")

func (m *memory) step() error {
	if m.files == nil {
		m.files, m.durable, m.partial = map[string][]byte{}, map[string][]byte{}, map[string]bool{}
	}
	if m.used++; m.fuel > 0 && m.used >= m.fuel {
		return errPower
	}
	return nil
}

func (m *memory) makeFolder(string) error { return nil }

func (m *memory) read(path string) ([]byte, error) {
	if text, ok := m.files[path]; ok {
		return slices.Clone(text), nil
	}
	return nil, fs.ErrNotExist
}

// write takes three steps: the file is made, written, and synced.
func (m *memory) write(path string, text []byte) error {
	for range 3 {
		if err := m.step(); err != nil {
			m.files[path] = text
			m.partial[path] = true
			return err
		}
	}
	if m.full {
		m.files[path] = text[:len(text)/2]
		return errors.New("no space left on device")
	}
	m.files[path] = slices.Clone(text)
	return nil
}

func (m *memory) rename(from, to string) error {
	if err := m.step(); err != nil {
		return err
	}
	text, ok := m.files[from]
	if !ok {
		return fs.ErrNotExist
	}
	delete(m.files, from)
	m.files[to] = text
	m.renames = append(m.renames, [2]string{from, to})
	return nil
}

func (m *memory) remove(path string) error {
	if m.fuel > 0 && m.used >= m.fuel {
		return errPower
	}
	delete(m.files, path)
	return nil
}

func (m *memory) sync(string) error {
	if err := m.step(); err != nil {
		return err
	}
	m.durable, m.renames = maps.Clone(m.files), nil
	return nil
}

func (m *memory) list(string) ([]string, error) { return slices.Sorted(maps.Keys(m.files)), nil }

// afterPowerCut is what is there when the power is back; upTo says how much of n things the disk took.
func (m *memory) afterPowerCut(upTo func(n int) int) *memory {
	files := maps.Clone(m.durable)
	fresh := "/s/host" + fresh
	if text, ok := m.files[fresh]; ok { // it was never renamed: as much of it as the disk took
		if m.partial[fresh] {
			text = text[:upTo(len(text))]
		}
		files[fresh] = text
	}
	content := maps.Clone(m.files)
	for _, step := range m.renames[:upTo(len(m.renames))] {
		text, ok := files[step[0]]
		if !ok { // the new file, which was synced before it was renamed
			text = content[step[1]]
		}
		delete(files, step[0])
		files[step[1]] = text
	}
	return &memory{files: files, durable: maps.Clone(files), partial: map[string]bool{}}
}
