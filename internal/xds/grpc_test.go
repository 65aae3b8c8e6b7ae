package xds

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"maps"
	"math/big"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	grpcpeer "google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/wattle-mesh/wattle/translator"
)

// authority issues certificates for tests.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pool *x509.CertPool
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	a := &authority{cert: cert, key: key, pool: x509.NewCertPool()}
	a.pool.AddCert(cert)
	return a
}

// config returns a TLS configuration for either side, with a certificate for name.
func (a *authority) config(t *testing.T, name string) credentials.TransportCredentials {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, a.cert, &key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	return credentials.NewTLS(&tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}},
		RootCAs: a.pool, ClientCAs: a.pool, ClientAuth: tls.RequireAndVerifyClientCert, ServerName: "server"})
}

// site is a Server behind gRPC and mutual TLS on loopback.
type site struct {
	t       *testing.T
	ca      *authority
	srv     *Server
	addr    string
	reg     *prometheus.Registry
	mu      sync.Mutex
	rounds  map[uint64][2]int // generation: proxies, nacked
	changed *sync.Cond
	w, was  *world
}

// byCertificate admits a node whose name is in the peer's certificate.
func byCertificate(ctx context.Context, n *corev3.Node) (string, error) {
	p, _ := grpcpeer.FromContext(ctx)
	info, _ := p.AuthInfo.(credentials.TLSInfo)
	if len(info.State.PeerCertificates) == 0 || info.State.PeerCertificates[0].Subject.CommonName != n.Id {
		return "", status.Error(codes.PermissionDenied, "not your node")
	}
	return n.Id, nil
}

func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{t: t, ca: newAuthority(t), reg: prometheus.NewRegistry(), rounds: map[uint64][2]int{}, w: newWorld(), was: newWorld()}
	s.changed = sync.NewCond(&s.mu)
	s.srv = New(Options{Authorize: byCertificate, Metrics: s.reg, OnConverged: func(gen uint64, n int, _ time.Duration, nacked int) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.rounds[gen] = [2]int{n, nacked}
		s.changed.Broadcast()
	}})
	g := grpc.NewServer(append(ServerOptions(), grpc.Creds(s.ca.config(t, "server")))...)
	s.srv.Register(g)
	healthpb.RegisterHealthServer(g, health.NewServer())
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.addr = l.Addr().String()
	done := make(chan error, 1)
	go func() { done <- g.Serve(l) }()
	t.Cleanup(func() { g.Stop(); <-done })
	m := &mesh{w: s.w}
	m.service(0, nil)
	m.service(1, nil)
	m.caller(0, []int{0, 1})
	m.proxy("p0", []int{0})
	m.proxy("p1", []int{0})
	return s
}

// apply publishes the world and waits until the streams that it touches have answered; it returns how many, and how
// many refused.
func (s *site) apply() [2]int {
	gen := s.srv.Apply(s.w.since(s.was))
	s.was = s.w.clone()
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		if r, ok := s.rounds[gen]; ok {
			return r
		}
		s.changed.Wait()
	}
}

func (s *site) dial(name string) *grpc.ClientConn {
	s.t.Helper()
	conn, err := grpc.NewClient(s.addr, grpc.WithTransportCredentials(s.ca.config(s.t, name)))
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// agent is a Client that keeps what it is given.
type agent struct {
	mu     sync.Mutex
	cond   *sync.Cond
	held   [translator.NumTypes]map[string]string
	refuse string // of the resource with this version
	up     int    // streams opened
	errs   []error
	stop   context.CancelFunc
	done   chan error
}

// agentTypes is what an agent asks for.
func agentTypes() []translator.Type {
	return []translator.Type{translator.HostPlan, translator.Cluster, translator.Endpoint, translator.Listener, translator.Route}
}

func (s *site) agent(name string, conn *grpc.ClientConn) *agent {
	a := &agent{done: make(chan error, 1)}
	a.cond = sync.NewCond(&a.mu)
	for i := range a.held {
		a.held[i] = map[string]string{}
	}
	c := NewClient(ClientOptions{Conn: conn, Node: &corev3.Node{Id: name}, Handle: a.handle, OnStream: a.onStream,
		Types: agentTypes()})
	ctx, stop := context.WithCancel(s.t.Context())
	a.stop = stop
	go func() { a.done <- c.Run(ctx) }()
	s.t.Cleanup(func() {
		stop()
		if err := <-a.done; err != nil {
			s.t.Error(err)
		}
	})
	return a
}

func (a *agent) handle(r *Response) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	defer a.cond.Broadcast()
	for _, res := range r.Resources {
		if a.refuse != "" && res.Version == a.refuse {
			return fmt.Errorf("%s: bad value", res.Name)
		}
	}
	for _, res := range r.Resources {
		a.held[r.Type][res.Name] = res.Version
	}
	for _, name := range r.Removed {
		delete(a.held[r.Type], name)
	}
	return nil
}

