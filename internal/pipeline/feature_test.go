package pipeline_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"go.uber.org/goleak"
	"golang.org/x/tools/txtar"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/wattle-mesh/wattle/internal/mesh"
	"github.com/wattle-mesh/wattle/internal/pipeline"
	"github.com/wattle-mesh/wattle/internal/xds"
	"github.com/wattle-mesh/wattle/registry"
	"github.com/wattle-mesh/wattle/registry/static"
	"github.com/wattle-mesh/wattle/translator"
)

var update = flag.Bool("update", false, "rewrite what tests want")

// TestFeatures edits policies and registries under real delta clients and compares what reaches each of them, and what
// the log says, with testdata/features. Of an archive there, the files policy/... and services/... are the start, and
// "1/policy/..." is edit 1, of one file; an empty text removes it. "N/accept" says that this was meant. "N/refuse" has the proxies refuse, in these words,
// what edit N brings. "want" and "N/want" are the outcome: + is a resource that is new, ~ one that changed, - one that
// is gone.
func TestFeatures(t *testing.T) {
	paths, err := filepath.Glob("testdata/features/*.txtar")
	if err != nil || len(paths) == 0 {
		t.Fatal(paths, err)
	}
	for _, path := range paths {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txtar"), func(t *testing.T) {
			a, err := txtar.ParseFile(path)
			if err != nil {
				t.Fatal(err)
			}
			f := newFeature(t, a)
			f.check("want", f.begin())
			for n := 1; f.edit(fmt.Sprintf("%d/", n)); n++ {
				f.check(fmt.Sprintf("%d/want", n), f.outcome(f.has(fmt.Sprintf("%d/accept", n))))
			}
			if *update {
				if err := os.WriteFile(path, txtar.Format(a), 0o644); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

// feature is a server without its shell: the loop, a registry of files, the table, and a client for each proxy.
type feature struct {
	t    *testing.T
	a    *txtar.Archive
	dir  string
	loop *pipeline.Loop
	xds  *xds.Server
	said chan string // lines of the log
	conn *grpc.ClientConn

	mu     sync.Mutex
	refuse string
	events []string
}

func newFeature(t *testing.T, a *txtar.Archive) *feature {
	t.Cleanup(func() { goleak.VerifyNone(t) })
	f := &feature{t: t, a: a, dir: t.TempDir(), said: make(chan string, 100)}
	for _, dir := range []string{"policy", "services"} {
		if err := os.Mkdir(filepath.Join(f.dir, dir), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	f.write("")
	log := slog.New(slog.NewTextHandler(lines(f.said), &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.MessageKey {
			return a
		}
		return slog.Attr{}
	}}))
	quiet := slog.New(slog.DiscardHandler)
	registries := registry.NewAggregator(registry.Options{Log: quiet, OnChange: func() { f.loop.Nudge() }})
	body, diags := hclsyntax.ParseConfig([]byte(`path = "services"`), "", hcl.InitialPos)
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	source, diags := static.Driver().New(body.Body, registry.DriverOptions{
		Name: "files", Dir: f.dir, Log: quiet, Eval: &hcl.EvalContext{},
		Report: func(ds []registry.Diagnostic) { registries.Report("files", ds) },
	})
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	if err := registries.Add("files", source, time.Minute); err != nil {
		t.Fatal(err)
	}
	f.xds = xds.New(xds.Options{
		Authorize: func(_ context.Context, node *corev3.Node) (string, error) { return node.GetId(), nil },
		OnConverged: func(gen uint64, proxies int, took time.Duration, nacked int) {
			f.loop.Converged(gen, proxies, nacked, took)
		},
	})
	f.loop = pipeline.New(pipeline.Options{
		Log: log, Dir: filepath.Join(f.dir, "policy"), Revisions: &numbers{}, Registries: registries, Publish: f.xds.Apply,
	})
	f.run(registries.Run)
	f.run(f.loop.Run)
	f.serve()
	return f
}

// run runs a task until the test ends.
func (f *feature) run(task func(context.Context) error) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- task(ctx) }()
	f.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			f.t.Error(err)
		}
	})
}

// serve offers the streams at a unix socket.
func (f *feature) serve() {
	path := filepath.Join(f.dir, "xds.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		f.t.Fatal(err)
	}
	server := grpc.NewServer(xds.ServerOptions()...)
	f.xds.Register(server)
	f.run(func(ctx context.Context) error {
		stop := context.AfterFunc(ctx, server.Stop)
		defer stop()
		return server.Serve(l)
	})
	f.conn, err = grpc.NewClient("unix:"+path, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { f.conn.Close() })
}

// begin waits for the first policy, connects a client for each of its proxies, and returns what they get.
func (f *feature) begin() string {
	select {
	case <-f.loop.Ready():
	case <-time.After(patience):
		f.t.Fatal("no policy is in force")
	}
	f.line() // of the first revision, which nobody waits for yet
	ids := f.loop.State().View.ProxyIDs()
	for _, id := range ids {
		held := map[string]string{} // versions, by type and name
		c := xds.NewClient(xds.ClientOptions{
			Conn: f.conn, Node: &corev3.Node{Id: id}, Handle: func(r *xds.Response) error { return f.take(id, held, r) },
			Types: []translator.Type{translator.HostPlan, translator.Cluster, translator.Endpoint, translator.Listener, translator.Route},
		})
		f.run(c.Run)
	}
	for limit := time.After(patience); ; {
		synced := 0
		for _, p := range f.xds.Proxies() {
			if p.Synced && len(p.Types) == 5 {
				synced++
			}
		}
		if synced == len(ids) {
			return f.drain()
		}
		select {
		case <-time.After(time.Millisecond):
		case <-limit:
			f.t.Fatalf("not in sync: %+v", f.xds.Proxies())
		}
	}
}

