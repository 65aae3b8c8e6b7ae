package mesh

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/wattle-mesh/wattle/configs"
	"github.com/wattle-mesh/wattle/registry"
)

// resolveProxies makes the proxies of the hosts and gateways that are dirty.
func (r *resolver) resolveProxies() {
	for n, g := range r.gateways {
		r.gatewayProxies(n, g)
	}
	for h := range r.hosts {
		r.hostProxies(h)
	}
}

// setProxy puts a proxy in place; now is nil if it is gone. An equal one keeps its pointer.
func (r *resolver) setProxy(id string, now *Proxy) {
	was := r.proxies.get(id)
	switch {
	case was == nil && now == nil, was != nil && now != nil && sameProxy(was, now):
		return
	case now == nil:
		r.proxies.drop(id)
	default:
		r.proxies.put(id, now)
	}
	r.changed.proxies = append(r.changed.proxies, id)
}

func sameProxy(a, b *Proxy) bool {
	return a.Resources == b.Resources && a.Envoy == b.Envoy &&
		a.ID == b.ID && a.Host == b.Host && a.Kind == b.Kind && a.Address == b.Address && a.Gateway == b.Gateway && a.Draining == b.Draining &&
		slices.Equal(a.Workloads, b.Workloads) && slices.Equal(a.Scopes, b.Scopes)
}

// hostProxies makes the proxies of a host that is declared, has workloads or is to run a gateway: its own, and the sidecars.
func (r *resolver) hostProxies(host string) {
	i, declared := slices.BinarySearchFunc(r.pol.Hosts, host, func(h *configs.Host, n string) int { return strings.Compare(h.Name, n) })
	keys, gateways := r.onHost.get(host), r.runOn.get(host)
	if seen := len(r.old.hostWorkloads(host)) > 0; seen != (len(keys) > 0) {
		r.renamed = true
	}
	gone := map[string]bool{}
	r.proxies.under(host+"/", func(p *Proxy) { gone[p.ID] = p.Kind != GatewayProxy })
	defer func() {
		for id, is := range gone {
			if is {
				r.setProxy(id, nil)
			}
		}
	}()
	if !declared && len(keys) == 0 && len(gateways) == 0 {
		r.note("host "+host, nil)
		return
	}
	var address netip.Addr
	own := &Proxy{Kind: HostProxy, Envoy: r.pol.Mesh.Envoy}
	_, own.Draining = slices.BinarySearch(r.cat.Drained, host)
	all := map[string]*Proxy{hostProxy: own}
	for _, key := range keys {
		w := r.workloads.get(key)
		if !address.IsValid() {
			address = w.Host.Address
		}
		for _, name := range []string{w.Proxy, w.Other.Proxy} {
			if w.PortAt(name) == 0 {
				continue
			}
			if all[name] == nil {
				all[name] = &Proxy{Kind: SidecarProxy}
			}
			all[name].Workloads = append(all[name].Workloads, w)
		}
	}
	if declared {
		address, own.Resources, own.Envoy = r.pol.Hosts[i].Address, r.pol.Hosts[i].Proxy, cmp.Or(r.pol.Hosts[i].Envoy, own.Envoy)
	}
	for name, p := range all {
		p.ID, p.Host, p.Address = proxyID(host, name), host, address
		slices.SortFunc(p.Workloads, func(a, b *Workload) int { return compareWorkloads(a.Workload, b.Workload) })
		p.Scopes = scopesOf(p.Workloads, name)
		delete(gone, p.ID)
		r.setProxy(p.ID, p)
	}
	var notes []note
	if !declared && len(keys) == 0 {
		for _, g := range gateways {
			if b, ok := find(r.pol.Gateways, g, blockOfGateway); ok {
				notes = append(notes, unknownHostToRunOn(b, host))
			}
		}
	}
	r.note("host "+host, append(notes, r.bindConflicts(host, keys, gateways)...))
}

