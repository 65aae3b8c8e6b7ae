package translator_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"

	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"

	"github.com/wattle-mesh/wattle/configs"
	"github.com/wattle-mesh/wattle/internal/mesh"
	"github.com/wattle-mesh/wattle/registry"
	"github.com/wattle-mesh/wattle/registry/static"
	"github.com/wattle-mesh/wattle/translator"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// The files that a golden file holds beside the policy.
const (
	show     = "show"          // which resources to look at, a pattern "PROXY TYPE NAME" a line
	services = "services.json" // what a registry besides the policy says, if there is one
	wantXDS  = "xds.json"      // what they are
)

// TestGolden takes the policy of each file in testdata, whose own services are the first registry, through all
// stages and compares the resources that it shows.
func TestGolden(t *testing.T) {
	for file, archive := range goldens(t) {
		t.Run(file, func(t *testing.T) {
			out := translate(t, view(t, archive))
			got := dump(t, out, section(archive, show))
			if *update {
				set(archive, wantXDS, got)
				if err := os.WriteFile(filepath.Join("testdata", file), txtar.Format(archive), 0o600); err != nil {
					t.Fatal(err)
				}
				return
			}
			if d := cmp.Diff(section(archive, wantXDS), string(got)); d != "" {
				t.Errorf("%s (-want +got):\n%s", wantXDS, d)
			}
		})
	}
}

