package envoys

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wattle-mesh/wattle/internal/admin"
)

// fleet is Envoys that run files: what the file of one says is how it does.
type fleet struct {
	t      *testing.T
	binary string
	runs   map[string]string // by proxy: the file that its process runs
	pids   map[string]int
	next   int
	did    []string
	looks  map[string]int // since it was reloaded
}

func newFleet(t *testing.T, names ...string) (*fleet, []Proxy) {
	t.Helper()
	f := &fleet{t: t, binary: filepath.Join(t.TempDir(), "envoy"), runs: map[string]string{}, pids: map[string]int{}, next: 100, looks: map[string]int{}}
	f.write(f.binary, "old")
	var all []Proxy
	for _, n := range names {
		f.start(n)
		all = append(all, Proxy{Name: n})
	}
	return f, all
}

func (f *fleet) write(path, text string) {
	f.t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fleet) text(path string) string {
	f.t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		f.t.Fatal(err)
	}
	return string(text)
}

// start has a process run what is in the file now: another name for it stays when the file is replaced.
func (f *fleet) start(name string) {
	f.t.Helper()
	f.next++
	exe := filepath.Join(f.t.TempDir(), fmt.Sprint(f.next))
	if err := os.Link(f.binary, exe); err != nil {
		f.t.Fatal(err)
	}
	f.runs[name], f.pids[name], f.looks[name] = exe, f.next, 0
}

func (f *fleet) reload(_ context.Context, p Proxy) error {
	f.did = append(f.did, p.Name+" "+f.text(f.binary))
	if f.text(f.binary) == "never ready" {
		return errors.New("it does not serve after 30s; the old one serves on")
	}
	f.start(p.Name)
	return nil
}

func (f *fleet) look(_ context.Context, p Proxy) Health {
	f.looks[p.Name]++
	does := f.text(f.runs[p.Name])
	late := f.looks[p.Name] > 5
	h := Health{State: State{Proxy: p, State: "active, " + admin.Live, PID: f.pids[p.Name]}, Listeners: 3, Requests: 1000, Failed: 10, Path: f.runs[p.Name]}
	if late {
		h.Requests += 100
	}
	switch {
	case does == "crashes" && late:
		f.start(p.Name)
		h.PID = f.pids[p.Name]
	case does == "hangs" && late:
		h.State.State = "active"
	case does == "lacks listeners":
		h.Listeners = 2
	case does == "fails" && late:
		h.Failed += 50
	}
	return h
}

func (f *fleet) upgrade(from string, wave int, all []Proxy) (n int, err error) {
	f.t.Helper()
	synctest.Test(f.t, func(t *testing.T) {
		n, err = Upgrade{Binary: f.binary, From: from, Wave: wave, Soak: 10 * time.Second, Reload: f.reload, Look: f.look, Say: t.Logf}.Run(t.Context(), all)
	})
	return n, err
}

func (f *fleet) file(does string) string {
	f.t.Helper()
	path := filepath.Join(f.t.TempDir(), "new")
	f.write(path, does)
	return path
}

func TestEnvoysGoOverOneWaveAfterTheOther(t *testing.T) {
	f, all := newFleet(t, "host", "gw-public", "web")
	n, err := f.upgrade(f.file("new"), 2, all)
	if n != 3 || err != nil || !slices.Equal(f.did, []string{"host new", "gw-public new", "web new"}) {
		t.Errorf("%d, %v, %q", n, err, f.did)
	}
	if _, err := os.Stat(f.binary + beforeFile); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the old one is kept: %v", err)
	}
	if n, err := f.upgrade("", 1, all); n != 0 || err != nil || len(f.did) != 3 {
		t.Errorf("they run it already: %d, %v, %q", n, err, f.did)
	}
}

func TestAnEnvoyThatWasInstalledIsGoneOverTo(t *testing.T) {
	f, all := newFleet(t, "host")
	f.write(f.binary+".tmp", "new")
	if err := os.Rename(f.binary+".tmp", f.binary); err != nil {
		t.Fatal(err)
	}
	if n, err := f.upgrade("", 1, all); n != 1 || err != nil || f.text(f.runs["host"]) != "new" {
		t.Errorf("%d, %v, %q", n, err, f.did)
	}
}

func TestAWaveThatIsNotWellIsTakenBack(t *testing.T) {
	for does, why := range map[string]string{
		"never ready": "does not serve after 30s", "crashes": "the new Envoy ended", "hangs": "does not serve", "lacks listeners": "2 listeners, the old one had 3", "fails": "50 % of 100 requests",
	} {
		t.Run(does, func(t *testing.T) {
			f, all := newFleet(t, "host", "web")
			n, err := f.upgrade(f.file(does), 1, all)
			if n != 0 || !errors.Is(err, ErrWentBack) || !strings.Contains(err.Error(), why) {
				t.Errorf("%d, %v, want %q", n, err, why)
			}
			for name, exe := range f.runs {
				if got := f.text(exe); got != "old" {
					t.Errorf("%s runs %q", name, got)
				}
			}
			if got := f.text(f.binary); got != "old" {
				t.Errorf("the binary is %q", got)
			}
			if slices.Contains(f.did, "web "+does) {
				t.Error("the second wave went over to what failed the first")
			}
		})
	}
}

func TestAHostThatIsNotWellIsNotTouched(t *testing.T) {
	f, all := newFleet(t, "host", "web")
	f.pids["web"] = 0
	if _, err := f.upgrade(f.file("new"), 1, all); err == nil || errors.Is(err, ErrWentBack) || len(f.did) > 0 || f.text(f.binary) != "old" {
		t.Errorf("%v, %q", err, f.did)
	}
}
