package registry

import (
	"slices"
	"time"
)

// HeldEndpoint is an endpoint that is served though its registry no longer names it.
type HeldEndpoint struct {
	Registry string    `json:"registry"`
	Since    time.Time `json:"since"` // when it disappeared
	Until    time.Time `json:"until"` // when it goes if nothing else happens
	Reason   string    `json:"reason"`

	id identity
}

// Is reports whether it is the endpoint e of the service that it was asked for.
func (h HeldEndpoint) Is(e *Endpoint) bool {
	return h.id == e.identity() || h.id.workload == WorkloadKey{} && h.id == e.place() // which another registry knows to be a workload's
}

// HeldOf lists the endpoints of service n that are held, in the order of the registries. The work grows with what is held
// or moved lately of that service. It may wait for a set that is being looked into.
func (a *Aggregator) HeldOf(n Name) []HeldEndpoint {
	var out []HeldEndpoint
	for _, m := range a.members() {
		out = append(out, m.heldOf(n)...)
	}
	return out
}

func (m *member) heldOf(n Name) []HeldEndpoint {
	m.a.mu.Lock()
	some := slices.ContainsFunc(m.held, func(h Held) bool { return h.Service == n })
	m.a.mu.Unlock()
	if !some {
		return nil
	}
	m.work.Lock()
	defer m.work.Unlock()
	l := m.keep.ledgers[n]
	if l == nil {
		return nil
	}
	var out []HeldEndpoint
	for id, x := range l.gone {
		if x.held {
			out = append(out, HeldEndpoint{Registry: m.Name, Since: x.at, Until: x.until, Reason: x.reason, id: id})
		}
	}
	slices.SortFunc(out, func(a, b HeldEndpoint) int { return a.id.compare(b.id) })
	return out
}

func (id identity) compare(o identity) int {
	if c := id.workload.Compare(o.workload); c != 0 {
		return c
	}
	if c := id.listen.Compare(o.listen); c != 0 {
		return c
	}
	return int(id.servicePort) - int(o.servicePort)
}

// Holds lists what is held of all registries, by registry and service.
func (a *Aggregator) Holds() map[string][]Held {
	a.mu.Lock()
	defer a.mu.Unlock()
	var out map[string][]Held
	for _, m := range a.sources {
		if len(m.held) == 0 {
			continue
		}
		if out == nil {
			out = map[string][]Held{}
		}
		out[m.Name] = m.held // replaced, not changed
	}
	return out
}
