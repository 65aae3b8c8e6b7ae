package translator

import (
	"maps"
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
	from      *mesh.Scope
	listeners []*Resource
	own       []part                 // its own of the services that it calls; only if it has a variant
	captured  map[captured]*Resource // those of listeners that calls by name take
}

// all lists the resources.
func (c *callerOut) all() []*Resource {
	out := slices.Clone(c.listeners)
	for _, p := range c.own {
		out = append(out, p.Resource)
	}
	return out
}

// beyond lists the resources of a that are not among those of b.
func beyond(a, b []*Resource) []*Resource {
	known := make(map[*Resource]bool, len(b))
	for _, r := range b {
		known[r] = true
	}
	return slices.DeleteFunc(slices.Clone(a), func(r *Resource) bool { return known[r] })
}

// proxyOut is what a proxy came to.
type proxyOut struct {
	from *mesh.Proxy
	all  []*Resource
	plan *Resource // host proxies
	out  *Proxy
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

// callerDraft is what a caller's scope comes to, before it takes the place of what it was.
type callerDraft struct {
	key      string
	old, now *callerOut // now is nil: gone
	scope    *Scope
	needs    []registry.Name // services, whose changes change its own parts
	errs     []error
}

// draftCaller translates the listeners of one kind of caller, nil if nothing of it changed. It changes nothing.
func (t *transaction) draftCaller(key string) *callerDraft {
	old, _ := t.callers.Get([]byte(key))
	if old == nil {
		old = &callerOut{}
	}
	d := &callerDraft{key: key, old: old}
	s := t.v.Scope(key)
	switch {
	case s == nil:
		return d
	case old.from == s && s.Variant == "" && t.full && !t.remake && !t.callsRetimed(s):
		return nil
	}
	d.now, d.scope = &callerOut{from: s}, &Scope{Name: callerScope(key)}
	if old.from == s && !t.remake && !t.callsRetimed(s) {
		d.now.listeners, d.now.captured = old.listeners, old.captured
	} else {
		d.listeners(t, s)
	}
	for _, u := range s.Upstreams {
		if !u.Missing && s.Variant == "" {
			d.scope.Uses = append(d.scope.Uses, portScope(u.Service, u.Port))
		}
	}
	if s.Capture != nil && s.Variant == "" {
		d.scope.Uses = append(d.scope.Uses, reachScope(s.Capture.Reach))
	}
	if s.Variant != "" {
		t.isolate(d, s)
	}
	d.scope.Keys = sortKeys(keysOf(d.now.all()))
	slices.Sort(d.scope.Uses)
	d.scope.Uses = slices.Compact(d.scope.Uses)
	return d
}

// listeners translates the upstreams of a caller.
func (d *callerDraft) listeners(t *transaction, s *mesh.Scope) {
	for _, u := range s.Upstreams {
		r, err := outboundListener(s, u, t.idleOf(u))
		if err != nil {
			d.errs = append(d.errs, err)
			continue
		}
		d.now.listeners = append(d.now.listeners, r)
	}
	t.draftCapture(d, s)
}

// draftCapture adds what calls by name take.
func (t *transaction) draftCapture(d *callerDraft, s *mesh.Scope) {
	if s.Capture == nil {
		return
	}
	add := func(all []*Resource, err error) {
		if err != nil {
			d.errs = append(d.errs, err)
		}
		d.now.listeners = append(d.now.listeners, all...)
	}
	var err error
	d.now.captured, err = t.capturedListeners(s, d.old.captured)
	add(slices.Collect(maps.Values(d.now.captured)), err)
	if s.Capture.Mode == registry.Transparent {
		add(t.redirectListeners(s))
		if t.v.Mesh.OutboundTrafficPolicy != configs.RegistryOnly {
			r, err := passed()
			add([]*Resource{r}, err)
		}
	}
}

// putCaller brings a draft into force.
func (t *transaction) putCaller(d *callerDraft) {
	switch {
	case d == nil:
	case d.now == nil:
		t.swap(d.old.all(), nil)
		t.callers.Delete([]byte(d.key))
		t.isolated.Delete([]byte(d.key))
		t.scope(callerScope(d.key), nil)
	default:
		t.errs = append(t.errs, d.errs...)
		was, now := d.old.all(), d.now.all()
		t.swap(beyond(was, now), beyond(now, was))
		t.callers.Insert([]byte(d.key), d.now)
		if len(d.needs) > 0 {
			t.isolated.Insert([]byte(d.key), d.needs)
		} else {
			t.isolated.Delete([]byte(d.key))
		}
		t.scope(d.scope.Name, d.scope)
	}
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

// proxyDraft is what a proxy comes to, before it takes the place of what it was.
type proxyDraft struct {
	id       string
	old, now *proxyOut // now is nil: gone
	scope    *Scope
	err      error
}

// draftProxy translates what only one proxy has, nil if nothing of it changed. It changes nothing.
func (t *transaction) draftProxy(id string) *proxyDraft {
	old, _ := t.proxies.Get([]byte(id))
	if old == nil {
		old = &proxyOut{}
	}
	d := &proxyDraft{id: id, old: old}
	px := t.v.Proxy(id)
	switch {
	case px == nil:
		return d
	case old.from == px && t.full && !t.remake:
		return nil
	}
	all, err := t.own(px)
	d.err = err
	d.now = &proxyOut{from: px, all: all, plan: old.plan, out: &Proxy{ID: id, Scopes: []string{proxyScope(id)}}}
	for _, s := range px.Scopes {
		d.now.out.Scopes = append(d.now.out.Scopes, callerScope(s.Key))
	}
	slices.Sort(d.now.out.Scopes)
	d.scope = &Scope{Name: proxyScope(id), Keys: keysOf(all)}
	if px.Gateway != nil {
		d.scope.Keys = append(d.scope.Keys, useKeys(px.Gateway.Uses)...)
	}
	if px.Kind == mesh.HostProxy {
		d.scope.Keys = append(d.scope.Keys, Key{Type: HostPlan, Name: px.Host, Variant: id})
	}
	d.scope.Keys = sortKeys(d.scope.Keys)
	return d
}

// putProxy brings a draft into force.
func (t *transaction) putProxy(d *proxyDraft) {
	if d == nil {
		return
	}
	t.proxied[d.id] = true
	switch {
	case t.fail(d.err):
	case d.now == nil:
		t.swap(d.old.all, nil)
		if d.old.plan != nil {
			t.swap([]*Resource{d.old.plan}, nil)
		}
		t.proxies.Delete([]byte(d.id))
		t.scope(proxyScope(d.id), nil)
	default:
		t.swap(d.old.all, d.now.all)
		t.proxies.Insert([]byte(d.id), d.now)
		t.scope(d.scope.Name, d.scope)
	}
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
			add(routes(s.Routes, gateway, "")) // the hosts of one gateway share them
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
	r, err := plan(px, t.v.On(host), t.v.Mesh)
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
