package datapath

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net/url"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"google.golang.org/protobuf/proto"

	"github.com/wattle-mesh/wattle/internal/mesh"
	"github.com/wattle-mesh/wattle/translator"
)

// pki is a CA of the test's own.
type pki struct {
	root *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newPKI(t *testing.T) *pki {
	t.Helper()
	p := &pki{key: newKey(t)}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test root"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, p.key.Public(), p.key)
	if err != nil {
		t.Fatal(err)
	}
	if p.root, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	return p
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// leaf makes a certificate for an identity.
func (p *pki) leaf(t *testing.T, identity string) tls.Certificate {
	t.Helper()
	uri, err := url.Parse(identity)
	if err != nil {
		t.Fatal(err)
	}
	key := newKey(t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), URIs: []*url.URL{uri},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, p.root, key.Public(), p.key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// secrets makes what an agent would give the Envoy of a proxy.
func (p *pki) secrets(t *testing.T, px *mesh.Proxy) []*translator.Resource {
	t.Helper()
	out := []*translator.Resource{
		p.roots(t, px.ID),
		p.secret(t, px.ID, translator.SelfSecret(), "spiffe://"+trustDomain+"/node/"+px.Host),
	}
	if px.Gateway != nil {
		out = append(out, p.secret(t, px.ID, translator.OutSecret(px.Gateway.Identity), px.Gateway.Identity))
	}
	done := map[string]bool{}
	for _, w := range px.Workloads {
		if !done[w.Identity] {
			done[w.Identity] = true
			out = append(out, p.secret(t, px.ID, translator.InSecret(w.Identity), w.Identity), p.secret(t, px.ID, translator.OutSecret(w.Identity), w.Identity))
		}
	}
	return out
}

func (p *pki) roots(t *testing.T, proxy string) *translator.Resource {
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: p.root.Raw})
	return resource(t, proxy, &tlsv3.Secret{Name: translator.RootsSecret, Type: &tlsv3.Secret_ValidationContext{
		ValidationContext: &tlsv3.CertificateValidationContext{TrustedCa: inline(text)},
	}})
}

func (p *pki) secret(t *testing.T, proxy, name, identity string) *translator.Resource {
	t.Helper()
	c := p.leaf(t, identity)
	key, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	return resource(t, proxy, &tlsv3.Secret{Name: name, Type: &tlsv3.Secret_TlsCertificate{TlsCertificate: &tlsv3.TlsCertificate{
		CertificateChain: inline(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Certificate[0]})),
		PrivateKey:       inline(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})),
	}}})
}

func inline(text []byte) *corev3.DataSource {
	return &corev3.DataSource{Specifier: &corev3.DataSource_InlineBytes{InlineBytes: text}}
}

func resource(t *testing.T, proxy string, s *tlsv3.Secret) *translator.Resource {
	t.Helper()
	body, err := proto.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	r, err := translator.Encoded(translator.Key{Type: translator.Secret, Name: s.Name, Variant: proxy}, "1", body, "")
	if err != nil {
		t.Fatal(err)
	}
	return r
}
