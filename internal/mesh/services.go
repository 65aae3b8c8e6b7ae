package mesh

import (
	"slices"

	"github.com/wattle-mesh/wattle/configs"
	"github.com/wattle-mesh/wattle/registry"
)

// resolveServices makes the dirty services out of their parts, each kept if it is as it was.
func (r *resolver) resolveServices() {
	for n, d := range r.dirty {
		was, now := r.services.get(n.String()), r.buildService(n, d)
		if was == now {
			continue
		}
		if now == nil {
			r.services.drop(n.String())
		} else {
			r.services.put(n.String(), now)
		}
		r.changed.services = append(r.changed.services, n)
	}
}

func (r *resolver) buildService(n registry.Name, d *dirty) *Service {
	s := r.service(n)
	if d.clusters || d.surface {
		r.noteRules(n, s)
	}
	if d.clusters || d.endpoints || d.surface {
		r.noteSubsets(n, s)
	}
	if s == nil {
		r.note("endpoints "+n.String(), nil)
		return nil
	}
	was := r.services.get(n.String())
	b := serviceBuilder{r: r, s: s, dirty: d}
	if d.endpoints {
		b.endpoints = r.placeEndpoints(s)
	}
	if d.clusters {
		b.wants = r.wanted(n)
	}
	out := &Service{Name: s.Name, Ports: make([]*Port, len(s.Ports))}
	for i, p := range s.Ports {
		var old *Port
		if was != nil {
			old = was.port(p.Number)
		}
		out.Ports[i] = b.port(i, old)
	}
	if d.endpoints {
		r.note("endpoints "+n.String(), b.endpoints.notes)
	}
	if was != nil && slices.Equal(was.Ports, out.Ports) {
		return was
	}
	return out
}

// port returns the port with this number, or nil.
func (s *Service) port(number uint16) *Port {
	i, ok := slices.BinarySearchFunc(s.Ports, number, func(p *Port, n uint16) int { return int(p.Number) - int(n) })
	if !ok {
		return nil
	}
	return s.Ports[i]
}

// serviceBuilder makes the ports of one service.
type serviceBuilder struct {
	r         *resolver
	s         *registry.Service
	dirty     *dirty
	wants     []ClusterRef // subsets that some route uses; if clusters are dirty
	endpoints *placement   // if endpoints are dirty
}

// port makes the port at index i, out of the old one's parts where nothing changed; old may be nil.
func (b *serviceBuilder) port(i int, old *Port) *Port {
	p := b.s.Ports[i]
	out := &Port{Service: b.s.Name, Number: p.Number, Protocol: protocolOf(p)}
	if old == nil {
		old = &Port{}
	}
	out.Routes, out.Uses = old.Routes, old.Uses
	if b.dirty.routes {
		out.Routes = b.r.routes[b.s.Name][i]
		if uses := usesOf(out); !slices.Equal(uses, old.Uses) {
			out.Uses = uses
		}
	}
	out.Clusters, out.Endpoints = old.Clusters, old.Endpoints
	if b.dirty.clusters {
		out.Clusters = b.clusters(out, old.Clusters)
	}
	if b.dirty.endpoints || !sameRefs(out.Clusters, old.Clusters) {
		out.Endpoints = b.endpointSets(out, old.Endpoints)
	}
	if samePort(out, old) {
		return old
	}
	return out
}

func samePort(a, b *Port) bool {
	return a.Service == b.Service && a.Number == b.Number && a.Protocol == b.Protocol && a.Routes == b.Routes &&
		slices.Equal(a.Clusters, b.Clusters) && slices.Equal(a.Endpoints, b.Endpoints) && slices.Equal(a.Uses, b.Uses)
}

func sameRefs(a, b []*Cluster) bool {
	return slices.EqualFunc(a, b, func(x, y *Cluster) bool { return x.ClusterRef == y.ClusterRef })
}

// usesOf lists the clusters that calls to a port can reach.
func usesOf(p *Port) []ClusterRef {
	if p.Routes == nil {
		return []ClusterRef{{Service: p.Service, Port: p.Number}}
	}
	var out []ClusterRef
	for _, h := range p.Routes.VirtualHosts {
		for _, rule := range h.Rules {
			for _, d := range rule.Destinations {
				if !d.Missing {
					out = append(out, d.ClusterRef)
				}
			}
		}
	}
	slices.SortFunc(out, ClusterRef.Compare)
	return slices.Clip(slices.Compact(out))
}

