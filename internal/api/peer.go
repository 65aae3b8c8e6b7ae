package api

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/netip"
	"regexp"
	"strings"
	"time"

	"golang.org/x/time/rate"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/tap"

	"github.com/wattle-mesh/wattle/internal/api/apipb"
	"github.com/wattle-mesh/wattle/internal/ca"
	"github.com/wattle-mesh/wattle/internal/spiffe"
)

// Peer is who is at the other end of a connection to the agents' port. It is made once, by the handshake.
type Peer struct {
	credentials.TLSInfo
	Node     string     // the zero string: not a node of this mesh, so it may Join and nothing else, unless it is late
	Address  netip.Addr // where the connection comes from
	Refusal  string     // why Node is empty
	late     string     // the node whose certificate has expired so lately that it may have it renewed; Node is empty then
	notAfter time.Time
	issued   time.Time // the certificate
	key      any       // the public key that the peer proved to hold
	guest    *guest    // nil: not a node
}

// PeerFrom returns the peer of a call. It reports false if the call did not come through the agents' port.
func PeerFrom(ctx context.Context) (*Peer, bool) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return nil, false
	}
	who, ok := p.AuthInfo.(*Peer)
	return who, ok
}

// transport is TLS 1.3 with a certificate of the CA, for peers that show a certificate of any make. It classifies
// the peer once for each connection.
type transport struct {
	tls credentials.TransportCredentials
	ca  *ca.CA
}

func newTransport(authority *ca.CA, cert *ca.ServerCertificate) *transport {
	return &transport{ca: authority, tls: credentials.NewTLS(&tls.Config{
		MinVersion:             tls.VersionTLS13,
		ClientAuth:             tls.RequireAnyClientCert, // one of no CA of ours may still join
		SessionTicketsDisabled: true,                     // every connection proves its key, against the certificates of now
		GetCertificate:         func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return cert.Certificate() },
	})}
}

// handshake returns the connection over raw, and who is at its other end.
func (t *transport) handshake(raw net.Conn) (net.Conn, *Peer, error) {
	conn, info, err := t.tls.ServerHandshake(raw)
	if err != nil {
		return nil, nil, err
	}
	state, ok := info.(credentials.TLSInfo)
	if !ok || len(state.State.PeerCertificates) == 0 {
		return nil, nil, errors.Join(errors.New("no certificate"), conn.Close())
	}
	who := t.classify(state)
	if a, ok := raw.RemoteAddr().(*net.TCPAddr); ok {
		who.Address = a.AddrPort().Addr().Unmap().WithZone("")
	}
	return conn, who, nil
}

// classify finds out whose certificate it is.
func (t *transport) classify(info credentials.TLSInfo) *Peer {
	chain := info.State.PeerCertificates
	leaf := chain[0]
	who := &Peer{TLSInfo: info, key: leaf.PublicKey, notAfter: leaf.NotAfter, issued: ca.Issued(leaf)}
	expired, err := verify(chain, t.ca)
	if err != nil {
		who.Refusal = "the certificate is not a valid one of this mesh: " + err.Error()
		return who
	}
	id, err := spiffe.FromCertificate(leaf)
	switch {
	case err != nil:
		who.Refusal = err.Error()
	case id.TrustDomain != t.ca.TrustDomain:
		who.Refusal = "the certificate is of the trust domain " + id.TrustDomain
	case id.Kind != spiffe.Node:
		who.Refusal = "the certificate is a " + string(id.Kind) + "'s; only nodes may call"
	case expired:
		who.overdue(id.Name, t.ca.Now())
	default:
		who.Node = id.Name
	}
	return who
}

// admit decides whether a call may go on: Join for everybody, Sign for nodes that are late too, all else for nodes. A
// certificate that ended while the connection lived is refused too.
func admit(ctx context.Context, method string, now time.Time) error {
	who, ok := PeerFrom(ctx)
	switch {
	case !ok:
		return status.Error(codes.Unauthenticated, "no certificate")
	case method == apipb.Node_Join_FullMethodName:
		return nil
	case method == apipb.Node_Sign_FullMethodName && who.late != "":
		return nil
	case who.Node == "":
		return status.Error(codes.Unauthenticated, who.Refusal)
	case !now.Before(who.notAfter):
		return status.Error(codes.Unauthenticated, "the certificate has expired since the connection was made; connect again with a new one")
	}
	return nil
}

