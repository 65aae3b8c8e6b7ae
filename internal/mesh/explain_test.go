package mesh

import (
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/wattle-mesh/wattle/registry"
)

// requireExplained fails unless what is explained of a service is what its callers get.
func requireExplained(t *rapid.T, v *View, n registry.Name) {
	called := map[string]bool{}
	for i, p := range v.Explain(n) {
		e := v.Amended(n).Endpoints[i]
		if (p.Path == LeftOut) == p.At.Address.IsValid() || p.Why == "" || (p.Path == OverMesh) != p.At.MTLS {
			t.Fatalf("%s of %s: %+v", e, n, p)
		}
		if p.Path != LeftOut {
			called[fmt.Sprint(e.ServicePort, p.At)] = true
		}
	}
	svc := v.Service(n)
	for _, port := range svc.Ports {
		for _, e := range port.Endpoints[0].Endpoints {
			if !e.MTLS && !v.Mesh.Plaintext {
				continue // the cluster says so
			}
			key := fmt.Sprint(port.Number, e)
			if !called[key] {
				t.Fatalf("%s is called at %v, which stands for none of its endpoints", n, e)
			}
			delete(called, key)
		}
	}
	if len(called) > 0 {
		t.Fatalf("%s is not called at %v", n, called)
	}
}

// callersOf looks at all proxies.
func callersOf(v *View, n registry.Name) []string {
	var out []string
	for id, p := range contents(v.Proxies) {
		reached := p.Gateway != nil && uses(p.Gateway.Uses, n)
		for _, s := range p.Scopes {
			for _, u := range s.Upstreams {
				if svc := v.Service(u.Service); !u.Missing && svc != nil && uses(svc.port(u.Port).Uses, n) {
					reached = true
				}
			}
			if s.Capture == nil {
				continue
			}
			for _, to := range s.Capture.Surface.Services {
				for _, p := range to.Ports {
					if svc := v.Service(to.Service); !p.Missing && svc != nil && uses(svc.port(p.Number).Uses, n) {
						reached = true
					}
				}
			}
		}
		if reached {
			out = append(out, id)
		}
	}
	slices.Sort(out)
	return out
}

func TestWhatIsExplainedIsWhatCallersGet(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld()
		var cat *registry.Catalog
		var view *View
		for range rapid.IntRange(1, 20).Draw(t, "steps") {
			w.change(t)
			cat = w.catalog(cat)
			view, _ = Resolve(view, cat, w.policy())
		}
		before := encoded(t, view)
		for s := range cat.All() {
			requireExplained(t, view, s.Name)
			if got, want := view.Callers(s.Name), callersOf(view, s.Name); !slices.Equal(got, want) {
				t.Fatalf("%s is called by %q, want %q", s.Name, got, want)
			}
		}
		if string(before) != string(encoded(t, view)) {
			t.Fatal("the view was written to")
		}
	})
}
