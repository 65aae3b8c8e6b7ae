package static

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"

	"github.com/wattle-mesh/wattle/registry"
	"github.com/wattle-mesh/wattle/registry/registrytest"
)

// folder is a registry of files that a test changes, and what its Source reported.
type folder struct {
	t       *testing.T
	dir     string
	source  registry.Source
	reports chan []registry.Diagnostic

	mu      sync.Mutex
	running bool
}

func newFolder(t *testing.T) *folder {
	f := &folder{t: t, dir: t.TempDir(), reports: make(chan []registry.Diagnostic, 1000)}
	f.source = f.open(fmt.Sprintf("path = %q", f.dir))
	return f
}

// open makes a Source from the text of a registry block's body.
func (f *folder) open(text string) registry.Source {
	f.t.Helper()
	source, diags := Driver().New(parse(f.t, text), registry.DriverOptions{
		Name: "files", Dir: f.dir, Log: slog.New(slog.DiscardHandler),
		Report: func(ds []registry.Diagnostic) {
			f.mu.Lock()
			f.running = true
			f.mu.Unlock()
			f.reports <- ds
		},
	})
	if diags.HasErrors() {
		f.t.Fatal(diags)
	}
	return source
}

func parse(t *testing.T, text string) hcl.Body {
	t.Helper()
	parsed, diags := hclsyntax.ParseConfig([]byte(text), "server.hcl", hcl.InitialPos)
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	return parsed.Body
}

func (f *folder) write(name, text string) {
	f.t.Helper()
	if err := os.WriteFile(filepath.Join(f.dir, name), []byte(text), 0o644); err != nil {
		f.t.Fatal(err)
	}
}

func (f *folder) remove(name string) {
	f.t.Helper()
	if err := os.Remove(filepath.Join(f.dir, name)); err != nil && !os.IsNotExist(err) {
		f.t.Fatal(err)
	}
}

// put makes the folder hold one file per service. Files that are as they should be are left alone.
func (f *folder) put(services []*registry.Service) {
	f.t.Helper()
	want := map[string]string{}
	for _, s := range services {
		want[s.Namespace+"-"+s.Name.Name+".hcl"] = text(s)
	}
	have, err := filepath.Glob(filepath.Join(f.dir, "*-*.hcl"))
	if err != nil {
		f.t.Fatal(err)
	}
	for _, path := range have {
		if name := filepath.Base(path); want[name] == "" {
			f.remove(name)
		}
	}
	for name, text := range want {
		if old, err := os.ReadFile(filepath.Join(f.dir, name)); err != nil || string(old) != text {
			f.write(name, text)
		}
	}
}

// text writes a service as a block.
func text(s *registry.Service) string {
	var b strings.Builder
	fmt.Fprintf(&b, "service %q {\n  namespace = %q\n  port = %d\n", s.Name.Name, s.Namespace, s.Ports[0].Number)
	for _, e := range s.Endpoints {
		fmt.Fprintf(&b, "  endpoint %q {\n    port = %d\n    meta = { version = %q }\n  }\n", e.Address, e.Port, e.Meta["version"])
	}
	return b.String() + "}\n"
}

// awaitErrors waits until the Source has reported an error.
func (f *folder) awaitErrors() []registry.Diagnostic {
	for ds := range f.reports {
		for _, d := range ds {
			if d.Severity == registry.Error {
				return ds
			}
		}
	}
	return nil
}

func TestConformance(t *testing.T) {
	registrytest.Run(t, func(t *testing.T) registrytest.Registry {
		f := newFolder(t)
		return registrytest.Registry{
			Source: f.source,
			Put:    f.put,
			Break: func() {
				f.write("broken.hcl", "service \"x\" {\n")
				f.mu.Lock()
				running := f.running
				f.mu.Unlock()
				if running {
					f.awaitErrors()
				}
			},
			Mend: func() { f.remove("broken.hcl") },
		}
	})
}
