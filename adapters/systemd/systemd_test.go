package systemd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/wattle-mesh/wattle/adapters"
	"github.com/wattle-mesh/wattle/internal/launch"
	"github.com/wattle-mesh/wattle/internal/systemd/systemdtest"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("github.com/godbus/dbus/v5.(*Conn).inWorker"),
		// go-systemd leaves this one behind if the context ends while it connects.
		goleak.IgnoreTopFunction("github.com/coreos/go-systemd/v22/dbus.(*Conn).dispatch.func1"))
}

// book is a log that can be read while it is written.
type book struct {
	mu sync.Mutex
	b  strings.Builder
}

func (j *book) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.b.Write(p)
}

func (j *book) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.b.String()
}

// host is an adapter that runs with a stand-in for systemd.
type host struct {
	t *testing.T
	*Adapter
	*systemdtest.Manager
	log     book
	crashes chan adapters.Crash
	stop    func() // ends the adapter
}

func newHost(t *testing.T) *host {
	t.Helper()
	h := &host{t: t, crashes: make(chan adapters.Crash, 100), Manager: systemdtest.NewManager(t, needed...)}
	if err := os.Mkdir(filepath.Join(h.Folder, "system"), 0o755); err != nil {
		t.Fatal(err)
	}
	h.Adapter = &Adapter{group: os.Getgid(), wake: make(chan struct{}, 1), etc: t.TempDir(), run: h.Folder, envoys: shortDir(t), bin: newBinaries(), wrote: map[string]string{}, rights: h.Rights, journal: func(context.Context, string) []string { return []string{"last words"} }, o: Options{
		Log: slog.New(slog.NewTextHandler(&h.log, nil)), Envoy: "/usr/bin/envoy", Dir: t.TempDir(), Concurrency: 2, LogLevel: "warning", Drain: 20 * time.Second, Crashed: func(c adapters.Crash) { h.crashes <- c },
	}}
	ended := make(chan error, 1)
	ctx, cancel := context.WithCancel(context.Background())
	go func() { ended <- h.Run(ctx) }()
	h.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(h.stop)
	return h
}

// shortDir is a folder for sockets.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "wattle-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func (h *host) plan(names ...string) {
	h.t.Helper()
	var p adapters.Plan
	for _, n := range names {
		p.Proxies = append(p.Proxies, adapters.Proxy{ID: "h1/" + n, Name: n, Bootstrap: []byte("{}")})
	}
	h.apply(p.Proxies...)
}

func (h *host) apply(all ...adapters.Proxy) {
	h.t.Helper()
	h.whole(adapters.Plan{Proxies: all})
}

func (h *host) whole(plan adapters.Plan) {
	h.t.Helper()
	for _, p := range plan.Proxies {
		if h.State(unitName(p.Name)) == "" {
			h.Know(unitName(p.Name))
		}
	}
	if err := h.Apply(h.t.Context(), plan); err != nil {
		h.t.Fatal(err)
	}
}

// did counts what was asked of systemd.
func (h *host) did(what string) (n int) {
	for _, d := range h.Done() {
		if d == what {
			n++
		}
	}
	return n
}

func (h *host) wait(what string, ok func() bool) {
	h.t.Helper()
	deadline := time.After(30 * time.Second)
	for !ok() {
		select {
		case <-time.After(5 * time.Millisecond):
		case <-deadline:
			h.t.Fatalf("never: %s; %q\n%s", what, h.Done(), h.log.String())
		}
	}
}

func (h *host) is(name, state string) func() bool {
	return func() bool { return h.State(unitName(name)) == state }
}

