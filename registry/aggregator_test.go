package registry

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// fake is a Source whose runs a test conducts.
type fake struct {
	runs    atomic.Int32
	publish chan []*Service
	fail    chan error // nil makes Run return nil
	kept    func([]*Service)
}

func newFake() *fake {
	return &fake{publish: make(chan []*Service), fail: make(chan error)}
}

func (f *fake) Run(ctx context.Context, publish func([]*Service)) error {
	f.runs.Add(1)
	f.kept = publish
	for {
		select {
		case <-ctx.Done():
			return nil
		case services := <-f.publish:
			publish(services)
		case err := <-f.fail:
			return err
		}
	}
}

// running is an Aggregator that runs in the bubble of a test.
type running struct {
	*Aggregator
	changes atomic.Int32
	end     func()
}

func run(t *testing.T, add func(*Aggregator)) *running {
	r := &running{}
	r.Aggregator = NewAggregator(Options{Log: slog.New(slog.DiscardHandler), OnChange: func() { r.changes.Add(1) }})
	add(r.Aggregator)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	r.end = func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	}
	synctest.Wait()
	return r
}

func (r *running) isReady() bool {
	synctest.Wait()
	select {
	case <-r.Ready():
		return true
	default:
		return false
	}
}

func add(t *testing.T, a *Aggregator, name string, s Source, timeout time.Duration) {
	t.Helper()
	if err := a.Add(name, s, timeout); err != nil {
		t.Fatal(err)
	}
}

func TestReadyWhenAllHavePublished(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		one, two := newFake(), newFake()
		r := run(t, func(a *Aggregator) { add(t, a, "one", one, time.Minute); add(t, a, "two", two, time.Minute) })
		defer r.end()
		two.publish <- nil
		if r.isReady() {
			t.Error("ready, but one has not published")
		}
		one.publish <- []*Service{service("a", outside("10.0.0.1"))}
		if !r.isReady() {
			t.Error("not ready, but both have published")
		}
		want := []Set{{Name: "one", Services: []*Service{service("a", outside("10.0.0.1"))}}, {Name: "two"}}
		if d := cmp.Diff(want, r.Sets(), plain); d != "" {
			t.Error(d)
		}
		if n := r.changes.Load(); n != 2 {
			t.Errorf("%d changes, want one for each first set", n)
		}
	})
}

func TestReadyWhenTheSyncTimeoutPasses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		quick, slow, never := newFake(), newFake(), newFake()
		r := run(t, func(a *Aggregator) {
			add(t, a, "never", never, 10*time.Second)
			add(t, a, "slow", slow, 20*time.Second)
			add(t, a, "quick", quick, 5*time.Second)
		})
		defer r.end()
		quick.publish <- nil
		<-time.After(20*time.Second - time.Millisecond)
		if r.isReady() {
			t.Error("ready before the longest sync timeout")
		}
		<-time.After(2 * time.Millisecond)
		if !r.isReady() {
			t.Error("not ready after the longest sync timeout")
		}
		if ds := r.Status()[0].Diagnostics; len(ds) != 1 || ds[0].Code != sourceLate || !strings.Contains(ds[0].Summary, "not answered within 10s") {
			t.Errorf("diagnostics: %v", ds)
		}
		never.publish <- nil
		synctest.Wait()
		if ds := r.Status()[0].Diagnostics; len(ds) != 0 {
			t.Errorf("it has answered, but says %v", ds)
		}
	})
}

func TestReadyWithoutSources(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := run(t, func(*Aggregator) {})
		defer r.end()
		if !r.isReady() {
			t.Error("not ready")
		}
	})
}

func TestAFailureKeepsTheSetAndRunsTheSourceAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		r := run(t, func(a *Aggregator) { add(t, a, "consul", f, 0) })
		defer r.end()
		f.publish <- []*Service{service("a", outside("10.0.0.1"))}
		synctest.Wait()
		old := f.kept
		sets := r.Sets()
		f.fail <- errors.New("connection refused")
		synctest.Wait()
		s := r.Status()[0]
		if s.Error != "connection refused" || s.Services != 1 || s.Endpoints != 1 || !s.Synced || len(s.Diagnostics) != 1 || s.Diagnostics[0].Code != sourceFailed {
			t.Errorf("status %+v", s)
		}
		old(nil)
		if d := cmp.Diff(sets, r.Sets(), plain); d != "" {
			t.Errorf("the set was not kept: %s", d)
		}
		<-time.After(firstPause * 3 / 2)
		synctest.Wait()
		if n := f.runs.Load(); n != 2 {
			t.Errorf("%d runs, want 2", n)
		}
		f.publish <- sets[0].Services
		synctest.Wait()
		s = r.Status()[0]
		if s.Error != "" || s.Restarts != 1 || !s.LastPublish.Equal(time.Now()) || len(s.Diagnostics) > 0 {
			t.Errorf("status %+v", s)
		}
		if n := r.changes.Load(); n != 1 {
			t.Errorf("%d changes, want 1: nothing changed but the status", n)
		}
	})
}

