package registry

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"
)

// errEnded is a source that broke its contract: it ended without being asked to, and without a reason.
var errEnded = errors.New("ended by itself")

// member is a source with what the Aggregator knows of it.
type member struct {
	a      *Aggregator
	Entry                // as it was when the source was run first
	synced chan struct{} // closed by the first publish, or by a failure if there is a set of before the restart
	ended  chan struct{} // closed when the source has ended for good
	end    func()        // ends it; nil: it was not started; Aggregator.mu guards it

	// work guards what the source said: looking into a large set must not delay other sources. It is locked before
	// Aggregator.mu.
	work    sync.Mutex
	checked checked
	keep    keeper
	fresh   bool // what comes next is the first set of a configuration by which an operator takes something else

	// saving guards the files of its snapshots. It is locked before work.
	saving   sync.Mutex
	sequence uint64 // of the newest
	removed  bool   // there must not be any

	// Aggregator.mu guards the rest.
	served    []*Service
	status    Status // without Diagnostics
	held      []Held
	run       int          // the number of the run that may publish; others are over
	released  bool         // synced is closed
	late      bool         // the sync timeout passed before the first publish
	since     time.Time    // when it failed, if it has not published since
	faults    []Diagnostic // what is wrong with what it said
	reported  []Diagnostic
	unsaved   bool         // the files have not what is served
	diskFault []Diagnostic // what is wrong with its snapshots
}

func newMember(a *Aggregator, e Entry) *member {
	return &member{
		a: a, Entry: e, synced: make(chan struct{}), ended: make(chan struct{}),
		keep:   keeper{o: e.Hold, alive: a.o.Alive},
		status: Status{Name: e.Name, Type: e.Type},
	}
}

// succeed makes the member that takes over from m, which has stopped: it begins with m's set.
func (m *member) succeed(a *Aggregator, e Entry) *member {
	n := newMember(a, e)
	m.saving.Lock()
	defer m.saving.Unlock()
	m.removed = true // the files are n's now
	m.work.Lock()
	defer m.work.Unlock()
	a.mu.Lock()
	defer a.mu.Unlock()
	n.checked, n.keep, n.sequence, n.fresh = m.checked, m.keep, m.sequence, m.fresh || m.Choice != e.Choice
	n.keep.o = e.Hold
	n.served, n.held, n.faults, n.unsaved, n.diskFault = m.served, m.held, m.faults, true, m.diskFault
	n.status.Services, n.status.Endpoints, n.status.LastPublish, n.status.Snapshot = m.status.Services, m.status.Endpoints, m.status.LastPublish, m.status.Snapshot
	return n
}

// adjust takes over what of an entry matters to a source that runs.
func (m *member) adjust(h Hold) {
	m.work.Lock()
	defer m.work.Unlock()
	m.keep.o = h
}

// stop ends the source and waits until it has.
func (m *member) stop() {
	m.a.mu.Lock()
	m.run++
	end := m.end
	m.a.mu.Unlock()
	if end != nil {
		end()
		<-m.ended
	}
}

func (m *member) wasSynced() bool {
	m.a.mu.Lock()
	defer m.a.mu.Unlock()
	return m.status.Synced
}

// keepRunning runs one source until ctx is done.
func (a *Aggregator) keepRunning(ctx context.Context, m *member) {
	pauses := a.o.Backoff()
	for {
		start := time.Now()
		err := Safely(func() error { return m.Source.Run(ctx, a.publisher(m)) })
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
	m.mind()
	if !m.status.Snapshot.IsZero() {
		m.release() // it is down, and what it said before the restart is all there is
	}
	log := a.o.Log
	if fault := (*Panic)(nil); errors.As(err, &fault) {
		log = log.With("stack", string(fault.Stack))
	}
	log.Warn("registry failed, its last set is kept", "registry", m.Name, "error", err, "services", m.status.Services, "again_in", pause)
}

// release says that there is no need to wait for the source. The caller holds Aggregator.mu.
func (m *member) release() {
	if !m.released {
		m.released = true
		close(m.synced)
	}
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
		if m.publish(run, services) {
			a.o.OnChange()
		}
	}
}

// publish takes a set in and reports whether this changes what is served, or is the first.
func (m *member) publish(run int, services []*Service) bool {
	m.work.Lock()
	defer m.work.Unlock()
	if !m.runs(run) {
		return false
	}
	was := m.checked
	m.checked = was.next(m.Name, services)
	if m.fresh {
		m.keep.replace(m.checked.clean)
		m.fresh = false
	} else {
		m.keep.take(m.checked.clean, time.Now())
	}
	if m.keep.restless() {
		poke(m.a.moving)
	}
	return m.install(true, was.ds)
}

func (m *member) runs(run int) bool {
	m.a.mu.Lock()
	defer m.a.mu.Unlock()
	return m.run == run
}

