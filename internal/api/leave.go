package api

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/wattle-mesh/wattle/internal/api/apipb"
	"github.com/wattle-mesh/wattle/internal/ca"
	"github.com/wattle-mesh/wattle/internal/spiffe"
)

// Forgotten is the answer of DELETE /v1/nodes/{name}.
type Forgotten struct {
	Registrations int `json:"registrations"` // that were the node's and are gone
}

// Leave implements apipb.NodeServer.
func (n *Node) Leave(ctx context.Context, _ *apipb.LeaveRequest) (*apipb.LeaveResponse, error) {
	who, ok := PeerFrom(ctx)
	if !ok || who.Node == "" {
		return nil, status.Error(codes.Unauthenticated, "no certificate of a node")
	}
	gone, _, err := n.o.Registrar.forget(who.Node, n.o.CA.Now())
	if err != nil {
		return nil, n.failure(err)
	}
	n.o.Log.Info("node left", "node", who.Node, "address", who.Address, "registrations", gone)
	return &apipb.LeaveResponse{Registrations: uint32(gone)}, nil
}

// Forget is Leave for a node that cannot say so itself. Errors match ErrInput if the name is none.
func (n *Node) Forget(node string) (Forgotten, error) {
	if err := spiffe.CheckName(node); err != nil {
		return Forgotten{}, fmt.Errorf("%w: node: %w", ErrInput, err)
	}
	gone, known, err := n.o.Registrar.forget(node, n.o.CA.Now())
	if err != nil {
		return Forgotten{}, err
	}
	if !known {
		return Forgotten{}, noHost(node)
	}
	n.o.Log.Info("node forgotten", "node", node, "registrations", gone)
	return Forgotten{gone}, nil
}

func (h *handler) forget(r *http.Request) (any, error) { return h.o.Node.Forget(r.PathValue("name")) }

// loadLeft reads which nodes left.
func (r *Registrar) loadLeft() error {
	all, err := r.o.Store.Departures()
	r.left = make(map[string]time.Time, len(all))
	for _, d := range all {
		r.left[d.Node] = d.Left
	}
	return err
}

// forget drops a node and all that it registered, granted or said, and has its streams of reports end. It reports how many
// registrations that were, and whether the node was known. While r.saving is held no report of the node is saved.
func (r *Registrar) forget(node string, now time.Time) (registrations int, known bool, err error) {
	r.saving.Lock()
	defer r.saving.Unlock()
	known, err = r.o.Store.Forget(node, now, now.Add(-ca.NodeLife-lateRenewal))
	if err != nil {
		return 0, known, err
	}
	r.mu.Lock()
	r.left[node] = now
	expel := r.expel
	h := r.hosts[node]
	if h != nil {
		known = true
		if h.block != nil {
			registrations = len(h.block.Services)
		}
		if h.end != nil {
			close(h.end)
		}
		next := maps.Clone(r.health)
		h.dropHealth(next)
		r.health = next
		delete(r.hosts, node)
		delete(r.unsaved, node)
		r.learn()
		r.rebuild()
	}
	r.mu.Unlock()
	if expel != nil {
		expel(node)
	}
	if h != nil && r.o.OnHealth != nil {
		r.o.OnHealth()
	}
	return registrations, known, nil
}

// onLeft has do called with each node that leaves, until it is taken back.
func (r *Registrar) onLeft(do func(node string)) (back func()) {
	set := func(do func(string)) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.expel = do
	}
	set(do)
	return func() { set(nil) }
}

// barred says why a node may not call though its certificate is good: it left the mesh after it got it.
func (r *Registrar) barred(who *Peer) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	left, ok := r.left[who.Node]
	if !ok || !who.issued.Before(left.Truncate(time.Second)) {
		return nil
	}
	return status.Errorf(codes.PermissionDenied, "node %s left the mesh %s: %s", who.Node, stamp(left), rejoin(who.Node))
}
