package agent

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/wattle-mesh/wattle/adapters"
	"github.com/wattle-mesh/wattle/adapters/process"
	"github.com/wattle-mesh/wattle/configs"
	"github.com/wattle-mesh/wattle/internal/api"
	"github.com/wattle-mesh/wattle/internal/api/apipb"
	"github.com/wattle-mesh/wattle/internal/ca"
	"github.com/wattle-mesh/wattle/internal/mesh"
	"github.com/wattle-mesh/wattle/internal/xds"
	"github.com/wattle-mesh/wattle/registry"
	"github.com/wattle-mesh/wattle/registry/static"
	"github.com/wattle-mesh/wattle/translator"
)

const trustDomain = "agent.example"

func TestMain(m *testing.M) {
	// Envoys whose agent is gone become this process's, as they become init's on a host.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		panic(err)
	}
	goleak.VerifyTestMain(m)
}

// world is a server made of the real CA, translator and xds server, with a Node service that tests steer, and the
// folders of one host. It is all on one address of 127.0.0.0/8 of its own.
type world struct {
	t           *testing.T
	dir         string
	address     netip.Addr
	envoy       string // path; empty: the real one
	credentials string // folder; empty: none
	log         *logbook

	ca      *ca.CA
	skew    time.Duration // of the CA's clock, guarded by mu
	stamp   xds.Stamp     // of what is published, guarded by mu
	xds     *xds.Server
	view    *mesh.View
	catalog *registry.Catalog
	output  *translator.Output
	loader  *configs.Loader
	stop    func() // ends the server

	mu      sync.Mutex
	tokens  map[string]bool // true: not used yet
	refused map[string]bool // identities
	signed  map[string]int
	reports []*apipb.ReportRequest
	objects []*apipb.Refusal // answered to every report
	gone    bool             // h1 has left
}

func newWorld(t *testing.T) *world {
	t.Helper()
	dir, err := os.MkdirTemp("", "wattle-") // t.TempDir is too long for sockets
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	w := &world{
		t: t, dir: dir, log: &logbook{},
		address: netip.AddrFrom4([4]byte{127, byte(16 + rand.N(200)), byte(rand.N(256)), byte(1 + rand.N(250))}),
		tokens:  map[string]bool{}, refused: map[string]bool{}, signed: map[string]int{},
		loader: configs.NewLoader(configs.Options{}),
	}
	w.ca, err = ca.Open(filepath.Join(dir, "ca"), trustDomain, func() time.Time {
		w.mu.Lock()
		defer w.mu.Unlock()
		return time.Now().Add(w.skew)
	})
	if err != nil {
		t.Fatal(err)
	}
	w.xds = xds.New(xds.Options{Authorize: w.authorize, Stamp: func() xds.Stamp {
		w.mu.Lock()
		defer w.mu.Unlock()
		return w.stamp
	}})
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the agent's log:\n%s", w.log)
		}
	})
	return w
}

// at replaces ADDR in a text by the world's address.
func (w *world) at(text string) string { return strings.ReplaceAll(text, "ADDR", w.address.String()) }

// listen starts the server.
func (w *world) listen() {
	w.t.Helper()
	cert := w.ca.Server(nil)
	srv := grpc.NewServer(append(xds.ServerOptions(), grpc.Creds(credentials.NewTLS(&tls.Config{
		MinVersion: tls.VersionTLS13, ClientAuth: tls.RequireAnyClientCert,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return cert.Certificate() },
	})))...)
	apipb.RegisterNodeServer(srv, &nodeService{w: w})
	w.xds.Register(srv)
	l, err := net.Listen("tcp", w.at("ADDR:7501"))
	if err != nil {
		w.t.Fatal(err)
	}
	var g errgroup.Group
	g.Go(func() error { return srv.Serve(l) })
	w.stop = sync.OnceFunc(func() {
		srv.Stop()
		if err := g.Wait(); err != nil && !errors.Is(err, grpc.ErrServerStopped) { // before it began to serve
			w.t.Error(err)
		}
	})
	w.t.Cleanup(w.stop)
}

