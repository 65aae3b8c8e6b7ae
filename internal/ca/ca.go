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
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"time"

	"github.com/wattle-mesh/wattle/internal/spiffe"
)

// How long certificates live. A leaf never outlives the intermediate, which Open renews at half its life.
const (
	RootLife         = 10 * 365 * 24 * time.Hour
	IntermediateLife = 365 * 24 * time.Hour
	NodeLife         = 30 * 24 * time.Hour
	WorkloadLife     = 24 * time.Hour // unless the CA is told otherwise, see WithWorkloadLife

	backdate = 10 * time.Minute // hosts whose clock is behind must accept what is new
	maxCSR   = 16 << 10         // bytes
)

// ErrRequest marks what is wrong with a signing request, as opposed to the CA.
var ErrRequest = errors.New("signing request")

// CA signs. Safe for concurrent use; immutable after Open.
type CA struct {
	TrustDomain  string
	root         *x509.Certificate
	intermediate *x509.Certificate
	key          crypto.Signer // the intermediate's
	workloadLife time.Duration
	now          func() time.Time
}

// WithWorkloadLife returns the same CA, whose leaves for services and gateways live that long.
func (c *CA) WithWorkloadLife(d time.Duration) *CA {
	next := *c
	next.workloadLife = d
	return &next
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

// Now returns the time by the CA's clock.
func (c *CA) Now() time.Time { return c.now() }

// Pin returns the SHA-256 of the root's public key, in hex: what a join token pins.
func (c *CA) Pin() string { return Pin(c.root) }

// Issued returns when a CA made a certificate, to the second.
func Issued(leaf *x509.Certificate) time.Time { return leaf.NotBefore.Add(backdate) }

// Pin returns the SHA-256 of a certificate's public key (its SubjectPublicKeyInfo), in hex.
func Pin(cert *x509.Certificate) string {
	sum := sha256.Sum256(cert.RawSubjectPublicKeyInfo)
	return hex.EncodeToString(sum[:])
}

// life returns how long a leaf for id lives.
func (c *CA) life(id spiffe.ID) time.Duration {
	if id.Kind == spiffe.Node || id.Kind == spiffe.Server {
		return NodeLife
	}
	return c.workloadLife
}

// Sign certifies the key of csr (PKCS #10, DER) for id, which the named node holds: a service, a gateway or the
// node itself. Nothing but the key is taken from csr. Errors of the request match ErrRequest.
func (c *CA) Sign(csr []byte, id spiffe.ID, node string) (*Leaf, error) {
	key, err := RequestKey(csr)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(id.Check(), spiffe.ForNode(c.TrustDomain, node).Check()); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRequest, err)
	}
	switch {
	case id.TrustDomain != c.TrustDomain:
		return nil, fmt.Errorf("%w: %s is not in the trust domain %s", ErrRequest, id, c.TrustDomain)
	case id.Kind == spiffe.Server:
		return nil, fmt.Errorf("%w: the server's identity is given to nobody", ErrRequest)
	case id.Kind == spiffe.Node && id.Name != node:
		return nil, fmt.Errorf("%w: %s is not the identity of the node %s", ErrRequest, id, node)
	}
	return c.issue(key, id, []string{spiffe.NodeName(c.TrustDomain, node)}, nil)
}

func (c *CA) issue(key crypto.PublicKey, id spiffe.ID, dns []string, ips []net.IP) (*Leaf, error) {
	uri, err := url.Parse(id.String())
	if err != nil {
		return nil, fmt.Errorf("identity %s: %w", id, err)
	}
	now := c.now()
	template := &x509.Certificate{
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(c.life(id)).Truncate(time.Second),
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
	if !template.NotAfter.After(now) {
		return nil, fmt.Errorf("sign a certificate for %s: the CA's own certificate ended %s; restart the server to renew it",
			id, template.NotAfter.Format(time.RFC3339))
	}
	der, err := create(template, c.intermediate, key, c.key)
	if err != nil {
		return nil, fmt.Errorf("sign a certificate for %s: %w", id, err)
	}
	return &Leaf{ID: id, Chain: [][]byte{der, c.intermediate.Raw}, NotAfter: template.NotAfter}, nil
}

// create signs template with a random serial number of 127 bits: the most that is positive in 16 bytes.
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
	if !strong(req.PublicKey) { // first: what is weak is not worth its check
		return nil, fmt.Errorf("%w: the key is too weak or of an unknown kind; use ECDSA P-256", ErrRequest)
	}
	if err := req.CheckSignature(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRequest, err)
	}
	return req.PublicKey, nil
}

// strong reports whether a key may be certified. RSA has an upper bound too: verifying costs every peer.
func strong(key crypto.PublicKey) bool {
	switch k := key.(type) {
	case *ecdsa.PublicKey:
		return k.Curve == elliptic.P256() || k.Curve == elliptic.P384()
	case ed25519.PublicKey:
		return true
	case *rsa.PublicKey:
		return k.N.BitLen() >= 2048 && k.N.BitLen() <= 4096
	}
	return false
}
