package registry

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"reflect"
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

	// lookPause is how often what is held is looked at: whether it still lives.
	lookPause = time.Second
)

// Options configure an Aggregator. Log is required.
type Options struct {
	Log      *slog.Logger
	OnChange func()                 // called after a set changed, by the goroutine that published it; must not block; nil: nobody listens
	Backoff  func() backoff.BackOff // makes the pauses between the runs of one source; nil: half a second, growing to 30 s, with jitter
	// Alive reports whether somebody besides its registry, an agent or an active check, says that an endpoint lives.
	// It is asked of endpoints that disappear; it must be quick, and not call the Aggregator. Nil: nobody says so.
	Alive func(Name, *Endpoint) bool
	// Snapshots is the folder in which the last good sets are kept over a restart, made if need be. Empty: they are not.
	Snapshots string
}

// Entry is a source and what the Aggregator should do with it.
type Entry struct {
	Name        string // unique among the entries
	Type        string // the driver's; for people
	Source      Source // comparable: an entry with the same one is not run anew
	SyncTimeout time.Duration
	Hold        Hold
	Snapshot    bool   // its last good set is kept over a restart
	Choice      string // what its configuration takes of the registry: a set that comes after another choice's is an operator's act, of which nothing is held
}

// Aggregator runs Sources, checks what they publish and keeps each one's last good set. Its methods may be called
// from any goroutine.
type Aggregator struct {
	o      Options
	ready  chan struct{}
	moving chan struct{} // has an element if something may be held
	unkept chan struct{} // has an element if a set may not be on disk

	configure sync.Mutex // one Configure at a time

	mu      sync.Mutex
	ctx     context.Context // Run's, while it runs; else nil
	runs    sync.WaitGroup  // of sources
	sources []*member
	sets    []Set // one per source; replaced, not changed, when one of them changes
}

// NewAggregator returns an Aggregator without sources.
func NewAggregator(o Options) *Aggregator {
	if o.OnChange == nil {
		o.OnChange = func() {}
	}
	if o.Backoff == nil {
		o.Backoff = pauses
	}
	if o.Alive == nil {
		o.Alive = func(Name, *Endpoint) bool { return false }
	}
	return &Aggregator{o: o, ready: make(chan struct{}), moving: make(chan struct{}, 1), unkept: make(chan struct{}, 1)}
}

// pauses makes the default back-off.
func pauses() backoff.BackOff {
	b := backoff.NewExponentialBackOff()
	b.InitialInterval, b.MaxInterval, b.Multiplier = firstPause, maxPause, 2
	return b
}

// Add adds a source that is believed at once and of which nothing is kept on disk, behind those that there are. It
// fails if the name is taken.
func (a *Aggregator) Add(name string, s Source, syncTimeout time.Duration) error {
	var all []Entry
	for _, m := range a.members() {
		all = append(all, m.Entry)
	}
	return a.Configure(append(all, Entry{Name: name, Source: s, SyncTimeout: syncTimeout}))
}

// Configure makes the entries the sources, before Run or while it runs; their order is their precedence. A source that
// was there goes on undisturbed, by what its entry says of Hold now. One that is new is run, and has what a restart left of it until it publishes; in the
// place of another one of that name it has that one's last good set until then. One that is missing ends, and its
// services go at once. It fails, and changes nothing, if two entries have one name.
func (a *Aggregator) Configure(entries []Entry) error {
	a.configure.Lock()
	defer a.configure.Unlock()
	for i, e := range entries {
		if slices.ContainsFunc(entries[:i], func(o Entry) bool { return o.Name == e.Name }) {
			return fmt.Errorf("registry %q: the name is taken", e.Name)
		}
	}
	was := a.members()
	next := make([]*member, len(entries))
	for i, e := range entries {
		e.SyncTimeout = cmp.Or(e.SyncTimeout, DefaultSyncTimeout)
		old := named(was, e.Name)
		switch {
		case old != nil && sameSource(old.Source, e.Source):
			next[i] = old
			old.adjust(e.Hold)
		case old != nil:
			old.stop()
			next[i] = old.succeed(a, e)
		default:
			next[i] = newMember(a, e)
			next[i].restore()
		}
	}
	for _, m := range was {
		if named(next, m.Name) == nil {
			m.stop()
			m.unkeep()
			if m.wasSynced() {
				a.o.Log.Info("registry removed, its services go", "registry", m.Name)
			}
		}
	}
	a.install(next)
	return nil
}

// sameSource reports whether two are one. Those that cannot be compared are never.
func sameSource(a, b Source) bool {
	return reflect.ValueOf(a).Comparable() && reflect.ValueOf(b).Comparable() && a == b
}

