package api

import (
	"crypto"
	"crypto/x509"
	"fmt"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/wattle-mesh/wattle/internal/api/apipb"
	"github.com/wattle-mesh/wattle/internal/ca"
	"github.com/wattle-mesh/wattle/internal/spiffe"
)

// lateRenewal is how long after its end a node's certificate may still be renewed.
const lateRenewal = 7 * 24 * time.Hour

// verify checks that a peer's chain leads to the root of c. A leaf that has expired is judged as of its last moment, so
// that what was never valid still is not: all above it must have been valid then, though an intermediate may have
// ended with its last leaves. The root has no such grace.
func verify(chain []*x509.Certificate, authority *ca.CA) (expired bool, err error) {
	leaf, now := chain[0], authority.Now()
	at := now
	if expired = !now.Before(leaf.NotAfter); expired {
		at = leaf.NotAfter
	}
	between := x509.NewCertPool()
	for _, c := range chain[1:min(len(chain), 4)] {
		between.AddCert(c)
	}
	found, err := leaf.Verify(x509.VerifyOptions{
		Roots: authority.Pool(), Intermediates: between, CurrentTime: at, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	if err != nil {
		return expired, err
	}
	root := found[0][len(found[0])-1] // there is one
	if now.After(root.NotAfter) {
		return expired, fmt.Errorf("the root ended %s", stamp(root.NotAfter))
	}
	return expired, nil
}

// overdue makes who the peer of a node whose certificate has expired, at a time that may be too long ago.
func (who *Peer) overdue(node string, now time.Time) {
	last := who.notAfter.Add(lateRenewal)
	if now.After(last) {
		who.Refusal = fmt.Sprintf("the certificate of node %s expired %s and could be renewed until %s: %s", node, stamp(who.notAfter), stamp(last), rejoin(node))
		return
	}
	who.late = node
	who.Refusal = fmt.Sprintf("the certificate of node %s expired %s: until %s it may be renewed for the same key, and until that is done nothing else is answered",
		node, stamp(who.notAfter), stamp(last))
}

// rejoin is the remedy for a node that cannot come back with what it has.
func rejoin(node string) string {
	return "the host has to join again, with a new token of wattle token create -node " + node
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// renewLate answers the one call of a node whose certificate has expired: for the node's own identity and the key that
// the handshake proved, if the node is still one of ours.
func (n *Node) renewLate(who *Peer, req *apipb.SignRequest) (*apipb.SignResponse, error) {
	if !n.limit.allow(who.Address) { // as a host that joins: the node itself is not to suffer from one that it was
		return nil, status.Error(codes.ResourceExhausted, "too many attempts to join or renew from this address; wait a second")
	}
	id := spiffe.ForNode(n.o.CA.TrustDomain, who.late)
	if req.GetIdentity() != "" && req.GetIdentity() != id.String() {
		return nil, status.Error(codes.Unauthenticated, who.Refusal)
	}
	key, err := ca.RequestKey(req.GetCsr())
	if err != nil {
		return nil, n.failure(err)
	}
	if !sameKey(key, who.key) {
		return nil, status.Error(codes.InvalidArgument, "the signing request is for another key than the certificate's, which has expired; sign it with the same key")
	}
	_, known, err := n.o.Store.Node(who.late)
	if err != nil {
		return nil, n.failure(err)
	}
	if !known {
		n.o.Log.Warn("late renewal refused", "node", who.late, "address", who.Address, "error", "the node is not known")
		return nil, status.Errorf(codes.PermissionDenied, "the certificate of node %s has expired, and the server does not know the node any more: %s", who.late, rejoin(who.late))
	}
	leaf, err := n.o.CA.Sign(req.GetCsr(), id, who.late)
	if err != nil {
		return nil, n.failure(err)
	}
	n.o.Log.Info("node certificate renewed after its end", "node", who.late, "address", who.Address, "expired", who.notAfter)
	return n.response(leaf), nil
}

// sameKey reports whether two public keys are one.
func sameKey(a, b crypto.PublicKey) bool {
	k, ok := a.(interface{ Equal(crypto.PublicKey) bool })
	return ok && k.Equal(b)
}
