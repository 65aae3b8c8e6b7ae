package mesh

import (
	"cmp"
	"slices"
	"strings"

	iradix "github.com/hashicorp/go-immutable-radix/v2"

	"github.com/wattle-mesh/wattle/configs"
	"github.com/wattle-mesh/wattle/registry"
)

func stringIndex(t *iradix.Tree[[]string]) index[string] { return indexOf(t, strings.Compare) }

func nameIndex(t *iradix.Tree[[]registry.Name]) index[registry.Name] {
	return indexOf(t, registry.Name.Compare)
}

// catalogChanges finds the services that differ between the catalogs: those that the catalog names, if it was
// merged from the one before, else by a walk over both; and those whose service_defaults differ.
func (r *resolver) catalogChanges() {
	was, now := r.was.catalog, r.cat
	seen := map[registry.Name]bool{}
	changed := func(n registry.Name, a, b *registry.Service) {
		if !seen[n] {
			seen[n] = true
			r.serviceChanged(n, r.was.service(n, a), r.amend(b, n))
		}
	}
	defaultsChanged := func(old, new *configs.ServiceDefaults) {
		n := blockName(cmp.Or(old, new).Block)
		if old != nil {
			for _, other := range old.Identities {
				r.lent.remove(registry.Name(other).String(), n)
			}
		}
		if new != nil {
			for _, other := range new.Identities {
				r.lent.add(registry.Name(other).String(), n)
			}
		}
		x := r.mark(n)
		x.clusters, x.endpoints = true, true
		changed(n, was.Service(n), now.Service(n))
	}
	diff(r.was.policy.ServiceDefaults, r.pol.ServiceDefaults, compareDefaults, defaultsChanged)
	r.drainChanges(was.Drained, now.Drained)
	switch {
	case was == now:
	case now.PrevGen != 0 && now.PrevGen == was.Gen:
		for _, n := range now.Changed {
			changed(n, was.Service(n), now.Service(n))
		}
	default:
		for s := range was.All() {
			if now.Service(s.Name) == nil {
				changed(s.Name, s, nil)
			}
		}
		for s := range now.All() {
			if a := was.Service(s.Name); a != s {
				changed(s.Name, a, s)
			}
		}
	}
	r.outside.flush()
	r.lent.flush()
}

// drainChanges has the hosts looked at that are in maintenance now and were not, or the other way round.
func (r *resolver) drainChanges(was, now []string) {
	for _, h := range was {
		if _, still := slices.BinarySearch(now, h); !still {
			r.hosts[h] = true
		}
	}
	for _, h := range now {
		if _, already := slices.BinarySearch(was, h); !already {
			r.hosts[h] = true
		}
	}
}

func (r *resolver) serviceChanged(n registry.Name, was, now *registry.Service) {
	if was == now {
		return
	}
	d := r.mark(n)
	d.endpoints = true
	for _, borrower := range r.lent.get(n.String()) {
		r.mark(borrower).endpoints = true // what this service's agents say of its workloads counts there, too
	}
	var none registry.Service
	a, b := was, now
	if a == nil {
		a = &none
	}
	if b == nil {
		b = &none
	}
	if a == &none || b == &none {
		d.surface, r.renamed = true, true
	}
	d.surface = d.surface || !slices.Equal(a.Ports, b.Ports)
	if a.Origin != b.Origin {
		d.routes, d.clusters = true, true
	}
	if sameCarriers(a.Endpoints, b.Endpoints) {
		return
	}
	for _, address := range outsideAddresses(a) {
		r.outside.remove(address, n)
	}
	for _, address := range outsideAddresses(b) {
		r.outside.add(address, n)
	}
	diff(workloadsOf(a), workloadsOf(b), compareWorkloads, r.workloadChanged)
}

// sameCarriers reports whether two lists stand for the same workloads and outside addresses: the usual case,
// in which only health, weight or metadata changed.
func sameCarriers(a, b []*registry.Endpoint) bool {
	return slices.EqualFunc(a, b, func(x, y *registry.Endpoint) bool {
		return x.Workload == y.Workload && (x.Workload != nil || x.Address == y.Address)
	})
}

// outsideAddresses lists where a service has endpoints that it does not say are workloads.
func outsideAddresses(s *registry.Service) []string {
	var out []string
	for _, e := range s.Endpoints {
		if e.Workload == nil {
			out = append(out, e.Address.String())
		}
	}
	return out
}

// workloadsOf lists the workloads of a service, sorted by key. An endpoint that names a workload of another
// service makes none.
func workloadsOf(s *registry.Service) []*registry.Workload {
	var out []*registry.Workload
	for _, e := range s.Endpoints {
		if e.Workload != nil && e.Workload.Service == s.Name {
			out = append(out, e.Workload)
		}
	}
	slices.SortStableFunc(out, compareWorkloads)
	return slices.CompactFunc(out, func(a, b *registry.Workload) bool { return compareWorkloads(a, b) == 0 })
}

