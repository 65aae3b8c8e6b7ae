package static

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
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
	served  *registry.Aggregator // nil: the Source does not run under one

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
			if f.served != nil {
				f.served.Report("files", ds)
			}
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
		fmt.Fprintf(&b, "  endpoint {\n    address = %q\n    port = %d\n    meta = { version = %q }\n  }\n", e.Address, e.Port, e.Meta.Get("version"))
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
	f.served = a
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

// awaitMended waits until the Source has reported no error, after one that awaitErrors saw.
func (f *folder) awaitMended() {
	for ds := range f.reports {
		if !slices.ContainsFunc(ds, func(d registry.Diagnostic) bool { return d.Severity == registry.Error }) {
			return
		}
	}
}

func TestWhatDoesNotLoadIsInTheStatusAndKeepsTheSet(t *testing.T) {
	link := func(to string) func(*folder) {
		return func(f *folder) {
			if err := os.Symlink(to, filepath.Join(f.dir, "bad.hcl")); err != nil {
				f.t.Fatal(err)
			}
		}
	}
	holds := func(text string) func(*folder) { return func(f *folder) { f.write("bad.hcl", text) } }
	for name, c := range map[string]struct {
		harm    func(*folder)
		origin  string
		excerpt registry.Excerpt
		summary string
	}{
		"an unknown field": {holds("service \"api\" {\n  prt = 1\n  port = 80\n}\n"), "bad.hcl:2:3",
			registry.Excerpt{Line: 2, Text: "  prt = 1", Column: 3, Length: 3}, "prt"},
		"a wrong value": {holds("service \"api\" {\n  port = 99999\n}\n"), "bad.hcl:2:10",
			registry.Excerpt{Line: 2, Text: "  port = 99999", Column: 10, Length: 5}, "99999"},
		"a block that does not end": {holds("service \"api\" {\n"), "bad.hcl:", registry.Excerpt{Line: 1, Text: `service "api" {`, Column: 15, Length: 1}, ""},
		"invalid UTF-8":             {holds("# caf\xe9\n"), "bad.hcl:1:6", registry.Excerpt{Line: 1, Text: "# caf\ufffd", Column: 6, Length: 1}, "UTF-8"},
		"10 MB":                     {holds(strings.Repeat("# comment\n", 1<<20)), "bad.hcl", registry.Excerpt{}, "too big"},
		"a link out of the folder":  {link("/etc/hostname"), "bad.hcl", registry.Excerpt{}, "out of the folder"},
		"a link to itself":          {link("bad.hcl"), "bad.hcl", registry.Excerpt{}, "cannot be read"},
		"a link to nothing":         {link("none.hcl"), "bad.hcl", registry.Excerpt{}, "cannot be read"},
		"what is no file":           {func(f *folder) { f.fifo("bad.hcl") }, "bad.hcl", registry.Excerpt{}, "cannot be read"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFolder(t)
			f.put([]*registry.Service{web("10.0.0.1")})
			a := f.start()
			sets := a.Sets()
			c.harm(f)
			f.awaitErrors()
			d := a.Status()[0].Diagnostics[0]
			if !strings.HasPrefix(d.Origin, filepath.Join(f.dir, c.origin)) || !strings.Contains(d.Summary, c.summary) || d.Code == "" || d.Detail == "" || d.Source != "files" {
				t.Errorf("%+v, want it at %s with %q", d, c.origin, c.summary)
			}
			if diff := cmp.Diff(c.excerpt, d.Excerpt); diff != "" {
				t.Error(diff)
			}
			if diff := cmp.Diff(sets, a.Sets(), plain); diff != "" {
				t.Error(diff)
			}
			f.remove("bad.hcl")
			f.put([]*registry.Service{web("10.0.0.2")})
			f.awaitMended()
			if st := a.Status()[0]; len(st.Diagnostics) > 0 {
				t.Errorf("mended: %+v", st)
			}
		})
	}
}

// fifo makes a pipe, whose opening would block.
func (f *folder) fifo(name string) {
	f.t.Helper()
	if err := syscall.Mkfifo(filepath.Join(f.dir, name), 0o600); err != nil {
		f.t.Fatal(err)
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
	st := a.Status()[0]
	if st.Services != 1 || len(a.Sets()[0].Services) != 1 {
		t.Errorf("%d services, want the last good set of 1", st.Services)
	}
	if len(st.Diagnostics) != 2 || st.State != registry.Stale || st.Diagnostics[0].Origin != f.dir || !strings.Contains(st.Diagnostics[0].Summary, "cannot be read") {
		t.Errorf("%+v", st.Diagnostics)
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
