package mesh

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	iradix "github.com/hashicorp/go-immutable-radix/v2"
	"pgregory.net/rapid"

	"github.com/wattle-mesh/wattle/configs"
	"github.com/wattle-mesh/wattle/registry"
)

// contents is a tree as a map.
func contents[T any](t *iradix.Tree[T]) map[string]T {
	out := map[string]T{}
	if t == nil {
		return out
	}
	it := t.Root().Iterator()
	for k, v, ok := it.Next(); ok; k, v, ok = it.Next() {
		out[string(k)] = v
	}
	return out
}

// inside is everything in a view but its generations.
func inside(v *View) map[string]any {
	return map[string]any{
		"mesh": v.Mesh, "allotted": v.Allotted,
		"services": contents(v.Services), "scopes": contents(v.Scopes), "proxies": contents(v.Proxies), "reaches": contents(v.Reaches),
		"amended": contents(v.s.amended), "steered": contents(v.s.steered), "ruled": contents(v.s.ruled), "attached": contents(v.s.attached),
		"sources": contents(v.s.sources), "users": contents(v.s.users), "workloads": contents(v.s.workloads),
		"onHost": contents(v.s.onHost), "atAddress": contents(v.s.atAddress), "callers": contents(v.s.callers),
		"members": contents(v.s.members), "outside": contents(v.s.outside), "runOn": contents(v.s.runOn),
		"reachers": contents(v.s.reachers), "reachedBy": contents(v.s.reachedBy),
		"notes": contents(v.s.notes), "list": v.s.list,
	}
}

// requireSame fails unless two views and their diagnostics are deeply equal.
func requireSame(t *rapid.T, what string, got, want *View) {
	a, b := inside(got), inside(want)
	for part := range b {
		if !reflect.DeepEqual(a[part], b[part]) {
			t.Fatalf("%s: %s differ (-from nothing +step by step):\n%s", what, part,
				cmp.Diff(b[part], a[part], cmp.Exporter(func(reflect.Type) bool { return true })))
		}
	}
}

// requireChanged fails unless Changed names exactly what has another pointer.
func requireChanged[T comparable](t *rapid.T, what string, was, now *iradix.Tree[T], changed []string) {
	a, b := contents(was), contents(now)
	var want []string
	for k, v := range a {
		if b[k] != v {
			want = append(want, k)
		}
	}
	for k := range b {
		if _, ok := a[k]; !ok {
			want = append(want, k)
		}
	}
	slices.Sort(want)
	changed = slices.Sorted(slices.Values(changed))
	if !slices.Equal(want, changed) {
		t.Fatalf("%s: Changed names %q, what has another pointer is %q", what, changed, want)
	}
}

func names(all []registry.Name) []string {
	var out []string
	for _, n := range all {
		out = append(out, n.String())
	}
	return out
}

func TestAViewMadeStepByStepEqualsOneMadeFromNothing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld()
		cat := w.catalog(nil)
		view, _ := Resolve(nil, cat, w.policy())
		for range rapid.IntRange(1, 30).Draw(t, "steps") {
			what := ""
			for range rapid.IntRange(1, 3).Draw(t, "changes") {
				what += w.change(t) + "; "
			}
			switch rapid.IntRange(0, 5).Draw(t, "lineage") {
			case 0: // a catalog in between that was not resolved
				what += "(a catalog was missed) " + w.change(t)
				cat = w.catalog(cat)
				what += w.change(t)
			case 1: // a catalog of another line
				what += "(another line) "
				cat = nil
			}
			cat = w.catalog(cat)
			pol := w.policy()
			if moves := view.Moves(); len(moves) > 0 {
				done := rapid.SliceOfDistinct(rapid.SampledFrom(moves), rapid.ID).Draw(t, "moved")
				what += fmt.Sprintf("(moved: %v) ", done)
				view = view.Advance(done)
			}
			before := encoded(t, view)
			next, diags := Resolve(view, cat, pol)
			if !bytes.Equal(before, encoded(t, view)) {
				t.Fatalf("%s: the view before was written to", what)
			}
			fresh, want := Resolve(&View{Allotted: view.Allotted}, cat, pol)
			requireSame(t, what, next, fresh)
			if a, b := encoded(t, next), encoded(t, fresh); !bytes.Equal(a, b) {
				t.Fatalf("%s: JSON differs: %s", what, cmp.Diff(string(b), string(a)))
			}
			if !slices.Equal(diags, want) {
				t.Fatalf("%s: diagnostics differ: %s", what, cmp.Diff(want, diags))
			}
			requireLineage(t, what, view, next)
			view = next
		}
	})
}

