package api

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io"
	"log/slog"
	"math/big"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"

	"github.com/wattle-mesh/wattle/configs"
	"github.com/wattle-mesh/wattle/internal/api/apipb"
	"github.com/wattle-mesh/wattle/internal/ca"
	"github.com/wattle-mesh/wattle/internal/spiffe"
	"github.com/wattle-mesh/wattle/translator"
)

// renew asks for the node's own certificate, with the key of the one that it has.
func (w *world) renew(cert tls.Certificate) (*apipb.SignResponse, error) {
	w.t.Helper()
	return w.dial(cert).Sign(w.t.Context(), &apipb.SignRequest{Csr: newCSR(w.t, cert.PrivateKey.(*ecdsa.PrivateKey))})
}

func TestANodeThatIsLateRenewsAndGoesOn(t *testing.T) {
	for _, late := range []time.Duration{0, time.Minute, lateRenewal - time.Minute} {
		for _, identity := range []string{"", "spiffe://corp.example/node/h1"} {
			w := newWorld(t)
			cert := w.admitted("h1")
			key := cert.PrivateKey.(*ecdsa.PrivateKey)
			w.clock.pass(ca.NodeLife + late)
			resp, err := w.dial(cert).Sign(t.Context(), &apipb.SignRequest{Identity: identity, Csr: newCSR(t, key)})
			if err != nil {
				t.Fatalf("%s after its end, as %q: %v", late, identity, err)
			}
			leaf, err := x509.ParseCertificate(resp.GetChain()[0])
			if err != nil || !key.PublicKey.Equal(leaf.PublicKey) || resp.GetIdentity() != "spiffe://corp.example/node/h1" ||
				leaf.NotAfter.Before(w.clock.now().Add(ca.NodeLife-time.Minute)) {
				t.Errorf("it got %s for %s until %s: %v", resp.GetIdentity(), leaf.URIs, leaf.NotAfter, err)
			}
			w.streams(w.conn(tls.Certificate{Certificate: resp.GetChain(), PrivateKey: key}, "127.0.0.1"), "h1/host")
		}
	}
}

func TestANodeThatIsLateMayDoNothingElse(t *testing.T) {
	w := newWorld(t)
	w.policy([]*configs.Host{{Name: "h1", Services: []*configs.Service{service("reviews")}}})
	cert := w.admitted("h1", "*/*")
	key := cert.PrivateKey.(*ecdsa.PrivateKey)
	w.clock.pass(ca.NodeLife + time.Hour)
	conn := w.conn(cert, "127.0.0.1")
	c := apipb.NewNodeClient(conn)
	for _, id := range []string{
		"spiffe://corp.example/ns/shop/svc/reviews", "spiffe://corp.example/node/h2", "spiffe://corp.example/server", "spiffe://evil.example/node/h1", "h1",
	} {
		_, err := c.Sign(t.Context(), &apipb.SignRequest{Identity: id, Csr: newCSR(t, key)})
		wantCode(t, "the identity "+id, err, codes.Unauthenticated, "may be renewed for the same key")
	}
	_, err := c.Sign(t.Context(), &apipb.SignRequest{Csr: newCSR(t, newKey(t))})
	wantCode(t, "another key", err, codes.InvalidArgument, "another key")
	_, err = c.Sign(t.Context(), &apipb.SignRequest{Csr: []byte("hello")})
	wantCode(t, "no signing request", err, codes.InvalidArgument, "signing request")
	reports, err := c.Report(t.Context())
	if err == nil {
		_, err = reports.Recv()
	}
	wantCode(t, "a report", err, codes.Unauthenticated, "may be renewed for the same key")
	stream, err := discoveryv3.NewAggregatedDiscoveryServiceClient(conn).DeltaAggregatedResources(t.Context())
	if err == nil {
		_ = stream.Send(&discoveryv3.DeltaDiscoveryRequest{Node: &corev3.Node{Id: "h1/host"}, TypeUrl: translator.Cluster.URL()}) // Recv says why
		_, err = stream.Recv()
	}
	wantCode(t, "xDS", err, codes.Unauthenticated, "may be renewed for the same key")
	err = conn.Invoke(t.Context(), apipb.Node_Sign_FullMethodName, struct{}{}, nil, grpc.ForceCodecV2(flood{make([]byte, strangerMessage+1)}))
	wantCode(t, "a large message", err, codes.ResourceExhausted, "larger than max")
}