// goldens reads the golden files, by name.
func goldens(t testing.TB) map[string]*txtar.Archive {
	t.Helper()
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no golden files: %v", err)
	}
	out := map[string]*txtar.Archive{}
	for _, f := range files {
		if out[filepath.Base(f)], err = txtar.ParseFile(f); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

func section(a *txtar.Archive, name string) string {
	for _, f := range a.Files {
		if f.Name == name {
			return string(f.Data)
		}
	}
	return ""
}

func set(a *txtar.Archive, name string, data []byte) {
	for i, f := range a.Files {
		if f.Name == name {
			a.Files[i].Data = data
			return
		}
	}
	a.Files = append(a.Files, txtar.File{Name: name, Data: data})
}

// view resolves the policy files of an archive. Golden files hold no mistakes but warnings and unknown services.
func view(t testing.TB, archive *txtar.Archive) *mesh.View {
	t.Helper()
	dir := t.TempDir()
	for _, f := range archive.Files {
		if filepath.Ext(f.Name) == ".hcl" {
			if err := os.WriteFile(filepath.Join(dir, f.Name), f.Data, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	policy, diags := configs.Load(dir)
	if diags.HasErrors() {
		t.Fatalf("the policy does not load: %v", diags)
	}
	sets := []registry.Set{{Name: "policy", Services: static.Services(policy)}}
	if text := section(archive, services); text != "" {
		other := registry.Set{Name: "other"}
		if err := json.Unmarshal([]byte(text), &other.Services); err != nil {
			t.Fatal(err)
		}
		sets = append(sets, other)
	}
	v, _ := mesh.Resolve(nil, registry.Merge(nil, sets, nil), policy)
	return v
}

// Envoy takes 129 priorities at most; those beyond share the last one.
func TestAsManyPrioritiesAsEnvoyTakes(t *testing.T) {
	s := &registry.Service{Name: registry.Name{Namespace: "default", Name: "legacy"}, Ports: []registry.Port{{Number: 80}}}
	for i := range 200 {
		s.Endpoints = append(s.Endpoints, &registry.Endpoint{Address: address(i), Port: 80, ServicePort: 80, Priority: uint32(i) * 300})
	}
	text, err := json.Marshal([]*registry.Service{s})
	if err != nil {
		t.Fatal(err)
	}
	archive := &txtar.Archive{Files: []txtar.File{
		{Name: "h1.hcl", Data: []byte("host \"h1\" {\n  address = \"10.9.0.1\"\n  service \"web\" {\n    port = 80\n    upstream \"legacy\" { bind = \"127.0.0.1:81\" }\n  }\n}\n")},
		{Name: services, Data: text},
	}}
	for _, r := range translate(t, view(t, archive)).Resources("h1/host") {
		m, ok := decode(t, r).(*endpointv3.ClusterLoadAssignment)
		if !ok || m.ClusterName != "legacy.default:80" {
			continue
		}
		if len(m.Endpoints) != 129 || len(m.Endpoints[128].LbEndpoints) != 72 {
			t.Fatalf("%d groups", len(m.Endpoints))
		}
		for i, g := range m.Endpoints {
			if g.Priority != uint32(i) {
				t.Errorf("group %d has priority %d", i, g.Priority)
			}
		}
		return
	}
	t.Error("no endpoints of legacy")
}

func translate(t testing.TB, v *mesh.View) *translator.Output {
	t.Helper()
	out, err := translator.Translate(nil, v)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// dump writes those resources of all proxies that a pattern names.
func dump(t testing.TB, out *translator.Output, patterns string) []byte {
	t.Helper()
	all := map[string]json.RawMessage{}
	for id := range proxies(out) {
		var shown []*translator.Resource
		for _, r := range out.Resources(id) {
			if matches(t, patterns, id+" "+r.Type.String()+" "+r.Name) {
				shown = append(shown, r)
			}
		}
		text, err := translator.Dump(shown)
		if err != nil {
			t.Fatal(err)
		}
		if len(shown) > 0 {
			all[id] = text
		}
	}
	raw, err := json.Marshal(all)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := json.Indent(&b, raw, "", " "); err != nil {
		t.Fatal(err)
	}
	b.WriteByte('\n')
	return b.Bytes()
}

// proxies lists the ids of the proxies in a first output.
func proxies(out *translator.Output) map[string]bool {
	ids := map[string]bool{}
	for _, p := range out.Changes.Proxies {
		ids[p.ID] = true
	}
	return ids
}

// matches reports whether some line of patterns matches s, where "*" stands for anything but a space.
func matches(t testing.TB, patterns, s string) bool {
	t.Helper()
	flat := func(s string) string { return strings.ReplaceAll(s, "/", "!") }
	for line := range strings.Lines(patterns) {
		ok, err := path.Match(flat(strings.TrimSpace(line)), flat(s))
		if err != nil {
			t.Fatal(err)
		}
		if ok {
			return true
		}
	}
	return false
}

// Maintenance of a host changes its plan, and of resources nothing else.
func TestAPlanSaysThatItsHostIsInMaintenance(t *testing.T) {
	dir := t.TempDir()
	text := "host \"h1\" {\n  address = \"10.0.0.1\"\n  service \"web\" { port = 80 }\n}\n"
	if err := os.WriteFile(filepath.Join(dir, "a.hcl"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	policy, diags := configs.Load(dir)
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	sets := []registry.Set{{Name: "policy", Services: static.Services(policy)}}
	key := registry.WorkloadKey{Host: "h1", Service: registry.Name{Namespace: "default", Name: "web"}}
	c1 := registry.Merge(nil, sets, registry.HealthMap{key: {Health: registry.Healthy}})
	v1, _ := mesh.Resolve(nil, c1, policy)
	out1 := translate(t, v1)
	for _, draining := range []bool{true, false} {
		health := registry.HealthMap{key: {Health: registry.Healthy}}
		if draining {
			health[registry.HostKey("h1")] = registry.HealthWord{Health: registry.Draining}
		}
		c1 = registry.Merge(c1, sets, health)
		v1, _ = mesh.Resolve(v1, c1, policy)
		out2, err := translator.Translate(out1, v1)
		if err != nil {
			t.Fatal(err)
		}
		if len(out2.Changes.Resources) != 1 || out2.Changes.Resources[0].Type != translator.HostPlan {
			t.Fatalf("%+v", out2.Changes)
		}
		text, err := translator.Dump(out2.Changes.Resources)
		if err != nil {
			t.Fatal(err)
		}
		if got := bytes.Contains(text, []byte(`"draining"`)); got != draining {
			t.Errorf("in maintenance: %t, the plan: %s", draining, text)
		}
		out1 = out2
	}
}
