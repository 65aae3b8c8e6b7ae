package api

import (
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"

	"github.com/wattle-mesh/wattle/internal/api/apipb"
	"github.com/wattle-mesh/wattle/internal/ca"
	"github.com/wattle-mesh/wattle/internal/spiffe"
	"github.com/wattle-mesh/wattle/internal/xds"
	"github.com/wattle-mesh/wattle/translator"
)

// issueUntil makes a node certificate that ends so much later than now.
func (w *world) issueUntil(node string, left time.Duration) tls.Certificate {
	w.t.Helper()
	past, err := ca.Open(filepath.Join(w.dir, "ca"), td, func() time.Time { return w.clock.now().Add(left - ca.NodeLife) })
	if err != nil {
		w.t.Fatal(err)
	}
	now := w.ca
	defer func() { w.ca = now }()
	w.ca = past
	return w.issue(spiffe.ForNode(td, node), node)
}

// streams opens a stream of xDS and one of reports, which are both answered.
func (w *world) streams(conn *grpc.ClientConn, proxy string) (*reporting, discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesClient) {
	w.t.Helper()
	r := report(w.t, apipb.NewNodeClient(conn))
	r.say(&apipb.ReportRequest{})
	stream, err := discoveryv3.NewAggregatedDiscoveryServiceClient(conn).DeltaAggregatedResources(w.t.Context())
	if err == nil {
		err = stream.Send(&discoveryv3.DeltaDiscoveryRequest{Node: &corev3.Node{Id: proxy}, TypeUrl: translator.Cluster.URL()})
	}
	if err == nil {
		_, err = stream.Recv()
	}
	if err != nil {
		w.t.Fatal(err)
	}
	return r, stream
}

func TestStreamsEndWithTheCertificate(t *testing.T) {
	w := newWorld(t)
	cert := w.issueUntil("h1", 2*time.Second) // or less: certificates end at whole seconds
	leaf, err := x509.ParseCertificate(cert.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	conn := w.conn(cert, "127.0.0.1")
	reports, stream := w.streams(conn, "h1/host")
	_, err = stream.Recv()
	wantCode(t, "xDS", err, codes.Unavailable, "")
	_, err = reports.stream.Recv()
	wantCode(t, "reports", err, codes.Unavailable, "")
	if late := w.clock.now().Sub(leaf.NotAfter); late < 0 || late > 3*time.Second {
		t.Errorf("they ended %s after the certificate", late)
	}
	_, err = apipb.NewNodeClient(conn).Sign(t.Context(), &apipb.SignRequest{})
	wantCode(t, "a call with the certificate that ended", err, codes.InvalidArgument, "signing request") // as one that is late
}

func TestAnOldConnectionIsReplaced(t *testing.T) {
	w := newWorld(t)
	p := NewPort(PortOptions{Log: slog.New(slog.DiscardHandler), CA: w.ca, Node: w.node, XDS: w.xds})
	p.age, p.grace = 50*time.Millisecond, 50*time.Millisecond
	w.listen(p)
	conn := w.conn(w.issue(spiffe.ForNode(td, "h1"), "h1"), "127.0.0.1")
	for range 2 {
		reports, stream := w.streams(conn, "h1/host")
		for what, err := range map[string]error{"xDS": second(stream.Recv()), "reports": second(reports.stream.Recv())} {
			if !xds.Aged(err) {
				t.Errorf("%s ended with %v", what, err)
			}
		}
	}
	eventually(t, "the connections to be forgotten", func() error {
		p.guests.mu.Lock()
		defer p.guests.mu.Unlock()
		if g := p.guests.of["h1"]; g != nil {
			if n := g.conns.size(); n > 1 {
				return fmt.Errorf("%d are there", n)
			}
		}
		return nil
	})
}

func second[T any](_ T, err error) error { return err }

// flood is a message of many bytes that the client has once.
type flood struct{ data []byte }

func (f flood) Marshal(any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(f.data)}, nil
}
func (flood) Unmarshal(mem.BufferSlice, any) error { return nil }
func (flood) Name() string                         { return "proto" }

// allocated returns how many bytes the process has ever allocated.
func allocated() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.TotalAlloc
}

func TestAStrangerCannotTakeTheMemory(t *testing.T) {
	w := newWorld(t)
	message := flood{make([]byte, 15<<20)}
	before := allocated()
	var wg sync.WaitGroup
	for _, method := range []string{apipb.Node_Join_FullMethodName, apipb.Node_Sign_FullMethodName} {
		conn := w.conn(selfSigned(t, newKey(t)), "127.0.0.1")
		for range 100 {
			wg.Go(func() {
				err := conn.Invoke(t.Context(), method, struct{}{}, nil, grpc.ForceCodecV2(message))
				if c := status.Code(err); c != codes.ResourceExhausted && c != codes.Unauthenticated {
					t.Errorf("%s: %v", method, err)
				}
			})
		}
	}
	wg.Wait()
	// All of it is 3 GB.
	if took := (allocated() - before) >> 20; took > 200 {
		t.Errorf("the server took %d MB for it", took)
	}
}

