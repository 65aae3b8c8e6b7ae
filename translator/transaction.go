package translator

import (
	"maps"
	"slices"

	iradix "github.com/hashicorp/go-immutable-radix/v2"

	"github.com/wattle-mesh/wattle/configs"
	"github.com/wattle-mesh/wattle/internal/mesh"
	"github.com/wattle-mesh/wattle/registry"
)

// transaction is one Translate: the trees it changes, and what it has touched.
type transaction struct {
	v      *mesh.View
	prev   *Output
	full   bool // what the view says has changed is not all: look at everything
	remake bool // what every resource depends on has changed: nothing is kept

	services  *iradix.Txn[*serviceOut]
	reaches   *iradix.Txn[*reachOut]
	callers   *iradix.Txn[*callerOut]
	isolated  *iradix.Txn[[]registry.Name]
	proxies   *iradix.Txn[*proxyOut]
	resources *iradix.Txn[*held]
	scopes    *iradix.Txn[*Scope]

	retimed []mesh.ClusterRef // TCP ports whose idle timeout changed: their callers' listeners hold it
	touched map[Key]bool
	scoped  map[string]bool // scopes
	proxied map[string]bool // proxies
	errs    []error
}

func begin(prev *Output, v *mesh.View) *transaction {
	remake := prev == nil || !sameMesh(prev.mesh, *v.Mesh)
	full := remake || prev.gen != v.PrevGen
	if prev == nil {
		prev = &Output{
			services: iradix.New[*serviceOut](), reaches: iradix.New[*reachOut](), callers: iradix.New[*callerOut](), proxies: iradix.New[*proxyOut](),
			isolated: iradix.New[[]registry.Name](), resources: iradix.New[*held](), scopes: iradix.New[*Scope](),
		}
	}
	return &transaction{
		v: v, prev: prev, full: full, remake: remake,
		services: prev.services.Txn(), reaches: prev.reaches.Txn(), callers: prev.callers.Txn(), proxies: prev.proxies.Txn(),
		isolated: prev.isolated.Txn(), resources: prev.resources.Txn(), scopes: prev.scopes.Txn(),
		touched: map[Key]bool{}, scoped: map[string]bool{}, proxied: map[string]bool{},
	}
}

// sameMesh reports whether a and b make the same resources. Where the block stands does not matter.
func sameMesh(a, b configs.Mesh) bool {
	a.Origin, b.Origin = "", ""
	return a == b
}

// changedServices lists the services to look at. In a full transaction those are all of now and before.
func (t *transaction) changedServices() []registry.Name {
	if !t.full {
		return t.v.Changed.Services
	}
	names := map[string]registry.Name{}
	walk(t.prev.services, func(key string, s *serviceOut) { names[key] = s.name })
	walk(t.v.Services, func(key string, s *mesh.Service) { names[key] = s.Name })
	out := slices.Collect(maps.Values(names))
	slices.SortFunc(out, registry.Name.Compare)
	return out
}

func (t *transaction) changedCallers() []string {
	if t.full {
		return union(t.prev.callers, t.v.Scopes)
	}
	own := t.needing(t.v.Changed.Services)
	if len(t.retimed)+len(own) == 0 {
		return t.v.Changed.Scopes
	}
	keys := map[string]bool{}
	for _, k := range slices.Concat(t.v.Changed.Scopes, own) {
		keys[k] = true
	}
	if len(t.retimed) > 0 {
		walk(t.v.Scopes, func(k string, s *mesh.Scope) { keys[k] = keys[k] || t.callsRetimed(s) })
	}
	return slices.DeleteFunc(sortedKeys(keys), func(k string) bool { return !keys[k] })
}

// callsRetimed reports whether a listener of the scope has the idle timeout of a port whose idle timeout changed.
func (t *transaction) callsRetimed(s *mesh.Scope) bool {
	retimed := func(n registry.Name, port uint16) bool {
		return slices.Contains(t.retimed, mesh.ClusterRef{Service: n, Port: port})
	}
	return slices.ContainsFunc(s.Upstreams, func(u *mesh.ScopeUpstream) bool { return retimed(u.Service, u.Port) }) ||
		s.Capture != nil && slices.ContainsFunc(s.Capture.Surface.Services, func(to *mesh.Reached) bool {
			return to.Own() && slices.ContainsFunc(to.Ports, func(p mesh.ReachedPort) bool { return retimed(to.Service, p.Number) })
		})
}

