package mesh

import (
	"slices"

	"github.com/wattle-mesh/wattle/configs"
	"github.com/wattle-mesh/wattle/registry"
)

// resolveRoutes resolves the routes of the services and gateways that are dirty, and has the services looked
// at whose subsets are used otherwise than before.
func (r *resolver) resolveRoutes() {
	for n, d := range r.dirty {
		if d.routes {
			r.routeService(n)
		}
	}
	for n, g := range r.gateways {
		r.routeGateway(n, g)
	}
	r.users.flush()
}

// routeService resolves the routes of each port of service n. As in Istio, a virtual service replaces the
// default: a request that none of its rules matches is answered 404.
func (r *resolver) routeService(n registry.Name) {
	s := r.service(n)
	p := r.pathfinder()
	vs, unused := governing(r.steered.get(n.String()), n, blockOfVirtualService)
	for _, u := range unused {
		p.notes = append(p.notes, secondVirtualService(n, vs, u))
	}
	switch {
	case s == nil && vs != nil:
		p.notes = append(p.notes, unknownHost(vs.Block, "virtual_service", "hosts", n))
	case s != nil:
		all := make([]*Routes, len(s.Ports))
		for i, port := range s.Ports {
			if protocolOf(port).IsHTTP() {
				all[i] = p.portRoutes(s, port, vs)
			}
		}
		r.routes[n] = all
	}
	if vs == nil {
		r.setSource(sourceID{Name: n}, nil) // the default refers to nothing but the service itself
	} else {
		r.setSource(sourceID{Name: n}, p.source())
	}
	r.note("routes "+n.String(), p.notes)
}

// governing picks the block that counts for service n: the first by name, those of its own namespace first.
func governing[T any](all []*T, n registry.Name, block func(*T) configs.Block) (first *T, rest []*T) {
	if len(all) == 0 {
		return nil, nil
	}
	own := slices.IndexFunc(all, func(x *T) bool { return block(x).Namespace == n.Namespace })
	own = max(own, 0)
	if len(all) > 1 {
		rest = slices.Delete(slices.Clone(all), own, own+1)
	}
	return all[own], rest
}

func blockOfVirtualService(vs *configs.VirtualService) configs.Block { return vs.Block }
func blockOfRule(d *configs.DestinationRule) configs.Block           { return d.Block }

// protocolOf is what a port speaks: TCP if nobody knows.
func protocolOf(p registry.Port) registry.Protocol {
	if p.Protocol == "" {
		return registry.TCP
	}
	return p.Protocol
}

// pathfinder resolves the destinations of one source's routes, and remembers what these refer to.
type pathfinder struct {
	r       *resolver
	notes   []note
	targets []registry.Name
	uses    []ClusterRef
}

func (r *resolver) pathfinder() *pathfinder { return &pathfinder{r: r} }

// source returns what the routes refer to.
func (p *pathfinder) source() *source {
	slices.SortFunc(p.targets, registry.Name.Compare)
	slices.SortFunc(p.uses, ClusterRef.Compare)
	s := &source{targets: slices.Clip(slices.Compact(p.targets))}
	for _, u := range slices.Compact(p.uses) {
		if u.Subset != "" {
			s.subsets = append(s.subsets, u)
		}
	}
	return s
}

// portRoutes makes the routes for calls to one port. vs may be nil, or have no rules: then there is the default.
func (p *pathfinder) portRoutes(s *registry.Service, port registry.Port, vs *configs.VirtualService) *Routes {
	name := portName(s.Name, port.Number)
	host := &VirtualHost{Name: name, Domains: []string{"*"}, Origin: s.Origin}
	if vs == nil || len(vs.HTTP) == 0 {
		to := Destination{ClusterRef: ClusterRef{Service: s.Name, Port: port.Number}, Weight: 1}
		host.Rules = []*Rule{{Destinations: []Destination{to}, Origin: s.Origin}}
	} else {
		host.Origin = vs.Origin
		host.Rules = p.rules(vs, port.Number)
	}
	return &Routes{Name: name, VirtualHosts: []*VirtualHost{host}}
}

// rules resolves a virtual service's rules for requests that came for port, zero at a gateway.
func (p *pathfinder) rules(vs *configs.VirtualService, port uint16) []*Rule {
	out := make([]*Rule, len(vs.HTTP))
	for i, h := range vs.HTTP {
		out[i] = &Rule{HTTPRoute: h, Origin: h.Origin}
		if len(h.Route) == 0 {
			continue
		}
		out[i].Destinations = make([]Destination, len(h.Route))
		for j, d := range h.Route {
			out[i].Destinations[j] = p.destination(d, port)
		}
	}
	return out
}

// destination resolves where one share of the requests goes. What does not exist stays as it was written, and Missing.
func (p *pathfinder) destination(d *configs.Destination, came uint16) Destination {
	n := registry.Name(d.Host)
	to := Destination{ClusterRef: ClusterRef{Service: n, Port: d.Port, Subset: d.Subset}, Weight: d.Weight, Missing: true}
	p.targets = append(p.targets, n)
	s := p.r.service(n)
	if s == nil {
		p.notes = append(p.notes, unknownService(d, n))
		return to
	}
	port, ok := pickPort(s, d.Port, came)
	if !ok {
		p.notes = append(p.notes, noSuchPort(d, s))
		return to
	}
	to.Port = port.Number
	if !protocolOf(port).IsHTTP() {
		p.notes = append(p.notes, notHTTP(d, s, port))
		return to
	}
	if rule := p.r.ruleOf(n); d.Subset != "" && subsetOf(rule, d.Subset) == nil {
		p.notes = append(p.notes, unknownSubset(d, n, rule))
		return to
	}
	to.Missing = false
	p.uses = append(p.uses, to.ClusterRef)
	return to
}

// pickPort finds the port that is meant: the one that is asked for; else, of zero, the one that the request
// came for if the service has it, else its only one.
func pickPort(s *registry.Service, asked, came uint16) (registry.Port, bool) {
	for _, want := range []uint16{asked, came} {
		if want == 0 {
			continue
		}
		i, ok := slices.BinarySearchFunc(s.Ports, want, func(p registry.Port, n uint16) int { return int(p.Number) - int(n) })
		if ok {
			return s.Ports[i], true
		}
		if want == asked {
			return registry.Port{}, false
		}
	}
	if asked == 0 && len(s.Ports) == 1 {
		return s.Ports[0], true
	}
	return registry.Port{}, false
}

// ruleOf returns the destination rule that counts for service n, or nil.
func (r *resolver) ruleOf(n registry.Name) *configs.DestinationRule {
	rule, _ := governing(r.ruled.get(n.String()), n, blockOfRule)
	return rule
}

func subsetOf(rule *configs.DestinationRule, name string) *configs.Subset {
	if rule == nil {
		return nil
	}
	for _, s := range rule.Subsets {
		if s.Name == name {
			return s
		}
	}
	return nil
}

// setSource keeps what the routes of a source refer to; nil if it has none.
func (r *resolver) setSource(id sourceID, now *source) {
	was := r.sources.get(id.key())
	if was.equal(now) {
		return
	}
	if was != nil {
		for _, n := range was.targets {
			r.users.remove(n.String(), id)
		}
	}
	if now != nil {
		for _, n := range now.targets {
			r.users.add(n.String(), id)
		}
		r.sources.put(id.key(), now)
	} else {
		r.sources.drop(id.key())
	}
	for _, s := range []*source{was, now} {
		if s == nil {
			continue
		}
		for _, n := range s.targets {
			if !slices.Equal(was.wants(n), now.wants(n)) {
				r.mark(n).clusters = true
			}
		}
	}
}
