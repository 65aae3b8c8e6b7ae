package api

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"crypto/x509"

	"golang.org/x/time/rate"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/wattle-mesh/wattle/internal/api/apipb"
	"github.com/wattle-mesh/wattle/internal/ca"
	"github.com/wattle-mesh/wattle/internal/spiffe"
	"github.com/wattle-mesh/wattle/internal/store"
)

// Joins of one address are limited, so that tokens cannot be guessed.
const (
	joinRate     = 1  // a second
	joinBurst    = 20 // hosts behind one address that start together
	joinsTracked = 4096
)

// NodeOptions configure a Node. All fields are required unless they say otherwise.
type NodeOptions struct {
	Log       *slog.Logger
	CA        *ca.CA
	Store     *store.Store
	Registrar *Registrar
	// Holds reports whether the view in force has a workload or a gateway of that identity on the node.
	Holds func(node string, id spiffe.ID) bool
	Now   func() time.Time // nil: time.Now
}

// Node serves agents: joins, certificates, reports. Safe for concurrent use.
type Node struct {
	apipb.UnimplementedNodeServer
	o     NodeOptions
	roots *x509.CertPool

	mu    sync.Mutex
	joins map[netip.Addr]*rate.Limiter
}

// NewNode makes the service.
func NewNode(o NodeOptions) *Node {
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Node{o: o, roots: o.CA.Pool(), joins: map[netip.Addr]*rate.Limiter{}}
}

// Register adds the service to a gRPC server.
func (n *Node) Register(s grpc.ServiceRegistrar) { apipb.RegisterNodeServer(s, n) }

// Join trades a token for a node certificate. The caller's TLS key must be the one it wants certified, so that a
// token that somebody else carries off is of no use without it.
func (n *Node) Join(ctx context.Context, req *apipb.JoinRequest) (*apipb.SignResponse, error) {
	c, err := callerOf(ctx)
	if err != nil {
		return nil, err
	}
	if !n.mayJoin(c.address) {
		return nil, status.Error(codes.ResourceExhausted, "too many joins from this address; try again in a second")
	}
	key, err := ca.RequestKey(req.GetCsr())
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	if !sameKey(key, c.cert.PublicKey) {
		return nil, status.Error(codes.PermissionDenied, "the signing request is for another key than the connection's")
	}
	token, err := ParseToken(req.GetToken())
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	id := spiffe.ForNode(n.o.CA.TrustDomain, token.Node)
	leaf, err := n.o.CA.Sign(req.GetCsr(), id, token.Node)
	if err != nil {
		return nil, n.refuse("join", token.Node, c, err)
	}
	if err := n.o.Store.Redeem(token.Secret, token.Node, n.o.Now()); err != nil {
		return nil, n.refuse("join", token.Node, c, err)
	}
	n.o.Log.Info("node joined", "node", token.Node, "from", c.address)
	return n.response(leaf), nil
}

// mayJoin counts a join attempt of an address.
func (n *Node) mayJoin(a netip.Addr) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	l := n.joins[a]
	if l == nil {
		if len(n.joins) >= joinsTracked {
			clear(n.joins) // forgetting costs a guesser's victim nothing: secrets have 128 bits
		}
		l = rate.NewLimiter(joinRate, joinBurst)
		n.joins[a] = l
	}
	return l.AllowN(n.o.Now(), 1)
}

// Sign certifies a key of the calling node: for itself, or for an identity that it holds.
func (n *Node) Sign(ctx context.Context, req *apipb.SignRequest) (*apipb.SignResponse, error) {
	node, c, err := n.node(ctx)
	if err != nil {
		return nil, err
	}
	id := spiffe.ForNode(n.o.CA.TrustDomain, node)
	if req.GetIdentity() != "" {
		if id, err = spiffe.Parse(req.GetIdentity()); err != nil {
			return nil, status.Error(codes.InvalidArgument, err.Error())
		}
		workload := id.Kind == spiffe.Service || id.Kind == spiffe.Gateway
		if !workload || id.TrustDomain != n.o.CA.TrustDomain || !n.o.Holds(node, id) {
			n.o.Log.Warn("certificate refused", "node", node, "identity", id.String(), "from", c.address)
			return nil, status.Errorf(codes.PermissionDenied, "node %s has no workload or gateway %s that it was granted", node, id)
		}
	}
	leaf, err := n.o.CA.Sign(req.GetCsr(), id, node)
	if err != nil {
		return nil, n.refuse("sign", node, c, err)
	}
	return n.response(leaf), nil
}

// refuse turns an error into what the caller may know, and logs the rest.
func (n *Node) refuse(what, node string, c caller, err error) error {
	n.o.Log.Warn(what+" refused", "node", node, "from", c.address, "error", err)
	switch {
	case errors.Is(err, store.ErrToken):
		return status.Error(codes.PermissionDenied, err.Error()+"; make a new one with wattle token create")
	case errors.Is(err, ca.ErrRequest):
		return status.Error(codes.InvalidArgument, err.Error())
	}
	return status.Error(codes.Internal, "the server could not do it; its log says why")
}

func (n *Node) response(l *ca.Leaf) *apipb.SignResponse {
	return &apipb.SignResponse{Chain: l.Chain, Roots: n.o.CA.Roots(), NotAfter: timestamppb.New(l.NotAfter), Identity: l.ID.String()}
}

// Report takes in what an agent says of its host, as often as it says it.
func (n *Node) Report(stream grpc.BidiStreamingServer[apipb.ReportRequest, apipb.ReportResponse]) error {
	node, c, err := n.node(stream.Context())
	if err != nil {
		return err
	}
	for {
		req, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		refused, err := n.o.Registrar.report(node, c.address, req)
		if err != nil {
			n.o.Log.Error("keep a report", "node", node, "error", err)
			return status.Error(codes.Unavailable, "the report could not be kept; the server's log says why")
		}
		if err := stream.Send(&apipb.ReportResponse{Refused: refused}); err != nil {
			return err
		}
	}
}