func TestThePlanIsWhatRuns(t *testing.T) {
	h := newHost(t)
	h.Set(unitName("gw-stray"), "active")
	h.plan("host", "gw-public")
	h.wait("both run", func() bool { return h.is("host", "active")() && h.is("gw-public", "active")() })
	h.wait("what an earlier plan left is stopped", h.is("gw-stray", "inactive"))
	h.plan("host")
	h.wait("the gateway is stopped", h.is("gw-public", "inactive"))
	h.plan("host", "gw-public")
	h.wait("the gateway runs again", h.is("gw-public", "active"))
	if n := len(slices.DeleteFunc(h.Done(), func(d string) bool { return d != "start "+unitName("host") })); n != 1 {
		t.Errorf("the host's proxy was started %d times: %q", n, h.Done())
	}
	for _, file := range []string{launch.BootstrapFile, "launch.json"} {
		info, err := os.Stat(filepath.Join(h.o.Dir, "host", file))
		if err != nil || info.Mode() != 0o640 {
			t.Errorf("%s: %v, %v", file, info, err)
		}
	}
}

func TestBeforeThereIsAPlanNothingIsStopped(t *testing.T) {
	h := newHost(t)
	h.Set(unitName("host"), "active")
	h.poke()
	h.plan("host")
	h.wait("the plan is known", func() bool { h.Adapter.mu.Lock(); defer h.Adapter.mu.Unlock(); return h.known })
	if done := h.Done(); len(done) > 0 {
		t.Errorf("%q", done)
	}
}

func TestAUnitThatStopsIsStartedAgain(t *testing.T) {
	h := newHost(t)
	h.plan("host")
	h.wait("it runs", h.is("host", "active"))
	h.Set(unitName("host"), "inactive") // systemctl stop
	h.wait("it runs again", h.is("host", "active"))
	h.Set(unitName("host"), "deactivating") // systemctl restart: the stop is not to be cancelled
	before := len(h.Done())
	h.poke()
	h.plan("host", "gw-public")
	h.wait("the adapter has looked", h.is("gw-public", "active"))
	if got := h.Done()[before:]; slices.Contains(got, "start "+unitName("host")) {
		t.Errorf("%q: a unit that stops was started", got)
	}
}

func TestAJobThatFailsIsSaidWithTheRemedyAndTriedAgain(t *testing.T) {
	h := newHost(t)
	h.Fail(unitName("host"), "failed")
	h.plan("host")
	h.wait("it is said", func() bool {
		return strings.Contains(h.log.String(), `the job ended with \"failed\"`) && strings.Contains(h.log.String(), "journalctl -u "+unitName("host"))
	})
	h.Fail(unitName("host"), "")
	h.poke()
	h.wait("it runs", h.is("host", "active"))
}

func TestWhatAnotherHandChangedIsWrittenAgain(t *testing.T) {
	h := newHost(t)
	h.plan("host")
	h.wait("it runs", h.is("host", "active"))
	path := filepath.Join(h.o.Dir, "host", launch.BootstrapFile)
	if err := os.WriteFile(path, []byte("nonsense"), 0o640); err != nil {
		t.Fatal(err)
	}
	h.poke()
	h.wait("it is as it was", func() bool {
		text, err := os.ReadFile(path)
		return err == nil && string(text) == "{}"
	})
	h.wait("it is said", func() bool { return strings.Contains(h.log.String(), "changed by another hand") })
}

func TestWithoutSystemdTheAdapterTriesAgain(t *testing.T) {
	t.Setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path="+filepath.Join(t.TempDir(), "none"))
	a := &Adapter{wake: make(chan struct{}, 1), o: Options{Log: slog.New(slog.DiscardHandler)}}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- a.Run(ctx) }()
	select {
	case err := <-ended:
		t.Errorf("it has ended: %v", err)
	case <-time.After(300 * time.Millisecond):
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestAUnitThatIsPlacedNamesThisProgram(t *testing.T) {
	dir := t.TempDir()
	if err := placeUnit(dir, needed[0]); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(dir, needed[0]))
	self, _ := os.Executable()
	if err != nil || !strings.Contains(string(text), fmt.Sprintf("ExecStart=%s envoy start %%i\n", self)) || strings.Contains(string(text), packaged) {
		t.Errorf("%s, %v", text, err)
	}
	if err := placeUnit(filepath.Join(dir, "none"), needed[0]); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}