// wanted lists the subsets of service n that some route uses, sorted. A cluster that no route uses would only
// cost every caller's Envoy memory.
func (r *resolver) wanted(n registry.Name) []ClusterRef {
	var out []ClusterRef
	for _, id := range r.users.get(n.String()) {
		out = append(out, r.sources.get(id.key()).wants(n)...)
	}
	slices.SortFunc(out, ClusterRef.Compare)
	return slices.Compact(out)
}

// clusters makes the clusters of a port. Those that are as they were keep their pointer, and if all are, old is returned.
func (b *serviceBuilder) clusters(p *Port, old []*Cluster) []*Cluster {
	out := []*Cluster{b.cluster(p, "")}
	for _, w := range b.wants {
		if w.Port == p.Number {
			out = append(out, b.cluster(p, w.Subset))
		}
	}
	return keep(out, old, sameCluster)
}

// keep replaces elements of now by equal ones of old. Both are sorted by their ClusterRef.
func keep[T interface{ ref() ClusterRef }](now, old []T, same func(a, b T) bool) []T {
	j := 0
	for i := range now {
		for j < len(old) && old[j].ref().Compare(now[i].ref()) < 0 {
			j++
		}
		if j < len(old) && same(old[j], now[i]) {
			now[i] = old[j]
		}
	}
	return now
}

func (c *Cluster) ref() ClusterRef     { return c.ClusterRef }
func (e *EndpointSet) ref() ClusterRef { return e.ClusterRef }

// cluster makes one cluster. A subset's traffic policy goes before the rule's, block by block.
func (b *serviceBuilder) cluster(p *Port, subset string) *Cluster {
	c := &Cluster{
		ClusterRef: ClusterRef{Service: p.Service, Port: p.Number, Subset: subset},
		Protocol:   p.Protocol,
		Identities: b.r.identitiesOf(p.Service),
		Plaintext:  b.r.pol.Mesh.Plaintext,
		Origin:     b.s.Origin,
	}
	if rule := b.r.ruleOf(p.Service); rule != nil {
		c.Traffic, c.Origin = rule.Traffic, rule.Origin
		if s := subsetOf(rule, subset); s != nil {
			c.Traffic, c.Origin = override(rule.Traffic, s.Traffic), s.Origin
		}
	}
	if c.Traffic.LoadBalancer == nil && b.r.sharesOf(p.Service) != nil {
		c.Traffic.LoadBalancer = byWeight
	}
	return c
}

// byWeight is how the calls to a service are shared between registries unless the policy says otherwise. least_request
// would give a small share more than its due under load: its endpoints are the ones with fewer requests. Not to be
// changed; clusters are compared by its pointer.
var byWeight = &configs.LoadBalancer{Simple: "round_robin"}

func override(t, by configs.TrafficPolicy) configs.TrafficPolicy {
	if by.LoadBalancer != nil {
		t.LoadBalancer = by.LoadBalancer
	}
	if by.ConnectionPool != nil {
		t.ConnectionPool = by.ConnectionPool
	}
	if by.OutlierDetection != nil {
		t.OutlierDetection = by.OutlierDetection
	}
	return t
}

func sameCluster(a, b *Cluster) bool {
	return a.ClusterRef == b.ClusterRef && a.Protocol == b.Protocol && a.Traffic == b.Traffic &&
		a.Plaintext == b.Plaintext && a.Origin == b.Origin && slices.Equal(a.Identities, b.Identities)
}

// noteRules says what is wrong with the destination rules for service n; s is nil if nobody knows it.
func (r *resolver) noteRules(n registry.Name, s *registry.Service) {
	rule, unused := governing(r.ruled.get(n.String()), n, blockOfRule)
	var notes []note
	if rule != nil && s == nil {
		notes = append(notes, unknownHost(rule.Block, "destination_rule", "host", n))
	}
	for _, u := range unused {
		notes = append(notes, secondRule(n, rule, u))
	}
	r.note("rules "+n.String(), notes)
}

// noteSubsets says which subsets of service n have no endpoint; s is nil if nobody knows it. Of a service without
// endpoints that is no news.
func (r *resolver) noteSubsets(n registry.Name, s *registry.Service) {
	var notes []note
	if rule := r.ruleOf(n); rule != nil && s != nil && slices.ContainsFunc(s.Endpoints, callable) {
		for _, x := range rule.Subsets {
			if !slices.ContainsFunc(s.Endpoints, func(e *registry.Endpoint) bool { return callable(e) && hasLabels(e.Meta, x.Labels) }) {
				notes = append(notes, emptySubset(s, x))
			}
		}
	}
	r.note("subsets "+n.String(), notes)
}

// callable reports whether an endpoint is more than a workload without ports.
func callable(e *registry.Endpoint) bool { return e.ServicePort != 0 || e.Workload == nil }
