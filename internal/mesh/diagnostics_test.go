package mesh_test

import (
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"

	"github.com/wattle-mesh/wattle/configs"
	"github.com/wattle-mesh/wattle/internal/mesh"
	"github.com/wattle-mesh/wattle/registry"
)

// contrived does to what was loaded from an archive what no file can bring about.
var contrived = map[string]func(*configs.Policy, *registry.Catalog) *registry.Catalog{
	"second_rule.txtar": func(p *configs.Policy, c *registry.Catalog) *registry.Catalog {
		p.DestinationRules[1].Host = p.DestinationRules[0].Host
		return c
	},
	"port_not_served.txtar": func(_ *configs.Policy, c *registry.Catalog) *registry.Catalog {
		s := *c.Service(registry.Name{Namespace: "default", Name: "web"})
		e := *s.Endpoints[0]
		e.ServicePort = 81
		s.Endpoints = []*registry.Endpoint{&e}
		return registry.Merge(nil, []registry.Set{{Name: "other", Services: []*registry.Service{&s}}}, nil)
	},
}

// TestDiagnostics shows each diagnostic as a person sees it, and that all have what they need: the place down to the
// column, the source line, what stands around it, a code and a remedy.
func TestDiagnostics(t *testing.T) {
	files, err := filepath.Glob("testdata/diagnostics/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no golden files: %v", err)
	}
	shown := map[string]bool{}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			archive, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			loader, policy, catalog := load(t, archive)
			if change := contrived[filepath.Base(file)]; change != nil {
				catalog = change(policy, catalog)
			}
			_, found := mesh.Resolve(nil, catalog, policy)
			found = loader.Locate(found)
			for _, d := range found {
				shown[d.Code] = true
				if d.Line == 0 || d.Column == 0 || d.Length == 0 || d.Snippet == "" || d.Detail == "" {
					t.Errorf("something is missing: %+v", d)
				}
			}
			got := text(t, found)
			if *update {
				rewrite(t, file, archive, map[string][]byte{wantDiagnostics: got})
				return
			}
			var want []byte
			for _, f := range archive.Files {
				if f.Name == wantDiagnostics {
					want = f.Data
				}
			}
			if d := cmp.Diff(string(want), string(got)); d != "" {
				t.Errorf("(-want +got):\n%s", d)
			}
		})
	}
	for _, c := range configs.Codes() {
		if strings.HasPrefix(c.Code, "W2") && !shown[c.Code] {
			t.Errorf("no archive shows %s: %s; only %v", c.Code, c.Title, slices.Sorted(maps.Keys(shown)))
		}
	}
}

// A diagnostic of something that is in none of the loaded files, or not at that line, gets no line of another.
func TestNothingIsLocatedWhereItDoesNotStand(t *testing.T) {
	archive := &txtar.Archive{Files: []txtar.File{{Name: "policy.hcl", Data: []byte("mesh {}\n# nothing\n")}}}
	loader, _, _ := load(t, archive)
	for _, origin := range []string{"policy.hcl:2", "policy.hcl:9", "other.hcl:1", "consul/web", "policy.hcl:1"} {
		ds := configs.Diagnostics{configs.NewDiagnostic(configs.Warning, "W2014", origin, "x", "y").At(configs.Part{Block: "service"})}
		if got := loader.Locate(ds); got[0] != ds[0] {
			t.Errorf("%s: got %+v", origin, got[0])
		}
	}
}
