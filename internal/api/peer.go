package api

import (
	"context"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/netip"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/wattle-mesh/wattle/internal/spiffe"
)

// caller is the other end of a connection to the agents' port.
type caller struct {
	cert    *x509.Certificate
	address netip.Addr
}

// callerOf returns who calls. There is always a certificate: the TLS handshake demands one and proves its key.
func callerOf(ctx context.Context) (caller, error) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return caller{}, status.Error(codes.Unauthenticated, "no peer")
	}
	info, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok || len(info.State.PeerCertificates) == 0 {
		return caller{}, status.Error(codes.Unauthenticated, "no client certificate")
	}
	c := caller{cert: info.State.PeerCertificates[0]}
	if tcp, ok := p.Addr.(*net.TCPAddr); ok {
		c.address = tcp.AddrPort().Addr().Unmap()
	}
	return c, nil
}

// node returns the name of the node that calls, if it shows a valid node certificate of this mesh.
func (n *Node) node(ctx context.Context) (string, caller, error) {
	c, err := callerOf(ctx)
	if err != nil {
		return "", c, err
	}
	if err := n.verify(ctx, c.cert); err != nil {
		return "", c, status.Errorf(codes.Unauthenticated, "the certificate is not valid here: %v", err)
	}
	id, err := spiffe.FromCertificate(c.cert)
	if err != nil {
		return "", c, status.Error(codes.Unauthenticated, err.Error())
	}
	if id.Kind != spiffe.Node || id.TrustDomain != n.o.CA.TrustDomain {
		return "", c, status.Errorf(codes.PermissionDenied, "%s is not a node of this mesh", id)
	}
	return id.Name, c, nil
}

func (n *Node) verify(ctx context.Context, leaf *x509.Certificate) error {
	inter := x509.NewCertPool()
	if p, ok := peer.FromContext(ctx); ok {
		for _, c := range p.AuthInfo.(credentials.TLSInfo).State.PeerCertificates[1:] {
			inter.AddCert(c)
		}
	}
	_, err := leaf.Verify(x509.VerifyOptions{
		Roots: n.roots, Intermediates: inter, CurrentTime: n.o.Now(),
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	return err
}

// Authorize decides whose configuration an xDS stream gets: the node of the certificate may ask for its own
// proxies, "NODE/...", and no others. It is the xds server's Options.Authorize.
func (n *Node) Authorize(ctx context.Context, claim *corev3.Node) (string, error) {
	name, _, err := n.node(ctx)
	if err != nil {
		return "", err
	}
	id := claim.GetId()
	if host, _, ok := strings.Cut(id, "/"); !ok || host != name {
		return "", status.Errorf(codes.PermissionDenied, "the certificate is that of node %s, which has no proxy %q", name, id)
	}
	return id, nil
}

// sameKey reports whether two public keys are equal.
func sameKey(a, b any) bool {
	type equaler interface{ Equal(x any) bool }
	switch k := a.(type) {
	case *ecdsa.PublicKey:
		o, ok := b.(*ecdsa.PublicKey)
		return ok && k.Equal(o)
	case equaler:
		return k.Equal(b)
	}
	return false
}

// TLS returns the configuration of the agents' port: TLS 1.3, and a client certificate from everybody. Which
// certificate a call needs is decided by the call: Join takes one that the caller signed itself.
func (n *Node) TLS(certificate func() (*tls.Certificate, error)) *tls.Config {
	return &tls.Config{
		MinVersion:     tls.VersionTLS13,
		ClientAuth:     tls.RequireAnyClientCert,
		NextProtos:     []string{"h2"},
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return certificate() },
	}
}
