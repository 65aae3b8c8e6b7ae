package ca

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"net/url"
	"time"
)

// authority is a CA certificate with its key.
type authority struct {
	cert *x509.Certificate
	key  crypto.Signer
}

// newRoot makes the certificate that everything else hangs from.
func newRoot(td string, now time.Time) (authority, error) {
	return makeAuthority(&x509.Certificate{
		Subject:  pkix.Name{CommonName: "Wattle root of " + td},
		NotAfter: now.Add(RootLife),
	}, td, now, nil)
}

// newIntermediate makes the certificate that signs leaves, and nothing but leaves.
func newIntermediate(td string, now time.Time, root authority) (authority, error) {
	template := &x509.Certificate{
		Subject:        pkix.Name{CommonName: "Wattle intermediate of " + td},
		NotAfter:       now.Add(IntermediateLife),
		MaxPathLenZero: true,
	}
	if template.NotAfter.After(root.cert.NotAfter) {
		template.NotAfter = root.cert.NotAfter
	}
	return makeAuthority(template, td, now, &root)
}

// makeAuthority completes template and signs it with a new key: by parent, or by itself if parent is nil.
func makeAuthority(template *x509.Certificate, td string, now time.Time, parent *authority) (authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return authority{}, err
	}
	template.NotBefore = now.Add(-backdate)
	template.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	template.BasicConstraintsValid, template.IsCA = true, true
	template.URIs = []*url.URL{{Scheme: "spiffe", Host: td}} // SPIFFE X509-SVID, section 3.2: a signing certificate names the trust domain
	if parent == nil {
		parent = &authority{template, key}
	}
	der, err := create(template, parent.cert, key.Public(), parent.key)
	if err != nil {
		return authority{}, err
	}
	cert, err := x509.ParseCertificate(der)
	return authority{cert, key}, err
}
