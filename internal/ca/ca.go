// Package ca makes certificates: a root and an intermediate at the server's first start, and leaves for nodes,
// workloads, gateways and the server itself from then on. What a signing request says of names is ignored: the
// caller says which identity the key gets.
package ca

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"time"

	"github.com/wattle-mesh/wattle/internal/spiffe"
)

// How long certificates live. A leaf never outlives the intermediate.
const (
	RootLife         = 10 * 365 * 24 * time.Hour
	IntermediateLife = 365 * 24 * time.Hour
	NodeLife         = 30 * 24 * time.Hour
	WorkloadLife     = 24 * time.Hour
	backdate         = 5 * time.Minute // hosts whose clock is behind must accept what is new
	maxCSR           = 16 << 10        // bytes
)

// ErrRequest marks what is wrong with a signing request, as opposed to the CA.
var ErrRequest = errors.New("signing request")

// CA signs. Safe for concurrent use; immutable after Open.
type CA struct {
	TrustDomain  string
	root         *x509.Certificate
	intermediate *x509.Certificate
	key          crypto.Signer
	now          func() time.Time
}

// Leaf is a signed certificate.
type Leaf struct {
	ID       spiffe.ID
	Chain    [][]byte // DER, leaf first, then the intermediate
	NotAfter time.Time
}

// Roots returns the certificates to trust, DER.
func (c *CA) Roots() [][]byte { return [][]byte{c.root.Raw} }

// Pool returns the certificates to trust.
func (c *CA) Pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(c.root)
	return pool
}

// Pin returns the SHA-256 of the root's public key, in hex: what a join token pins.
func (c *CA) Pin() string { return Pin(c.root) }

// Pin returns the SHA-256 of a certificate's public key, in hex.
func Pin(cert *x509.Certificate) string {
	sum := sha256.Sum256(cert.RawSubjectPublicKeyInfo)
	return hex.EncodeToString(sum[:])
}

// Life returns how long a leaf for id lives.
func Life(id spiffe.ID) time.Duration {
	if id.Kind == spiffe.Node {
		return NodeLife
	}
	return WorkloadLife
}

// Sign certifies the key of csr (PKCS #10, DER) for id on the named node. Nothing but the key is taken from csr.
// Errors of the request match ErrRequest.
func (c *CA) Sign(csr []byte, id spiffe.ID, node string) (*Leaf, error) {
	key, err := RequestKey(csr)
	if err != nil {
		return nil, err
	}
	if err := id.Check(); err != nil {
		return nil, err
	}
	if id.TrustDomain != c.TrustDomain {
		return nil, fmt.Errorf("%w: %s is not in the trust domain %s", ErrRequest, id, c.TrustDomain)
	}
	return c.issue(key, id, []string{spiffe.NodeName(c.TrustDomain, node)}, nil, Life(id))
}

// Server returns a certificate of the control plane for its agents' port, with a new key.
func (c *CA) Server(names []string) (*tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make the server's key: %w", err)
	}
	var dns []string
	var ips []net.IP
	for _, n := range names {
		if ip := net.ParseIP(n); ip != nil {
			ips = append(ips, ip)
		} else {
			dns = append(dns, n)
		}
	}
	leaf, err := c.issue(key.Public(), spiffe.ForServer(c.TrustDomain), dns, ips, NodeLife)
	if err != nil {
		return nil, err
	}
	// The root goes along for agents that know it only by its hash yet.
	return &tls.Certificate{Certificate: append(leaf.Chain, c.root.Raw), PrivateKey: key}, nil
}

func (c *CA) issue(key crypto.PublicKey, id spiffe.ID, dns []string, ips []net.IP, life time.Duration) (*Leaf, error) {
	uri, err := url.Parse(id.String())
	if err != nil {
		return nil, fmt.Errorf("identity %s: %w", id, err)
	}
	now := c.now()
	template := &x509.Certificate{
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(life),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
		URIs:                  []*url.URL{uri},
		DNSNames:              dns,
		IPAddresses:           ips,
	}
	if template.NotAfter.After(c.intermediate.NotAfter) {
		template.NotAfter = c.intermediate.NotAfter
	}
	der, err := create(template, c.intermediate, key, c.key)
	if err != nil {
		return nil, fmt.Errorf("sign a certificate for %s: %w", id, err)
	}
	return &Leaf{ID: id, Chain: [][]byte{der, c.intermediate.Raw}, NotAfter: template.NotAfter}, nil
}

// create signs template with a random 127-bit serial number.
func create(template, parent *x509.Certificate, key crypto.PublicKey, signer crypto.Signer) ([]byte, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, err
	}
	template.SerialNumber = serial
	return x509.CreateCertificate(rand.Reader, template, parent, key, signer)
}

// RequestKey returns the key of a signing request that proves possession of it and is strong enough: ECDSA on
// P-256 or P-384, Ed25519, or RSA of 2048 bits at least. Errors match ErrRequest.
func RequestKey(csr []byte) (crypto.PublicKey, error) {
	if len(csr) > maxCSR {
		return nil, fmt.Errorf("%w: %d bytes, at most %d are taken", ErrRequest, len(csr), maxCSR)
	}
	req, err := x509.ParseCertificateRequest(csr)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRequest, err)
	}
	if err := req.CheckSignature(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRequest, err)
	}
	switch k := req.PublicKey.(type) {
	case *ecdsa.PublicKey:
		if k.Curve == elliptic.P256() || k.Curve == elliptic.P384() {
			return k, nil
		}
	case ed25519.PublicKey:
		return k, nil
	case *rsa.PublicKey:
		if k.N.BitLen() >= 2048 && k.N.BitLen() <= 4096 {
			return k, nil
		}
	}
	return nil, fmt.Errorf("%w: the key is too weak or of an unknown kind; use ECDSA P-256", ErrRequest)
}

// authority makes a CA certificate for key, signed by parent's key, or by itself if parent is nil.
func authority(td string, key crypto.Signer, parent *x509.Certificate, signer crypto.Signer, now time.Time) ([]byte, error) {
	uri := &url.URL{Scheme: "spiffe", Host: td}
	template := &x509.Certificate{
		Subject:               pkix.Name{CommonName: "Wattle root of " + td},
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(RootLife),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		URIs:                  []*url.URL{uri},
	}
	if parent == nil {
		parent, signer = template, key
	} else {
		template.Subject.CommonName = "Wattle intermediate of " + td
		template.NotAfter = now.Add(IntermediateLife)
		template.MaxPathLenZero = true
	}
	return create(template, parent, key.Public(), signer)
}
