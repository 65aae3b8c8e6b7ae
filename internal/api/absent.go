package api

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/wattle-mesh/wattle/configs"
)

// Every host has one lease, which its agent renews by being connected. When it has run out, and none of the host's Envoys
// answers either, the host is taken for dead: its workloads are unhealthy. An agent alone that dies ends no traffic.
const (
	hostLease  = silence
	lookAbsent = time.Second
)

// keepLeases looks after the hosts whose agents are not connected, until ctx is done.
func (r *Registrar) keepLeases(ctx context.Context) {
	if r.o.Answers == nil {
		return
	}
	tick := time.NewTicker(lookAbsent)
	defer tick.Stop()
	for {
		select {
		case now := <-tick.C:
			if r.miss(now) && r.o.OnHealth != nil {
				r.o.OnHealth()
			}
		case <-ctx.Done():
			return
		}
	}
}

// miss decides which hosts are dead, and reports whether that changed. If more than half of all hosts are silent it is the
// server that is cut off, and nothing changes.
func (r *Registrar) miss(now time.Time) (changed bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var silent []*host
	all := 0
	for _, h := range r.hosts {
		if len(h.said.health) == 0 {
			continue
		}
		all++
		if h.end == nil && now.Sub(h.left) >= hostLease {
			silent = append(silent, h)
		}
	}
	if 2*len(silent) > all {
		return false
	}
	for _, h := range silent {
		if dead := !r.answers(h); dead != h.dead {
			r.bury(h, dead)
			changed = true
		}
	}
	return changed
}

// answers reports whether something listens at one of the ports where the Envoys of a host do. A host that is not known to
// have any is not judged.
func (r *Registrar) answers(h *host) bool {
	if !h.address.IsValid() {
		return true
	}
	first, n := r.firstPort(h.name), uint16(1)
	if d := declaration(r.policy, h.name); d != nil {
		n = max(n, portsOf(d))
	}
	if h.block != nil {
		n = max(n, portsOf(h.block))
	}
	answered := false
	for port := first; port-first < n; port++ { // each is asked, so that the answer is known next time
		answered = r.o.Answers(netip.AddrPortFrom(h.address, port)) || answered
	}
	return answered
}

// portsOf returns how many of a host's ports may be the only one where an Envoy listens: the host's own has the first.
func portsOf(h *configs.Host) uint16 {
	sidecar := func(s *configs.Service) bool { return cmp.Or(s.Mode, h.Mode) == "sidecar" }
	if slices.ContainsFunc(h.Services, sidecar) {
		return configs.MeshPorts
	}
	return 1
}

// bury takes a host for dead, or back. The caller holds r.mu.
func (r *Registrar) bury(h *host, dead bool) {
	h.dead = dead
	next := maps.Clone(r.health)
	h.dropHealth(next)
	h.putHealth(next)
	r.health = next
	if dead {
		r.o.Log.Warn("a host is taken for dead: its agent is silent and none of its Envoys answers", "host", h.name, "since", h.left.UTC().Truncate(time.Second))
		return
	}
	r.o.Log.Info("a host that was taken for dead is back", "host", h.name)
}

// death says why the workloads of a host that is dead are unhealthy.
func (h *host) death() string {
	return fmt.Sprintf("host %s is gone: its agent has been silent since %s, and its Envoy does not answer", h.name, h.left.UTC().Format(time.RFC3339))
}
