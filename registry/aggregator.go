package registry

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"
)

const (
	// DefaultSyncTimeout is how long the mesh waits for a source's first set if nothing else is said.
	DefaultSyncTimeout = 15 * time.Second

	firstPause = 500 * time.Millisecond
	maxPause   = 30 * time.Second
)

// errEnded is a source that broke its contract: it ended without being asked to, and without a reason.
var errEnded = errors.New("ended by itself")

// Options configure an Aggregator. Log is required.
type Options struct {
	Log      *slog.Logger
	OnChange func()                 // called after a set changed, by the goroutine that published it; must not block; nil: nobody listens
	Backoff  func() backoff.BackOff // makes the pauses between the runs of one source; nil: half a second, growing to 30 s, with jitter
}

// Aggregator runs Sources, checks what they publish and keeps each one's last good set. Its methods may be called
// from any goroutine.
type Aggregator struct {
	o     Options
	ready chan struct{}

	mu      sync.Mutex
	sources []*member
	sets    []Set // one per source; replaced, not changed, when one of them changes
}

// member is a source with what the Aggregator knows of it. Aggregator.mu guards what changes.
type member struct {
	Source
	name        string
	syncTimeout time.Duration
	synced      chan struct{} // closed by the first publish

	checked  checked
	status   Status // without Diagnostics
	run      int    // the number of the run that may publish; others are over
	late     bool   // the sync timeout passed before the first publish
	reported []Diagnostic
}

// NewAggregator returns an Aggregator without sources.
func NewAggregator(o Options) *Aggregator {
	if o.OnChange == nil {
		o.OnChange = func() {}
	}
	if o.Backoff == nil {
		o.Backoff = pauses
	}
	return &Aggregator{o: o, ready: make(chan struct{})}
}

// pauses makes the default back-off.
func pauses() backoff.BackOff {
	b := backoff.NewExponentialBackOff()
	b.InitialInterval, b.MaxInterval, b.Multiplier = firstPause, maxPause, 2
	return b
}

// Add adds a source; its place among the sources is its precedence. A syncTimeout of zero means
// DefaultSyncTimeout. All sources are added before Run. It fails if the name is taken.
func (a *Aggregator) Add(name string, s Source, syncTimeout time.Duration) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.find(name) != nil {
		return fmt.Errorf("registry %q: the name is taken", name)
	}
	a.sources = append(a.sources, &member{
		Source: s, name: name, syncTimeout: cmp.Or(syncTimeout, DefaultSyncTimeout), synced: make(chan struct{}),
		status: Status{Name: name},
	})
	a.sets = append(slices.Clip(a.sets), Set{Name: name, Standing: standing(s)})
	return nil
}

func (a *Aggregator) find(name string) *member {
	if i := slices.IndexFunc(a.sources, func(m *member) bool { return m.name == name }); i >= 0 {
		return a.sources[i]
	}
	return nil
}

// Run runs every source in a goroutine of its own, again after a pause when it fails, until ctx is done and all
// have ended. It returns nil.
func (a *Aggregator) Run(ctx context.Context) error {
	a.mu.Lock()
	sources := slices.Clone(a.sources)
	a.mu.Unlock()
	var all sync.WaitGroup
	for _, m := range sources {
		all.Go(func() { a.keepRunning(ctx, m) })
	}
	all.Go(func() { a.awaitSync(ctx, sources) })
	all.Wait()
	return nil
}

// awaitSync closes ready when every source has published or had its time.
func (a *Aggregator) awaitSync(ctx context.Context, sources []*member) {
	start := time.Now()
	for _, m := range sources {
		timeout := time.NewTimer(m.syncTimeout - time.Since(start))
		select {
		case <-m.synced:
		case <-timeout.C:
			a.giveUp(m)
		case <-ctx.Done():
			timeout.Stop()
			return
		}
		timeout.Stop()
	}
	close(a.ready)
}

// giveUp notes that a source did not answer in time.
func (a *Aggregator) giveUp(m *member) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if m.status.Synced {
		return
	}
	m.late = true
	a.o.Log.Warn("registry has not answered in time, the mesh starts without it", "registry", m.name, "sync_timeout", m.syncTimeout)
}

// keepRunning runs one source until ctx is done.
func (a *Aggregator) keepRunning(ctx context.Context, m *member) {
	pauses := a.o.Backoff()
	for {
		start := time.Now()
		err := m.Source.Run(ctx, a.publisher(m))
		a.endRun(m)
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			err = errEnded
		}
		if time.Since(start) >= maxPause { // it worked for a while: this is another failure
			pauses.Reset()
		}
		pause := pauses.NextBackOff()
		if pause == backoff.Stop {
			pause = maxPause
		}
		a.fail(m, err, pause)
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return
		}
		a.restart(m)
	}
}

func (a *Aggregator) endRun(m *member) {
	a.mu.Lock()
	defer a.mu.Unlock()
	m.run++
}

func (a *Aggregator) fail(m *member, err error, pause time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	m.status.Error = err.Error()
	a.o.Log.Warn("registry failed, its last set is kept", "registry", m.name, "error", err, "services", m.status.Services, "again_in", pause)
}

func (a *Aggregator) restart(m *member) {
	a.mu.Lock()
	defer a.mu.Unlock()
	m.status.Restarts++
}

// publisher returns the publish function of a source's next run. It does nothing once that run is over.
func (a *Aggregator) publisher(m *member) func([]*Service) {
	a.mu.Lock()
	defer a.mu.Unlock()
	run := m.run
	return func(services []*Service) {
		if a.publish(m, run, services) {
			a.o.OnChange()
		}
	}
}

// publish takes a set in and reports whether this changes what is served, or is the first.
func (a *Aggregator) publish(m *member, run int, services []*Service) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if m.run != run {
		return false
	}
	was, first := m.checked, !m.status.Synced
	m.checked = was.next(m.name, services)
	m.status.Synced, m.status.LastPublish, m.status.Error, m.late = true, time.Now(), "", false
	changed := !slices.Equal(was.clean, m.checked.clean)
	if changed {
		m.status.Services, m.status.Endpoints = len(m.checked.clean), countEndpoints(m.checked.clean)
		a.sets = slices.Clone(a.sets)
		a.sets[slices.Index(a.sources, m)].Services = m.checked.clean
	}
	if first {
		close(m.synced)
		a.o.Log.Info("registry synced", "registry", m.name, "services", m.status.Services, "endpoints", m.status.Endpoints)
	}
	a.tell(m, was.ds, m.checked.ds)
	return changed || first
}

func countEndpoints(services []*Service) int {
	n := 0
	for _, s := range services {
		n += len(s.Endpoints)
	}
	return n
}

// Ready is closed when every source has published once or had its sync timeout.
func (a *Aggregator) Ready() <-chan struct{} { return a.ready }

// Sets returns the last good set of every source, in the order in which they were added; that of a source which has
// not published is empty. A set that has not changed keeps its slice.
func (a *Aggregator) Sets() []Set {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.sets)
}