func TestANodeHasBounds(t *testing.T) {
	w := newWorld(t)
	cert := w.issue(spiffe.ForNode(td, "h1"), "h1")
	first := w.conn(cert, "127.0.0.1")
	err := first.Invoke(t.Context(), apipb.Node_Sign_FullMethodName, struct{}{}, nil, grpc.ForceCodecV2(flood{make([]byte, nodeMessage+1)}))
	wantCode(t, "a large message", err, codes.ResourceExhausted, "larger than max")

	// The streams of all its connections count.
	conns := []*grpc.ClientConn{first, w.conn(cert, "127.0.0.1")}
	open := func(i int) (discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesClient, error) {
		stream, err := discoveryv3.NewAggregatedDiscoveryServiceClient(conns[i%2]).DeltaAggregatedResources(t.Context())
		if err == nil {
			err = stream.Send(&discoveryv3.DeltaDiscoveryRequest{Node: &corev3.Node{Id: fmt.Sprintf("h1/p%d", i)}, TypeUrl: translator.Cluster.URL()})
		}
		if err == nil || err == io.EOF { // the reason is read
			_, err = stream.Recv()
		}
		return stream, err
	}
	var last discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesClient
	for i := range nodeStreams {
		if last, err = open(i); err != nil {
			t.Fatalf("stream %d: %v", i, err)
		}
	}
	_, err = open(nodeStreams)
	wantCode(t, "one more", err, codes.ResourceExhausted, "calls of one node")
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	conns[0] = conns[1]
	eventually(t, "streams that ended to count no more", func() error { return second(open(nodeStreams)) })

	// So do its connections: last is on the oldest.
	for range maxOfNode {
		c := apipb.NewNodeClient(w.conn(cert, "127.0.0.1"))
		if _, err := c.Sign(t.Context(), &apipb.SignRequest{Csr: newCSR(t, newKey(t))}); err != nil {
			t.Fatal(err)
		}
	}
	_, err = last.Recv()
	wantCode(t, "the oldest connection", err, codes.Unavailable, "")
}

func TestOfTooManyConnectionsTheOldestGoes(t *testing.T) {
	w := newWorld(t)
	p := NewPort(PortOptions{Log: slog.New(slog.DiscardHandler), CA: w.ca, Node: w.node})
	p.strangers, p.shaking = newCrowd(3), newCrowd(3)
	w.listen(p)
	key := newKey(t)
	join := func() (*grpc.ClientConn, error) {
		conn := w.conn(selfSigned(t, key), "127.0.0.1")
		_, err := apipb.NewNodeClient(conn).Join(t.Context(), &apipb.JoinRequest{Token: "x", Csr: newCSR(t, key)})
		return conn, err
	}
	for i := range 10 {
		if _, err := join(); status.Code(err) != codes.InvalidArgument {
			t.Fatalf("stranger %d: %v", i, err)
		}
		if n := p.strangers.size(); n > 3 {
			t.Fatalf("%d strangers are connected", n)
		}
	}

	var silent []net.Conn
	for range 10 {
		c, err := net.Dial("tcp", w.address)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		silent = append(silent, c)
	}
	for _, c := range silent[:7] {
		if _, err := c.Read(make([]byte, 1)); err == nil {
			t.Error("the server spoke to who was silent")
		}
	}
	if _, err := join(); status.Code(err) != codes.InvalidArgument {
		t.Errorf("a stranger that comes after those that are silent: %v", err)
	}
}

func TestAHandshakeIsSmall(t *testing.T) {
	w := newWorld(t)
	cert := selfSigned(t, newKey(t))
	for range 100 {
		cert.Certificate = append(cert.Certificate, w.ca.Roots()[0])
	}
	_, err := w.dial(cert).Join(t.Context(), &apipb.JoinRequest{Token: "x", Csr: newCSR(t, cert.PrivateKey.(*ecdsa.PrivateKey))})
	wantCode(t, "a chain of 100", err, codes.Unavailable, "")
}

func TestAStrangerIsNotKept(t *testing.T) {
	a, b := net.Pipe()
	defer b.Close()
	now := time.Now()
	left := false
	c := &admitted{Conn: a, raw: a, end: now.Add(time.Millisecond), now: time.Now, leave: func() { left = true }}
	c.watch()
	if _, err := b.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("the other end read %v", err)
	}
	if err := c.Close(); err != nil || !left {
		t.Errorf("closed: %v, %t", err, left)
	}
}

func TestTheTrustDomainOfAPeerCounts(t *testing.T) {
	w := newWorld(t)
	leaf, err := x509.ParseCertificate(w.issue(spiffe.ForNode(td, "h1"), "h1").Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	between, err := x509.ParseCertificate(w.issue(spiffe.ForNode(td, "h1"), "h1").Certificate[1])
	if err != nil {
		t.Fatal(err)
	}
	info := credentials.TLSInfo{State: tls.ConnectionState{PeerCertificates: []*x509.Certificate{leaf, between}}}
	shared := *w.ca
	if who := (&transport{ca: &shared}).classify(info); who.Node != "h1" {
		t.Errorf("a node of the mesh is refused: %s", who.Refusal)
	}
	shared.TrustDomain = "other.example" // of another mesh under the same root
	if who := (&transport{ca: &shared}).classify(info); who.Node != "" || !strings.Contains(who.Refusal, "trust domain "+td) {
		t.Errorf("a node of another trust domain is node %q, refused for %q", who.Node, who.Refusal)
	}
}
