package api

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"log/slog"
	"math/big"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	"github.com/wattle-mesh/wattle/configs"
	"github.com/wattle-mesh/wattle/internal/api/apipb"
	"github.com/wattle-mesh/wattle/internal/ca"
	"github.com/wattle-mesh/wattle/internal/spiffe"
	"github.com/wattle-mesh/wattle/internal/store"
	"github.com/wattle-mesh/wattle/internal/xds"
	"github.com/wattle-mesh/wattle/registry"
)

const td = "corp.example"

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// clock goes as the real one does, and tests set it forward.
type clock struct {
	mu    sync.Mutex
	ahead time.Duration
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Now().Add(c.ahead)
}

func (c *clock) pass(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ahead += d
}

// world is a server with all that this package is wired to.
type world struct {
	t         *testing.T
	dir       string
	clock     *clock
	ca        *ca.CA
	store     *store.Store
	registrar *Registrar
	node      *Node
	xds       *xds.Server // empty
	address   string      // of the agents' port
	holds     func(node string, id spiffe.ID) bool

	sets   chan []*registry.Service // what the registrar publishes
	health chan struct{}            // has an element after the health changed
	wrong  chan []registry.Diagnostic
	stop   []func()
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, dir: filepath.Join(t.TempDir(), "state"), clock: &clock{}, holds: func(string, spiffe.ID) bool { return false }}
	w.start()
	t.Cleanup(w.end)
	return w
}

// start opens everything and serves.
func (w *world) start() {
	w.t.Helper()
	var err error
	if w.store, err = store.Open(filepath.Join(w.dir, "wattle.db")); err != nil {
		w.t.Fatal(err)
	}
	if w.ca, err = ca.Open(filepath.Join(w.dir, "ca"), td, w.clock.now); err != nil {
		w.t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	w.health = make(chan struct{}, 1)
	wrong := make(chan []registry.Diagnostic, 1000)
	w.wrong = wrong
	w.registrar, err = NewRegistrar(RegistrarOptions{
		Log: log, Store: w.store, OnHealth: func() { poke(w.health) }, Report: func(ds []registry.Diagnostic) { wrong <- ds },
	})
	if err != nil {
		w.t.Fatal(err)
	}
	w.node = NewNode(NodeOptions{Log: log, CA: w.ca, Store: w.store, Registrar: w.registrar,
		Holds: func(n string, id spiffe.ID) bool { return w.holds(n, id) }})
	w.xds = xds.New(xds.Options{Authorize: AuthorizeProxy[*corev3.Node]})
	w.run()
	w.serve()
}

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// run runs the registrar.
func (w *world) run() {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	sets := make(chan []*registry.Service, 1000)
	w.sets = sets
	go func() { ended <- w.registrar.Run(ctx, func(s []*registry.Service) { sets <- s }) }()
	w.stop = append(w.stop, func() {
		cancel()
		if err := <-ended; err != nil {
			w.t.Errorf("registrar: %v", err)
		}
	})
}

func (w *world) serve() {
	w.listen(NewPort(PortOptions{Log: slog.New(slog.DiscardHandler), CA: w.ca, Names: []string{"server.example"}, Node: w.node, XDS: w.xds}))
}

// listen serves a port, which w.address leads to from then on.
func (w *world) listen(p *Port) {
	w.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		w.t.Fatal(err)
	}
	w.address = l.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- p.Serve(ctx, l) }()
	w.stop = append(w.stop, func() {
		cancel()
		if err := <-ended; err != nil {
			w.t.Errorf("serve: %v", err)
		}
	})
}

// end ends everything and closes the store, so that start finds what a restart would.
func (w *world) end() {
	for _, stop := range slices.Backward(w.stop) {
		stop()
	}
	w.stop = nil
	if err := w.store.Close(); err != nil {
		w.t.Error(err)
	}
}

func (w *world) restart() {
	w.t.Helper()
	w.end()
	w.start()
}

// services returns what the registrar has now.
func (w *world) services() []*registry.Service {
	w.registrar.mu.Lock()
	defer w.registrar.mu.Unlock()
	return w.registrar.services
}