func TestANodeThatIsTooLateHasToJoinAgain(t *testing.T) {
	w := newWorld(t)
	cert := w.admitted("h1", "shop/reviews")
	w.clock.pass(ca.NodeLife + lateRenewal + time.Second)
	_, err := w.renew(cert)
	wantCode(t, "too late", err, codes.Unauthenticated, "wattle token create -node h1")

	key := cert.PrivateKey.(*ecdsa.PrivateKey)
	resp, err := w.dial(selfSigned(t, key)).Join(t.Context(), &apipb.JoinRequest{Token: w.token(TokenRequest{Node: "h1"}).Text(), Csr: newCSR(t, key)})
	if err != nil {
		t.Fatal(err)
	}
	w.streams(w.conn(tls.Certificate{Certificate: resp.GetChain(), PrivateKey: key}, "127.0.0.1"), "h1/host")
	if n, ok, err := w.store.Node("h1"); !ok || err != nil || !n.Grant.Service("shop", "reviews") {
		t.Errorf("it came back as %+v, %v", n, err)
	}
}

func TestANodeThatIsNotKnownMayNotBeLate(t *testing.T) {
	w := newWorld(t)
	cert := w.issue(spiffe.ForNode(td, "h1"), "h1") // the store has no such node
	w.clock.pass(ca.NodeLife + time.Hour)
	_, err := w.renew(cert)
	wantCode(t, "evicted", err, codes.PermissionDenied, "wattle token create -node h1")
}

func TestLateRenewalsAreLimitedByAddress(t *testing.T) {
	w := newWorld(t)
	cert := w.admitted("h1")
	w.clock.pass(ca.NodeLife + time.Hour)
	c := w.dial(cert)
	for i := 0; ; i++ {
		_, err := c.Sign(t.Context(), &apipb.SignRequest{Csr: newCSR(t, cert.PrivateKey.(*ecdsa.PrivateKey))})
		if err != nil {
			wantCode(t, "one more", err, codes.ResourceExhausted, "from this address")
			return
		}
		if i > 10*joinBurst {
			t.Fatalf("%d were answered", i)
		}
	}
}

func TestTheConnectionOfANodeThatIsLateIsShort(t *testing.T) {
	w := newWorld(t)
	p := NewPort(PortOptions{Log: slog.New(slog.DiscardHandler), CA: w.ca, Node: w.node})
	p.brief = 100 * time.Millisecond
	w.listen(p)
	cert := w.admitted("h1")
	w.clock.pass(ca.NodeLife + time.Hour)
	conn, err := tls.Dial("tcp", w.address, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}, Certificates: []tls.Certificate{cert}})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, conn); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("it stands")
	}
}

// signerOf is a CA certificate of the world's with its key.
type signerOf struct {
	cert *x509.Certificate
	key  any
}

// root returns the one of the CA's folder.
func (w *world) root() signerOf {
	w.t.Helper()
	text, err := os.ReadFile(filepath.Join(w.dir, "ca", "root.pem"))
	if err != nil {
		w.t.Fatal(err)
	}
	cert, rest := pem.Decode(text)
	key, _ := pem.Decode(rest)
	root, err := x509.ParseCertificate(cert.Bytes)
	if err != nil {
		w.t.Fatal(err)
	}
	private, err := x509.ParsePKCS8PrivateKey(key.Bytes)
	if err != nil {
		w.t.Fatal(err)
	}
	return signerOf{root, private}
}