func encoded(t *rapid.T, v *View) []byte {
	out, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func requireLineage(t *rapid.T, what string, was, now *View) {
	if now.Gen != was.Gen+1 {
		t.Fatalf("%s: generation %d follows %d", what, now.Gen, was.Gen)
	}
	if now.PrevGen == 0 {
		if sameSettings(was.Mesh, now.Mesh) {
			t.Fatalf("%s: resolved from nothing without need", what)
		}
		return
	}
	requireChanged(t, what, was.Services, now.Services, names(now.Changed.Services))
	requireChanged(t, what, was.Scopes, now.Scopes, now.Changed.Scopes)
	requireChanged(t, what, was.Reaches, now.Reaches, now.Changed.Reaches)
	requireChanged(t, what, was.Proxies, now.Proxies, now.Changed.Proxies)
}

func TestAnEndpointChangeKeepsEverythingButItsServicesEndpointSets(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld()
		for range 20 {
			w.change(t)
		}
		cat, pol := w.catalog(nil), w.policy()
		was, _ := Resolve(nil, cat, pol)
		n := rapid.SampledFrom(someNames).Draw(t, "name")
		s := w.services[n]
		if s == nil || len(s.Endpoints) == 0 {
			return
		}
		w.services[n] = withHealth(s, rapid.IntRange(0, len(s.Endpoints)-1).Draw(t, "endpoint"), drawHealth(t))
		now, _ := Resolve(was, w.catalog(cat), pol)
		if len(now.Changed.Scopes)+len(now.Changed.Proxies) > 0 || slices.ContainsFunc(now.Changed.Services, func(x registry.Name) bool { return x != n }) {
			t.Fatalf("a health change of %s changed %+v", n, now.Changed)
		}
		for i, p := range now.Service(n).Ports {
			old := was.Service(n).Ports[i]
			if p.Routes != old.Routes || !slices.Equal(p.Clusters, old.Clusters) || !slices.Equal(p.Uses, old.Uses) {
				t.Fatalf("a health change of %s changed more than the endpoints of port %d", n, p.Number)
			}
			for j, set := range p.Endpoints {
				if set != old.Endpoints[j] && slices.Equal(set.Endpoints, old.Endpoints[j].Endpoints) {
					t.Fatalf("endpoints of %s have another pointer though they are equal", clusterName(set.ClusterRef))
				}
			}
		}
	})
}

func TestTheOrderInWhichThingsCameDoesNotCount(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld()
		for range 15 {
			w.change(t)
		}
		want, wantDiags := Resolve(nil, w.catalog(nil), w.policy())
		// The same world, thing after thing in another order. Ports are given, for these are first come, first served.
		part := newWorld()
		part.mesh = w.mesh
		view := &View{Allotted: want.Allotted}
		var cat *registry.Catalog
		var adds []func()
		for n, s := range w.services {
			adds = append(adds, func() { part.services[n] = s })
		}
		for n, s := range w.virtual {
			adds = append(adds, func() { part.virtual[n] = s })
		}
		for n, s := range w.rules {
			adds = append(adds, func() { part.rules[n] = s })
		}
		for n, s := range w.defaults {
			adds = append(adds, func() { part.defaults[n] = s })
		}
		for n, s := range w.gateways {
			adds = append(adds, func() { part.gateways[n] = s })
		}
		for n, s := range w.hosts {
			adds = append(adds, func() { part.hosts[n] = s })
		}
		for k, word := range w.health {
			adds = append(adds, func() { part.speak(k, word) })
		}
		var diags configs.Diagnostics
		cat = part.catalog(nil)
		view, diags = Resolve(view, cat, part.policy())
		for _, add := range rapid.Permutation(adds).Draw(t, "order") {
			add()
			cat = part.catalog(cat)
			view, diags = Resolve(&View{Allotted: want.Allotted, Mesh: view.Mesh, Services: view.Services, Scopes: view.Scopes, Reaches: view.Reaches, Proxies: view.Proxies, Gen: view.Gen, s: view.s}, cat, part.policy())
		}
		requireSame(t, "another order", view, want)
		if !slices.Equal(diags, wantDiags) {
			t.Fatalf("diagnostics differ: %s", cmp.Diff(wantDiags, diags))
		}
	})
}
