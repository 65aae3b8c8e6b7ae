package pipeline

import (
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"time"

	"github.com/wattle-mesh/wattle/internal/mesh"
	"github.com/wattle-mesh/wattle/registry"
)

// pacer lets the endpoints of a service change once in a gap: the first change at once, what follows it together when the
// gap has passed. What other services do makes no difference. An endpoint that begins to drain does so at once even then, since somebody waits
// for its callers to leave; but only once in a gap, so that drains that flap are paced, too. It holds back by giving the merge what the registries and
// the agents said of such a service before. It belongs to the loop's goroutine; time comes in with each call.
type pacer struct {
	gap     time.Duration               // zero: nothing is held back
	pushed  map[registry.Name]time.Time // when services changed, within the gap
	drained map[registry.Name]time.Time // when drains of services passed at once, within the gap
	now     time.Time                   // of this round
	sets    []registry.Set              // what it gave last
	health  registry.HealthMap          // likewise
	due     time.Time                   // when the first of what is held back may change; zero: nothing is
}

// pace returns what of the registries' sets and the agents' words may count now.
func (p *pacer) pace(sets []registry.Set, health registry.HealthMap, now time.Time) ([]registry.Set, registry.HealthMap) {
	p.due, p.now = time.Time{}, now
	maps.DeleteFunc(p.pushed, func(_ registry.Name, at time.Time) bool { return now.Sub(at) >= p.gap })
	maps.DeleteFunc(p.drained, func(_ registry.Name, at time.Time) bool { return now.Sub(at) >= p.gap })
	sameNames := slices.EqualFunc(p.sets, sets, func(a, b registry.Set) bool { return a.Name == b.Name })
	if len(p.pushed) > 0 && sameNames { // else an operator changed the registries: that is no flapping
		sets = slices.Clone(sets)
		for i := range sets {
			sets[i].Services = p.paceSet(p.sets[i].Services, sets[i].Services)
		}
		health = p.paceHealth(p.health, health)
	}
	p.sets, p.health = sets, health
	return sets, health
}

// later reports whether a service may not change yet, and notes when it may.
func (p *pacer) later(name registry.Name) bool {
	at, ok := p.pushed[name]
	if !ok {
		return false
	}
	if at = at.Add(p.gap); p.due.IsZero() || at.Before(p.due) {
		p.due = at
	}
	return true
}

// mayDrain reports whether endpoints of a service that may not change yet may begin to drain all the same: all that do so in one
// round, once in a gap.
func (p *pacer) mayDrain(name registry.Name) bool {
	if at, ok := p.drained[name]; ok {
		return at.Equal(p.now)
	}
	if p.drained == nil {
		p.drained = map[registry.Name]time.Time{}
	}
	p.drained[name] = p.now
	return true
}

// paceSet returns now with the services of old that may not change yet.
func (p *pacer) paceSet(old, now []*registry.Service) []*registry.Service {
	if len(old) == len(now) && (len(old) == 0 || &old[0] == &now[0]) {
		return now
	}
	out := make([]*registry.Service, 0, len(now))
	held := false
	pick := func(was, is *registry.Service) {
		use := is
		if was != is && p.later(nameOf(was, is)) {
			use, held = was, true
			if drained := draining(was, is); drained != was && p.mayDrain(was.Name) {
				use = drained
			}
		}
		if use != nil {
			out = append(out, use)
		}
	}
	i, j := 0, 0
	for i < len(old) || j < len(now) {
		switch {
		case j == len(now) || i < len(old) && old[i].Name.Compare(now[j].Name) < 0:
			pick(old[i], nil)
			i++
		case i == len(old) || old[i].Name.Compare(now[j].Name) > 0:
			pick(nil, now[j])
			j++
		default:
			pick(old[i], now[j])
			i, j = i+1, j+1
		}
	}
	if !held {
		return now
	}
	return out
}

// draining returns was with those endpoints drained that only drain in is: was itself if there is none.
func draining(was, is *registry.Service) *registry.Service {
	if was == nil || is == nil {
		return was
	}
	type id struct {
		address netip.Addr
		port    uint16
		serves  uint16
	}
	idOf := func(e *registry.Endpoint) id { return id{e.Address, e.Port, e.ServicePort} }
	drains := map[id]*registry.Endpoint{}
	for _, e := range is.Endpoints {
		if e.Health == registry.Draining {
			drains[idOf(e)] = e
		}
	}
	if len(drains) == 0 {
		return was
	}
	out := *was
	out.Endpoints = slices.Clone(was.Endpoints)
	changed := false
	for i, e := range out.Endpoints {
		if now := drains[idOf(e)]; now != nil && e.Health != registry.Draining {
			c := *e
			c.Health, c.Reason = now.Health, now.Reason
			out.Endpoints[i], changed = &c, true
		}
	}
	if !changed {
		return was
	}
	return &out
}

func nameOf(a, b *registry.Service) registry.Name {
	if a != nil {
		return a.Name
	}
	return b.Name
}

// paceHealth returns now with the words of old on workloads of services that may not change yet.
func (p *pacer) paceHealth(old, now registry.HealthMap) registry.HealthMap {
	if old == nil || now == nil || reflect.ValueOf(old).UnsafePointer() == reflect.ValueOf(now).UnsafePointer() {
		return now
	}
	var out registry.HealthMap
	change := func() registry.HealthMap {
		if out == nil {
			out = maps.Clone(now)
		}
		return out
	}
	for k, word := range now {
		was, known := old[k]
		switch {
		case known && was == word || !p.later(k.Service):
		case word.Health == registry.Draining && was.Health != registry.Draining && p.mayDrain(k.Service):
		case known:
			change()[k] = was
		default:
			delete(change(), k)
		}
	}
	for k, was := range old {
		if _, still := now[k]; !still && p.later(k.Service) {
			change()[k] = was
		}
	}
	if out == nil {
		return now
	}
	return out
}

// note remembers which services got other endpoints in the view of the callers from one state to the next: new labels that
// no subset selects by cost nobody a wait. The first catalog is nobody's flapping, and an endpoint that waits for its
// agent's first word gets no request anyway.
func (p *pacer) note(old, now *State, at time.Time) {
	if p.gap == 0 || old.Catalog == nil {
		return
	}
	for _, name := range now.Catalog.Changed {
		if sameEndpoints(old.View.Service(name), now.View.Service(name)) ||
			slices.Equal(reported(old.Catalog.Service(name)), reported(now.Catalog.Service(name))) {
			continue
		}
		if p.pushed == nil {
			p.pushed = map[registry.Name]time.Time{}
		}
		p.pushed[name] = at
	}
}

// sameEndpoints reports whether callers see the same endpoints of a service in two views of which one came of the other.
func sameEndpoints(a, b *mesh.Service) bool {
	if a == nil || b == nil {
		return a == b
	}
	return slices.EqualFunc(a.Ports, b.Ports, func(x, y *mesh.Port) bool {
		return x.Number == y.Number && slices.Equal(x.Endpoints, y.Endpoints)
	})
}

// reported lists the endpoints of a service, but for those that wait for their agent's first word.
func reported(s *registry.Service) []*registry.Endpoint {
	if s == nil {
		return nil
	}
	unreported := func(e *registry.Endpoint) bool { return e.Reason == registry.Unreported }
	if !slices.ContainsFunc(s.Endpoints, unreported) {
		return s.Endpoints
	}
	return slices.DeleteFunc(slices.Clone(s.Endpoints), unreported)
}