// sign makes a certificate that s signs, which is good from one hour to another, counted from now. With an id it is a
// leaf, else a CA's.
func (s signerOf) sign(t *testing.T, now time.Time, from, to int, id string) signerOf {
	t.Helper()
	key := newKey(t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(now.UnixNano()), NotBefore: now.Add(time.Duration(from) * time.Hour), NotAfter: now.Add(time.Duration(to) * time.Hour),
		BasicConstraintsValid: true, Subject: pkix.Name{CommonName: "CA"},
	}
	if id == "" {
		template.IsCA, template.KeyUsage = true, x509.KeyUsageCertSign
	} else {
		uri, err := url.Parse(id)
		if err != nil {
			t.Fatal(err)
		}
		template.URIs, template.ExtKeyUsage = []*url.URL{uri}, []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, s.cert, key.Public(), s.key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return signerOf{cert, key}
}

func TestWhatWasNeverValidMayNotBeLate(t *testing.T) {
	w := newWorld(t)
	now, root := w.clock.now(), w.root()
	const h1 = "spiffe://corp.example/node/h1"
	const always = 1000
	foreign, err := ca.Open(filepath.Join(t.TempDir(), "ca"), td, func() time.Time { return now.Add(-ca.NodeLife - time.Hour) })
	if err != nil {
		t.Fatal(err)
	}
	key := newKey(t)
	stranger, err := foreign.Sign(newCSR(t, key), spiffe.ForNode(td, "h1"), "h1")
	if err != nil {
		t.Fatal(err)
	}
	chain := func(from, to, leafFrom, leafTo int, id string) []*x509.Certificate {
		// The root began when this test did: what lies before it is moved behind.
		between := root.sign(t, now.Add(always*time.Hour), from, to, "")
		return []*x509.Certificate{between.sign(t, now.Add(always*time.Hour), leafFrom, leafTo, id).cert, between.cert}
	}
	classify := func(chain []*x509.Certificate, at time.Time) *Peer {
		authority, err := ca.Open(filepath.Join(w.dir, "ca"), td, func() time.Time { return at })
		if err != nil {
			t.Fatal(err)
		}
		return (&transport{ca: authority}).classify(credentials.TLSInfo{State: tls.ConnectionState{PeerCertificates: chain}})
	}
	for name, c := range map[string]struct {
		chain []*x509.Certificate
		says  string // empty: it may be renewed
	}{
		"one that has just ended":                         {chain(-100, 100, -30, -1, h1), ""},
		"an intermediate that ended with it":              {chain(-100, -1, -30, -1, h1), ""},
		"an intermediate that ended before it":            {chain(-100, -2, -30, -1, h1), "not a valid one"},
		"an intermediate that began after it":             {chain(0, 100, -30, -1, h1), "not a valid one"},
		"an end before its beginning":                     {chain(-100, 100, 0, -1, h1), "not a valid one"},
		"one that has yet to begin":                       {chain(-100, 100, 1, 2, h1), "not a valid one"},
		"a workload's":                                    {chain(-100, 100, -30, -1, "spiffe://corp.example/ns/shop/svc/reviews"), "a service's"},
		"a server's":                                      {chain(-100, 100, -30, -1, "spiffe://corp.example/server"), "a server's"},
		"another trust domain's":                          {chain(-100, 100, -30, -1, "spiffe://other.example/node/h1"), "trust domain other.example"},
		"one that ended eight days ago":                   {chain(-500, 100, -400, -8*24, h1), "join again"},
		"one that ended before its intermediate, of late": {chain(-500, -7*24, -400, -6*24, h1), "not a valid one"},
	} {
		who := classify(c.chain, now.Add(always*time.Hour))
		if who.Node != "" || (who.late == "h1") != (c.says == "") || !strings.Contains(who.Refusal, c.says) {
			t.Errorf("%s: node %q, late %q, refused for %q", name, who.Node, who.late, who.Refusal)
		}
	}

	// Another CA's, under its own chain and under ours.
	leaf, err := x509.ParseCertificate(stranger.Chain[0])
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := x509.ParseCertificate(stranger.Chain[1])
	if err != nil {
		t.Fatal(err)
	}
	for _, between := range []*x509.Certificate{theirs, root.cert} {
		if who := classify([]*x509.Certificate{leaf, between}, now); who.late != "" || !strings.Contains(who.Refusal, "not a valid one") {
			t.Errorf("another CA's is late as %q, refused for %q", who.late, who.Refusal)
		}
	}

	// A root that has ended since.
	end := root.cert.NotAfter
	between := root.sign(t, end, -100, 0, "")
	last := []*x509.Certificate{between.sign(t, end, -30, 0, h1).cert, between.cert}
	if who := classify(last, end); who.late != "h1" {
		t.Errorf("in the root's last second: refused for %q", who.Refusal)
	}
	if who := classify(last, end.Add(time.Second)); who.late != "" || !strings.Contains(who.Refusal, "the root ended") {
		t.Errorf("late as %q, refused for %q", who.late, who.Refusal)
	}
	slices.Reverse(last)
	if who := classify(last, end.Add(-time.Minute)); who.late != "" || who.Node != "" {
		t.Errorf("an intermediate is node %q, late %q", who.Node, who.late)
	}
}