// hostWorkloads lists the keys of the workloads on a host.
func (v *View) hostWorkloads(host string) []string {
	if v.s == nil {
		return nil
	}
	keys, _ := v.s.onHost.Get([]byte(host))
	return keys
}

// scopesOf lists the scopes of those workloads that call through a proxy, sorted by key, without repeats.
func scopesOf(all []*Workload, proxy string) []*Scope {
	var out []*Scope
	for _, w := range all {
		if w.callsBy(proxy) {
			out = append(out, w.Scope)
		}
	}
	slices.SortFunc(out, compareKeys)
	return slices.Compact(out)
}

func compareKeys(a, b *Scope) int { return strings.Compare(a.Key, b.Key) }

// bindConflicts finds listeners of one host that want the same address: of two callers, or of a caller and a
// gateway. Two services with all their upstreams at the same addresses are one mistake.
func (r *resolver) bindConflicts(host string, keys []string, gateways []registry.Name) []note {
	all := r.claims[:0]
	for _, n := range gateways {
		if g, ok := find(r.pol.Gateways, n, blockOfGateway); ok {
			for _, s := range g.Servers {
				all = append(all, claim{bind: s.Bind, claimant: claimant{"gateway " + n.String(), s.Origin, "server", "port"}})
			}
		}
	}
	scopes := r.callersOn(keys)
	for _, s := range scopes {
		for _, u := range s.Upstreams {
			all = append(all, claim{u.Bind, u.Socket, claimant{s.Service.String(), u.Origin, "upstream", "bind"}})
		}
	}
	r.claims = all
	slices.SortStableFunc(all, func(a, b claim) int {
		return cmp.Or(a.bind.Compare(b.bind), strings.Compare(a.socket, b.socket))
	})
	notes := captureConflicts(host, scopes, all)
	said := map[[2]claimant]bool{}
	for i, first := 1, 0; i < len(all); i++ {
		a, b := all[first], all[i]
		if a.bind != b.bind || a.socket != b.socket {
			first = i
			continue
		}
		if pair := [2]claimant{a.claimant, b.claimant}; !said[pair] {
			said[pair] = true
			notes = append(notes, sameBind(host, a, b))
		}
	}
	return notes
}

// callersOn lists the scopes of workloads, sorted by key: each once for every proxy that they call through. One that moves
// from one proxy to the next listens in both, which is no conflict.
func (r *resolver) callersOn(keys []string) []*Scope {
	type caller struct {
		proxy string
		*Scope
	}
	seen := map[caller]bool{}
	var out []*Scope
	for _, key := range keys {
		w := r.workloads.get(key)
		if c := (caller{w.Proxy, w.Scope}); w.MeshPort != 0 && !seen[c] {
			seen[c] = true
			out = append(out, w.Scope)
		}
	}
	slices.SortFunc(out, compareKeys)
	return out
}

// claim is a wish to listen at an address.
type claim struct {
	bind   netip.AddrPort
	socket string
	claimant
}

// claimant is who wants to listen at an address, and where that is written: in which attribute of what block.
type claimant struct{ who, origin, block, attr string }

// gatewayProxies makes a gateway's proxies, one for each host that it runs on; g is nil if it is gone.
func (r *resolver) gatewayProxies(n registry.Name, g *configs.Gateway) {
	hosts := map[string]*Proxy{}
	if was, ok := find(r.was.policy.Gateways, n, blockOfGateway); ok {
		for _, h := range was.RunOn {
			hosts[h] = nil
		}
	}
	if g != nil {
		for _, h := range g.RunOn {
			hosts[h] = &Proxy{ID: gatewayProxyID(h, n.Namespace, n.Name), Host: h, Kind: GatewayProxy, Gateway: r.built[n], Resources: g.Proxy}
		}
	}
	for h := range maps.Keys(hosts) {
		r.setProxy(gatewayProxyID(h, n.Namespace, n.Name), hosts[h])
	}
}
