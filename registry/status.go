package registry

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// Status is what is known of one source.
type Status struct {
	Name        string       `json:"name"`
	Synced      bool         `json:"synced"`                // it has published once
	LastPublish time.Time    `json:"last_publish,omitzero"` // when it last said what there is
	Services    int          `json:"services"`              // that are served of it
	Endpoints   int          `json:"endpoints"`             // of these services
	Restarts    int          `json:"restarts"`              // how often it was run again after it had failed
	Error       string       `json:"error,omitempty"`       // why it failed last; empty once it has published again
	Diagnostics []Diagnostic `json:"diagnostics,omitempty"` // what is wrong with it
}

// Report replaces what the source of that name has to say about its registry besides its set. It is for
// DriverOptions.Report.
func (a *Aggregator) Report(name string, ds []Diagnostic) {
	a.mu.Lock()
	defer a.mu.Unlock()
	m := a.find(name)
	if m == nil || slices.Equal(m.reported, ds) {
		return
	}
	a.tell(m, m.reported, ds)
	m.reported = slices.Clone(ds)
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
			a.o.Log.Warn("registry is faulty", "registry", m.name, "diagnostic", d.String())
		}
	}
	if lines > maxLogged {
		a.o.Log.Warn("registry is faulty in more places; see wattle status", "registry", m.name, "more", lines-maxLogged)
	}
}

// Status returns what is known of every source, in the order in which they were added.
func (a *Aggregator) Status() []Status {
	a.mu.Lock()
	defer a.mu.Unlock()
	all := make([]Status, len(a.sources))
	for i, m := range a.sources {
		all[i] = m.status
		all[i].Diagnostics = m.diagnostics()
	}
	return all
}

func (m *member) diagnostics() []Diagnostic {
	var ds []Diagnostic
	if m.status.Error != "" {
		ds = append(ds, Diagnostic{Severity: Error, Code: sourceFailed, Source: m.name,
			Summary: fmt.Sprintf("registry %s cannot be read: %s", m.name, m.status.Error),
			Detail:  "What it said last stays in force, and it is asked again."})
	}
	if m.late {
		ds = append(ds, Diagnostic{Severity: Error, Code: sourceLate, Source: m.name,
			Summary: fmt.Sprintf("registry %s has not answered within %s", m.name, m.syncTimeout),
			Detail:  "The mesh started without its services. See whether it can be reached, or raise its sync_timeout."})
	}
	for _, d := range m.reported {
		d.Source = cmp.Or(d.Source, m.name)
		ds = append(ds, d)
	}
	return append(ds, m.checked.ds...)
}
