package api

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"fmt"
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
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/wattle-mesh/wattle/configs"
	"github.com/wattle-mesh/wattle/internal/api/apipb"
	"github.com/wattle-mesh/wattle/internal/ca"
	"github.com/wattle-mesh/wattle/internal/pipeline"
	"github.com/wattle-mesh/wattle/internal/spiffe"
	"github.com/wattle-mesh/wattle/internal/store"
	"github.com/wattle-mesh/wattle/internal/xds"
	"github.com/wattle-mesh/wattle/translator"
)

// What others are wired to.
var _ pipeline.Revisions = (*store.Store)(nil)

func TestAuthorizeProxyFitsXDS(t *testing.T) {
	var o xds.Options
	o.Authorize = AuthorizeProxy
	if _, err := o.Authorize(t.Context(), &corev3.Node{Id: "h1/host"}); status.Code(err) != codes.Unauthenticated {
		t.Errorf("without a peer: %v", err)
	}
}

func (w *world) token(r TokenRequest) Token {
	w.t.Helper()
	resp, err := w.node.CreateToken(r)
	if err != nil {
		w.t.Fatal(err)
	}
	token, err := ParseToken(resp.Token)
	if err != nil {
		w.t.Fatal(err)
	}
	return token
}

func TestAHostJoinsAndRenews(t *testing.T) {
	w := newWorld(t)
	token := w.token(TokenRequest{Node: "h1", Services: []string{"shop/reviews"}})
	if token.CA != w.ca.Pin() || token.Node != "h1" {
		t.Errorf("the token pins %s for %s", token.CA, token.Node)
	}
	key := newKey(t)
	resp, err := w.dial(selfSigned(t, key)).Join(t.Context(), &apipb.JoinRequest{Token: token.Text() + "\n", Csr: newCSR(t, key)})
	if err != nil {
		t.Fatal(err)
	}
	if resp.GetIdentity() != "spiffe://corp.example/node/h1" || !slices.EqualFunc(resp.GetRoots(), w.ca.Roots(), slices.Equal) {
		t.Errorf("identity %s, %d roots", resp.GetIdentity(), len(resp.GetRoots()))
	}
	if n, ok, err := w.store.Node("h1"); !ok || err != nil || !n.Grant.Service("shop", "reviews") {
		t.Errorf("node %+v, %v", n, err)
	}
	next := newKey(t)
	c := w.dial(tls.Certificate{Certificate: resp.GetChain(), PrivateKey: key})
	for _, identity := range []string{"", "spiffe://corp.example/node/h1"} {
		renewed, err := c.Sign(t.Context(), &apipb.SignRequest{Identity: identity, Csr: newCSR(t, next)})
		if err != nil || renewed.GetIdentity() != "spiffe://corp.example/node/h1" {
			t.Fatalf("renew as %q: %v, %v", identity, renewed, err)
		}
		leaf, err := x509.ParseCertificate(renewed.GetChain()[0])
		if err != nil || !next.PublicKey.Equal(leaf.PublicKey) || !slices.Equal(leaf.DNSNames, []string{"h1.node.corp.example"}) {
			t.Errorf("renewed: %v, %v", leaf.DNSNames, err)
		}
		if at := renewed.GetNotAfter().AsTime(); !at.Equal(leaf.NotAfter) {
			t.Errorf("it is said to end %s, and ends %s", at, leaf.NotAfter)
		}
	}
}

