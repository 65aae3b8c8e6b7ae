package api

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/wattle-mesh/wattle/internal/api/apipb"
	"github.com/wattle-mesh/wattle/internal/ca"
	"github.com/wattle-mesh/wattle/internal/spiffe"
	"github.com/wattle-mesh/wattle/internal/store"
	"github.com/wattle-mesh/wattle/registry"
)

// How long a join token lives.
const (
	defaultTTL = 10 * time.Minute
	maxTTL     = 7 * 24 * time.Hour
)

// NodeOptions configure a Node. All fields are required unless they say otherwise.
type NodeOptions struct {
	Log       *slog.Logger
	CA        *ca.CA
	Store     *store.Store
	Registrar *Registrar
	// Holds reports whether the view in force has a workload of that identity on the node. It says what there is, not what
	// is granted. Nil: what the policy declares and agents registered is all there is.
	Holds func(node string, id spiffe.ID) bool
	// Callers knows who may call workloads. Nil: nobody does.
	Callers Callers
}

// Callers are the proxies that may call workloads; *drain.Callers is one.
type Callers interface {
	// Of says which proxies have yet to acknowledge that a workload takes no new requests, and which cannot be told. It
	// reports false while what is in force calls the workload yet.
	Of(registry.WorkloadKey) (lagging, away []string, told bool)
	// Changed is closed when an answer of Of may be another one.
	Changed() <-chan struct{}
}

// nobody calls.
type nobody struct{}

func (nobody) Of(registry.WorkloadKey) (lagging, away []string, told bool) { return nil, nil, true }
func (nobody) Changed() <-chan struct{}                                    { return nil }

// Node is the gRPC service wattle.v1.Node on the agents' port, and what people may do to nodes.
type Node struct {
	apipb.UnimplementedNodeServer
	o       NodeOptions
	limit   *limiter
	reports paces
	signs   paces
	reaches paces
}

// NewNode makes one that serves on a Port.
func NewNode(o NodeOptions) *Node {
	if o.Holds == nil {
		o.Holds = func(string, spiffe.ID) bool { return false }
	}
	if o.Callers == nil {
		o.Callers = nobody{}
	}
	return &Node{o: o, limit: newLimiter(), reports: newPaces(reportRate, reportBurst), signs: newPaces(signRate, signBurst), reaches: newPaces(reachRate, reachBurst)}
}

// Register adds the service to a gRPC server of a Port.
func (n *Node) Register(r grpc.ServiceRegistrar) { apipb.RegisterNodeServer(r, n) }

// Join implements apipb.NodeServer. The certified key is the one that the peer's TLS handshake proved: a token that
// was seen on its way is of no use to another.
func (n *Node) Join(ctx context.Context, req *apipb.JoinRequest) (*apipb.SignResponse, error) {
	who, ok := PeerFrom(ctx)
	if !ok {
		return nil, status.Error(codes.Unauthenticated, "no certificate")
	}
	if !n.limit.allow(who.Address) {
		return nil, status.Error(codes.ResourceExhausted, "too many attempts to join from this address; wait a second")
	}
	key, err := ca.RequestKey(req.GetCsr())
	if err != nil {
		return nil, n.failure(err)
	}
	if !sameKey(key, who.key) {
		return nil, status.Error(codes.InvalidArgument, "the signing request is for another key than the connection's")
	}
	token, err := ParseToken(req.GetToken())
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	id := spiffe.ForNode(n.o.CA.TrustDomain, token.Node)
	if err := id.Check(); err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	if err := n.o.Store.Redeem(token.Secret, token.Node, n.o.CA.Now()); err != nil {
		n.o.Log.Warn("join refused", "node", token.Node, "address", who.Address, "error", err)
		return nil, n.failure(err)
	}
	if err := n.o.Registrar.regrant(token.Node); err != nil {
		return nil, n.failure(err)
	}
	leaf, err := n.o.CA.Sign(req.GetCsr(), id, token.Node)
	if err != nil {
		return nil, n.failure(err)
	}
	n.o.Log.Info("node joined", "node", token.Node, "address", who.Address)
	return n.response(leaf), nil
}

// Sign implements apipb.NodeServer.
func (n *Node) Sign(ctx context.Context, req *apipb.SignRequest) (*apipb.SignResponse, error) {
	who, ok := PeerFrom(ctx)
	if ok && who.late != "" {
		return n.renewLate(who, req)
	}
	if !ok || who.Node == "" {
		return nil, status.Error(codes.Unauthenticated, "no certificate of a node")
	}
	if !n.signs.of(who.Node).Allow() {
		return nil, status.Error(codes.ResourceExhausted, "too many certificates at once; wait a second")
	}
	id := spiffe.ForNode(n.o.CA.TrustDomain, who.Node)
	if req.GetIdentity() != "" && req.GetIdentity() != id.String() {
		var err error
		if id, err = spiffe.Parse(req.GetIdentity()); err != nil {
			return nil, status.Error(codes.InvalidArgument, err.Error())
		}
		if id.TrustDomain != n.o.CA.TrustDomain {
			return nil, status.Errorf(codes.PermissionDenied, "%s is not in the trust domain %s", id, n.o.CA.TrustDomain)
		}
		switch err := n.mayHold(who.Node, id); {
		case errors.Is(err, errNoPolicy):
			return nil, status.Error(codes.Unavailable, err.Error())
		case err != nil:
			n.o.Log.Warn("certificate refused", "node", who.Node, "identity", id.String(), "error", err)
			return nil, status.Error(codes.PermissionDenied, err.Error())
		}
	}
	leaf, err := n.o.CA.Sign(req.GetCsr(), id, who.Node)
	if err != nil {
		return nil, n.failure(err)
	}
	return n.response(leaf), nil
}

