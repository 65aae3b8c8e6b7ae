package e2e

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/wattle-mesh/wattle/internal/api/apipb"
)

// node is what wattle ca issue gives a host that joins without a token.
type node struct {
	name string
	dir  string
	cert tls.Certificate
	pool *x509.CertPool
}

// issue provisions a node that may hold the services.
func (m *mesh) issue(t *testing.T, name, services string) *node {
	t.Helper()
	n := &node{name: name, dir: m.path("issued-" + name)}
	m.wattle("ca", "issue", "-node", name, "-services", services, "-out", n.dir)
	if err := n.load(); err != nil {
		t.Fatal(err)
	}
	return n
}

// load reads the folder: the chain begins with a leaf, the key is the only one, the roots signed themselves.
func (n *node) load() error {
	n.pool = x509.NewCertPool()
	files, err := filepath.Glob(filepath.Join(n.dir, "*"))
	if err != nil {
		return err
	}
	for _, file := range files {
		rest, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		var chain [][]byte
		for {
			var b *pem.Block
			if b, rest = pem.Decode(rest); b == nil {
				break
			}
			if b.Type == "CERTIFICATE" {
				chain = append(chain, b.Bytes)
				continue
			}
			if n.cert.PrivateKey, err = x509.ParsePKCS8PrivateKey(b.Bytes); err != nil {
				return fmt.Errorf("%s: %w", file, err)
			}
		}
		if err := n.add(chain); err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
	}
	if n.cert.PrivateKey == nil || n.cert.Leaf == nil {
		return fmt.Errorf("%s has no certificate with a key: %v", n.dir, files)
	}
	return nil
}

func (n *node) add(chain [][]byte) error {
	for i, der := range chain {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return err
		}
		if bytes.Equal(c.RawIssuer, c.RawSubject) {
			n.pool.AddCert(c)
		}
		if i == 0 && !c.IsCA {
			n.cert.Certificate, n.cert.Leaf = chain, c
		}
	}
	return nil
}

// dial connects to the agents' port of the mesh's server.
func (n *node) dial(t *testing.T, m *mesh) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:///"+m.at("127.0.X.1:7501"), grpc.WithTransportCredentials(credentials.NewTLS(n.tls(&n.cert))))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// tls is a client's configuration with a certificate, or none if cert is nil. The server must be of the mesh, whatever its name.
func (n *node) tls(cert *tls.Certificate) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			if cert == nil {
				return new(tls.Certificate), nil
			}
			return cert, nil
		},
		InsecureSkipVerify: true, // names are not compared; VerifyConnection checks the chain
		VerifyConnection: func(s tls.ConnectionState) error {
			return verify(s.PeerCertificates, n.pool, x509.ExtKeyUsageServerAuth)
		},
	}
}

func verify(chain []*x509.Certificate, roots *x509.CertPool, usage x509.ExtKeyUsage) error {
	if len(chain) == 0 {
		return errors.New("no certificate")
	}
	opts := x509.VerifyOptions{Roots: roots, Intermediates: x509.NewCertPool(), KeyUsages: []x509.ExtKeyUsage{usage}}
	for _, c := range chain[1:] {
		opts.Intermediates.AddCert(c)
	}
	_, err := chain[0].Verify(opts)
	return err
}

// sign has the server certify a new key for an identity.
func (n *node) sign(ctx context.Context, conn grpc.ClientConnInterface, identity string) (*tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, new(x509.CertificateRequest), key)
	if err != nil {
		return nil, err
	}
	resp, err := apipb.NewNodeClient(conn).Sign(ctx, &apipb.SignRequest{Identity: identity, Csr: csr})
	if err != nil {
		return nil, err
	}
	leaf, err := x509.ParseCertificate(resp.GetChain()[0])
	return &tls.Certificate{Certificate: resp.GetChain(), PrivateKey: key, Leaf: leaf}, err
}

// report says, as the node's agent would, that its workload of a service is healthy.
func (n *node) report(t *testing.T, conn grpc.ClientConnInterface, service string) {
	t.Helper()
	stream, err := apipb.NewNodeClient(conn).Report(t.Context())
	if err == nil {
		err = stream.Send(&apipb.ReportRequest{Health: []*apipb.HealthReport{{Namespace: "default", Service: service, Healthy: true}}})
	}
	if err == nil {
		_, err = stream.Recv()
	}
	if err != nil {
		t.Fatal(err)
	}
}

// standIn makes a certificate with the names of the server's own one, with the CA's key: what the server could
// make itself.
func (m *mesh) standIn(t *testing.T, n *node) tls.Certificate {
	t.Helper()
	c, err := tls.Dial("tcp", m.at("127.0.X.1:7501"), n.tls(&n.cert))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	chain := c.ConnectionState().PeerCertificates
	real, issuer := chain[0], chain[1]
	signer := m.keyOf(t, issuer)
	key, leaf := forgeCert(t, &x509.Certificate{
		Subject: real.Subject, URIs: real.URIs, DNSNames: real.DNSNames, IPAddresses: real.IPAddresses,
		KeyUsage: real.KeyUsage, ExtKeyUsage: real.ExtKeyUsage,
	}, issuer, signer)
	out := tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: key}
	for _, c := range chain[1:] {
		out.Certificate = append(out.Certificate, c.Raw)
	}
	return out
}

// keyOf finds the key of a certificate in the server's state folder.
func (m *mesh) keyOf(t *testing.T, cert *x509.Certificate) crypto.Signer {
	t.Helper()
	var found crypto.Signer
	err := filepath.WalkDir(m.path("server"), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rest, err := os.ReadFile(path)
		for b := (*pem.Block)(nil); err == nil; {
			if b, rest = pem.Decode(rest); b == nil {
				break
			}
			key, kerr := x509.ParsePKCS8PrivateKey(b.Bytes)
			if signer, ok := key.(crypto.Signer); kerr == nil && ok && cert.PublicKey.(*ecdsa.PublicKey).Equal(signer.Public()) {
				found = signer
			}
		}
		return err
	})
	if err != nil || found == nil {
		t.Fatalf("no key of %s in the server's state: %v", cert.Subject, err)
	}
	return found
}

// forge makes a certificate for an identity that another CA signed.
func forge(t *testing.T, identity string) *tls.Certificate {
	t.Helper()
	caKey, caCert := forgeCert(t, &x509.Certificate{IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}, nil, nil)
	uri, err := url.Parse(identity)
	if err != nil {
		t.Fatal(err)
	}
	key, leaf := forgeCert(t, &x509.Certificate{
		URIs: []*url.URL{uri}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}, caCert, caKey)
	return &tls.Certificate{Certificate: [][]byte{leaf.Raw, caCert.Raw}, PrivateKey: key, Leaf: leaf}
}

func forgeCert(t *testing.T, c, parent *x509.Certificate, signer crypto.Signer) (crypto.Signer, *x509.Certificate) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c.SerialNumber, c.NotBefore, c.NotAfter = big.NewInt(time.Now().UnixNano()), time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	if parent == nil {
		parent, signer = c, key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return key, cert
}