func TestJoinRefuses(t *testing.T) {
	w := newWorld(t)
	key, other := newKey(t), newKey(t)
	c := w.dial(selfSigned(t, key))
	good := w.token(TokenRequest{Node: "h1"})
	wrongNode := Token{good.CA, good.Secret, "h2"}
	guessed := Token{good.CA, make([]byte, 32), "h1"}
	badName := Token{good.CA, good.Secret, "../h1"}
	p224, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, try := range map[string]struct {
		token string
		csr   []byte
		want  codes.Code
	}{
		"no token":                         {"", newCSR(t, key), codes.InvalidArgument},
		"no request":                       {good.Text(), nil, codes.InvalidArgument},
		"another key than the handshake's": {good.Text(), newCSR(t, other), codes.InvalidArgument},
		"a weak key":                       {good.Text(), newCSR(t, p224), codes.InvalidArgument},
		"an oversize request":              {good.Text(), make([]byte, 17<<10), codes.InvalidArgument},
		"a message that is no join's":      {good.Text(), make([]byte, 1<<20), codes.ResourceExhausted},
		"another node's token":             {wrongNode.Text(), newCSR(t, key), codes.PermissionDenied},
		"a guessed secret":                 {guessed.Text(), newCSR(t, key), codes.PermissionDenied},
		"a name that is none":              {badName.Text(), newCSR(t, key), codes.InvalidArgument},
	} {
		_, err := c.Join(t.Context(), &apipb.JoinRequest{Token: try.token, Csr: try.csr})
		wantCode(t, name, err, try.want, "")
	}
	// None of that used the token up.
	if _, err := c.Join(t.Context(), &apipb.JoinRequest{Token: good.Text(), Csr: newCSR(t, key)}); err != nil {
		t.Errorf("the good token: %v", err)
	}
	_, err = c.Join(t.Context(), &apipb.JoinRequest{Token: good.Text(), Csr: newCSR(t, key)})
	wantCode(t, "a used token", err, codes.PermissionDenied, "not valid")

	late := w.token(TokenRequest{Node: "h3", TTL: configs.Duration(time.Minute)})
	w.clock.pass(time.Minute)
	_, err = c.Join(t.Context(), &apipb.JoinRequest{Token: late.Text(), Csr: newCSR(t, key)})
	wantCode(t, "an old token", err, codes.PermissionDenied, "not valid")
}

func TestOfManyThatJoinWithOneTokenOneWins(t *testing.T) {
	w := newWorld(t)
	token := w.token(TokenRequest{Node: "h1"}).Text()
	var wg sync.WaitGroup
	won := make(chan bool, 8)
	for range cap(won) {
		key := newKey(t)
		c := w.dial(selfSigned(t, key))
		csr := newCSR(t, key)
		wg.Go(func() {
			_, err := c.Join(t.Context(), &apipb.JoinRequest{Token: token, Csr: csr})
			if err != nil && status.Code(err) != codes.PermissionDenied {
				t.Error(err)
			}
			won <- err == nil
		})
	}
	wg.Wait()
	close(won)
	n := 0
	for ok := range won {
		if ok {
			n++
		}
	}
	if n != 1 {
		t.Errorf("%d joined", n)
	}
}

func TestJoinsAreLimitedByAddress(t *testing.T) {
	w := newWorld(t)
	key := newKey(t)
	join := func(from string) error {
		_, err := apipb.NewNodeClient(w.conn(selfSigned(t, key), from)).Join(t.Context(), &apipb.JoinRequest{Token: "x", Csr: newCSR(t, key)})
		return err
	}
	for range joinBurst {
		w.node.limit.allow(netip.MustParseAddr("127.0.0.5"))
	}
	wantCode(t, "too many", join("127.0.0.5"), codes.ResourceExhausted, "too many")
	wantCode(t, "another address", join("127.0.0.6"), codes.InvalidArgument, "no join token")
}

func TestTheLimiterIsBounded(t *testing.T) {
	l := newLimiter()
	for i := range 3 * joinPeers {
		l.allow(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}))
	}
	if len(l.peers) > joinPeers {
		t.Errorf("%d peers are remembered", len(l.peers))
	}
	for range joinBurst {
		l.allow(netip.MustParseAddr("2001:db8::1"))
	}
	if l.allow(netip.MustParseAddr("2001:db8::ffff")) || !l.allow(netip.MustParseAddr("2001:db8:0:1::1")) {
		t.Error("an IPv6 network of 64 bits does not count as one peer")
	}
}

