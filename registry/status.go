package registry

import (
	"fmt"
	"slices"
	"time"
)

// Status is what is known of one source.
type Status struct {
	Name        string       `json:"name"`
	Type        string       `json:"type,omitempty"`        // the driver's
	State       State        `json:"state"`                 //
	Synced      bool         `json:"synced"`                // it has published once
	LastPublish time.Time    `json:"last_publish,omitzero"` // when it last said what there is
	StaleSince  time.Time    `json:"stale_since,omitzero"`  // since when it cannot be read; zero: it can
	Snapshot    time.Time    `json:"snapshot,omitzero"`     // what is served was kept over a restart, and said at this time; zero: it has spoken since
	Held        []Held       `json:"held,omitempty"`        // what is served though it no longer says so, sorted by service
	Services    int          `json:"services"`              // that are served of it
	Endpoints   int          `json:"endpoints"`             // of these services
	Restarts    int          `json:"restarts"`              // how often it was run again after it had failed
	Error       string       `json:"error,omitempty"`       // why it failed last; empty once it has published again
	Diagnostics []Diagnostic `json:"diagnostics,omitempty"` // what is wrong with it
}

// State is how a source is, in a word.
type State string

// The states.
const (
	Waiting      State = "waiting"  // it has not published since the server started, and nothing of it is served
	FromSnapshot State = "snapshot" // it has not published since the server started; what it said before is served
	Synced       State = "synced"   // what it said last is served
	Stale        State = "stale"    // likewise, but it, or a part of it, cannot be read now
	Holding      State = "holding"  // it can be read, but some of what it no longer names is served
)

// maxReported bounds what a source may say of its registry besides its set.
const maxReported = 1000

// Report replaces what the source of that name has to say about its registry besides its set. It is for
// DriverOptions.Report.
func (a *Aggregator) Report(name string, ds []Diagnostic) {
	if more := len(ds) - maxReported; more > 0 {
		ds = append(slices.Clip(ds[:maxReported]), Diagnostic{Severity: Error, Code: ds[maxReported].Code,
			Summary: fmt.Sprintf("%d more faults in registry %s", more, name)})
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	m := a.find(name)
	if m == nil || slices.Equal(m.reported, ds) {
		return
	}
	a.tell(m, m.reported, ds)
	m.reported = slices.Clone(ds)
	m.mind()
	if !m.since.IsZero() && !m.status.Snapshot.IsZero() {
		m.release() // as after a failure
	}
}

// mind notes since when the source cannot be read: it failed, or says itself that it cannot read a part of its
// registry. The caller holds Aggregator.mu.
func (m *member) mind() {
	down := m.status.Error != "" || slices.ContainsFunc(m.reported, func(d Diagnostic) bool { return d.Code == sourceFailed && d.Severity == Error })
	switch {
	case !down:
		m.since = time.Time{}
	case m.since.IsZero():
		m.since = time.Now()
	}
}

// maxLogged bounds the lines that the log gets of one set's diagnostics; the status has them all.
const maxLogged = 20

// tell logs what now has and was has not, a line for each.
func (a *Aggregator) tell(m *member, was, now []Diagnostic) {
	told := make(map[Diagnostic]bool, len(was))
	for _, d := range was {
		told[d] = true
	}
	lines := 0
	for _, d := range now {
		if told[d] {
			continue
		}
		if lines++; lines <= maxLogged {
			d.Source = "" // the line names it
			a.o.Log.Warn("registry is faulty", "registry", m.Name, "diagnostic", d.String())
		}
	}
	if lines > maxLogged {
		a.o.Log.Warn("registry is faulty in more places; see wattle status", "registry", m.Name, "more", lines-maxLogged)
	}
}

// Status returns what is known of every source, in the order in which they were added.
func (a *Aggregator) Status() []Status {
	a.mu.Lock()
	defer a.mu.Unlock()
	all := make([]Status, len(a.sources))
	for i, m := range a.sources {
		all[i] = m.status
		all[i].State, all[i].StaleSince, all[i].Held = m.state(), m.since, m.held
		all[i].Diagnostics = m.diagnostics()
	}
	return all
}

// state says how the source is. The caller holds Aggregator.mu.
func (m *member) state() State {
	switch {
	case !m.status.Snapshot.IsZero():
		return FromSnapshot
	case !m.status.Synced && m.served == nil:
		return Waiting
	case !m.since.IsZero():
		return Stale
	case len(m.held) > 0:
		return Holding
	}
	return Synced
}
