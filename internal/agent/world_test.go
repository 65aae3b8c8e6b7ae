package agent

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"go.uber.org/goleak"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/wattle-mesh/wattle/adapters/process"
	"github.com/wattle-mesh/wattle/configs"
	"github.com/wattle-mesh/wattle/internal/api"
	"github.com/wattle-mesh/wattle/internal/api/apipb"
	"github.com/wattle-mesh/wattle/internal/ca"
	"github.com/wattle-mesh/wattle/internal/mesh"
	"github.com/wattle-mesh/wattle/internal/spiffe"
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
	t       *testing.T
	dir     string
	address netip.Addr
	log     *logbook

	ca      *ca.CA
	skew    time.Duration // of the CA's clock, guarded by mu
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
	w.xds = xds.New(xds.Options{Authorize: w.authorize})
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
		if err := g.Wait(); err != nil {
			w.t.Error(err)
		}
	})
	w.t.Cleanup(w.stop)
}

func (w *world) authorize(ctx context.Context, node *corev3.Node) (string, error) {
	leaf, err := w.caller(ctx)
	if err != nil {
		return "", err
	}
	id, err := spiffe.FromCertificate(leaf)
	if err != nil || !strings.HasPrefix(node.GetId(), id.Name+"/") {
		return "", status.Errorf(codes.PermissionDenied, "%s is not for %s: %v", node.GetId(), id, err)
	}
	return node.GetId(), nil
}

// caller returns the verified certificate of a call.
func (w *world) caller(ctx context.Context) (*x509.Certificate, error) {
	leaf, chain := peerCertificate(ctx)
	between := x509.NewCertPool()
	for _, c := range chain {
		between.AddCert(c)
	}
	_, err := leaf.Verify(x509.VerifyOptions{Roots: w.ca.Pool(), Intermediates: between, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	if err != nil {
		return nil, status.Error(codes.Unauthenticated, err.Error())
	}
	return leaf, nil
}

func peerCertificate(ctx context.Context) (leaf *x509.Certificate, between []*x509.Certificate) {
	p, _ := peer.FromContext(ctx)
	chain := p.AuthInfo.(credentials.TLSInfo).State.PeerCertificates
	return chain[0], chain[1:]
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

// nodeService is the world's side of what agents call.
type nodeService struct {
	apipb.UnimplementedNodeServer
	w *world
}

func (n *nodeService) Join(ctx context.Context, req *apipb.JoinRequest) (*apipb.SignResponse, error) {
	w := n.w
	w.mu.Lock()
	good := w.tokens[req.GetToken()]
	w.tokens[req.GetToken()] = false
	w.mu.Unlock()
	csr, err := x509.ParseCertificateRequest(req.GetCsr())
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	leaf, _ := peerCertificate(ctx)
	if key, ok := csr.PublicKey.(*ecdsa.PublicKey); !good || !ok || !key.Equal(leaf.PublicKey) {
		return nil, status.Error(codes.PermissionDenied, "the token is used up")
	}
	return w.certify("spiffe://"+trustDomain+"/node/h1", req.GetCsr())
}

func (n *nodeService) Sign(ctx context.Context, req *apipb.SignRequest) (*apipb.SignResponse, error) {
	w := n.w
	if _, err := w.caller(ctx); err != nil {
		return nil, err
	}
	id := req.GetIdentity()
	if id == "" {
		id = "spiffe://" + trustDomain + "/node/h1"
	}
	w.mu.Lock()
	no := w.refused[id]
	w.mu.Unlock()
	if no {
		return nil, status.Errorf(codes.PermissionDenied, "%s was not granted", id)
	}
	return w.certify(id, req.GetCsr())
}

func (w *world) certify(identity string, csr []byte) (*apipb.SignResponse, error) {
	id, err := spiffe.Parse(identity)
	if err != nil {
		return nil, err
	}
	leaf, err := w.ca.Sign(csr, id, "h1")
	if err != nil {
		return nil, err
	}
	w.mu.Lock()
	w.signed[identity]++
	w.mu.Unlock()
	return &apipb.SignResponse{Chain: leaf.Chain, Roots: w.ca.Roots(), Identity: identity}, nil
}

func (n *nodeService) Report(s grpc.BidiStreamingServer[apipb.ReportRequest, apipb.ReportResponse]) error {
	for {
		req, err := s.Recv()
		if err != nil {
			return nil
		}
		n.w.mu.Lock()
		n.w.reports = append(n.w.reports, req)
		refused := n.w.objects
		n.w.mu.Unlock()
		if err := s.Send(&apipb.ReportResponse{Refused: refused}); err != nil {
			return err
		}
	}
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
	envoy, err := process.FindEnvoy(filepath.Join("..", "..", ".bin", "envoy"))
	if err != nil {
		w.t.Fatal(err)
	}
	envoys := process.New(process.Options{Log: log, Envoy: envoy, Dir: cfg.RunDir, Concurrency: 1, LogLevel: "info"})
	a, err := New(Options{Config: cfg, Log: log, Adapter: envoys})
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return envoys.Run(ctx) })
	g.Go(func() error { return a.Run(ctx) })
	stop = sync.OnceFunc(func() {
		cancel()
		if err := g.Wait(); err != nil {
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

// admin asks an Envoy's admin socket.
func (w *world) admin(proxy, path string) (string, error) {
	c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", filepath.Join(w.dir, "run", proxy, "admin.sock"))
	}}}
	resp, err := c.Get("http://admin" + path)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = errors.New(resp.Status)
	}
	return string(body), err
}

// get calls an address of the world and returns status, body and error.
func (w *world) get(addr string) (int, string, error) {
	c := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := c.Get("http://" + w.at(addr) + "/")
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(body), err
}

// answers waits until a call gives the status, and returns the body.
func (w *world) answers(addr string, want int) string {
	w.t.Helper()
	var body string
	w.wait(fmt.Sprintf("%s to answer %d", addr, want), func() error {
		code, text, err := w.get(addr)
		if err == nil && code != want {
			err = fmt.Errorf("status %d: %s", code, text)
		}
		body = text
		return err
	})
	return body
}

// application serves an address of the world: it answers with the caller's identity as the proxy tells it.
func (w *world) application(addr string) {
	w.t.Helper()
	l, err := net.Listen("tcp", w.at(addr))
	if err != nil {
		w.t.Fatal(err)
	}
	srv := &http.Server{ReadHeaderTimeout: time.Second, Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		fmt.Fprint(rw, r.Header.Get("X-Forwarded-Client-Cert"))
	})}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(l) }()
	w.t.Cleanup(func() {
		srv.Close()
		if err := <-done; !errors.Is(err, http.ErrServerClosed) {
			w.t.Error(err)
		}
	})
}

// wait polls for what other goroutines and processes bring about.
func (w *world) wait(what string, ok func() error) {
	w.t.Helper()
	limit := time.After(20 * time.Second)
	for {
		err := ok()
		if err == nil {
			return
		}
		select {
		case <-time.After(5 * time.Millisecond):
		case <-limit:
			w.t.Fatalf("waited for %s: %v", what, err)
		}
	}
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
