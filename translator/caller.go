package translator

import (
	"maps"
	"slices"

	"github.com/wattle-mesh/wattle/configs"
	"github.com/wattle-mesh/wattle/internal/mesh"
	"github.com/wattle-mesh/wattle/registry"
)

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