func (t *transaction) changedProxies() []string {
	if !t.full {
		return t.v.Changed.Proxies
	}
	return union(t.prev.proxies, t.v.Proxies)
}

// union lists the keys of two trees.
func union[A, B any](a *iradix.Tree[A], b *iradix.Tree[B]) []string {
	keys := map[string]bool{}
	walk(a, func(k string, _ A) { keys[k] = true })
	walk(b, func(k string, _ B) { keys[k] = true })
	return sortedKeys(keys)
}

func walk[T any](t *iradix.Tree[T], f func(key string, v T)) {
	if t == nil {
		return
	}
	it := t.Root().Iterator()
	for k, v, ok := it.Next(); ok; k, v, ok = it.Next() {
		f(string(k), v)
	}
}

func sortedKeys[T any](m map[string]T) []string { return slices.Sorted(maps.Keys(m)) }

// swap replaces what a part had by what it has now. Holding first and letting go after keeps what is in both.
func (t *transaction) swap(had, has []*Resource) {
	for _, r := range has {
		key := r.index()
		h, ok := t.resources.Get(key)
		users := 1
		if ok {
			users += h.users
			if h.Version == r.Version && h.Origin == r.Origin {
				r = h.Resource
			}
		}
		t.resources.Insert(key, &held{r, users})
		t.touched[r.Key] = true
	}
	for _, r := range had {
		key := r.index()
		h, ok := t.resources.Get(key)
		switch {
		case !ok:
		case h.users == 1:
			t.resources.Delete(key)
		default:
			t.resources.Insert(key, &held{h.Resource, h.users - 1})
		}
		t.touched[r.Key] = true
	}
}

// scope sets a scope, or with nil removes it. Equal ones keep their pointer.
func (t *transaction) scope(name string, s *Scope) {
	old, ok := t.scopes.Get([]byte(name))
	switch {
	case s == nil && !ok:
		return
	case s == nil:
		t.scopes.Delete([]byte(name))
	case ok && slices.Equal(old.Keys, s.Keys) && slices.Equal(old.Uses, s.Uses):
		return
	default:
		t.scopes.Insert([]byte(name), s)
	}
	t.scoped[name] = true
}

// fail notes an error.
func (t *transaction) fail(err error) bool {
	if err != nil {
		t.errs = append(t.errs, err)
	}
	return err != nil
}

// finish commits, and says what differs from before.
func (t *transaction) finish() *Output {
	o := &Output{
		gen: t.v.Gen, mesh: *t.v.Mesh,
		services: t.services.Commit(), reaches: t.reaches.Commit(), callers: t.callers.Commit(), proxies: t.proxies.Commit(),
		isolated: t.isolated.Commit(), resources: t.resources.Commit(), scopes: t.scopes.Commit(),
	}
	c := &o.Changes
	for _, k := range slices.SortedFunc(maps.Keys(t.touched), compareKeys) {
		was, had := t.prev.resources.Get(k.index())
		now, has := o.resources.Get(k.index())
		switch {
		case has && (!had || was.Version != now.Version || was.Origin != now.Origin):
			c.Resources = append(c.Resources, now.Resource)
		case had && !has:
			c.Removed = append(c.Removed, k)
		}
	}
	for _, name := range sortedKeys(t.scoped) {
		if s, ok := o.scopes.Get([]byte(name)); ok {
			c.Scopes = append(c.Scopes, s)
		} else {
			c.GoneScopes = append(c.GoneScopes, name)
		}
	}
	for _, id := range sortedKeys(t.proxied) {
		was, had := t.prev.proxies.Get([]byte(id))
		now, has := o.proxies.Get([]byte(id))
		switch {
		case has && (!had || !slices.Equal(was.out.Scopes, now.out.Scopes)):
			c.Proxies = append(c.Proxies, now.out)
		case had && !has:
			c.GoneProxies = append(c.GoneProxies, id)
		}
	}
	return o
}

func compareKeys(a, b Key) int { return slices.Compare(a.index(), b.index()) }