// install brings what the keeper serves into force, and reports whether this changes anything, be it only what of it is
// held. The source has just published, or not. The caller holds work.
func (m *member) install(published bool, was []Diagnostic) bool {
	held := m.keep.holds()
	m.a.mu.Lock()
	defer m.a.mu.Unlock()
	first := published && !m.status.Synced
	if published {
		m.status.Synced, m.status.LastPublish, m.status.Error, m.late = true, time.Now(), "", false
		m.status.Snapshot = time.Time{}
		m.mind()
		m.release()
	}
	changed := !slices.Equal(m.served, m.keep.served)
	if changed {
		m.served = m.keep.served
		m.status.Services, m.status.Endpoints = len(m.served), countEndpoints(m.served)
		if i := slices.Index(m.a.sources, m); i >= 0 {
			m.a.sets = slices.Clone(m.a.sets)
			m.a.sets[i].Services = m.served
		}
	}
	if first {
		m.a.o.Log.Info("registry synced", "registry", m.Name, "services", m.status.Services, "endpoints", m.status.Endpoints)
	}
	otherwise := !slices.Equal(m.held, held) // held, though it may be served as before
	if changed || first || otherwise {
		m.tellHolds(held)
		m.held = held
		m.unsaved = true
		poke(m.a.unkept)
	}
	if published {
		m.faults = m.checked.ds
		m.a.tell(m, was, m.faults)
	}
	return changed || first || otherwise
}

// tellHolds logs what begins and ends to be held.
func (m *member) tellHolds(held []Held) {
	was, now := countHeld(m.held), countHeld(held)
	switch {
	case now > was:
		m.a.o.Log.Error("endpoints that disappeared are held: they live", "registry", m.Name, "endpoints", now,
			"services", len(held), "reason", held[0].Reason, "until", held[0].Until, "accept", "wattle registry accept "+m.Name)
	case was > now && now == 0:
		m.a.o.Log.Info("nothing of the registry is held any longer", "registry", m.Name)
	}
}

func countHeld(held []Held) int {
	n := 0
	for _, h := range held {
		n += h.Endpoints
	}
	return n
}

func countEndpoints(services []*Service) int {
	n := 0
	for _, s := range services {
		n += len(s.Endpoints)
	}
	return n
}

// look lets go of what need not be held any longer. It reports whether that changed something, and when to look again
// if at all.
func (m *member) look(now time.Time) (changed bool, next time.Duration, restless bool) {
	m.work.Lock()
	defer m.work.Unlock()
	if m.keep.tick(now) {
		changed = m.install(false, nil)
	}
	next = lookPause
	if at, ok := m.keep.nextEnd(); ok {
		next = min(next, at.Sub(now))
	}
	return changed, next, m.keep.restless()
}

// accept lets go of all that is held.
func (m *member) accept() (endpoints int) {
	m.work.Lock()
	defer m.work.Unlock()
	if endpoints = m.keep.accept(); endpoints == 0 {
		return 0
	}
	m.a.o.Log.Info("what was held is accepted as gone", "registry", m.Name, "endpoints", endpoints)
	m.install(false, nil)
	return endpoints
}

// maxHeldTold bounds the diagnostics on what is held; the status has all of it.
const maxHeldTold = 20

// diagnostics lists what is wrong with the source. The caller holds Aggregator.mu.
func (m *member) diagnostics() []Diagnostic {
	var ds []Diagnostic
	add := func(s Severity, code, summary, detail string) {
		ds = append(ds, Diagnostic{Severity: s, Code: code, Source: m.Name, Summary: summary, Detail: detail})
	}
	if m.status.Error != "" {
		add(Error, sourceFailed, fmt.Sprintf("registry %s cannot be read: %s", m.Name, m.status.Error),
			"What it said last stays in force, and it is asked again.")
	}
	if m.late {
		begun := "The mesh started without its services."
		if !m.status.Snapshot.IsZero() {
			begun = "The mesh started with what it said before."
		}
		add(Error, sourceLate, fmt.Sprintf("registry %s has not answered within %s", m.Name, m.SyncTimeout),
			begun+" See whether it can be reached, or raise its sync_timeout.")
	}
	if !m.status.Snapshot.IsZero() && !m.status.Synced {
		add(Warning, fromSnapshot, fmt.Sprintf("registry %s has said nothing since the server started: what it said on %s is served", m.Name, m.status.Snapshot.UTC().Format(time.RFC3339)),
			"It is asked again and again. See whether it can be reached.")
	}
	for i, h := range m.held {
		if i == maxHeldTold {
			add(Error, massDisappearance, fmt.Sprintf("endpoints of %d more services of registry %s are held", len(m.held)-i, m.Name), "See wattle registry status.")
			break
		}
		add(Error, massDisappearance, fmt.Sprintf("registry %s no longer names %d of the %d endpoints of service %s, though they live: they are held until %s",
			m.Name, h.Endpoints, h.Endpoints+h.Named, h.Service, h.Until.UTC().Format(time.RFC3339)),
			fmt.Sprintf("Held because %s. If they are meant to be gone: wattle registry accept %s.", h.Reason, m.Name))
	}
	ds = append(ds, m.diskFault...)
	for _, d := range m.reported {
		d.Source = cmp.Or(d.Source, m.Name)
		ds = append(ds, d)
	}
	return append(ds, m.faults...)
}