// policy brings a policy with these hosts and gateways into force.
func (w *world) policy(hosts []*configs.Host, gateways ...*configs.Gateway) {
	w.registrar.SetPolicy(&configs.Policy{Mesh: &configs.Mesh{TrustDomain: td}, Hosts: hosts, Gateways: gateways})
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func newCSR(t *testing.T, key crypto.Signer) []byte {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// selfSigned is what an agent shows before it has joined.
func selfSigned(t *testing.T, key crypto.Signer) tls.Certificate {
	t.Helper()
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// issue makes a certificate of the CA for id on the node.
func (w *world) issue(id spiffe.ID, node string) tls.Certificate {
	w.t.Helper()
	key := newKey(w.t)
	leaf, err := w.ca.Sign(newCSR(w.t, key), id, node)
	if err != nil {
		w.t.Fatal(err)
	}
	return tls.Certificate{Certificate: leaf.Chain, PrivateKey: key}
}

// admit lets a node in with a grant, and connects as it.
func (w *world) admit(node string, services ...string) apipb.NodeClient {
	w.t.Helper()
	return w.dial(w.admitted(node, services...))
}

// admitted lets a node in with a grant, and returns its certificate.
func (w *world) admitted(node string, services ...string) tls.Certificate {
	w.t.Helper()
	key := newKey(w.t)
	resp, err := w.node.Issue(node, CertificateRequest{CSR: newCSR(w.t, key), Services: services})
	if err != nil {
		w.t.Fatal(err)
	}
	return tls.Certificate{Certificate: resp.Chain, PrivateKey: key}
}

// dial connects with a certificate, from 127.0.0.1.
func (w *world) dial(cert tls.Certificate) apipb.NodeClient {
	w.t.Helper()
	return apipb.NewNodeClient(w.conn(cert, "127.0.0.1"))
}

func (w *world) conn(cert tls.Certificate, from string) *grpc.ClientConn {
	w.t.Helper()
	conf := &tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{cert}, InsecureSkipVerify: true,
		VerifyConnection: func(s tls.ConnectionState) error {
			between := x509.NewCertPool()
			for _, c := range s.PeerCertificates[1:] {
				between.AddCert(c)
			}
			_, err := s.PeerCertificates[0].Verify(x509.VerifyOptions{Roots: w.ca.Pool(), Intermediates: between, CurrentTime: w.clock.now()})
			if id, bad := spiffe.FromCertificate(s.PeerCertificates[0]); err == nil && id != spiffe.ForServer(td) {
				err = errors.Join(errors.New("not the server"), bad)
			}
			return err
		},
	}
	d := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(from), 0))}
	conn, err := grpc.NewClient("passthrough:///"+w.address, grpc.WithTransportCredentials(credentials.NewTLS(conf)),
		grpc.WithContextDialer(func(ctx context.Context, a string) (net.Conn, error) { return d.DialContext(ctx, "tcp", a) }))
	if err != nil {
		w.t.Fatal(err)
	}
	w.stop = append(w.stop, func() { conn.Close() })
	return conn
}

func wantCode(t *testing.T, what string, err error, want codes.Code, says string) {
	t.Helper()
	if status.Code(err) != want || err != nil && !strings.Contains(err.Error(), says) {
		t.Errorf("%s: %v, want %s with %q", what, err, want, says)
	}
}

// await waits until the registrar publishes such a set.
func (w *world) await(what string, ok func([]*registry.Service) bool) []*registry.Service {
	w.t.Helper()
	limit := time.After(10 * time.Second)
	var last []*registry.Service
	for {
		select {
		case last = <-w.sets:
			if ok(last) {
				return last
			}
		case <-limit:
			w.t.Fatalf("waited for %s; the last set was %s", what, text(last))
		}
	}
}

func text(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// service is a workload as an agent registers it.
func service(name string) *configs.Service {
	return &configs.Service{
		Block: configs.Block{Namespace: "shop", Name: name},
		Ports: []configs.ServicePort{{Number: 9080, Protocol: "http", Local: netip.MustParseAddrPort("127.0.0.1:9080")}},
		Meta:  map[string]string{"version": "v1"}, Weight: 1,
	}
}

func register(t *testing.T, s *configs.Service) *apipb.Registration {
	t.Helper()
	body, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	return &apipb.Registration{Namespace: s.Namespace, Service: s.Name, Instance: s.Instance, Body: body, Origin: s.Name + ".hcl:1"}
}

// reporting is an open stream of reports.
type reporting struct {
	t      *testing.T
	stream grpc.BidiStreamingClient[apipb.ReportRequest, apipb.ReportResponse]
	cancel context.CancelFunc
}

func report(t *testing.T, c apipb.NodeClient) *reporting {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	stream, err := c.Report(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return &reporting{t, stream, cancel}
}

// say sends a report and returns what is refused of it.
func (r *reporting) say(req *apipb.ReportRequest) map[string]string {
	r.t.Helper()
	if err := r.stream.Send(req); err != nil {
		r.t.Fatal(err)
	}
	return r.hear()
}

func (r *reporting) hear() map[string]string {
	r.t.Helper()
	resp, err := r.stream.Recv()
	if err != nil {
		r.t.Fatal(err)
	}
	out := map[string]string{}
	for _, x := range resp.GetRefused() {
		out[x.GetNamespace()+"/"+x.GetService()] = x.GetReason()
	}
	return out
}

// eventually waits until ok has nothing to say.
func eventually(t *testing.T, what string, ok func() error) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	limit := time.After(10 * time.Second)
	for {
		err := ok()
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-limit:
			t.Fatalf("waited for %s: %v", what, err)
		}
	}
}