// allow is admit, for nodes that have not left the mesh. One that has may Join.
func (p *Port) allow(ctx context.Context, method string) error {
	if err := admit(ctx, method, p.o.CA.Now()); err != nil || method == apipb.Node_Join_FullMethodName {
		return err
	}
	who, _ := PeerFrom(ctx)
	return p.o.Node.o.Registrar.barred(who)
}

// guards refuse calls: before a byte of their messages is read, and once more when the call begins. What a node sends
// on streams is paced.
func (p *Port) guards() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.InTapHandle(func(ctx context.Context, info *tap.Info) (context.Context, error) {
			if err := p.allow(ctx, info.FullMethodName); err != nil {
				return ctx, err
			}
			who, _ := PeerFrom(ctx)
			if who.guest == nil || !unary(info.FullMethodName) {
				return ctx, nil
			}
			if err := who.guest.begin(); err != nil {
				return ctx, err
			}
			context.AfterFunc(ctx, who.guest.end)
			return ctx, nil
		}),
		grpc.ChainUnaryInterceptor(func(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
			if err := p.allow(ctx, info.FullMethod); err != nil {
				return nil, err
			}
			return next(ctx, req)
		}),
		grpc.ChainStreamInterceptor(func(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
			if err := p.allow(ss.Context(), info.FullMethod); err != nil {
				return err
			}
			if who, _ := PeerFrom(ss.Context()); who.guest != nil {
				if err := who.guest.begin(); err != nil {
					return err
				}
				defer who.guest.end()
				ss = &paced{ss, who.guest.pace}
			}
			return next(srv, ss)
		}),
	}
}

// unary reports whether gRPC reads the message of a call before any interceptor sees it.
func unary(method string) bool {
	switch method {
	case apipb.Node_Join_FullMethodName, apipb.Node_Sign_FullMethodName, apipb.Node_Leave_FullMethodName, apipb.Node_Reach_FullMethodName:
		return true
	}
	return false
}

// paced is a stream that is read no faster than its node may send.
type paced struct {
	grpc.ServerStream
	pace *rate.Limiter
}

// RecvMsg implements grpc.ServerStream.
func (s *paced) RecvMsg(m any) error {
	if err := s.pace.Wait(s.Context()); err != nil {
		return status.FromContextError(s.Context().Err()).Err()
	}
	return s.ServerStream.RecvMsg(m)
}

// proxyName is what may follow the node's name in the id of a proxy.
var proxyName = regexp.MustCompile(`^[a-z0-9]([-a-z0-9_.]{0,126}[a-z0-9])?$`)

// SplitProxy returns the two parts of a proxy's id, "h1/host". It reports false if no proxy can have that id. The
// name is fit for a file's.
func SplitProxy(id string) (node, name string, ok bool) {
	node, name, ok = strings.Cut(id, "/")
	return node, name, ok && spiffe.CheckName(node) == nil && proxyName.MatchString(name)
}

// AuthorizeProxy says whose configuration an xDS stream gets: the proxy that it claims to be, if that belongs to the
// peer's node ("h1/host" to h1). It is for xds.Options.Authorize; N is Envoy's
// Node, which an assignment infers.
func AuthorizeProxy[N interface{ GetId() string }](ctx context.Context, claim N) (proxyID string, err error) {
	who, ok := PeerFrom(ctx)
	if !ok || who.Node == "" {
		return "", status.Error(codes.Unauthenticated, "no certificate of a node")
	}
	if node, _, ok := SplitProxy(claim.GetId()); !ok || node != who.Node {
		return "", status.Errorf(codes.PermissionDenied, "node %s may not have the configuration of proxy %q", who.Node, clip(claim.GetId(), 100))
	}
	return claim.GetId(), nil
}

// clip shortens what a peer said before it goes into an error or a log.
func clip(s string, n int) string {
	if len(s) > n {
		return s[:n] + "..."
	}
	return s
}
