package translator

import (
	"errors"
	"runtime"
	"slices"
	"strings"

	iradix "github.com/hashicorp/go-immutable-radix/v2"
	"golang.org/x/sync/errgroup"

	"github.com/wattle-mesh/wattle/configs"
	"github.com/wattle-mesh/wattle/internal/mesh"
	"github.com/wattle-mesh/wattle/registry"
)

// Output is everything that the proxies of a view need. Immutable and persistent: a part whose view kept its pointer
// keeps its resources. It holds encoded bytes, no protos.
type Output struct {
	// Changes lead here from the output that was given to Translate; from nothing if that was nil.
	Changes Changes

	gen       uint64 // of the view
	mesh      configs.Mesh
	services  *iradix.Tree[*serviceOut]     // by Name.String()
	reaches   *iradix.Tree[*reachOut]       // by mesh.Reach.Key
	callers   *iradix.Tree[*callerOut]      // by mesh.Scope.Key
	isolated  *iradix.Tree[[]registry.Name] // callers with clusters of their own, by mesh.Scope.Key: the services whose changes change them; sorted
	proxies   *iradix.Tree[*proxyOut]       // by proxy id
	resources *iradix.Tree[*held]           // by Key.index
	scopes    *iradix.Tree[*Scope]          // by name
}

// held is a resource and how many parts have it: equal callers on one key share it.
type held struct {
	*Resource
	users int
}

// index is the key as text for the tree: unique and ordered.
func (k Key) index() []byte {
	return []byte(string(rune('0'+k.Type)) + k.Name + "\x00" + k.Variant)
}

// Translate makes the output of a view. With the output of the view before it, only what the view says has changed is
// translated. Every resource is valid by its proto's own rules, or nothing is returned but an error that names all that
// are not.
func Translate(prev *Output, v *mesh.View) (*Output, error) {
	t := begin(prev, v)
	for _, d := range onAllCores(t.changedServices(), t.draftService) {
		t.putService(d)
	}
	for _, d := range onAllCores(t.changedReaches(), t.draftReach) {
		t.putReach(d)
	}
	for _, d := range onAllCores(t.changedCallers(), t.draftCaller) {
		t.putCaller(d)
	}
	proxies := t.changedProxies()
	for _, d := range onAllCores(proxies, t.draftProxy) {
		t.putProxy(d)
	}
	hosts := map[string]bool{}
	for _, id := range proxies {
		host, _, _ := strings.Cut(id, "/")
		hosts[host] = true
	}
	for _, host := range sortedKeys(hosts) {
		t.plan(host)
	}
	if err := errors.Join(t.errs...); err != nil {
		return nil, err
	}
	return t.finish(), nil
}

// batch is how many parts of a view one goroutine translates.
const batch = 16

// onAllCores returns f of each, in their order.
func onAllCores[A, B any](each []A, f func(A) B) []B {
	out := make([]B, len(each))
	var g errgroup.Group
	g.SetLimit(runtime.GOMAXPROCS(0))
	for from := 0; from < len(each); from += batch {
		g.Go(func() error {
			for i := from; i < min(from+batch, len(each)); i++ {
				out[i] = f(each[i])
			}
			return nil
		})
	}
	_ = g.Wait() // drafts keep their errors
	return out
}

// Resources returns what the proxy has in scope, sorted by type and name.
func (o *Output) Resources(proxyID string) []*Resource {
	px, ok := o.proxies.Get([]byte(proxyID))
	if !ok {
		return nil
	}
	seen := map[Key]bool{}
	var out []*Resource
	var visit func(scope string)
	visited := map[string]bool{}
	visit = func(scope string) {
		s, ok := o.scopes.Get([]byte(scope))
		if !ok || visited[scope] {
			return
		}
		visited[scope] = true
		for _, k := range s.Keys {
			if r, ok := o.resources.Get(k.index()); ok && !seen[k] {
				seen[k] = true
				out = append(out, r.Resource)
			}
		}
		for _, u := range s.Uses {
			visit(u)
		}
	}
	for _, s := range px.out.Scopes {
		visit(s)
	}
	slices.SortFunc(out, func(a, b *Resource) int { return slices.Compare(a.index(), b.index()) })
	return out
}