func compareWorkloads(a, b *registry.Workload) int { return a.Key().Compare(b.Key()) }

// diff walks two sorted lists and calls f for each pair of different pointers, with nil for what is not there.
func diff[T any](was, now []*T, compare func(a, b *T) int, f func(was, now *T)) {
	i, j := 0, 0
	for i < len(was) || j < len(now) {
		c := 0
		switch {
		case i == len(was):
			c = 1
		case j == len(now):
			c = -1
		case was[i] != now[j]:
			c = compare(was[i], now[j])
		default:
			i, j = i+1, j+1
			continue
		}
		switch {
		case c < 0:
			f(was[i], nil)
			i++
		case c > 0:
			f(nil, now[j])
			j++
		default:
			f(was[i], now[j])
			i, j = i+1, j+1
		}
	}
}

// find returns the block with this name in a list sorted by namespace and name.
func find[T any](all []*T, n registry.Name, block func(*T) configs.Block) (*T, bool) {
	i, ok := slices.BinarySearchFunc(all, n, func(x *T, n registry.Name) int { return blockName(block(x)).Compare(n) })
	if !ok {
		return nil, false
	}
	return all[i], true
}

func blockOfGateway(g *configs.Gateway) configs.Block { return g.Block }

// policyChanges finds the blocks that differ between the policies, and what they are about.
func (r *resolver) policyChanges() {
	was, now := r.was.policy, r.pol
	if was == now {
		return
	}
	diff(was.VirtualServices, now.VirtualServices, compareVirtualServices, r.virtualServiceChanged)
	diff(was.DestinationRules, now.DestinationRules, compareRules, r.ruleChanged)
	diff(was.Gateways, now.Gateways, compareGateways, r.gatewayChanged)
	diff(was.Hosts, now.Hosts, compareHosts, r.hostChanged)
	r.steered.flush()
	r.attached.flush()
	r.ruled.flush()
	r.runOn.flush()
}

// meshGateway stands for all workloads in a virtual service's list of gateways.
const meshGateway = "mesh"

func (r *resolver) virtualServiceChanged(was, now *configs.VirtualService) {
	edit := func(vs *configs.VirtualService, steered func(string, *configs.VirtualService), attached func(string, *configs.VirtualService)) {
		for _, g := range vs.Gateways {
			if g != meshGateway {
				attached(g, vs)
				r.markSource(sourceID{true, splitName(g)})
				continue
			}
			for _, h := range vs.Hosts {
				steered(registry.Name(h).String(), vs)
				r.mark(registry.Name(h)).routes = true
			}
		}
	}
	if was != nil {
		edit(was, r.steered.remove, r.attached.remove)
	}
	if now != nil {
		edit(now, r.steered.add, r.attached.add)
	}
}

func (r *resolver) ruleChanged(was, now *configs.DestinationRule) {
	if was != nil {
		r.ruled.remove(registry.Name(was.Host).String(), was)
		r.redo(was)
	}
	if now != nil {
		r.ruled.add(registry.Name(now.Host).String(), now)
		r.redo(now)
	}
	if was != nil && now != nil && was.Host == now.Host && slices.EqualFunc(was.Subsets, now.Subsets, sameSubset) {
		return
	}
	if was != nil {
		r.mark(registry.Name(was.Host)).subsets = true
	}
	if now != nil {
		r.mark(registry.Name(now.Host)).subsets = true
	}
}

// redo has everything resolved that a destination rule decides but for the subsets' names.
func (r *resolver) redo(rule *configs.DestinationRule) {
	d := r.mark(registry.Name(rule.Host))
	d.clusters, d.endpoints = true, true
}

func sameSubset(a, b *configs.Subset) bool { return a.Name == b.Name }

func (r *resolver) gatewayChanged(was, now *configs.Gateway) {
	if was != nil {
		r.gateways[blockName(was.Block)] = nil
		for _, h := range was.RunOn {
			r.runOn.remove(h, blockName(was.Block))
			r.hosts[h] = true
		}
	}
	if now != nil {
		r.gateways[blockName(now.Block)] = now
		for _, h := range now.RunOn {
			r.runOn.add(h, blockName(now.Block))
			r.hosts[h] = true
		}
	}
}

func (r *resolver) hostChanged(was, now *configs.Host) {
	if was != nil {
		r.hosts[was.Name] = true
	}
	if now != nil {
		r.hosts[now.Name] = true
	}
	r.renamed = r.renamed || was == nil || now == nil
}

// splitName is the inverse of registry.Name.String.
func splitName(s string) registry.Name {
	namespace, name, ok := strings.Cut(s, "/")
	if !ok {
		return registry.Name{Namespace: defaultNamespace, Name: s}
	}
	return registry.Name{Namespace: namespace, Name: name}
}