const patience = 20 * time.Second

// take notes what a proxy gets.
func (f *feature) take(id string, held map[string]string, r *xds.Response) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	note := func(sign, name string) {
		f.events = append(f.events, fmt.Sprintf("%s %s %s %s", id, sign, r.Type, name))
	}
	if f.refuse != "" {
		for _, x := range r.Resources {
			note("refuses", x.Name)
		}
		return errors.New(f.refuse)
	}
	for _, x := range r.Resources {
		key := r.Type.String() + " " + x.Name
		switch was, ok := held[key]; {
		case !ok:
			note("+", x.Name)
		case was != x.Version:
			note("~", x.Name)
		default:
			note("=", x.Name)
		}
		held[key] = x.Version
	}
	for _, name := range r.Removed {
		note("-", name)
		delete(held, r.Type.String()+" "+name)
	}
	return nil
}

// edit makes the edit whose files begin with prefix, and reports whether there is one.
func (f *feature) edit(prefix string) bool {
	f.mu.Lock()
	f.refuse = strings.TrimSpace(f.text(prefix + "refuse"))
	f.mu.Unlock()
	if f.has(prefix + "accept") {
		if err := f.loop.Accept(f.t.Context()); err != nil {
			f.t.Fatal(err)
		}
		return true
	}
	return f.write(prefix)
}

// write writes the files whose names begin with prefix.
func (f *feature) write(prefix string) (any bool) {
	for _, x := range f.a.Files {
		name, ok := strings.CutPrefix(x.Name, prefix)
		if !ok || !strings.HasPrefix(name, "policy/") && !strings.HasPrefix(name, "services/") {
			continue
		}
		any = true
		path, err := filepath.Join(f.dir, name), error(nil)
		if len(x.Data) == 0 {
			err = os.Remove(path)
		} else if err = os.WriteFile(path+"~", x.Data, 0o600); err == nil { // an edit must not be seen half done
			err = os.Rename(path+"~", path)
		}
		if err != nil {
			f.t.Fatal(err)
		}
	}
	return any
}

// outcome waits until the log says what became of an edit, which it does when all proxies have answered.
func (f *feature) outcome(accepted bool) string {
	line := f.line()
	if strings.Contains(line, "in force with warnings") || accepted && strings.Contains(line, "valid again") {
		line += "\n" + f.line()
	}
	return line + "\n" + f.drain()
}

var took = regexp.MustCompile(`(updated in) [0-9.]+(ms|µs|s)`)

func (f *feature) line() string {
	select {
	case line := <-f.said:
		return took.ReplaceAllString(line, "$1 TIME")
	case <-time.After(patience):
		f.t.Fatalf("the log says nothing; %+v", f.loop.State().Diagnostics)
		return ""
	}
}

// drain returns what has reached the proxies since the last call.
func (f *feature) drain() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	slices.Sort(f.events)
	var b strings.Builder
	for _, e := range f.events {
		b.WriteString(e + "\n")
	}
	f.events = nil
	for _, p := range f.xds.Proxies() {
		for _, t := range p.Types {
			if t.Nack != nil {
				fmt.Fprintf(&b, "%s refused: %s %+v\n", p.ID, t.Nack.Message, t.Nack.Resources)
			}
		}
	}
	return b.String()
}

func (f *feature) has(name string) bool {
	return slices.ContainsFunc(f.a.Files, func(x txtar.File) bool { return x.Name == name })
}

func (f *feature) text(name string) string {
	for _, x := range f.a.Files {
		if x.Name == name {
			return string(x.Data)
		}
	}
	return ""
}

// check compares an outcome with what the archive wants, or with -update puts it there.
func (f *feature) check(name, got string) {
	f.t.Helper()
	if !*update {
		if want := f.text(name); got != want {
			f.t.Errorf("%s: got\n%s\nwant\n%s", name, got, want)
		}
		return
	}
	for i := range f.a.Files {
		if f.a.Files[i].Name == name {
			f.a.Files[i].Data = []byte(got)
			return
		}
	}
	step, _, _ := strings.Cut(name, "want")
	after := len(f.a.Files)
	for i, x := range f.a.Files {
		if rest, ok := strings.CutPrefix(x.Name, step); ok && (rest == "refuse" || rest == "accept" || strings.HasPrefix(rest, "policy/") || strings.HasPrefix(rest, "services/")) {
			after = i + 1
		}
	}
	f.a.Files = slices.Insert(f.a.Files, after, txtar.File{Name: name, Data: []byte(got)})
}

// lines passes on what is logged, without its quotes.
type lines chan string

func (l lines) Write(b []byte) (int, error) {
	text, err := strconv.Unquote(strings.TrimSuffix(strings.TrimPrefix(string(b), "msg="), "\n"))
	l <- text
	return len(b), err
}

// numbers are revisions that no store keeps.
type numbers struct {
	n        uint64
	hash     string
	allotted mesh.Allotted
}

func (n *numbers) Revision(hash string) (uint64, error) {
	if n.hash != hash {
		n.n, n.hash = n.n+1, hash
	}
	return n.n, nil
}

func (n *numbers) Allotted() (mesh.Allotted, error)  { return n.allotted, nil }
func (n *numbers) SetAllotted(a mesh.Allotted) error { n.allotted = a; return nil }
