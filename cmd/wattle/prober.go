package main

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"
)

const (
	probeTimeout = time.Second
	probeAgain   = time.Second // what is held and has ended is called in vain for about twice as long
	probeForget  = time.Minute // nobody has asked for that long
	probesAtOnce = 64
	maxProbed    = 10_000
	maxMisses    = 2 // in a row, until nobody is there; a refusal is enough alone
)

// prober tells whether something listens where endpoints are of which no agent speaks. Its methods may be called from
// any goroutine.
type prober struct {
	ctx   context.Context
	slots chan struct{}

	mu    sync.Mutex
	known map[netip.AddrPort]*probed
}

// probed is what is known of one place.
type probed struct {
	asked  time.Time // last
	at     time.Time // of the last answer
	busy   bool
	misses int
}

// newProber makes a prober that connects to nothing before it is asked, and to nothing once ctx is done.
func newProber(ctx context.Context) *prober {
	return &prober{ctx: ctx, slots: make(chan struct{}, probesAtOnce), known: map[netip.AddrPort]*probed{}}
}

// alive reports whether something listens there, as far as it is known by now. It does not block: the first answer is
// yes, and the place is looked at meanwhile; so is the answer for as long as there are more places than can be looked at.
func (p *prober) alive(place netip.AddrPort) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	k := p.known[place]
	if k == nil || now.Sub(k.asked) > probeForget {
		if k = p.add(now, place); k == nil {
			return true // it is not known to be dead
		}
	}
	k.asked = now
	if !k.busy && now.Sub(k.at) >= probeAgain {
		k.busy = true
		go p.look(place, k)
	}
	return k.misses < maxMisses
}

// add makes room for another place, nil if there is none.
func (p *prober) add(now time.Time, place netip.AddrPort) *probed {
	if len(p.known) >= maxProbed {
		for place, k := range p.known {
			if now.Sub(k.asked) > probeForget {
				delete(p.known, place)
			}
		}
	}
	if len(p.known) >= maxProbed {
		return nil
	}
	k := &probed{}
	p.known[place] = k
	return k
}

// look connects to a place, and says nothing there.
func (p *prober) look(place netip.AddrPort, k *probed) {
	select {
	case p.slots <- struct{}{}:
	case <-p.ctx.Done():
		return
	}
	d := net.Dialer{Timeout: probeTimeout}
	conn, err := d.DialContext(p.ctx, "tcp", place.String())
	<-p.slots
	if err == nil {
		conn.Close()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	k.busy, k.at = false, time.Now()
	switch {
	case err == nil:
		k.misses = 0
	case errors.Is(err, syscall.ECONNREFUSED):
		k.misses = maxMisses
	default:
		k.misses++
	}
}
