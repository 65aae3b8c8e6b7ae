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
		r.hostProxy(h)
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

// hostProxy makes the proxy of a host that is declared, has workloads or is to run a gateway.
func (r *resolver) hostProxy(host string) {
	i, declared := slices.BinarySearchFunc(r.pol.Hosts, host, func(h *configs.Host, n string) int { return strings.Compare(h.Name, n) })
	keys, gateways := r.onHost.get(host), r.runOn.get(host)
	id := hostProxyID(host)
	if seen := len(r.old.hostWorkloads(host)) > 0; seen != (len(keys) > 0) {
		r.renamed = true
	}
	if !declared && len(keys) == 0 && len(gateways) == 0 {
		r.setProxy(id, nil)
		r.note("host "+host, nil)
		return
	}
	p := &Proxy{ID: id, Host: host, Kind: HostProxy, Envoy: r.pol.Mesh.Envoy}
	_, p.Draining = slices.BinarySearch(r.cat.Drained, host)
	for _, key := range keys {
		w := r.workloads.get(key)
		if !p.Address.IsValid() {
			p.Address = w.Host.Address
		}
		if w.MeshPort != 0 {
			p.Workloads = append(p.Workloads, w)
		}
	}
	if declared {
		p.Address, p.Resources, p.Envoy = r.pol.Hosts[i].Address, r.pol.Hosts[i].Proxy, cmp.Or(r.pol.Hosts[i].Envoy, p.Envoy)
	}
	slices.SortFunc(p.Workloads, func(a, b *Workload) int { return compareWorkloads(a.Workload, b.Workload) })
	p.Scopes = scopesOf(p.Workloads)
	r.setProxy(id, p)
	var notes []note
	if !declared && len(keys) == 0 {
		for _, g := range gateways {
			if b, ok := find(r.pol.Gateways, g, blockOfGateway); ok {
				notes = append(notes, unknownHostToRunOn(b, host))
			}
		}
	}
	r.note("host "+host, append(notes, r.bindConflicts(p, gateways)...))
}

// hostWorkloads lists the keys of the workloads on a host.
func (v *View) hostWorkloads(host string) []string {
	if v.s == nil {
		return nil
	}
	keys, _ := v.s.onHost.Get([]byte(host))
	return keys
}

// scopesOf lists the scopes of workloads, sorted by key, without repeats.
func scopesOf(all []*Workload) []*Scope {
	var out []*Scope
	for _, w := range all {
		out = append(out, w.Scope)
	}
	slices.SortFunc(out, compareKeys)
	return slices.Compact(out)
}

func compareKeys(a, b *Scope) int { return strings.Compare(a.Key, b.Key) }

// bindConflicts finds listeners of one host that want the same address: of two callers, or of a caller and a
// gateway. Two services with all their upstreams at the same addresses are one mistake.
func (r *resolver) bindConflicts(p *Proxy, gateways []registry.Name) []note {
	all := r.claims[:0]
	for _, n := range gateways {
		if g, ok := find(r.pol.Gateways, n, blockOfGateway); ok {
			for _, s := range g.Servers {
				all = append(all, claim{bind: s.Bind, claimant: claimant{"gateway " + n.String(), s.Origin, "server", "port"}})
			}
		}
	}
	for _, s := range p.Scopes {
		for _, u := range s.Upstreams {
			all = append(all, claim{u.Bind, u.Socket, claimant{s.Service.String(), u.Origin, "upstream", "bind"}})
		}
	}
	r.claims = all
	slices.SortStableFunc(all, func(a, b claim) int {
		return cmp.Or(a.bind.Compare(b.bind), strings.Compare(a.socket, b.socket))
	})
	var notes []note
	said := map[[2]claimant]bool{}
	for i, first := 1, 0; i < len(all); i++ {
		a, b := all[first], all[i]
		if a.bind != b.bind || a.socket != b.socket {
			first = i
			continue
		}
		if pair := [2]claimant{a.claimant, b.claimant}; !said[pair] {
			said[pair] = true
			notes = append(notes, sameBind(p.Host, a, b))
		}
	}
	return notes
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
