package mesh_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"

	"github.com/wattle-mesh/wattle/configs"
	"github.com/wattle-mesh/wattle/internal/mesh"
	"github.com/wattle-mesh/wattle/registry"
	"github.com/wattle-mesh/wattle/registry/static"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// The files that a golden file holds beside the policy.
const (
	wantView        = "view.json"
	wantDiagnostics = "diagnostics.txt"
)

// TestGolden resolves the policy of each file in testdata, whose own services are the only registry, and
// compares the view and the diagnostics with what the file says.
func TestGolden(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no golden files: %v", err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			archive, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			view, diags := resolve(t, archive)
			got := map[string][]byte{wantView: view, wantDiagnostics: diags}
			if *update {
				rewrite(t, file, archive, got)
				return
			}
			for _, f := range archive.Files {
				if want, ok := got[f.Name]; ok {
					if d := cmp.Diff(string(f.Data), string(want)); d != "" {
						t.Errorf("%s (-want +got):\n%s", f.Name, d)
					}
					delete(got, f.Name)
				}
			}
			for name, data := range got {
				if len(data) > 0 {
					t.Errorf("%s is not in the golden file:\n%s", name, data)
				}
			}
		})
	}
}

func resolve(t *testing.T, archive *txtar.Archive) (view, diags []byte) {
	t.Helper()
	loader, policy, catalog := load(t, archive)
	v, found := mesh.Resolve(nil, catalog, policy)
	out, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	return append(out, '\n'), text(t, loader.Locate(found))
}

// load loads the policy of an archive and makes the catalog: of the policy's own services, and of those in files
// below registry/.
func load(t *testing.T, archive *txtar.Archive) (*configs.Loader, *configs.Policy, *registry.Catalog) {
	t.Helper()
	dir, other := t.TempDir(), t.TempDir()
	for _, f := range archive.Files {
		in, name := dir, f.Name
		if rest, ok := strings.CutPrefix(name, "registry/"); ok {
			in, name = other, rest
		}
		if ext := filepath.Ext(name); ext == ".hcl" || ext == ".json" && name != wantView {
			if err := os.WriteFile(filepath.Join(in, name), f.Data, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	loader := configs.NewLoader(configs.Options{})
	policy, diags := loader.Load(dir)
	if diags.HasErrors() {
		t.Fatalf("the policy does not load:\n%s", text(t, diags))
	}
	services, diags := configs.ParseServices(other)
	if diags.HasErrors() {
		t.Fatalf("the registry does not load:\n%s", text(t, diags))
	}
	return loader, policy, registry.Merge(nil, []registry.Set{{Name: "policy", Services: static.Services(policy)}, {Name: "files", Services: static.Services(services)}}, nil)
}

func text(t *testing.T, ds configs.Diagnostics) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := ds.WriteText(&b, false); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// rewrite puts what was got in the place of what was wanted.
func rewrite(t *testing.T, file string, archive *txtar.Archive, got map[string][]byte) {
	t.Helper()
	var files []txtar.File
	for _, f := range archive.Files {
		if _, old := got[f.Name]; !old {
			files = append(files, f)
		}
	}
	for _, name := range []string{wantDiagnostics, wantView} {
		if len(got[name]) > 0 {
			files = append(files, txtar.File{Name: name, Data: got[name]})
		}
	}
	archive.Files = files
	if err := os.WriteFile(file, txtar.Format(archive), 0o600); err != nil {
		t.Fatal(err)
	}
}