func (a *agent) onStream(err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err == nil {
		a.up++
	} else {
		a.errs = append(a.errs, err)
	}
	a.cond.Broadcast()
}

// until waits for a condition on the agent.
func (a *agent) until(ok func() bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for !ok() {
		a.cond.Wait()
	}
}

func (a *agent) has(want [translator.NumTypes]map[string]string) func() bool {
	return func() bool {
		for i := range want {
			if !maps.Equal(a.held[i], want[i]) {
				return false
			}
		}
		return true
	}
}

func TestAgentsAreBroughtUpToDateOverMutualTLS(t *testing.T) {
	s := newSite(t)
	s.apply()
	a, b := s.agent("p0", s.dial("p0")), s.agent("p1", s.dial("p1"))
	a.until(a.has(s.w.inScope("p0")))
	b.until(b.has(s.w.inScope("p1")))
	s.w.resources[translator.Key{Type: translator.Endpoint, Name: "c-0"}] = "new"
	if got := s.apply(); got != [2]int{2, 0} {
		t.Errorf("%d proxies updated, %d refused; want 2, 0", got[0], got[1])
	}
	a.until(a.has(s.w.inScope("p0")))
	for _, st := range s.srv.Proxies() {
		if !st.Connected || !st.Synced {
			t.Errorf("%+v", st)
		}
	}
}

func TestAReconnectTransfersNoResource(t *testing.T) {
	s := newSite(t)
	s.apply()
	conn := s.dial("p0")
	a := s.agent("p0", conn)
	a.until(a.has(s.w.inScope("p0")))
	clusters, routes := s.sent(translator.Cluster), s.sent(translator.Route)
	s.srv.mu.Lock()
	st := s.srv.proxies["p0"].stream
	st.kicked = "try again"
	s.srv.queue(st)
	s.srv.mu.Unlock()
	s.awaitSync("p0", st)
	s.w.resources[translator.Key{Type: translator.Route, Name: "r-0"}] = "new"
	if got := s.apply(); got != [2]int{1, 0} {
		t.Errorf("%d proxies updated, %d refused; want 1, 0", got[0], got[1])
	}
	a.until(a.has(s.w.inScope("p0")))
	if got := s.sent(translator.Cluster) - clusters; got != 0 {
		t.Errorf("%v clusters sent again", got)
	}
	if got := s.sent(translator.Route) - routes; got != 1 {
		t.Errorf("%v routes sent, want the one that changed", got)
	}
}

// awaitSync waits until a proxy that is an agent has another stream than old, has asked for all its types there and
// has acknowledged everything.
func (s *site) awaitSync(proxy string, old *stream) {
	synced := func() bool {
		s.srv.mu.Lock()
		defer s.srv.mu.Unlock()
		p := s.srv.proxies[proxy]
		st := s.srv.status(p)
		return p.stream != old && st.Synced && len(st.Types) == len(agentTypes())
	}
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !synced() {
		<-tick.C
	}
}

// sent returns how many resources of a type were sent, as the metrics have it.
func (s *site) sent(typ translator.Type) (n float64) {
	families, err := s.reg.Gather()
	if err != nil {
		s.t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.Metric {
			if f.GetName() == "wattle_xds_resources_total" && m.Label[0].GetValue() == typ.String() {
				n += m.Counter.GetValue()
			}
		}
	}
	return n
}

func TestARefusalReachesTheStatus(t *testing.T) {
	s := newSite(t)
	s.apply()
	a := s.agent("p0", s.dial("p0"))
	a.until(a.has(s.w.inScope("p0")))
	a.refuse = "bad"
	s.w.resources[translator.Key{Type: translator.Route, Name: "r-0"}] = "bad"
	if got := s.apply(); got != [2]int{1, 1} {
		t.Errorf("%d proxies updated, %d refused; want 1, 1", got[0], got[1])
	}
	st := s.srv.Proxies()[0]
	n := st.Types[len(st.Types)-1].Nack
	if n == nil || n.Message != "r-0: bad value" || len(n.Resources) != 1 || n.Resources[0].Origin == "" {
		t.Errorf("%+v", n)
	}
}