// mayHold says why a node may not hold an identity; nil: it may.
func (n *Node) mayHold(node string, id spiffe.ID) error {
	granted, has, err := n.o.Registrar.holds(node, id)
	switch {
	case err != nil:
		return err
	case has:
		return nil
	case granted && n.o.Holds(node, id):
		return nil
	case granted:
		return fmt.Errorf("node %s has no workload %s", node, id)
	}
	return notGranted(node, id.Namespace, id.Name)
}

func (n *Node) response(l *ca.Leaf) *apipb.SignResponse {
	return &apipb.SignResponse{Chain: l.Chain, Roots: n.o.CA.Roots(), NotAfter: timestamppb.New(l.NotAfter), Identity: l.ID.String()}
}

// failure gives an error its code. What is wrong with the server itself is logged, not told.
func (n *Node) failure(err error) error {
	switch {
	case errors.Is(err, ca.ErrRequest):
		return status.Error(codes.InvalidArgument, err.Error())
	case errors.Is(err, store.ErrToken):
		return status.Error(codes.PermissionDenied, err.Error())
	case errors.Is(err, store.ErrUnwritable):
		n.o.Log.Error("call of a node refused, the store cannot be written", "error", err)
		return status.Error(codes.Unavailable, "the server's disk cannot be written, and nothing was changed; free some space there")
	}
	n.o.Log.Error("call of a node failed", "error", err)
	return status.Error(codes.Internal, "the server cannot do this now; its log says why")
}

// CreateToken makes a join token. Errors match ErrInput if the request is at fault.
func (n *Node) CreateToken(r TokenRequest) (*TokenResponse, error) {
	if err := spiffe.CheckName(r.Node); err != nil {
		return nil, fmt.Errorf("%w: node: %w", ErrInput, err)
	}
	grant, err := cleanGrant(r.Services)
	if err != nil {
		return nil, err
	}
	ttl := time.Duration(r.TTL)
	if ttl == 0 {
		ttl = defaultTTL
	}
	if ttl < time.Second || ttl > maxTTL {
		return nil, fmt.Errorf("%w: a token lives from 1s to %s", ErrInput, maxTTL)
	}
	token, err := newToken(n.o.CA.Pin(), r.Node)
	if err != nil {
		return nil, err
	}
	now := n.o.CA.Now()
	expires := now.Add(ttl).UTC().Truncate(time.Second)
	if err := n.o.Store.AddToken(store.Token{Hash: store.Hash(token.Secret), Node: r.Node, Grant: grant, Expires: expires}, now); err != nil {
		return nil, err
	}
	return &TokenResponse{Token: token.Text(), Node: r.Node, Expires: expires}, nil
}

// Issue lets a node in without a token and certifies its key. Errors match ErrInput if the request is at fault.
func (n *Node) Issue(node string, r CertificateRequest) (*CertificateResponse, error) {
	if err := spiffe.CheckName(node); err != nil {
		return nil, fmt.Errorf("%w: node: %w", ErrInput, err)
	}
	grant, err := cleanGrant(r.Services)
	if err != nil {
		return nil, err
	}
	leaf, err := n.o.CA.Sign(r.CSR, spiffe.ForNode(n.o.CA.TrustDomain, node), node)
	if errors.Is(err, ca.ErrRequest) {
		return nil, fmt.Errorf("%w: %w", ErrInput, err)
	}
	if err != nil {
		return nil, err
	}
	if err := n.o.Store.Admit(node, grant, n.o.CA.Now()); err != nil {
		return nil, err
	}
	if err := n.o.Registrar.regrant(node); err != nil {
		return nil, err
	}
	n.o.Log.Info("node certificate issued", "node", node)
	return &CertificateResponse{Identity: leaf.ID.String(), Chain: leaf.Chain, Roots: n.o.CA.Roots(), NotAfter: leaf.NotAfter}, nil
}

// Nodes lists the nodes that were let in, sorted by name.
func (n *Node) Nodes() ([]NodeStatus, error) {
	kept, err := n.o.Store.Nodes()
	if err != nil {
		return nil, err
	}
	out := make([]NodeStatus, len(kept))
	for i, k := range kept {
		out[i] = n.o.Registrar.describe(k)
		n.describeDrains(&out[i])
	}
	return out, nil
}

func cleanGrant(services []string) (store.Grant, error) {
	g, err := store.Grant{Services: services}.Clean(spiffe.CheckName)
	if err != nil {
		return g, fmt.Errorf("%w: %w", ErrInput, err)
	}
	return g, nil
}

// ErrInput marks what is wrong with a request of a person.
var ErrInput = errors.New("bad request")
