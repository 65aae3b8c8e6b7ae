package translator

import (
	"slices"

	"github.com/wattle-mesh/wattle/configs"
	"github.com/wattle-mesh/wattle/internal/mesh"
	"github.com/wattle-mesh/wattle/registry"
)

// serviceOut is what a service came to, remembered by the parts of the view it came from.
type serviceOut struct {
	name  registry.Name
	parts []part
	ports []portOut
}

// portOut is what is remembered of a port beside its resources.
type portOut struct {
	number uint16
	idle   *configs.Duration // TCP: the idle timeout that callers' listeners hold
}

// part is one resource and the part of the view that it was made of.
type part struct {
	from any // *mesh.Routes, *mesh.Cluster or *mesh.EndpointSet
	*Resource
}

// serviceDraft is what a service comes to, before it takes the place of what it was.
type serviceDraft struct {
	name     registry.Name
	old, now *serviceOut
	scopes   []*Scope // one for each port
	errs     []error
}

// draftService translates what changed of a service. It changes nothing.
func (t *transaction) draftService(n registry.Name) *serviceDraft {
	old, _ := t.services.Get([]byte(n.String()))
	if old == nil {
		old = &serviceOut{}
	}
	d := &serviceDraft{name: n, old: old, now: &serviceOut{name: n}}
	if s := t.v.Service(n); s != nil {
		for _, p := range s.Ports {
			d.now.ports = append(d.now.ports, portOut{p.Number, tcpIdle(p)})
			t.draftPort(d, p)
		}
	}
	return d
}

// putService brings a draft into force.
func (t *transaction) putService(d *serviceDraft) {
	t.errs = append(t.errs, d.errs...)
	old, now := d.old, d.now
	for _, s := range d.scopes {
		t.scope(s.Name, s)
	}
	for _, p := range old.ports {
		if now.port(p.number) == nil {
			t.scope(portScope(d.name, p.number), nil)
		}
	}
	for _, p := range now.ports {
		if was := old.port(p.number); was != nil && !sameDuration(was.idle, p.idle) {
			t.retimed = append(t.retimed, mesh.ClusterRef{Service: d.name, Port: p.number})
		}
	}
	t.swap(resourcesOf(old.parts, now.parts), resourcesOf(now.parts, old.parts))
	key := []byte(d.name.String())
	if len(now.ports) == 0 {
		t.services.Delete(key)
		return
	}
	t.services.Insert(key, now)
}

// port returns what is remembered of a port, or nil.
func (s *serviceOut) port(number uint16) *portOut {
	for i := range s.ports {
		if s.ports[i].number == number {
			return &s.ports[i]
		}
	}
	return nil
}

// tcpIdle returns the idle timeout of connections to a TCP port, nil for the default.
func tcpIdle(p *mesh.Port) *configs.Duration {
	if p.Protocol.IsHTTP() || len(p.Clusters) == 0 {
		return nil
	}
	if pool := p.Clusters[0].Traffic.ConnectionPool; pool != nil && pool.TCP != nil {
		return pool.TCP.IdleTimeout
	}
	return nil
}

func sameDuration(a, b *configs.Duration) bool {
	return a == b || a != nil && b != nil && *a == *b
}

// resourcesOf lists the resources of a that b has not.
func resourcesOf(a, b []part) []*Resource {
	var out []*Resource
	for _, p := range a {
		if !slices.ContainsFunc(b, func(o part) bool { return o.Resource == p.Resource }) {
			out = append(out, p.Resource)
		}
	}
	return out
}

// draftPort translates a service's port. What kept its pointer keeps its resource.
func (t *transaction) draftPort(d *serviceDraft, p *mesh.Port) {
	add := func(from any, make func() (*Resource, error)) {
		if !t.remake {
			if i := slices.IndexFunc(d.old.parts, func(o part) bool { return o.from == from }); i >= 0 {
				d.now.parts = append(d.now.parts, d.old.parts[i])
				return
			}
		}
		r, err := make()
		if err != nil {
			d.errs = append(d.errs, err)
			return
		}
		d.now.parts = append(d.now.parts, part{from, r})
	}
	scope := &Scope{Name: portScope(p.Service, p.Number)}
	if p.Routes != nil {
		add(p.Routes, func() (*Resource, error) { return routes(p.Routes, outbound, "") })
		scope.Keys = append(scope.Keys, Key{Type: Route, Name: p.Routes.Name})
	}
	for i, c := range p.Clusters {
		add(c, func() (*Resource, error) { return cluster(c, t.v.Mesh.Domain, "") })
		add(p.Endpoints[i], func() (*Resource, error) { return endpoints(p.Endpoints[i], t.v.Mesh.Domain, "") })
	}
	scope.Keys = sortKeys(append(scope.Keys, useKeys(p.Uses)...))
	d.scopes = append(d.scopes, scope)
}

// useKeys lists the clusters that refs name, and their endpoints.
func useKeys(refs []mesh.ClusterRef) []Key {
	var out []Key
	for _, ref := range refs {
		name := clusterName(ref)
		out = append(out, Key{Type: Cluster, Name: name}, Key{Type: Endpoint, Name: name})
	}
	return out
}

func sortKeys(keys []Key) []Key {
	slices.SortFunc(keys, compareKeys)
	return slices.Compact(keys)
}

// keysOf lists the keys of resources.
func keysOf(all []*Resource) []Key {
	var out []Key
	for _, r := range all {
		out = append(out, r.Key)
	}
	return out
}
