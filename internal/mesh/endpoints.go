package mesh

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/wattle-mesh/wattle/registry"
)

// placement is where the endpoints of one service are called.
type placement struct {
	service *registry.Service
	all     []placed // sorted by service port, address, port, mTLS first, the service's own workloads before others'
	notes   []note
}

// placed is one endpoint as its callers reach it.
type placed struct {
	Endpoint
	from *registry.Endpoint
}

// placeEndpoints decides for each endpoint of a service where it is called: a workload at its host's mesh port,
// any other at its own address. What cannot be called safely is left out and noted.
func (r *resolver) placeEndpoints(s *registry.Service) *placement {
	out := &placement{service: s, all: make([]placed, 0, len(s.Endpoints))}
	for _, e := range s.Endpoints {
		if e.ServicePort == 0 && e.Workload != nil {
			continue // stands for a workload without ports, which only calls
		}
		i := slices.IndexFunc(s.Ports, func(p registry.Port) bool { return p.Number == e.ServicePort })
		if i < 0 {
			out.notes = append(out.notes, portNotServed(s, e))
			continue
		}
		if p, ok := r.placeEndpoint(s, s.Ports[i], e, out); ok {
			out.all = append(out.all, p)
		}
	}
	slices.SortStableFunc(out.all, comparePlaced)
	out.notes = append(out.notes, r.noteDefaults(s)...)
	if !r.pol.Mesh.Plaintext && slices.ContainsFunc(out.all, func(p placed) bool { return !p.MTLS }) {
		out.notes = append(out.notes, noPlaintext(s))
	}
	return out
}

func comparePlaced(a, b placed) int {
	if c := cmp.Or(cmp.Compare(a.from.ServicePort, b.from.ServicePort), a.Address.Compare(b.Address), cmp.Compare(a.Port, b.Port)); c != 0 || a.MTLS == b.MTLS {
		return cmp.Or(c, cmp.Compare(a.As, b.As))
	}
	if a.MTLS {
		return -1
	}
	return 1
}

func (r *resolver) placeEndpoint(s *registry.Service, port registry.Port, e *registry.Endpoint, out *placement) (placed, bool) {
	p := placed{from: e, Endpoint: Endpoint{
		Address: e.Address, Port: e.Port, Priority: e.Priority, Weight: max(e.Weight, 1), Health: cmp.Or(e.Health, registry.Healthy),
		Locality: e.Locality,
	}}
	var w *Workload
	if e.Workload != nil {
		if e.Workload.Service != s.Name {
			out.notes = append(out.notes, foreignWorkload(s, e, e.Workload))
			return p, false
		}
		w = r.workloads.get(e.Workload.Key().String())
	} else if w = r.occupant(s.Name, e); w != nil && w.Service != s.Name && r.admits(s.Name, w.Service) {
		p.As = portAt(w, e).Number
		p.Health = r.healthAs(s.Name, e, w)
	} else if w != nil && (w.Service != s.Name || !serves(w, e.ServicePort)) {
		out.notes = append(out.notes, foreignWorkload(s, e, w.Workload))
		return p, false
	}
	if w == nil {
		return p, true
	}
	for _, own := range w.Ports {
		if own.Number == cmp.Or(p.As, port.Number) && protocolOf(own.Port).IsHTTP() != protocolOf(port).IsHTTP() {
			out.notes = append(out.notes, otherProtocol(s, port, w, own.Port))
			return p, false
		}
	}
	p.Workload = w.Key()
	p.Address, p.Port, p.MTLS = w.Host.Address, w.MeshPort, true
	return p, w.MeshPort != 0 // without a mesh port it is left out, which is noted once for all of them
}

// occupant returns the workload that is behind the address and port of an endpoint of service n, though no
// registry said so: the one that listens exactly there, else the one that portAt is surest of, of n if possible. At
// the verified address of a host no other host has a say.
func (r *resolver) occupant(n registry.Name, e *registry.Endpoint) *Workload {
	keys := r.atAddress.get(e.Address.String())
	verified := slices.ContainsFunc(keys, func(key string) bool { return r.workloads.get(key).Host.Address == e.Address })
	var found *Workload
	best := elsewhere
	for _, key := range keys {
		w := r.workloads.get(key)
		if verified && w.Host.Address != e.Address {
			continue
		}
		p := portAt(w, e)
		if p == nil {
			continue
		}
		if how := leadsTo(w, p, e); how > best || how == best && w.Service == n && found.Service != n {
			found, best = w, how
		}
	}
	return found
}

