package agent

import (
	"context"
	"crypto/ecdsa"
	"crypto/x509"
	"net"
	"strconv"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/wattle-mesh/wattle/internal/api/apipb"
	"github.com/wattle-mesh/wattle/internal/spiffe"
)

// nodeService is the world's side of what agents call.
type nodeService struct {
	apipb.UnimplementedNodeServer
	w *world
}

func (n *nodeService) Join(ctx context.Context, req *apipb.JoinRequest) (*apipb.SignResponse, error) {
	w := n.w
	w.mu.Lock()
	good := w.tokens[req.GetToken()]
	w.tokens[req.GetToken()] = false
	w.mu.Unlock()
	csr, err := x509.ParseCertificateRequest(req.GetCsr())
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	leaf, _ := peerCertificate(ctx)
	if key, ok := csr.PublicKey.(*ecdsa.PublicKey); !good || !ok || !key.Equal(leaf.PublicKey) {
		return nil, status.Error(codes.PermissionDenied, "the token is used up")
	}
	return w.certify("spiffe://"+trustDomain+"/node/h1", req.GetCsr())
}

func (n *nodeService) Sign(ctx context.Context, req *apipb.SignRequest) (*apipb.SignResponse, error) {
	w := n.w
	if _, err := w.caller(ctx); err != nil {
		return nil, err
	}
	id := req.GetIdentity()
	if id == "" {
		id = "spiffe://" + trustDomain + "/node/h1"
	}
	w.mu.Lock()
	no := w.refused[id]
	w.mu.Unlock()
	if no {
		return nil, status.Errorf(codes.PermissionDenied, "%s was not granted", id)
	}
	return w.certify(id, req.GetCsr())
}

func (n *nodeService) Leave(ctx context.Context, _ *apipb.LeaveRequest) (*apipb.LeaveResponse, error) {
	w := n.w
	if _, err := w.caller(ctx); err != nil {
		return nil, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.gone {
		return nil, status.Error(codes.PermissionDenied, "node h1 left the mesh")
	}
	w.gone = true
	return &apipb.LeaveResponse{Registrations: 2}, nil
}

func (w *world) certify(identity string, csr []byte) (*apipb.SignResponse, error) {
	id, err := spiffe.Parse(identity)
	if err != nil {
		return nil, err
	}
	leaf, err := w.ca.Sign(csr, id, "h1")
	if err != nil {
		return nil, err
	}
	w.mu.Lock()
	w.signed[identity]++
	w.mu.Unlock()
	return &apipb.SignResponse{Chain: leaf.Chain, Roots: w.ca.Roots(), Identity: identity}, nil
}

func (n *nodeService) Report(s grpc.BidiStreamingServer[apipb.ReportRequest, apipb.ReportResponse]) error {
	for {
		req, err := s.Recv()
		if err != nil {
			return nil
		}
		n.w.mu.Lock()
		n.w.reports = append(n.w.reports, req)
		refused := n.w.objects
		n.w.mu.Unlock()
		if err := s.Send(&apipb.ReportResponse{Refused: refused, Revision: req.GetRevision(), Number: req.GetNumber(), Time: timestamppb.New(n.w.ca.Now())}); err != nil {
			return err
		}
	}
}

func (w *world) authorize(ctx context.Context, node *corev3.Node) (string, error) {
	leaf, err := w.caller(ctx)
	if err != nil {
		return "", err
	}
	id, err := spiffe.FromCertificate(leaf)
	if err != nil || !strings.HasPrefix(node.GetId(), id.Name+"/") {
		return "", status.Errorf(codes.PermissionDenied, "%s is not for %s: %v", node.GetId(), id, err)
	}
	return node.GetId(), nil
}

// caller returns the verified certificate of a call.
func (w *world) caller(ctx context.Context) (*x509.Certificate, error) {
	leaf, chain := peerCertificate(ctx)
	between := x509.NewCertPool()
	for _, c := range chain {
		between.AddCert(c)
	}
	_, err := leaf.Verify(x509.VerifyOptions{Roots: w.ca.Pool(), Intermediates: between, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	if err != nil {
		return nil, status.Error(codes.Unauthenticated, err.Error())
	}
	return leaf, nil
}

func peerCertificate(ctx context.Context) (leaf *x509.Certificate, between []*x509.Certificate) {
	p, _ := peer.FromContext(ctx)
	chain := p.AuthInfo.(credentials.TLSInfo).State.PeerCertificates
	return chain[0], chain[1:]
}

// Reach connects to the caller, at the address that its connection comes from.
func (n *nodeService) Reach(ctx context.Context, req *apipb.ReachRequest) (*apipb.ReachResponse, error) {
	from, _ := peer.FromContext(ctx)
	host, _, err := net.SplitHostPort(from.Addr.String())
	if err != nil {
		return nil, err
	}
	out := &apipb.ReachResponse{Address: net.JoinHostPort(host, strconv.Itoa(int(req.GetPort())))}
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", out.Address)
	if err != nil {
		out.Error = err.Error()
		return out, nil
	}
	return out, conn.Close()
}
