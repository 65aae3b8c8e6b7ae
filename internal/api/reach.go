package api

import (
	"cmp"
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/wattle-mesh/wattle/configs"
	"github.com/wattle-mesh/wattle/internal/api/apipb"
)

// A node may have the server connect back reachBurst times at once and reachRate times a second, each for reachLimit.
const (
	reachRate  = 0.5
	reachBurst = 5
	reachLimit = 3 * time.Second
)

// Reach implements apipb.NodeServer. The address is the verified one of the caller, and the port one of its mesh ports: a
// node cannot have the server connect to anything else.
func (n *Node) Reach(ctx context.Context, req *apipb.ReachRequest) (*apipb.ReachResponse, error) {
	who, ok := PeerFrom(ctx)
	if !ok || who.Node == "" {
		return nil, status.Error(codes.Unauthenticated, "no certificate of a node")
	}
	if !n.reaches.of(who.Node).Allow() {
		return nil, status.Error(codes.ResourceExhausted, "too many attempts at once; wait two seconds")
	}
	address, first := n.o.Registrar.whereabouts(who)
	port := req.GetPort()
	if port < uint32(first) || port >= uint32(first)+configs.MeshPorts {
		return nil, status.Errorf(codes.InvalidArgument, "port %d is none of the node's mesh ports, %d to %d", port, first, uint32(first)+configs.MeshPorts-1)
	}
	to := netip.AddrPortFrom(address, uint16(port)).String()
	ctx, cancel := context.WithTimeout(ctx, reachLimit)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", to)
	if err != nil {
		return &apipb.ReachResponse{Address: to, Error: unreached(err)}, nil
	}
	_ = conn.Close()
	return &apipb.ReachResponse{Address: to}, nil
}

// unreached says why a connection was not made, in a person's words.
func unreached(err error) string {
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return "the connection is refused: nothing listens there"
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded):
		return "no answer within " + reachLimit.String() + ": a firewall drops it, or there is no such host"
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return "there is no way to that address"
	}
	return err.Error()
}

// whereabouts returns where a node is reached, and the first of its mesh ports.
func (r *Registrar) whereabouts(who *Peer) (netip.Addr, uint16) {
	r.mu.Lock()
	defer r.mu.Unlock()
	address := who.Address
	if h := r.hosts[who.Node]; h != nil && h.address.IsValid() {
		address = h.address
	}
	return address, r.firstPort(who.Node)
}

// firstPort returns the first of a node's mesh ports. The caller holds r.mu.
func (r *Registrar) firstPort(node string) (first uint16) {
	if h := r.hosts[node]; h != nil {
		first = h.said.meshPort
	}
	if d := declaration(r.policy, node); d != nil {
		first = cmp.Or(d.MeshPort, first)
	}
	return cmp.Or(first, configs.FirstMeshPort)
}
