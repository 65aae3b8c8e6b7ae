package etcd

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"go.uber.org/goleak"

	"github.com/wattle-mesh/wattle/registry"
)

// TestMain lets more tests run at once than there are processors: they mostly wait for etcd.
func TestMain(m *testing.M) {
	flag.Parse()
	if err := flag.Set("test.parallel", "5"); err != nil {
		panic(err)
	}
	goleak.VerifyTestMain(m)
}

func parse(t testing.TB, text string) hcl.Body {
	t.Helper()
	parsed, diags := hclsyntax.ParseConfig([]byte(text), "server.hcl", hcl.InitialPos)
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	return parsed.Body
}

// watched is a Source that runs, again whenever it fails, as the Aggregator would run it, and what it said.
type watched struct {
	t       testing.TB
	source  *Source
	stop    func()
	changes int // that latency made

	mu       sync.Mutex
	changed  chan struct{} // closed at the next change
	sets     [][]*registry.Service
	errs     []error
	reported []registry.Diagnostic
}

// newSource makes a Source from the text of a block, in haste to notice what is wrong.
func newSource(t testing.TB, text string, report func([]registry.Diagnostic)) *Source {
	t.Helper()
	source, diags := Driver().New(parse(t, text), registry.DriverOptions{Name: "main", Dir: t.TempDir(), Log: slog.New(slog.DiscardHandler), Report: report})
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	s := source.(*Source)
	s.probe = 300 * time.Millisecond
	s.steady = time.Second
	return s
}

// block is the text of a block for these endpoints, of which each has long to answer: the machine may be busy.
func block(urls []string, more ...string) string {
	return `endpoints = ["` + strings.Join(urls, `", "`) + "\"]\n" + "request_timeout = \"20s\"\ndial_timeout = \"20s\"\n" + strings.Join(more, "\n") + "\n"
}

// hasty makes the text of a block one that does not wait long for an answer.
func hasty(block string) string { return strings.ReplaceAll(block, `"20s"`, `"1s"`) }

func watch(t testing.TB, text string) *watched {
	t.Helper()
	w := &watched{t: t, changed: make(chan struct{})}
	w.source = newSource(t, text, func(ds []registry.Diagnostic) {
		w.change(func() { w.reported = ds })
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			err := w.source.Run(ctx, func(set []*registry.Service) { w.change(func() { w.sets = append(w.sets, set) }) })
			if err == nil && ctx.Err() == nil {
				t.Error("Run returned nil, but nobody ended it")
			}
			if err != nil {
				w.change(func() { w.errs = append(w.errs, err) })
			}
			select {
			case <-time.After(50 * time.Millisecond):
			case <-ctx.Done():
			}
		}
	}()
	w.stop = sync.OnceFunc(func() {
		cancel()
		select {
		case <-done:
		case <-time.After(5 * time.Second):
			t.Error("Run does not end")
		}
	})
	t.Cleanup(w.stop)
	t.Cleanup(func() {
		if t.Failed() {
			w.mu.Lock()
			defer w.mu.Unlock()
			t.Logf("%d sets, errors %v, reported %v", len(w.sets), w.errs, w.reported)
		}
	})
	return w
}

func (w *watched) change(f func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f()
	close(w.changed)
	w.changed = make(chan struct{})
}

// await waits until something holds of what the Source said.
func (w *watched) await(what string, holds func() bool) {
	w.t.Helper()
	deadline := time.After(patience)
	for {
		w.mu.Lock()
		ok, changed := holds(), w.changed
		w.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-changed:
		case <-deadline:
			w.t.Fatalf("not within %s: %s", patience, what)
		}
	}
}

// awaitSet waits until the services, as text, are these, and returns them.
func (w *watched) awaitSet(want ...string) []*registry.Service {
	w.t.Helper()
	var got []*registry.Service
	w.await("set "+strings.Join(want, "; "), func() bool {
		if len(w.sets) == 0 {
			return false
		}
		got = w.sets[len(w.sets)-1]
		return brief(got) == strings.Join(want, "; ")
	})
	return got
}

// awaitError waits until Run has failed anew with a text.
func (w *watched) awaitError(text string) {
	w.t.Helper()
	n := len(w.errors())
	w.await("error "+text, func() bool {
		for _, err := range w.errs[n:] {
			if strings.Contains(err.Error(), text) {
				return true
			}
		}
		return false
	})
}

// published returns how many sets were published.
func (w *watched) published() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.sets)
}

func (w *watched) errors() []error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.errs
}

// awaitReport waits until exactly so many diagnostics are reported, and returns them.
func (w *watched) awaitReport(n int) []registry.Diagnostic {
	w.t.Helper()
	var ds []registry.Diagnostic
	w.await(fmt.Sprintf("%d diagnostics", n), func() bool { ds = w.reported; return len(ds) == n })
	return ds
}

// neverEmpty checks that no empty set was published after the first one that was not.
func (w *watched) neverEmpty() {
	w.t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	seen := false
	for i, set := range w.sets {
		if len(set) == 0 && seen {
			w.t.Errorf("set %d is empty", i)
		}
		seen = seen || len(set) > 0
	}
}

// brief is a set as text: "default/web 10.0.0.1:80 10.0.0.2:80; shop/cart ...".
func brief(set []*registry.Service) string {
	var all []string
	for _, s := range set {
		text := s.Name.String()
		for _, e := range s.Endpoints {
			text += " " + e.String()
			if e.Health != "" {
				text += " " + string(e.Health)
			}
		}
		all = append(all, text)
	}
	return strings.Join(all, "; ")
}

// await waits until something holds, and looks often.
func await(t testing.TB, what string, holds func() bool) {
	t.Helper()
	awaitEvery(t, 5*time.Millisecond, what, holds)
}

func awaitEvery(t testing.TB, pause time.Duration, what string, holds func() bool) {
	t.Helper()
	tick := time.NewTicker(pause)
	defer tick.Stop()
	deadline := time.After(patience)
	for !holds() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("not within %s: %s", patience, what)
		}
	}
}
