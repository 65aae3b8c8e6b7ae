package ca

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"math/big"
	"net"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/wattle-mesh/wattle/internal/spiffe"
)

const td = "corp.example"

// clock is a time that tests move.
type clock struct{ time.Time }

func (c *clock) now() time.Time { return c.Time }

func open(t *testing.T) (*CA, *clock, string) {
	t.Helper()
	c := &clock{time.Now()}
	dir := filepath.Join(t.TempDir(), "state", "ca")
	a, err := Open(dir, td, c.now)
	if err != nil {
		t.Fatal(err)
	}
	return a, c, dir
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func request(t *testing.T, template *x509.CertificateRequest, key crypto.Signer) []byte {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, template, key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func leafOf(t *testing.T, c *CA, l *Leaf, at time.Time) *x509.Certificate {
	t.Helper()
	cert, err := x509.ParseCertificate(l.Chain[0])
	if err != nil {
		t.Fatal(err)
	}
	between := x509.NewCertPool()
	for _, der := range l.Chain[1:] {
		i, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		between.AddCert(i)
	}
	_, err = cert.Verify(x509.VerifyOptions{Roots: c.Pool(), Intermediates: between, CurrentTime: at, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	if err != nil {
		t.Fatalf("the leaf does not verify: %v", err)
	}
	return cert
}

// Whatever a request asks for, the leaf has the identity that the server says, the node's name and nothing else.
func TestSignIgnoresAllButTheKey(t *testing.T) {
	c, clock, _ := open(t)
	isCA, err := asn1.Marshal(struct{ CA bool }{true})
	if err != nil {
		t.Fatal(err)
	}
	key := newKey(t)
	csr := request(t, &x509.CertificateRequest{
		Subject:     pkix.Name{CommonName: "admin", Organization: []string{"system:masters"}},
		DNSNames:    []string{"*.corp.example", "h2.node.corp.example"},
		IPAddresses: []net.IP{net.IPv4(10, 0, 0, 1)},
		URIs:        []*url.URL{{Scheme: "spiffe", Host: td, Path: "/ns/shop/svc/admin"}},
		ExtraExtensions: []pkix.Extension{
			{Id: asn1.ObjectIdentifier{2, 5, 29, 19}, Critical: true, Value: isCA},               // basicConstraints CA:TRUE
			{Id: asn1.ObjectIdentifier{2, 5, 29, 15}, Value: []byte{3, 2, 1, 6}},                 // keyUsage keyCertSign, cRLSign
			{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 99999, 1}, Value: []byte{5, 0}},         // of somebody's own
			{Id: asn1.ObjectIdentifier{2, 5, 29, 37}, Value: []byte{48, 6, 6, 4, 85, 29, 37, 0}}, // any extended usage
		},
	}, key)
	leaf, err := c.Sign(csr, spiffe.ForService(td, "shop", "reviews"), "h1")
	if err != nil {
		t.Fatal(err)
	}
	cert := leafOf(t, c, leaf, clock.Time)
	if len(cert.URIs) != 1 || cert.URIs[0].String() != "spiffe://corp.example/ns/shop/svc/reviews" {
		t.Errorf("URIs: %v", cert.URIs)
	}
	if !slices.Equal(cert.DNSNames, []string{"h1.node.corp.example"}) {
		t.Errorf("DNS names: %v", cert.DNSNames)
	}
	if len(cert.IPAddresses)+len(cert.EmailAddresses) > 0 || cert.Subject.String() != "" {
		t.Errorf("other names: %v, %v, %q", cert.IPAddresses, cert.EmailAddresses, cert.Subject)
	}
	if cert.IsCA || !cert.BasicConstraintsValid || cert.KeyUsage != x509.KeyUsageDigitalSignature {
		t.Errorf("CA %t, key usage %b", cert.IsCA, cert.KeyUsage)
	}
	if !slices.Equal(cert.ExtKeyUsage, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}) || len(cert.UnknownExtKeyUsage) > 0 {
		t.Errorf("extended key usage: %v, %v", cert.ExtKeyUsage, cert.UnknownExtKeyUsage)
	}
	for _, e := range cert.Extensions {
		if e.Id.String() == "1.3.6.1.4.1.99999.1" {
			t.Error("an extension of the request is in the leaf")
		}
	}
	if !key.PublicKey.Equal(cert.PublicKey) {
		t.Error("the leaf is for another key")
	}
	if got := cert.NotAfter.Sub(clock.Time); got > WorkloadLife || got < WorkloadLife-time.Second || !leaf.NotAfter.Equal(cert.NotAfter) {
		t.Errorf("it lives %s, until %s and %s", got, cert.NotAfter, leaf.NotAfter)
	}
	if got := clock.Sub(cert.NotBefore); got < backdate || got > backdate+time.Second {
		t.Errorf("it began %s ago", got)
	}
	if cert.SerialNumber.BitLen() < 64 {
		t.Errorf("serial number %v", cert.SerialNumber)
	}
}

func TestSignRefuses(t *testing.T) {
	c, _, _ := open(t)
	good := request(t, &x509.CertificateRequest{}, newKey(t))
	forged := slices.Clone(good)
	forged[len(forged)-1] ^= 1
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	p224, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	many := make([]string, 2000)
	for i := range many {
		many[i] = strings.Repeat("a", 10) + ".example"
	}
	node := spiffe.ForNode(td, "h1")
	for name, try := range map[string]struct {
		csr  []byte
		id   spiffe.ID
		node string
	}{
		"nothing":                          {nil, node, "h1"},
		"what is no request":               {[]byte("hello"), node, "h1"},
		"a request with a wrong signature": {forged, node, "h1"},
		"a key of P-224":                   {request(t, &x509.CertificateRequest{}, p224), node, "h1"},
		"a key of RSA 1024":                {request(t, &x509.CertificateRequest{}, weak), node, "h1"},
		"a request that is too big":        {request(t, &x509.CertificateRequest{DNSNames: many}, newKey(t)), node, "h1"},
		"another trust domain":             {good, spiffe.ForNode("evil.example", "h1"), "h1"},
		"another node's identity":          {good, spiffe.ForNode(td, "h2"), "h1"},
		"the server's identity":            {good, spiffe.ForServer(td), "h1"},
		"no identity":                      {good, spiffe.ID{}, "h1"},
		"a node that has no name":          {good, spiffe.ForService(td, "shop", "reviews"), ""},
		"a node with a wildcard":           {good, spiffe.ForService(td, "shop", "reviews"), "*"},
	} {
		if _, err := c.Sign(try.csr, try.id, try.node); !errors.Is(err, ErrRequest) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestSignTakesStrongKeys(t *testing.T) {
	c, clock, _ := open(t)
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rsa2048, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	for name, key := range map[string]crypto.Signer{"P-256": newKey(t), "P-384": p384, "Ed25519": ed, "RSA 2048": rsa2048} {
		leaf, err := c.Sign(request(t, &x509.CertificateRequest{}, key), spiffe.ForNode(td, "h1"), "h1")
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got := leafOf(t, c, leaf, clock.Time).NotAfter.Sub(clock.Time); got > NodeLife || got < NodeLife-time.Second {
			t.Errorf("%s: a node's certificate lives %s", name, got)
		}
	}
}

func TestSerialNumbersDiffer(t *testing.T) {
	c, clock, _ := open(t)
	csr := request(t, &x509.CertificateRequest{}, newKey(t))
	seen := map[string]bool{}
	for range 50 {
		leaf, err := c.Sign(csr, spiffe.ForNode(td, "h1"), "h1")
		if err != nil {
			t.Fatal(err)
		}
		seen[leafOf(t, c, leaf, clock.Time).SerialNumber.String()] = true
	}
	if len(seen) != 50 {
		t.Errorf("%d of 50 serial numbers", len(seen))
	}
}

func TestAuthorities(t *testing.T) {
	c, clock, _ := open(t)
	if !c.root.IsCA || c.root.NotAfter.Sub(clock.Time) < RootLife-time.Minute {
		t.Errorf("root: CA %t until %s", c.root.IsCA, c.root.NotAfter)
	}
	i := c.intermediate
	if !i.IsCA || i.MaxPathLen != 0 || !i.MaxPathLenZero || i.NotAfter.Sub(clock.Time) > IntermediateLife {
		t.Errorf("intermediate: CA %t, path length %d, until %s", i.IsCA, i.MaxPathLen, i.NotAfter)
	}
	for _, cert := range []*x509.Certificate{c.root, i} {
		if key, ok := cert.PublicKey.(*ecdsa.PublicKey); !ok || key.Curve != elliptic.P256() {
			t.Errorf("%s: key %T", cert.Subject, cert.PublicKey)
		}
	}
}

// A leaf that the intermediate's key signs may not sign others.
func TestAWorkloadCannotSignForOthers(t *testing.T) {
	c, clock, _ := open(t)
	key := newKey(t)
	leaf, err := c.Sign(request(t, &x509.CertificateRequest{}, key), spiffe.ForService(td, "shop", "reviews"), "h1")
	if err != nil {
		t.Fatal(err)
	}
	parent := leafOf(t, c, leaf, clock.Time)
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: clock.Add(time.Hour)}, parent, newKey(t).Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	child, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	between := x509.NewCertPool()
	between.AddCert(c.intermediate)
	between.AddCert(parent)
	if _, err := child.Verify(x509.VerifyOptions{Roots: c.Pool(), Intermediates: between, CurrentTime: clock.Time, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err == nil {
		t.Error("a leaf signed another, and that verifies")
	}
}

func TestServerCertificateIsRenewedInTime(t *testing.T) {
	c, clock, _ := open(t)
	s := c.Server([]string{"server.example", "10.0.0.1", "::1"})
	first, err := s.Certificate()
	if err != nil {
		t.Fatal(err)
	}
	if id, err := spiffe.FromCertificate(first.Leaf); err != nil || id != spiffe.ForServer(td) {
		t.Errorf("identity %v, %v", id, err)
	}
	if !slices.Equal(first.Leaf.DNSNames, []string{"server.example"}) || len(first.Leaf.IPAddresses) != 2 {
		t.Errorf("names %v, %v", first.Leaf.DNSNames, first.Leaf.IPAddresses)
	}
	if last, err := x509.ParseCertificate(first.Certificate[len(first.Certificate)-1]); err != nil || Pin(last) != c.Pin() {
		t.Errorf("the chain does not end with the root: %v", err)
	}
	clock.Time = clock.Add(NodeLife/3 - time.Minute)
	if again, err := s.Certificate(); err != nil || again != first {
		t.Errorf("renewed too early: %v", err)
	}
	clock.Time = clock.Add(2 * time.Minute)
	next, err := s.Certificate()
	if err != nil || next == first || next.Leaf.NotAfter.Sub(clock.Time) < NodeLife-time.Minute {
		t.Errorf("not renewed: %v", err)
	}
}

func TestWorkloadsLeavesLiveAsLongAsTheOperatorSays(t *testing.T) {
	c, clock, _ := open(t)
	for id, want := range map[spiffe.ID]time.Duration{
		spiffe.ForService(td, "shop", "web"): time.Hour,
		spiffe.ForNode(td, "h1"):             NodeLife,
	} {
		l, err := c.WithWorkloadLife(time.Hour).Sign(request(t, &x509.CertificateRequest{}, newKey(t)), id, "h1")
		if err != nil {
			t.Fatal(err)
		}
		if got := l.NotAfter.Sub(clock.now()); got > want || got < want-time.Second {
			t.Errorf("%s lives %s, want %s", id, got, want)
		}
	}
}
