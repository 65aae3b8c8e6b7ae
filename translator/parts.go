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

// callerOut is what a caller's scope came to.
type callerOut struct {
	from *mesh.Scope
	all  []*Resource
}

// proxyOut is what a proxy came to.
type proxyOut struct {
	from *mesh.Proxy
	all  []*Resource
	plan *Resource // host proxies
	out  *Proxy
}

// service translates what changed of a service.
func (t *transaction) service(n registry.Name) {
	key := []byte(n.String())
	old, _ := t.services.Get(key)
	if old == nil {
		old = &serviceOut{}
	}
	now := &serviceOut{name: n}
	if s := t.v.Service(n); s != nil {
		for _, p := range s.Ports {
			now.ports = append(now.ports, portOut{p.Number, tcpIdle(p)})
			t.port(old, now, p)
		}
	}
	for _, p := range old.ports {
		if now.port(p.number) == nil {
			t.scope(portScope(n, p.number), nil)
		}
	}
	for _, p := range now.ports {
		if was := old.port(p.number); was != nil && !sameDuration(was.idle, p.idle) {
			t.retimed = append(t.retimed, mesh.ClusterRef{Service: n, Port: p.number})
		}
	}
	t.swap(resourcesOf(old.parts, now.parts), resourcesOf(now.parts, old.parts))
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

// port translates a service's port. What kept its pointer keeps its resource.
func (t *transaction) port(old, now *serviceOut, p *mesh.Port) {
	add := func(from any, make func() (*Resource, error)) {
		if !t.remake {
			if i := slices.IndexFunc(old.parts, func(o part) bool { return o.from == from }); i >= 0 {
				now.parts = append(now.parts, old.parts[i])
				return
			}
		}
		r, err := make()
		if !t.fail(err) {
			now.parts = append(now.parts, part{from, r})
		}
	}
	scope := &Scope{Name: portScope(p.Service, p.Number)}
	if p.Routes != nil {
		add(p.Routes, func() (*Resource, error) { return routes(p.Routes, outbound) })
		scope.Keys = append(scope.Keys, Key{Type: Route, Name: p.Routes.Name})
	}
	for i, c := range p.Clusters {
		add(c, func() (*Resource, error) { return cluster(c, t.v.Mesh.Domain) })
		add(p.Endpoints[i], func() (*Resource, error) { return endpoints(p.Endpoints[i]) })
	}
	scope.Keys = sortKeys(append(scope.Keys, useKeys(p.Uses)...))
	t.scope(scope.Name, scope)
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

// caller translates the listeners of one kind of caller.
func (t *transaction) caller(key string) {
	old, _ := t.callers.Get([]byte(key))
	if old == nil {
		old = &callerOut{}
	}
	s := t.v.Scope(key)
	if s == nil {
		t.swap(old.all, nil)
		t.callers.Delete([]byte(key))
		t.scope(callerScope(key), nil)
		return
	}
	if old.from == s && t.full && !t.remake && !t.callsRetimed(s) {
		return
	}
	now := &callerOut{from: s}
	scope := &Scope{Name: callerScope(key)}
	for _, u := range s.Upstreams {
		r, err := outboundListener(s, u, t.idleOf(u))
		if t.fail(err) {
			continue
		}
		now.all = append(now.all, r)
		if !u.Missing {
			scope.Uses = append(scope.Uses, portScope(u.Service, u.Port))
		}
	}
	scope.Keys = sortKeys(keysOf(now.all))
	slices.Sort(scope.Uses)
	scope.Uses = slices.Compact(scope.Uses)
	t.swap(old.all, now.all)
	t.callers.Insert([]byte(key), now)
	t.scope(scope.Name, scope)
}

// idleOf returns the idle timeout of connections to an upstream.
func (t *transaction) idleOf(u *mesh.ScopeUpstream) *configs.Duration {
	if s, ok := t.services.Get([]byte(u.Service.String())); ok {
		if p := s.port(u.Port); p != nil {
			return p.idle
		}
	}
	return nil
}

// proxy translates what only one proxy has.
func (t *transaction) proxy(id string) {
	old, _ := t.proxies.Get([]byte(id))
	if old == nil {
		old = &proxyOut{}
	}
	px := t.v.Proxy(id)
	if old.from == px && px != nil && t.full && !t.remake {
		return
	}
	t.proxied[id] = true
	if px == nil {
		t.swap(old.all, nil)
		if old.plan != nil {
			t.swap([]*Resource{old.plan}, nil)
		}
		t.proxies.Delete([]byte(id))
		t.scope(proxyScope(id), nil)
		return
	}
	all, err := t.own(px)
	if t.fail(err) {
		return
	}
	now := &proxyOut{from: px, all: all, plan: old.plan, out: &Proxy{ID: id, Scopes: []string{proxyScope(id)}}}
	for _, s := range px.Scopes {
		now.out.Scopes = append(now.out.Scopes, callerScope(s.Key))
	}
	slices.Sort(now.out.Scopes)
	scope := &Scope{Name: proxyScope(id), Keys: keysOf(all)}
	if px.Gateway != nil {
		scope.Keys = append(scope.Keys, useKeys(px.Gateway.Uses)...)
	}
	if px.Kind == mesh.HostProxy {
		scope.Keys = append(scope.Keys, Key{Type: HostPlan, Name: px.Host, Variant: id})
	}
	scope.Keys = sortKeys(scope.Keys)
	t.swap(old.all, all)
	t.proxies.Insert([]byte(id), now)
	t.scope(scope.Name, scope)
}

// own translates the listeners, local clusters and certs cluster of a proxy.
func (t *transaction) own(px *mesh.Proxy) ([]*Resource, error) {
	all, err := inboundListeners(px, t.v.Mesh)
	if err != nil {
		return nil, err
	}
	add := func(r *Resource, e error) {
		if e != nil {
			err = e
			return
		}
		all = append(all, r)
	}
	for _, w := range px.Workloads {
		for _, wp := range w.Ports {
			add(local(px.ID, w, wp))
		}
	}
	if px.Gateway != nil {
		for _, s := range px.Gateway.Servers {
			add(gatewayListener(px, s))
			add(routes(s.Routes, gateway)) // the hosts of one gateway share them
		}
	}
	if ids := identities(px); len(ids) > 0 {
		add(certs(px.ID, ids))
	}
	return all, err
}

// plan translates the plan of a host of which some proxy changed.
func (t *transaction) plan(host string) {
	id := host + "/host"
	px := t.v.Proxy(id)
	if px == nil {
		return
	}
	r, err := plan(px, t.v.On(host), t.v.Mesh.TrustDomain)
	if t.fail(err) {
		return
	}
	old, ok := t.proxies.Get([]byte(id))
	if !ok {
		return
	}
	now := *old
	now.plan = r
	var had []*Resource
	if old.plan != nil {
		had = []*Resource{old.plan}
	}
	t.swap(had, []*Resource{r})
	t.proxies.Insert([]byte(id), &now)
}
