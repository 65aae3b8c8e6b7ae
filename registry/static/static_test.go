package static

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
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
	last    []registry.Diagnostic
}

func newFolder(t *testing.T) *folder {
	f := &folder{t: t, dir: t.TempDir(), reports: make(chan []registry.Diagnostic, 1000)}
	f.source = f.open(fmt.Sprintf("path = %q", f.dir))
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("reported last: %v", f.last)
		}
	})
	return f
}

// open makes a Source from the text of a registry block's body.
func (f *folder) open(text string) registry.Source {
	f.t.Helper()
	source, diags := Driver().New(parse(f.t, text), registry.DriverOptions{
		Name: "files", Dir: f.dir, Log: slog.New(slog.DiscardHandler),
		Report: func(ds []registry.Diagnostic) {
			f.mu.Lock()
			f.running, f.last = true, ds
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
		fmt.Fprintf(&b, "  endpoint {\n    address = %q\n    port = %d\n    meta = { version = %q }\n  }\n", e.Address, e.Port, e.Meta["version"])
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

// start runs the folder's Source under an Aggregator until the test ends, and waits for its first set.
func (f *folder) start() *registry.Aggregator {
	f.t.Helper()
	a := registry.NewAggregator(registry.Options{Log: slog.New(slog.DiscardHandler)})
	if err := a.Add("files", f.source, 0); err != nil {
		f.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	f.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			f.t.Error(err)
		}
	})
	<-a.Ready()
	return a
}

func web(address string) *registry.Service {
	return &registry.Service{
		Name: registry.Name{Namespace: "default", Name: "web"}, Ports: []registry.Port{{Number: 80}},
		Endpoints: []*registry.Endpoint{{Address: netip.MustParseAddr(address), Port: 80}},
	}
}

func TestAFolderThatDoesNotLoadIsReportedAndKeepsTheSet(t *testing.T) {
	f := newFolder(t)
	f.put([]*registry.Service{web("10.0.0.1")})
	a := f.start()
	sets := a.Sets()
	f.write("broken.hcl", "service \"api\" {\n  port = \"eighty\"\n}\n")
	ds := f.awaitErrors()
	if want := filepath.Join(f.dir, "broken.hcl") + ":2:"; !strings.HasPrefix(ds[0].Origin, want) {
		t.Errorf("origin %q, want %s...", ds[0].Origin, want)
	}
	if d := cmp.Diff(sets, a.Sets(), plain); d != "" {
		t.Error(d)
	}
}

func TestAFileThatIsRemovedTakesItsServicesAlong(t *testing.T) {
	f := newFolder(t)
	f.put([]*registry.Service{web("10.0.0.1")})
	a := f.start()
	f.remove("default-web.hcl")
	for range f.reports {
		if len(a.Sets()[0].Services) == 0 {
			return
		}
	}
}

func TestAFolderThatGoesAwayKeepsTheSet(t *testing.T) {
	f := newFolder(t)
	f.put([]*registry.Service{web("10.0.0.1")})
	a := f.start()
	if err := os.Rename(f.dir, filepath.Join(t.TempDir(), "elsewhere")); err != nil {
		t.Fatal(err)
	}
	f.awaitErrors()
	if n := len(a.Sets()[0].Services); n != 1 {
		t.Errorf("%d services, want the last good set of 1", n)
	}
}

func TestTheBodyOfARegistryBlock(t *testing.T) {
	for _, c := range []struct{ body, want string }{
		{`path = "services"`, ""},
		{``, "Missing required argument"},
		{`path = ""`, "Empty path"},
		{`path = 1 + "x"`, "Invalid operand"},
		{"path = \"x\"\nurl = \"y\"", "Unsupported argument"},
	} {
		source, diags := Driver().New(parse(t, c.body), registry.DriverOptions{Dir: "/etc/wattle", Log: slog.New(slog.DiscardHandler)})
		switch {
		case c.want == "" && (diags.HasErrors() || source.(*Source).dir != "/etc/wattle/services"):
			t.Errorf("%s: %v, %+v", c.body, diags, source)
		case c.want != "" && (source != nil || !strings.Contains(diags.Error(), c.want)):
			t.Errorf("%s: %v, want %s", c.body, diags, c.want)
		}
	}
}

func TestTheREADMELoads(t *testing.T) {
	page, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks := strings.Split(string(page), "```hcl\n")
	if len(blocks) != 3 {
		t.Fatalf("%d HCL examples, want the registry block and the folder's", len(blocks)-1)
	}
	f := newFolder(t)
	file, _, _ := strings.Cut(blocks[2], "```")
	f.write("services.hcl", file)
	a := f.start()
	if s := a.Status()[0]; s.Services != 1 || s.Endpoints != 2 || len(s.Diagnostics) > 0 {
		t.Errorf("status %+v", s)
	}
}