// policy publishes what a policy file says.
func (w *world) policy(text string) {
	w.t.Helper()
	dir := filepath.Join(w.dir, "policy")
	write(w.t, filepath.Join(dir, "mesh.hcl"), w.at("mesh { trust_domain = \""+trustDomain+"\" }\n"+text))
	policy, diags := w.loader.Load(dir)
	if diags.HasErrors() {
		w.t.Fatal(diags)
	}
	w.catalog = registry.Merge(w.catalog, []registry.Set{{Name: "policy", Services: static.Services(policy)}}, nil)
	w.view, diags = mesh.Resolve(w.view, w.catalog, policy)
	if diags.HasErrors() {
		w.t.Fatal(diags)
	}
	out, err := translator.Translate(w.output, w.view)
	if err != nil {
		w.t.Fatal(err)
	}
	w.output = out
	w.xds.Apply(out.Changes)
}

// token makes a join token for h1.
func (w *world) token() string {
	secret := make([]byte, 32)
	for i := range secret {
		secret[i] = byte(rand.N(256))
	}
	text := api.Token{CA: w.ca.Pin(), Secret: secret, Node: "h1"}.Text()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.tokens[text] = true
	return text
}

func (w *world) refuse(identity string, no bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.refused[identity] = no
}

// signatures returns how often an identity was certified.
func (w *world) signatures(identity string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.signed[identity]
}

// lastReport returns the newest report, nil if there is none.
func (w *world) lastReport() *apipb.ReportRequest {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.reports) == 0 {
		return nil
	}
	return w.reports[len(w.reports)-1]
}

// config is the agent's configuration. It has no token.
func (w *world) config() *configs.Agent {
	return &configs.Agent{
		Node: "h1", Servers: []string{w.at("ADDR:7501")}, Address: w.address, SourceAddress: w.address,
		StateDir: filepath.Join(w.dir, "state"), RunDir: filepath.Join(w.dir, "run"), ServicesDir: filepath.Join(w.dir, "services.d"),
	}
}

// start runs an agent on the world's host, with Envoys that live on. The function it returns ends it.
func (w *world) start(change func(*configs.Agent)) (stop func()) {
	w.t.Helper()
	cfg := w.config()
	if change != nil {
		change(cfg)
	}
	log := slog.New(slog.NewTextHandler(w.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	envoy, err := process.FindEnvoy(cmp.Or(w.envoy, filepath.Join("..", "..", ".bin", "envoy")))
	if err != nil {
		w.t.Fatal(err)
	}
	crashes := make(chan adapters.Crash, 100)
	envoys := process.New(process.Options{Crashed: func(c adapters.Crash) { crashes <- c }, Log: log, Envoy: envoy, Dir: cfg.RunDir, Concurrency: 1, LogLevel: "info"})
	a, err := New(Options{Config: cfg, Log: log, Adapter: envoys, Crashes: crashes, Credentials: w.credentials})
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return envoys.Run(ctx) })
	g.Go(func() error { return a.Run(ctx) })
	stop = sync.OnceFunc(func() {
		cancel()
		if err := g.Wait(); err != nil && !errors.Is(err, ErrLeft) {
			w.t.Error(err)
		}
	})
	w.t.Cleanup(func() { stop(); w.endEnvoys() })
	return stop
}

// join starts an agent that has a token.
func (w *world) join() (stop func()) {
	w.t.Helper()
	token := w.token()
	return w.start(func(c *configs.Agent) { c.Token = token })
}

// endEnvoys ends the Envoys that agents left, as a last agent with an empty plan would.
func (w *world) endEnvoys() {
	for _, pid := range w.envoys() {
		_ = syscall.Kill(pid, syscall.SIGKILL)
		_, _ = syscall.Wait4(pid, nil, 0, nil)
	}
}

// envoys lists the processes of the world's run folder.
func (w *world) envoys() []int {
	dirs, err := os.ReadDir("/proc")
	if err != nil {
		w.t.Fatal(err)
	}
	var out []int
	for _, d := range dirs {
		args, err := os.ReadFile(filepath.Join("/proc", d.Name(), "cmdline"))
		if err == nil && bytes.Contains(args, []byte(filepath.Join(w.dir, "run")+"/")) {
			var pid int
			if _, err := fmt.Sscan(d.Name(), &pid); err == nil {
				out = append(out, pid)
			}
		}
	}
	return out
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path+"~", []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+"~", path); err != nil {
		t.Fatal(err)
	}
}

// logbook keeps what is logged.
type logbook struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logbook) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *logbook) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}