// No node: each of these may Join and nothing else, or not even shake hands.
func TestOnlyNodesMayCall(t *testing.T) {
	w := newWorld(t)
	w.policy([]*configs.Host{{Name: "h1", Services: []*configs.Service{service("reviews")}}})
	expired := w.issue(spiffe.ForNode(td, "h1"), "h1")
	w.clock.pass(ca.NodeLife + lateRenewal + time.Hour)
	otherCA, err := ca.Open(filepath.Join(t.TempDir(), "ca"), td, w.clock.now)
	if err != nil {
		t.Fatal(err)
	}
	key := newKey(t)
	foreign, err := otherCA.Sign(newCSR(t, key), spiffe.ForNode(td, "h1"), "h1")
	if err != nil {
		t.Fatal(err)
	}
	node := w.issue(spiffe.ForNode(td, "h1"), "h1")
	for name, try := range map[string]struct {
		cert tls.Certificate
		says string
	}{
		"a certificate signed by itself":        {selfSigned(t, key), "not a valid one"},
		"a node's certificate of another CA":    {tls.Certificate{Certificate: foreign.Chain, PrivateKey: key}, "not a valid one"},
		"another CA's leaf under our chain":     {tls.Certificate{Certificate: [][]byte{foreign.Chain[0], node.Certificate[1]}, PrivateKey: key}, "not a valid one"},
		"a workload's certificate":              {w.issue(spiffe.ForService(td, "shop", "reviews"), "h1"), "a service's"},
		"a gateway's certificate":               {w.issue(spiffe.ForGateway(td, "shop", "public"), "h1"), "a gateway's"},
		"a node's certificate that has expired": {expired, "join again"},
	} {
		conn := w.conn(try.cert, "127.0.0.1")
		c := apipb.NewNodeClient(conn)
		_, err := c.Sign(t.Context(), &apipb.SignRequest{Csr: newCSR(t, key)})
		wantCode(t, name+" signs", err, codes.Unauthenticated, try.says)
		_, err = c.Sign(t.Context(), &apipb.SignRequest{Identity: "spiffe://corp.example/ns/shop/svc/reviews", Csr: newCSR(t, key)})
		wantCode(t, name+" signs a workload", err, codes.Unauthenticated, try.says)
		stream, err := c.Report(t.Context())
		if err == nil {
			_, err = stream.Recv()
		}
		wantCode(t, name+" reports", err, codes.Unauthenticated, try.says)
		err = conn.Invoke(t.Context(), "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources", &apipb.SignRequest{}, &apipb.SignResponse{})
		if code := status.Code(err); code != codes.Unauthenticated && code != codes.Unimplemented {
			t.Errorf("%s asks for xDS: %v", name, err)
		}
		_, err = c.Join(t.Context(), &apipb.JoinRequest{Token: "x", Csr: newCSR(t, try.cert.PrivateKey.(*ecdsa.PrivateKey))})
		wantCode(t, name+" joins", err, codes.InvalidArgument, "no join token")
	}
}

// An intermediate of ours must not be made to sign by what a peer adds to its chain.
func TestALeafThatANodeSignedIsNoNode(t *testing.T) {
	w := newWorld(t)
	node := w.issue(spiffe.ForNode(td, "h1"), "h1")
	parent, err := x509.ParseCertificate(node.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	key := newKey(t)
	id := spiffe.ForNode(td, "h2")
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, URIs: parent.URIs,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), node.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	c := w.dial(tls.Certificate{Certificate: append([][]byte{der}, node.Certificate...), PrivateKey: key})
	_, err = c.Sign(t.Context(), &apipb.SignRequest{Csr: newCSR(t, key)})
	wantCode(t, id.String(), err, codes.Unauthenticated, "not a valid one")
}

func TestACertificateThatEndsDuringAConnectionIsNoLongerGood(t *testing.T) {
	w := newWorld(t)
	c := w.admit("h1")
	if _, err := c.Sign(t.Context(), &apipb.SignRequest{Csr: newCSR(t, newKey(t))}); err != nil {
		t.Fatal(err)
	}
	w.clock.pass(ca.NodeLife + time.Hour) // before the connection's timer looks at the clock again
	_, err := c.Sign(t.Context(), &apipb.SignRequest{Csr: newCSR(t, newKey(t))})
	wantCode(t, "on the old connection", err, codes.Unauthenticated, "expired since")
}