func TestANewerStreamReplacesTheOlder(t *testing.T) {
	s := newSite(t)
	s.apply()
	a := s.agent("p0", s.dial("p0"))
	a.until(a.has(s.w.inScope("p0")))
	conn := s.dial("p0")
	g, err := discoveryv3.NewAggregatedDiscoveryServiceClient(conn).DeltaAggregatedResources(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Send(&discoveryv3.DeltaDiscoveryRequest{Node: &corev3.Node{Id: "p0"}, TypeUrl: translator.Cluster.URL()}); err != nil {
		t.Fatal(err)
	}
	if _, err := g.Recv(); err != nil {
		t.Fatal(err)
	}
	a.until(func() bool { return len(a.errs) > 0 })
	if !strings.Contains(a.errs[0].Error(), "replaced") {
		t.Errorf("the older stream ended with %v", a.errs[0])
	}
}

func TestAStreamOfAnotherNodeIsRefused(t *testing.T) {
	s := newSite(t)
	client := discoveryv3.NewAggregatedDiscoveryServiceClient(s.dial("p0"))
	for name, tc := range map[string]struct {
		requests []*discoveryv3.DeltaDiscoveryRequest
		want     codes.Code
	}{
		"no node":     {[]*discoveryv3.DeltaDiscoveryRequest{{TypeUrl: translator.Cluster.URL()}}, codes.InvalidArgument},
		"not its own": {[]*discoveryv3.DeltaDiscoveryRequest{{Node: &corev3.Node{Id: "p1"}}}, codes.PermissionDenied},
		"changes": {[]*discoveryv3.DeltaDiscoveryRequest{{Node: &corev3.Node{Id: "p0"}}, {Node: &corev3.Node{Id: "p0"}},
			{Node: &corev3.Node{Id: "p1"}}}, codes.InvalidArgument},
	} {
		t.Run(name, func(t *testing.T) {
			g, err := client.DeltaAggregatedResources(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range tc.requests {
				if err := g.Send(r); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := g.Recv(); status.Code(err) != tc.want {
				t.Errorf("got %v, want %v", err, tc.want)
			}
		})
	}
}

func TestOtherServicesShareTheServer(t *testing.T) {
	s := newSite(t)
	conn := s.dial("p0")
	r, err := healthpb.NewHealthClient(conn).Check(t.Context(), &healthpb.HealthCheckRequest{})
	if err != nil || r.Status != healthpb.HealthCheckResponse_SERVING {
		t.Errorf("health: %v, %v", r, err)
	}
	g, err := discoveryv3.NewAggregatedDiscoveryServiceClient(conn).StreamAggregatedResources(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := g.Recv(); status.Code(err) != codes.Unimplemented {
		t.Errorf("the state-of-the-world protocol: %v, want Unimplemented", err)
	}
}

func TestAClientThatDoesNotReadDelaysNobody(t *testing.T) {
	s := newSite(t)
	big := strings.Repeat("x", 1<<20)
	for i := range 4 {
		m := &mesh{w: s.w, serial: 100 * (i + 1)}
		m.service(i, nil)
	}
	(&mesh{w: s.w, serial: 1000}).caller(0, []int{0, 1, 2, 3})
	for k, v := range s.w.resources {
		if k.Type == translator.Cluster {
			s.w.resources[k] = v + ">" + big
		}
	}
	s.apply()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	g, err := discoveryv3.NewAggregatedDiscoveryServiceClient(s.dial("p1")).DeltaAggregatedResources(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for i := range translator.NumTypes { // and reads nothing
		if err := g.Send(&discoveryv3.DeltaDiscoveryRequest{Node: &corev3.Node{Id: "p1"}, TypeUrl: translator.Type(i).URL()}); err != nil {
			t.Fatal(err)
		}
	}
	a := s.agent("p0", s.dial("p0"))
	a.until(a.has(s.w.inScope("p0")))
	for i := range 100 {
		s.w.resources[translator.Key{Type: translator.Endpoint, Name: "c-0"}] = fmt.Sprint("new", i)
		s.srv.Apply(s.w.since(s.was))
		s.was = s.w.clone()
	}
	a.until(a.has(s.w.inScope("p0")))
	cancel()
	if _, err := g.Recv(); !errors.Is(err, context.Canceled) && status.Code(err) != codes.Canceled {
		for err == nil {
			_, err = g.Recv()
		}
	}
}
