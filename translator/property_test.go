package translator_test

import (
	"bytes"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/wattle-mesh/wattle/internal/mesh"
	"github.com/wattle-mesh/wattle/translator"
)

// model is what a consumer has that applied every Changes in order.
type model struct {
	resources map[translator.Key]*translator.Resource
	scopes    map[string]*translator.Scope
	proxies   map[string]*translator.Proxy
}

func newModel() *model {
	return &model{map[translator.Key]*translator.Resource{}, map[string]*translator.Scope{}, map[string]*translator.Proxy{}}
}

// apply takes changes over. A removal of what was not there is a mistake of the translator's.
func (m *model) apply(t *rapid.T, c translator.Changes) {
	for _, r := range c.Resources {
		m.resources[r.Key] = r
	}
	for _, k := range c.Removed {
		drop(t, m.resources, k)
	}
	for _, s := range c.Scopes {
		m.scopes[s.Name] = s
	}
	for _, name := range c.GoneScopes {
		drop(t, m.scopes, name)
	}
	for _, p := range c.Proxies {
		m.proxies[p.ID] = p
	}
	for _, id := range c.GoneProxies {
		drop(t, m.proxies, id)
	}
}

func drop[K comparable, V any](t *rapid.T, m map[K]V, key K) {
	if _, ok := m[key]; !ok {
		t.Fatalf("%v is removed and was not there", key)
	}
	delete(m, key)
}

// requireWhole fails unless every name in the model leads somewhere, and to one thing.
func (m *model) requireWhole(t *rapid.T) {
	for name, s := range m.scopes {
		if !slices.IsSorted(s.Uses) {
			t.Fatalf("scope %s: %v is not sorted", name, s.Uses)
		}
		for _, k := range s.Keys {
			if m.resources[k] == nil {
				t.Fatalf("scope %s holds %v, which is not there", name, k)
			}
		}
		for _, u := range s.Uses {
			if m.scopes[u] == nil {
				t.Fatalf("scope %s uses %s, which is not there", name, u)
			}
		}
	}
	needed := map[translator.Key]bool{}
	for id, p := range m.proxies {
		variants := map[translator.Key]string{}
		for k := range m.scope(t, p) {
			needed[k] = true
			name := translator.Key{Type: k.Type, Name: k.Name}
			if v, ok := variants[name]; ok && v != k.Variant {
				t.Fatalf("proxy %s has %v in the variants %q and %q", id, name, v, k.Variant)
			}
			variants[name] = k.Variant
		}
	}
	for k := range m.resources {
		if k.Variant != "" && !strings.HasPrefix(k.Variant, "reach/") && !needed[k] {
			t.Fatalf("%v is one proxy's and no proxy has it in scope", k)
		}
	}
}

// scope lists what a proxy has in scope.
func (m *model) scope(t *rapid.T, p *translator.Proxy) map[translator.Key]bool {
	out := map[translator.Key]bool{}
	for todo := slices.Clone(p.Scopes); len(todo) > 0; todo = todo[1:] {
		s := m.scopes[todo[0]]
		if s == nil {
			t.Fatalf("proxy %s: no scope %s", p.ID, todo[0])
		}
		for _, k := range s.Keys {
			out[k] = true
		}
		todo = append(todo, s.Uses...)
	}
	return out
}

// requireEqual fails unless two models hold the same. Of equal resources that several parts have, any may have come last:
// their origins are not compared.
func requireEqual(t *rapid.T, what string, got, want *model) {
	plain := func(m *model) map[string]any {
		bodies := map[translator.Key]string{}
		for k, r := range m.resources {
			bodies[k] = r.Version + "\x00" + string(r.Wire)
		}
		return map[string]any{"resources": bodies, "scopes": m.scopes, "proxies": m.proxies}
	}
	a, b := plain(want), plain(got)
	for _, part := range slices.Sorted(maps.Keys(a)) {
		if d := cmp.Diff(a[part], b[part]); d != "" {
			t.Fatalf("%s: %s differ (-from nothing +step by step):\n%s", what, part, d)
		}
	}
}

func drawTranslation(t *rapid.T, prev *translator.Output, v *mesh.View) *translator.Output {
	out, err := translator.Translate(prev, v)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestAnOutputMadeStepByStepEqualsOneMadeFromNothing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld()
		var out *translator.Output
		table := newModel()
		for range rapid.IntRange(1, 20).Draw(t, "steps") {
			what := ""
			for range rapid.IntRange(1, 3).Draw(t, "changes") {
				what += w.change(t) + "; "
			}
			if rapid.IntRange(0, 5).Draw(t, "missed") == 0 {
				w.resolve() // a view that was not translated
				what += "(a view was missed) " + w.change(t)
			}
			out = drawTranslation(t, out, w.resolve())
			table.apply(t, out.Changes)
			table.requireWhole(t)
			if again := drawTranslation(t, out, w.view).Changes; !again.Empty() {
				t.Fatalf("%s: the same view again changes %+v", what, again)
			}
			fresh, want := drawTranslation(t, nil, w.fresh()), newModel()
			want.apply(t, fresh.Changes)
			requireEqual(t, what, table, want)
			for id := range table.proxies {
				requireResources(t, id, table, out)
			}
		}
	})
}

// requireResources fails unless Resources lists what the proxy has in scope, in order.
func requireResources(t *rapid.T, id string, m *model, out *translator.Output) {
	scope := m.scope(t, m.proxies[id])
	got := out.Resources(id)
	for _, r := range got {
		if !scope[r.Key] || !bytes.Equal(r.Wire, m.resources[r.Key].Wire) {
			t.Fatalf("%s: %v is not in scope, or another", id, r.Key)
		}
		delete(scope, r.Key)
	}
	if len(scope) > 0 {
		t.Fatalf("%s: %v are in scope and not listed", id, scope)
	}
	if !slices.IsSortedFunc(got, func(a, b *translator.Resource) int {
		if a.Type != b.Type {
			return int(a.Type) - int(b.Type)
		}
		return strings.Compare(a.Name, b.Name)
	}) {
		t.Fatalf("%s: not sorted", id)
	}
}

func TestAnEndpointChangeChangesThatServicesEndpointsAndNoOtherVersion(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld()
		for range 15 {
			w.change(t)
		}
		was := drawTranslation(t, nil, w.resolve())
		n := rapid.SampledFrom(someNames).Draw(t, "service")
		s := w.services[n]
		if s == nil || len(s.Endpoints) == 0 {
			return
		}
		w.services[n] = withHealth(s, rapid.IntRange(0, len(s.Endpoints)-1).Draw(t, "which"), drawHealth(t))
		c := drawTranslation(t, was, w.resolve()).Changes
		for _, r := range c.Resources {
			if r.Type != translator.Endpoint || !strings.HasPrefix(r.Name, n.Name+"."+n.Namespace+":") {
				t.Fatalf("the health of an endpoint of %s changed %v", n, r.Key)
			}
		}
		c.Resources = nil
		if !c.Empty() {
			t.Fatalf("the health of an endpoint of %s changed %+v", n, c)
		}
	})
}

func TestAnotherTranslationOfTheSameGivesTheSameBytes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld()
		for range 15 {
			w.change(t)
		}
		w.resolve()
		a, b := newModel(), newModel()
		a.apply(t, drawTranslation(t, nil, w.view).Changes)
		b.apply(t, drawTranslation(t, nil, w.fresh()).Changes) // its maps have another order
		requireEqual(t, "once more", b, a)
	})
}