func TestTheAgentsPortIsTLS13WithAClientCertificate(t *testing.T) {
	w := newWorld(t)
	conn, err := grpc.NewClient("passthrough:///"+w.address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, err = apipb.NewNodeClient(conn).Join(t.Context(), &apipb.JoinRequest{})
	wantCode(t, "plaintext", err, codes.Unavailable, "")

	cert := w.issue(spiffe.ForNode(td, "h1"), "h1")
	for name, conf := range map[string]*tls.Config{
		"no certificate": {InsecureSkipVerify: true, NextProtos: []string{"h2"}},
		"TLS 1.2":        {InsecureSkipVerify: true, NextProtos: []string{"h2"}, MaxVersion: tls.VersionTLS12, Certificates: []tls.Certificate{cert}},
		"no HTTP/2":      {InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}, Certificates: []tls.Certificate{cert}},
	} {
		c, err := tls.Dial("tcp", w.address, conf)
		if err == nil {
			_, err = c.Read(make([]byte, 1)) // in TLS 1.3 the refusal comes after the client is done
			c.Close()
		}
		if err == nil {
			t.Errorf("%s: the connection stands", name)
		}
	}
	plain, err := net.Dial("tcp", w.address)
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	if _, err := plain.Write([]byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n")); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 16)
	if n, err := plain.Read(buf); err == nil && strings.HasPrefix(string(buf[:n]), "HTTP/1.1 2") {
		t.Errorf("plain HTTP is answered: %q", buf[:n])
	}
}

func TestSignGivesWhatWasGrantedAndIsThere(t *testing.T) {
	w := newWorld(t)
	h1, h2 := w.admit("h1", "shop/extra", "shop/idle"), w.admit("h2")
	sign := func(c apipb.NodeClient, identity string) error {
		resp, err := c.Sign(t.Context(), &apipb.SignRequest{Identity: identity, Csr: newCSR(t, newKey(t))})
		if err == nil && resp.GetIdentity() != identity {
			t.Errorf("asked for %s, got %s", identity, resp.GetIdentity())
		}
		return err
	}
	const svc, gw = "spiffe://corp.example/ns/shop/svc/", "spiffe://corp.example/ns/shop/gateway/"
	wantCode(t, "before there is a policy", sign(h1, svc+"reviews"), codes.Unavailable, "just started")
	wantCode(t, "a gateway before there is a policy", sign(h1, gw+"public"), codes.Unavailable, "just started")

	public := &configs.Gateway{Block: configs.Block{Namespace: "shop", Name: "public"}, RunOn: []string{"h2"}}
	w.policy([]*configs.Host{{Name: "h1", Services: []*configs.Service{service("reviews")}}}, public)
	w.holds = func(node string, id spiffe.ID) bool {
		return node == "h1" && (id.Name == "extra" || id.Name == "admin")
	}

	wantCode(t, "what the policy places there", sign(h1, svc+"reviews"), codes.OK, "")
	wantCode(t, "a gateway that runs there", sign(h2, gw+"public"), codes.OK, "")
	wantCode(t, "what another registry places there, granted", sign(h1, svc+"extra"), codes.OK, "")
	wantCode(t, "what another registry places there, not granted", sign(h1, svc+"admin"), codes.PermissionDenied, "was not granted")
	wantCode(t, "what was granted, but is not there", sign(h1, svc+"idle"), codes.PermissionDenied, "has no workload")
	wantCode(t, "the service of another host", sign(h2, svc+"reviews"), codes.PermissionDenied, "was not granted")
	wantCode(t, "the gateway of another host", sign(h1, gw+"public"), codes.PermissionDenied, "run_on")
	wantCode(t, "another node", sign(h1, "spiffe://corp.example/node/h2"), codes.PermissionDenied, "another node")
	wantCode(t, "the server", sign(h1, "spiffe://corp.example/server"), codes.PermissionDenied, "another server")
	wantCode(t, "another trust domain", sign(h1, "spiffe://evil.example/ns/shop/svc/reviews"), codes.PermissionDenied, "trust domain")
	wantCode(t, "another trust domain's node", sign(h1, "spiffe://evil.example/node/h1"), codes.PermissionDenied, "trust domain")
	wantCode(t, "no identity", sign(h1, "admin"), codes.InvalidArgument, "")
	wantCode(t, "a name with a wildcard", sign(h1, svc+"*"), codes.InvalidArgument, "")

	w.policy(nil)
	wantCode(t, "what the policy no longer places there", sign(h1, svc+"reviews"), codes.PermissionDenied, "was not granted")
	wantCode(t, "a gateway that is gone", sign(h2, gw+"public"), codes.PermissionDenied, "run_on")
}

func TestProxiesBelongToTheirNode(t *testing.T) {
	w := newWorld(t)
	conn := w.conn(w.issue(spiffe.ForNode(td, "h1"), "h1"), "127.0.0.1")
	for id, want := range map[string]codes.Code{
		"h1/host": codes.OK, "h1/gw-public": codes.OK, "h1/gw-shop.public": codes.OK,
		"h2/host": codes.PermissionDenied, "h10/host": codes.PermissionDenied, "/host": codes.PermissionDenied,
		"h1": codes.PermissionDenied, "h1/": codes.PermissionDenied, "": codes.PermissionDenied,
		"h1/../h2/host": codes.PermissionDenied, "h1/host/": codes.PermissionDenied, "h1/\x1b]0;owned\a": codes.PermissionDenied,
		"h1/host\n": codes.PermissionDenied, "h1/" + strings.Repeat("x", 200): codes.PermissionDenied, "h1/Host": codes.PermissionDenied,
	} {
		ctx, cancel := context.WithCancel(t.Context())
		stream, err := discoveryv3.NewAggregatedDiscoveryServiceClient(conn).DeltaAggregatedResources(ctx)
		if err == nil {
			err = stream.Send(&discoveryv3.DeltaDiscoveryRequest{Node: &corev3.Node{Id: id}, TypeUrl: translator.Type(0).URL()})
		}
		if err == nil {
			_, err = stream.Recv()
		}
		wantCode(t, id, err, want, "")
		cancel()
	}
	for _, p := range w.xds.Proxies() {
		if !strings.HasPrefix(p.ID, "h1/") {
			t.Errorf("the server knows proxy %q", p.ID)
		}
	}
	eventually(t, "the streams that ended to leave nothing", func() error {
		if all := w.xds.Proxies(); len(all) > 0 {
			return fmt.Errorf("%d proxies are known, as %q", len(all), all[0].ID)
		}
		return nil
	})
}

func TestTokenText(t *testing.T) {
	w := newWorld(t)
	token := w.token(TokenRequest{Node: "h1"})
	if again, err := ParseToken(" " + token.Text() + "\n"); err != nil || again.Text() != token.Text() {
		t.Errorf("%v, %v", again, err)
	}
	if s := token.String(); strings.Contains(token.Text(), s) || strings.Contains(s, string(token.Secret)) {
		t.Errorf("String tells the secret: %s", s)
	}
	enc := func(s string) string { return tokenPrefix + base64.RawURLEncoding.EncodeToString([]byte(s)) }
	for _, bad := range []string{"", "wattle1.", "wattle2." + token.Text()[8:], token.Text()[1:], token.Text() + "!", enc("{}"), enc("[]"), enc(`{"ca":"x","secret":"eA==","node":"h1"}`), enc(strings.Repeat(" ", 2000))} {
		if got, err := ParseToken(bad); err == nil {
			t.Errorf("%q is a token: %v", bad, got)
		} else if strings.Contains(err.Error(), token.Text()[20:]) {
			t.Errorf("the error repeats the token: %v", err)
		}
	}
	for name, r := range map[string]TokenRequest{
		"no node": {}, "a node with a slash": {Node: "a/b"}, "a grant that is none": {Node: "h1", Services: []string{"a/b/c"}},
		"a life too long": {Node: "h1", TTL: configs.Duration(maxTTL + 1)}, "a life below zero": {Node: "h1", TTL: -1},
	} {
		if _, err := w.node.CreateToken(r); err == nil {
			t.Errorf("%s: a token was made", name)
		}
	}
}

func FuzzParseToken(f *testing.F) {
	f.Add(Token{strings.Repeat("a", 64), make([]byte, 32), "h1"}.Text())
	f.Add("wattle1.e30")
	f.Fuzz(func(t *testing.T, s string) {
		if token, err := ParseToken(s); err == nil {
			if again, err := ParseToken(token.Text()); err != nil || again.Node != token.Node {
				t.Errorf("%q: %v", s, err)
			}
		}
	})
}
