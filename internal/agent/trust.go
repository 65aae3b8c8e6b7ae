package agent

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/wattle-mesh/wattle/internal/spiffe"
)

// roots are the certificates that this host trusts. Immutable.
type roots struct {
	der  [][]byte
	pool *x509.CertPool
	now  func() time.Time
}

func newRoots(der [][]byte, now func() time.Time) (*roots, error) {
	if len(der) == 0 {
		return nil, errors.New("no roots to trust")
	}
	r := &roots{der: der, pool: x509.NewCertPool(), now: now}
	for _, d := range der {
		c, err := x509.ParseCertificate(d)
		if err != nil {
			return nil, fmt.Errorf("root: %w", err)
		}
		r.pool.AddCert(c)
	}
	return r, nil
}

// verify checks that a chain, leaf first, leads to a root and may be used so, and returns whose it is.
func (r *roots) verify(chain []*x509.Certificate, usage x509.ExtKeyUsage) (spiffe.ID, error) {
	if len(chain) == 0 {
		return spiffe.ID{}, errors.New("no certificate")
	}
	between := x509.NewCertPool()
	for _, c := range chain[1:] {
		between.AddCert(c)
	}
	_, err := chain[0].Verify(x509.VerifyOptions{Roots: r.pool, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{usage}, CurrentTime: r.now()})
	if err != nil {
		return spiffe.ID{}, err
	}
	return spiffe.FromCertificate(chain[0])
}

// verifyServer checks that the peer is a server of the trust domain. Its names and addresses do not matter: any
// server of the mesh will do, and nobody else can have that identity.
func (r *roots) verifyServer(s tls.ConnectionState, trustDomain string) error {
	id, err := r.verify(s.PeerCertificates, x509.ExtKeyUsageServerAuth)
	if err != nil {
		return fmt.Errorf("the server's certificate: %w", err)
	}
	if id != spiffe.ForServer(trustDomain) {
		return fmt.Errorf("the server's certificate is %s's, not that of the servers of %s", id, trustDomain)
	}
	return nil
}

// pinned picks the root with this hash from a chain that a server presents to a host which does not know it yet.
func pinned(chain []*x509.Certificate, pin string, now func() time.Time) (*roots, string, error) {
	for _, c := range chain {
		if spki(c) != pin {
			continue
		}
		if !c.IsCA || len(c.URIs) != 1 {
			return nil, "", errors.New("the token's hash is of a certificate that is not a root")
		}
		r, err := newRoots([][]byte{c.Raw}, now)
		return r, c.URIs[0].Host, err
	}
	return nil, "", errors.New("the server is not the one that made the token: its root has another hash")
}

// spki returns the SHA-256 of a certificate's public key, in hex: how a join token names the root.
func spki(c *x509.Certificate) string {
	sum := sha256.Sum256(c.RawSubjectPublicKeyInfo)
	return hex.EncodeToString(sum[:])
}
