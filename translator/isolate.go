package translator

import (
	"slices"

	"github.com/wattle-mesh/wattle/internal/mesh"
	"github.com/wattle-mesh/wattle/registry"
)

// isolate adds to a caller's draft what it has alone of the services that it calls: their routes, which lead to clusters of
// its own, with the endpoints that all have. Nothing that these count or limit is shared with other callers then.
func (t *transaction) isolate(d *callerDraft, s *mesh.Scope) {
	had, has := map[any]part{}, map[any]bool{}
	if !t.remake {
		for _, p := range d.old.own {
			had[p.from] = p
		}
	}
	add := func(from any, make func() (*Resource, error)) {
		if has[from] {
			return // another upstream leads there, too
		}
		has[from] = true
		p, ok := had[from]
		if !ok {
			r, err := make()
			if err != nil {
				d.errs = append(d.errs, err)
				return
			}
			p = part{from, r}
		}
		d.now.own = append(d.now.own, p)
	}
	calls := s.Upstreams
	if c := s.Capture; c != nil {
		h := t.v.Reach(c.Reach)
		for _, r := range slices.Concat(h.Routes, h.Open) {
			add(r, func() (*Resource, error) { return routes(r, outbound, s.Variant) })
		}
		calls = slices.Concat(calls, byName(c.Surface))
	}
	for _, u := range calls {
		p := t.port(u.Service, u.Port)
		if u.Missing || p == nil {
			continue
		}
		d.needs = append(d.needs, u.Service)
		if p.Routes != nil {
			add(p.Routes, func() (*Resource, error) { return routes(p.Routes, outbound, s.Variant) })
		}
		for _, ref := range p.Uses {
			to := t.port(ref.Service, ref.Port)
			if to == nil {
				continue
			}
			d.needs = append(d.needs, ref.Service)
			i := slices.IndexFunc(to.Clusters, func(c *mesh.Cluster) bool { return c.ClusterRef == ref })
			if i < 0 {
				continue
			}
			add(to.Clusters[i], func() (*Resource, error) { return cluster(to.Clusters[i], t.v.Mesh.Domain, s.Variant) })
			add(to.Endpoints[i], func() (*Resource, error) { return endpoints(to.Endpoints[i], t.v.Mesh.Domain, s.Variant) })
		}
	}
	slices.SortFunc(d.needs, registry.Name.Compare)
	d.needs = slices.Compact(d.needs)
}

// byName lists what is called by name as upstreams.
func byName(s *mesh.Surface) []*mesh.ScopeUpstream {
	var out []*mesh.ScopeUpstream
	for _, to := range s.Services {
		for _, p := range to.Ports {
			out = append(out, &mesh.ScopeUpstream{Service: to.Service, Port: p.Number, Protocol: p.Protocol, Missing: p.Missing})
		}
	}
	return out
}

// port returns a port of a service, or nil.
func (t *transaction) port(n registry.Name, number uint16) *mesh.Port {
	s := t.v.Service(n)
	if s == nil {
		return nil
	}
	i := slices.IndexFunc(s.Ports, func(p *mesh.Port) bool { return p.Number == number })
	if i < 0 {
		return nil
	}
	return s.Ports[i]
}

// needing lists the callers with parts of their own of services that changed.
func (t *transaction) needing(changed []registry.Name) []string {
	var out []string
	walk(t.prev.isolated, func(key string, needs []registry.Name) {
		for _, n := range needs {
			if _, ok := slices.BinarySearchFunc(changed, n, registry.Name.Compare); ok {
				out = append(out, key)
				return
			}
		}
	})
	return out
}
