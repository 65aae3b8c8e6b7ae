package agent

import (
	"maps"
	"time"

	"github.com/wattle-mesh/wattle/translator"
)

// What makes a generation of an Envoy's configuration good or bad.
const (
	probation  = 30 * time.Second // without an end of the Envoy, until what it was served is proven
	crashLimit = 3                // ends of the Envoy within probation
)

// snapshot is what an Envoy was served at one moment, but for secrets. Immutable.
type snapshot map[translator.Key]*translator.Resource

func (s snapshot) equal(o snapshot) bool {
	return maps.EqualFunc(s, o, func(a, b *translator.Resource) bool { return a.Version == b.Version })
}

// trial watches how the Envoy of a proxy does on what the server sends. A state is proven when an Envoy has been well for as
// long as probation since it came into force; changes that come meanwhile are on trial after it, so that what is proven is
// never much older than a minute or so, however much changes. Only one goroutine may use it.
type trial struct {
	proven    snapshot // nil: none is yet
	candidate snapshot // on probation since, an Envoy has answered all of it; nil: there is none
	since     time.Time
	ends      []time.Time // of the Envoy, within the last probation
}

// well says that the Envoy has answered everything, and what it is served. It reports whether another state is proven by that.
func (t *trial) well(now time.Time, served snapshot) bool {
	if t.candidate == nil {
		if !served.equal(t.proven) {
			t.candidate, t.since = served, now
		}
		return false
	}
	if now.Sub(t.since) < probation {
		return false
	}
	changed := !t.candidate.equal(t.proven)
	t.proven, t.candidate = t.candidate, nil
	return changed
}

// unwell says that the Envoy is not well, for a reason that may be anybody's.
func (t *trial) unwell(now time.Time) { t.since = now }

// crashed says that the Envoy has ended, and reports whether that was once too often.
func (t *trial) crashed(now time.Time) bool {
	t.since = now
	t.ends = append(t.ends, now)
	for now.Sub(t.ends[0]) > probation {
		t.ends = t.ends[1:]
	}
	return len(t.ends) >= crashLimit
}

// back returns the state to go back to from served: that which came before it, else the proven one; nil if there is none. The
// Envoy's ends are forgotten, since they count for what was.
func (t *trial) back(served snapshot) snapshot {
	t.ends = nil
	for _, s := range []snapshot{t.candidate, t.proven} {
		if s != nil && !s.equal(served) {
			t.candidate = nil
			return s
		}
	}
	return nil
}
