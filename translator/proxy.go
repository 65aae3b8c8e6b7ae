package translator

import (
	"slices"

	"github.com/wattle-mesh/wattle/internal/mesh"
)

// proxyOut is what a proxy came to.
type proxyOut struct {
	from *mesh.Proxy
	all  []*Resource
	plan *Resource // host proxies
	out  *Proxy
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