func (a *Aggregator) members() []*member {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.sources)
}

func named(all []*member, name string) *member {
	if i := slices.IndexFunc(all, func(m *member) bool { return m.Name == name }); i >= 0 {
		return all[i]
	}
	return nil
}

// install brings the members into force and runs those that do not run yet.
func (a *Aggregator) install(next []*member) {
	a.mu.Lock()
	a.sources = next
	a.sets = make([]Set, len(next))
	for i, m := range next {
		a.sets[i] = Set{Name: m.Name, Services: m.served, Standing: standing(m.Source)}
		if a.ctx != nil {
			a.start(m)
		}
	}
	running := a.ctx != nil
	a.mu.Unlock()
	if running {
		a.o.OnChange()
	}
}

// start runs a member if it does not run yet. The caller holds a.mu.
func (a *Aggregator) start(m *member) {
	if m.end != nil {
		return
	}
	ctx, end := context.WithCancel(a.ctx)
	m.end = end
	a.runs.Go(func() { a.keepRunning(ctx, m); close(m.ended) })
}

func (a *Aggregator) find(name string) *member { return named(a.sources, name) }

// Run runs every source in a goroutine of its own, again after a pause when it fails, until ctx is done and all
// have ended. It returns nil. It is called once.
func (a *Aggregator) Run(ctx context.Context) error {
	a.configure.Lock()
	a.mu.Lock()
	a.ctx = ctx
	sources := slices.Clone(a.sources)
	for _, m := range sources {
		a.start(m)
	}
	a.mu.Unlock()
	a.configure.Unlock()
	var all sync.WaitGroup
	all.Go(func() { a.awaitSync(ctx, sources) })
	all.Go(func() { a.watchHolds(ctx) })
	all.Go(func() { a.keepSnapshots(ctx) })
	<-ctx.Done()
	a.configure.Lock() // none starts another source now
	a.mu.Lock()
	a.ctx = nil
	a.mu.Unlock()
	a.configure.Unlock()
	a.runs.Wait()
	all.Wait()
	a.saveAll() // what the sources said last
	return nil
}

// awaitSync closes ready when every source has published, or is known to be down and has a set of before the restart,
// or was removed, or had its time.
func (a *Aggregator) awaitSync(ctx context.Context, sources []*member) {
	start := time.Now()
	for _, m := range sources {
		timeout := time.NewTimer(m.SyncTimeout - time.Since(start))
		select {
		case <-m.synced:
		case <-m.ended:
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
	a.o.Log.Warn("registry has not answered in time, the mesh starts without it", "registry", m.Name, "sync_timeout", m.SyncTimeout,
		"services_of_before", m.status.Services)
}

// watchHolds lets go of what is held when its time has come.
func (a *Aggregator) watchHolds(ctx context.Context) {
	for {
		select {
		case <-a.moving:
		case <-ctx.Done():
			return
		}
		for pause, again := a.look(); again; pause, again = a.look() {
			timer := time.NewTimer(pause)
			select {
			case <-timer.C:
			case <-a.moving:
				timer.Stop()
			case <-ctx.Done():
				timer.Stop()
				return
			}
		}
	}
}

// look has every member let go of what need not be held any longer. It returns when to look again.
func (a *Aggregator) look() (pause time.Duration, again bool) {
	pause = lookPause
	changed := false
	for _, m := range a.members() {
		moved, next, restless := m.look(time.Now())
		changed = changed || moved
		if restless {
			again = true
			pause = max(min(pause, next), time.Millisecond)
		}
	}
	if changed {
		a.o.OnChange()
	}
	return pause, again
}

// Accept lets go of all endpoints of a registry that are held, and returns how many these are. It reports false if
// there is no such registry.
func (a *Aggregator) Accept(name string) (endpoints int, ok bool) {
	a.mu.Lock()
	m := a.find(name)
	a.mu.Unlock()
	if m == nil {
		return 0, false
	}
	if endpoints = m.accept(); endpoints > 0 {
		a.o.OnChange()
		if err := m.save(); err != nil { // at once: a crash must not bring back what an operator let go
			a.o.Log.Error("write the snapshot of a registry", "registry", name, "error", err)
		}
	}
	return endpoints, true
}

// Ready is closed when every source that there was when Run began has published once or had its sync timeout.
func (a *Aggregator) Ready() <-chan struct{} { return a.ready }

// Sets returns the last good set of every source, in the order in which they were added; that of a source which has
// not published is empty. A set that has not changed keeps its slice.
func (a *Aggregator) Sets() []Set {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.sets)
}

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
