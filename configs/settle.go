package configs

import (
	"slices"
	"time"
)

// SettleTime is how long a block that vanished from a watched file stays in force: a file that is being written, or was
// cut short by accident, says nothing of the blocks that it lacks.
const SettleTime = 5 * time.Second

// CodeVanished is the code of a block that is gone from a watched file and still in force. Explain has its text.
const CodeVanished = "W1411"

// Absence remembers since when what was in force is missing. The zero value is ready. Not for concurrent use.
type Absence[K comparable] struct{ since map[K]time.Time }

// Keep returns which of what was in force stays so although it is not there now, and until when.
func (a *Absence[K]) Keep(now time.Time, was []K, there func(K) bool) map[K]time.Time {
	since, out := map[K]time.Time{}, map[K]time.Time{}
	for _, k := range was {
		if there(k) {
			continue
		}
		at, known := a.since[k]
		if !known {
			at = now
		}
		if end := at.Add(SettleTime); now.Before(end) {
			since[k], out[k] = at, end
		}
	}
	a.since = since
	return out
}

// Next returns how long it is until the first of these times, at least a millisecond; zero if there is none.
func Next[K comparable](now time.Time, kept map[K]time.Time) time.Duration {
	var first time.Duration
	for _, at := range kept {
		if d := max(at.Sub(now), time.Millisecond); first == 0 || d < first {
			first = d
		}
	}
	return first
}

// Settler has the host and service blocks of a watched folder outlive their files' lack of them by SettleTime. The zero
// value is ready. Not for concurrent use.
type Settler struct {
	last   *Policy
	absent Absence[declared]
}

// Settle returns the policy with the blocks that vanished just now, says which these are, and when it is to be called
// again; zero: when the folder changes.
func (s *Settler) Settle(p *Policy, now time.Time) (*Policy, Diagnostics, time.Duration) {
	there := map[declared]bool{}
	workloads(p, func(d declared) { there[d.key()] = true })
	var was []declared
	if s.last != nil {
		workloads(s.last, func(d declared) { was = append(was, d.key()) })
	}
	kept := s.absent.Keep(now, was, func(d declared) bool { return there[d] })
	if len(kept) == 0 {
		s.last = p
		return p, nil, 0
	}
	out := *p
	out.Hosts, out.Services = slices.Clone(p.Hosts), slices.Clone(p.Services)
	var diags Diagnostics
	stays := func(d declared) bool {
		end, ok := kept[d.key()]
		if ok {
			diags = append(diags, Vanished(d.kind, d.name, d.origin, end))
		}
		return ok
	}
	for _, h := range s.last.Hosts {
		if stays(declared{"host", h.Name, h.Origin}) {
			out.Hosts = append(out.Hosts, h)
		}
	}
	for _, x := range s.last.Services {
		if stays(x.block()) {
			out.Services = append(out.Services, x)
		}
	}
	slices.SortStableFunc(out.Hosts, compareHosts)
	slices.SortStableFunc(out.Services, compareServices)
	s.last = &out
	return &out, diags.Sort(), Next(now, kept)
}

func workloads(p *Policy, yield func(declared)) {
	for _, h := range p.Hosts {
		yield(declared{"host", h.Name, h.Origin})
	}
	for _, s := range p.Services {
		yield(s.block())
	}
}

func (d declared) key() declared { return declared{kind: d.kind, name: d.name} }

// Vanished says that a block is gone from a file and in force until a time.
func Vanished(kind, name, origin string, until time.Time) Diagnostic {
	file, _, ok := splitOrigin(origin)
	if !ok {
		file = origin
	}
	return Diagnostic{Severity: Warning, Code: CodeVanished, File: file,
		Summary: kind + " " + name + " is gone from the files and stays in force until " + until.UTC().Format(time.TimeOnly) + " UTC",
		Detail:  "If it was not meant, as with a file that is half written, put it back by then."}
}
