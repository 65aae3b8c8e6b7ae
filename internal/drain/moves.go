package drain

import (
	"slices"
	"time"

	"github.com/wattle-mesh/wattle/internal/mesh"
	"github.com/wattle-mesh/wattle/registry"
	"github.com/wattle-mesh/wattle/translator"
)

const (
	// awayLimit is how long a workload stays where its callers went before for those that cannot be told of the new place.
	awayLimit = 30 * time.Second
	// bindLimit is how long it does for a proxy that has yet to open the workload's upstreams: one of another user cannot
	// before the old one has closed them.
	bindLimit = time.Second
)

// Moves knows when workloads that move from one proxy of their host to another may take the next step. Its methods may be
// called from one goroutine at a time.
type Moves struct {
	Lagging func(t translator.Type, names []string) (lagging, away []string) // (*xds.Server).Lagging
	Ready   func(registry.WorkloadKey) []string                              // (*api.Registrar).Ready

	since map[registry.WorkloadKey]step
}

// step is where a move is, since when.
type step struct {
	seats mesh.Seats
	began time.Time
}

// Done lists the workloads of a view that may go on: callers are sent to the new proxy when its agent says that its Envoy is
// well and it has acknowledged the workload's mesh port, and the old one is let go when they have acknowledged that.
func (m *Moves) Done(v *mesh.View) []registry.WorkloadKey {
	var out []registry.WorkloadKey
	was := m.since
	m.since = map[registry.WorkloadKey]step{}
	for _, k := range v.Moves() {
		s := v.Ports[k]
		at, ok := was[k]
		if !ok || at.seats != s {
			at = step{s, time.Now()}
		}
		m.since[k] = at
		if s.Other.Leaving && m.left(v, k, s, at.began) || !s.Other.Leaving && m.ready(k, s) {
			out = append(out, k)
		}
	}
	return out
}

// ready reports whether the proxy that a workload goes to has opened its mesh port.
func (m *Moves) ready(k registry.WorkloadKey, s mesh.Seats) bool {
	if !slices.Contains(m.Ready(k), s.Other.Proxy) {
		return false
	}
	lagging, away := m.Lagging(translator.Listener, []string{translator.InListenerName(s.Other.Port)})
	id := k.Host + "/" + s.Other.Proxy
	return !slices.Contains(lagging, id) && !slices.Contains(away, id)
}

// left reports whether nobody is sent any more to the proxy that a workload left, and its own calls have another way.
func (m *Moves) left(v *mesh.View, k registry.WorkloadKey, s mesh.Seats, began time.Time) bool {
	lagging, away := m.Lagging(translator.Endpoint, endpointNames(v, k.Service))
	if len(lagging) > 0 || len(away) > 0 && time.Since(began) < awayLimit {
		return false
	}
	if px := v.Proxy(k.Host + "/" + s.Proxy); px != nil && time.Since(began) < bindLimit {
		id := px.ID
		lagging, away := m.Lagging(translator.Listener, translator.UpstreamNames(px))
		return !slices.Contains(lagging, id) && !slices.Contains(away, id)
	}
	return true
}

// endpointNames lists the resources with the endpoints of a service.
func endpointNames(v *mesh.View, n registry.Name) []string {
	s := v.Service(n)
	if s == nil {
		return nil
	}
	var out []string
	for _, p := range s.Ports {
		for _, set := range p.Endpoints {
			out = append(out, translator.EndpointsNames(v, set.ClusterRef)...)
		}
	}
	return out
}
