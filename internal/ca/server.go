package ca

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/wattle-mesh/wattle/internal/spiffe"
)

// ServerCertificate is the control plane's certificate for its agents' port, with the identity
// spiffe://<trust domain>/server. It lives in memory: a restarted server makes another. Safe for concurrent use.
type ServerCertificate struct {
	ca  *CA
	dns []string
	ips []net.IP

	mu    sync.Mutex
	now   *tls.Certificate
	renew time.Time
}

// Server returns the server's certificate, which also carries names: DNS names and addresses.
func (c *CA) Server(names []string) *ServerCertificate {
	s := &ServerCertificate{ca: c}
	for _, n := range names {
		if ip := net.ParseIP(n); ip != nil {
			s.ips = append(s.ips, ip)
		} else {
			s.dns = append(s.dns, n)
		}
	}
	return s
}

// Certificate returns one that is good for a while: a new one with a new key when a third of the last one's life
// is over. If that cannot be made, the last one serves until its end.
func (s *ServerCertificate) Certificate() (*tls.Certificate, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.ca.now()
	if s.now != nil && now.Before(s.renew) {
		return s.now, nil
	}
	next, err := s.make()
	if err != nil {
		if s.now != nil && now.Before(s.now.Leaf.NotAfter) {
			return s.now, nil
		}
		return nil, err
	}
	s.now, s.renew = next, now.Add(next.Leaf.NotAfter.Sub(now)/3)
	return next, nil
}

func (s *ServerCertificate) make() (*tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make the server's key: %w", err)
	}
	leaf, err := s.ca.issue(key.Public(), spiffe.ForServer(s.ca.TrustDomain), s.dns, s.ips)
	if err != nil {
		return nil, err
	}
	// The root goes along for agents that know it only by its hash yet.
	return leaf.certificate(key, s.ca.root.Raw)
}

// certificate joins a leaf with its key.
func (l *Leaf) certificate(key *ecdsa.PrivateKey, more ...[]byte) (*tls.Certificate, error) {
	leaf, err := x509.ParseCertificate(l.Chain[0])
	if err != nil {
		return nil, err
	}
	return &tls.Certificate{Certificate: slices.Concat(l.Chain, more), PrivateKey: key, Leaf: leaf}, nil
}