func TestPausesGrowAndStartOverAfterAGoodRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		r := run(t, func(a *Aggregator) { add(t, a, "consul", f, 0) })
		defer r.end()
		pause := func() time.Duration {
			runs, start := f.runs.Load(), time.Now()
			f.fail <- nil // ended by itself
			for f.runs.Load() == runs {
				<-time.After(time.Millisecond)
			}
			return time.Since(start)
		}
		mid := firstPause
		for range 10 {
			if got := pause(); got < mid/2 || got > mid*3/2+2*time.Millisecond {
				t.Errorf("pause of %s, want about %s", got, mid)
			}
			mid = min(2*mid, maxPause)
		}
		<-time.After(maxPause)
		if got := pause(); got > firstPause*3/2+2*time.Millisecond {
			t.Errorf("pause of %s after a good run, want about %s", got, firstPause)
		}
		if e := r.Status()[0].Error; e != errEnded.Error() {
			t.Errorf("error %q", e)
		}
	})
}

func TestRunEndsInAPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		r := run(t, func(a *Aggregator) { add(t, a, "consul", f, 0) })
		f.fail <- errors.New("no")
		synctest.Wait()
		start := time.Now()
		r.end()
		if d := time.Since(start); d > 0 {
			t.Errorf("it took %s", d)
		}
	})
}

func TestWhatIsFaultyIsLeftOutAndNamed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		r := run(t, func(a *Aggregator) { add(t, a, "consul", f, 0) })
		defer r.end()
		r.Report("consul", []Diagnostic{{Severity: Warning, Code: "W1101", Summary: "unknown field"}})
		r.Report("nobody", []Diagnostic{{}})
		bad := service("b", outside("10.0.0.2"), outside("10.0.0.3"))
		bad.Endpoints[1].Port = 0
		set := []*Service{service("a", outside("10.0.0.1")), bad}
		f.publish <- set
		synctest.Wait()
		set[0] = nil // what the driver does with its slice is its own affair
		s := r.Status()[0]
		if s.Services != 2 || s.Endpoints != 2 {
			t.Errorf("status %+v", s)
		}
		want := []string{
			"registry consul: warning W1101: unknown field",
			"registry consul: error W4105: endpoint 10.0.0.3:0 of service default/b is left out: 0 is no port",
		}
		if d := cmp.Diff(want, texts(s.Diagnostics)); d != "" {
			t.Error(d)
		}
		first := r.Sets()[0].Services
		f.publish <- []*Service{first[0], bad}
		synctest.Wait()
		if again := r.Sets()[0].Services; &again[0] != &first[0] {
			t.Error("the same services gave another slice")
		}
	})
}

func TestTheLogNamesEveryFaultOnce(t *testing.T) {
	var log strings.Builder
	a := NewAggregator(Options{Log: slog.New(slog.NewTextHandler(&log, nil))})
	add(t, a, "files", newFake(), 0)
	var ds []Diagnostic
	for i := range maxLogged {
		ds = append(ds, Diagnostic{Severity: Error, Code: "W1102", Summary: "unknown attribute", Origin: fmt.Sprintf("services/a.hcl:%d:3", i+1)})
	}
	for _, c := range []struct {
		now         []Diagnostic
		lines, more int
	}{
		{ds[:2], 2, 0},
		{ds[1:3], 1, 0}, // one mended, one more
		{nil, 0, 0},
		{append([]Diagnostic{{Severity: Error, Summary: "x"}, {Severity: Error, Summary: "y"}}, ds...), maxLogged, 1},
	} {
		log.Reset()
		a.Report("files", c.now)
		lines, more := strings.Count(log.String(), `msg="registry is faulty" registry=files`), strings.Count(log.String(), "more=2")
		if lines != c.lines || more != c.more {
			t.Errorf("%d faults: %d lines, want %d; %d on those left out, want %d\n%s", len(c.now), lines, c.lines, more, c.more, log.String())
		}
	}
	if want := "services/a.hcl:1:3: error W1102: unknown attribute"; !strings.Contains(log.String(), want) {
		t.Errorf("no %q in\n%s", want, log.String())
	}
}

func TestNamesAreTakenOnce(t *testing.T) {
	a := NewAggregator(Options{Log: slog.New(slog.DiscardHandler)})
	add(t, a, "consul", newFake(), 0)
	if err := a.Add("consul", newFake(), 0); err == nil {
		t.Error("two sources have one name")
	}
}

var discard = slog.New(slog.DiscardHandler)

func configure(t *testing.T, a *Aggregator, entries ...Entry) {
	t.Helper()
	if err := a.Configure(entries); err != nil {
		t.Fatal(err)
	}
}

// start runs an Aggregator in the bubble of a test until the returned function is called.
func start(t *testing.T, a *Aggregator) (end func()) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	synctest.Wait()
	return func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	}
}
