package api

import (
	"net/netip"
	"sync"

	"golang.org/x/time/rate"
)

// A peer may try to join joinBurst times at once, and joinRate times a second from then on. Tokens cannot be
// guessed; this bounds what trying costs the server.
const (
	joinRate  = 10
	joinBurst = 50
	joinPeers = 4096 // remembered at a time
)

// limiter limits each peer's attempts to join.
type limiter struct {
	mu    sync.Mutex
	peers map[netip.Prefix]*rate.Limiter
}

func newLimiter() *limiter { return &limiter{peers: map[netip.Prefix]*rate.Limiter{}} }

// allow reports whether the peer may try now. An IPv6 network of 64 bits counts as one peer.
func (l *limiter) allow(a netip.Addr) bool {
	bits := 32
	if a.Is6() {
		bits = 64
	}
	key, err := a.Prefix(bits)
	if err != nil {
		key = netip.Prefix{} // no IP connection: all such peers are one
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	r := l.peers[key]
	if r == nil {
		if len(l.peers) >= joinPeers {
			clear(l.peers) // who has 4096 addresses is not limited by them
		}
		r = rate.NewLimiter(joinRate, joinBurst)
		l.peers[key] = r
	}
	return r.Allow()
}

// A node may have signBurst certificates at once, those of a host that starts, and signRate a second from then on.
const (
	signRate  = 20
	signBurst = 1000
)

// paces limits each node. There is one limiter for every node that ever called: there are as many as the CA has let
// in. Safe for concurrent use.
type paces struct {
	mu    *sync.Mutex
	nodes map[string]*rate.Limiter
	rate  rate.Limit
	burst int
}

func newPaces(r rate.Limit, burst int) paces {
	return paces{mu: new(sync.Mutex), nodes: map[string]*rate.Limiter{}, rate: r, burst: burst}
}

// of returns the limiter of a node, whatever its connections and streams.
func (p paces) of(node string) *rate.Limiter {
	p.mu.Lock()
	defer p.mu.Unlock()
	l := p.nodes[node]
	if l == nil {
		l = rate.NewLimiter(p.rate, p.burst)
		p.nodes[node] = l
	}
	return l
}