// addressesOf lists where a workload can be reached round its mesh port: at its host's verified address, and at the
// others of the host at which it says that it listens. What a loopback address leads to depends on who calls, so it
// counts only where the hosts are addresses of one machine's loopback themselves; and of these 127.0.0.1 and ::1 are
// no host's own.
func addressesOf(w *registry.Workload) []netip.Addr {
	out := []netip.Addr{w.Host.Address}
	for _, p := range w.Ports {
		a := p.Local.Addr()
		switch {
		case !a.IsValid() || a.IsUnspecified() || slices.Contains(out, a):
		case a.IsLoopback() && (!w.Host.Address.IsLoopback() || a == loopback4 || a == netip.IPv6Loopback()):
		default:
			out = append(out, a)
		}
	}
	return out
}

// How an endpoint at an address of a host leads to the port of a workload there. What the workload says of others than
// the verified address is exact, so it listens there or is elsewhere.
const (
	elsewhere = iota
	behind    // the application listens on that port of the loopback address, or of all: it may well be reached from outside
	numbered  // callers of the mesh know it by that number
	listening // it listens exactly there
)

func leadsTo(w *Workload, p *registry.WorkloadPort, e *registry.Endpoint) int {
	switch {
	case p.Local == netip.AddrPortFrom(e.Address, e.Port):
		return listening
	case w.Host.Address != e.Address:
		return elsewhere
	case p.Number == e.Port:
		return numbered
	case p.Local.Port() == e.Port && (p.Local.Addr().IsLoopback() || p.Local.Addr().IsUnspecified()):
		return behind
	}
	return elsewhere
}

// portAt returns the port of a workload that an endpoint at an address of its host leads to, the surest one; nil if there is none.
func portAt(w *Workload, e *registry.Endpoint) *registry.WorkloadPort {
	var found *registry.WorkloadPort
	best := elsewhere
	for i := range w.Ports {
		if how := leadsTo(w, &w.Ports[i], e); how > best {
			found, best = &w.Ports[i], how
		}
	}
	return found
}

func serves(w *Workload, port uint16) bool {
	return slices.ContainsFunc(w.Ports, func(p registry.WorkloadPort) bool { return p.Number == port })
}

// endpointSets makes the sets of a port, one for each cluster. Those that are as they were keep their pointer.
func (b *serviceBuilder) endpointSets(p *Port, old []*EndpointSet) []*EndpointSet {
	if b.endpoints == nil {
		b.endpoints = b.r.placeEndpoints(b.s)
	}
	out := make([]*EndpointSet, len(p.Clusters))
	for i, c := range p.Clusters {
		shares := b.r.sharesOf(p.Service)
		var labels map[string]string
		if s := subsetOf(b.r.ruleOf(p.Service), c.Subset); s != nil {
			labels = s.Labels
		}
		out[i] = &EndpointSet{ClusterRef: c.ClusterRef, Endpoints: b.endpoints.choose(p.Number, labels, shares, c.Subset == "")}
	}
	return keep(out, old, func(a, b *EndpointSet) bool {
		return a.ClusterRef == b.ClusterRef && slices.Equal(a.Endpoints, b.Endpoints)
	})
}

// choose returns the endpoints of one port that have all labels. Envoy keeps one endpoint of an address and port
// in a cluster, so that one is kept here.
func (p *placement) choose(port uint16, labels map[string]string, shares map[string]uint32, whole bool) []Endpoint {
	var out []Endpoint
	var from []*registry.Endpoint
	var last *placed
	for i := range p.all {
		e := &p.all[i]
		if e.from.ServicePort != port || !hasLabels(e.from.Meta, labels) || !shared(e.from, shares) {
			continue
		}
		if last != nil && last.Address == e.Address && last.Port == e.Port {
			if whole && (last.Workload != e.Workload || !e.MTLS) {
				p.notes = append(p.notes, sameAddress(p.service, last, e))
			}
			continue
		}
		out, from, last = append(out, e.Endpoint), append(from, e.from), e
	}
	if shares != nil {
		divide(out, from, shares)
	}
	return slices.Clip(out)
}

func hasLabels(meta registry.Labels, labels map[string]string) bool {
	for k, v := range labels {
		if got, ok := meta.Lookup(k); !ok || got != v {
			return false
		}
	}
	return true
}
