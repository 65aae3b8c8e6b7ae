package mesh

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	"github.com/wattle-mesh/wattle/configs"
	"github.com/wattle-mesh/wattle/registry"
)

// Path is a way to an endpoint.
type Path string

// The paths.
const (
	OverMesh    Path = "mesh"      // mTLS, at the mesh port of a workload
	InPlaintext Path = "plaintext" // at its own address
	LeftOut     Path = "left out"  // nobody calls it
)

// Placement says how callers reach one endpoint of a service, and why so.
type Placement struct {
	Path Path
	At   Endpoint // where callers' proxies connect to, with what they know of it; zero if Path is LeftOut
	Why  string
	Code string // of the diagnostic that says so too; empty: none does
}

// Amended returns a service of the catalog as the policy's service_defaults leave it, or nil.
func (v *View) Amended(n registry.Name) *registry.Service {
	if v.s == nil {
		return nil
	}
	return v.s.service(n, v.s.catalog.Service(n))
}

// Rule returns what the policy says makes endpoints of service n healthy.
func (v *View) Rule(n registry.Name) registry.HealthRule {
	rule := registry.RegistryAndAgent
	if v.s == nil {
		return rule
	}
	if d, ok := find(v.s.policy.ServiceDefaults, n, blockOfDefaults); ok {
		rule = cmp.Or(registry.HealthRule(d.HealthyIf), rule)
	}
	return rule
}

// Explain returns the placement of each endpoint of service n, in the order of Amended: what Resolve decided, and why.
func (v *View) Explain(n registry.Name) []Placement {
	s := v.Amended(n)
	if s == nil {
		return nil
	}
	x := explainer{v: v, r: newResolver(v, v.s.catalog, v.s.policy), s: s, called: map[place]Endpoint{}}
	if svc := v.Service(n); svc != nil {
		for _, p := range svc.Ports {
			if len(p.Endpoints) == 0 {
				continue
			}
			for _, e := range p.Endpoints[0].Endpoints { // the whole service's
				x.called[place{p.Number, e.addrPort()}] = e
			}
		}
	}
	out := make([]Placement, len(s.Endpoints))
	for i, e := range s.Endpoints {
		out[i] = x.explain(e)
	}
	return out
}

// explainer explains one service. The resolver is only read from.
type explainer struct {
	v      *View
	r      *resolver
	s      *registry.Service
	called map[place]Endpoint
}

// place is where a port of a service is called.
type place struct {
	port uint16
	at   netip.AddrPort
}

func (e Endpoint) addrPort() netip.AddrPort { return netip.AddrPortFrom(e.Address, e.Port) }

func (x *explainer) explain(e *registry.Endpoint) Placement {
	i := slices.IndexFunc(x.s.Ports, func(p registry.Port) bool { return p.Number == e.ServicePort })
	switch {
	case !callable(e):
		return Placement{Path: LeftOut, Why: "the workload has no port: it only calls"}
	case i < 0:
		return noted(portNotServed(x.s, e))
	}
	notes := &placement{service: x.s}
	p, ok := x.r.placeEndpoint(x.s, x.s.Ports[i], e, notes)
	switch {
	case !ok && len(notes.notes) > 0:
		return noted(notes.notes[0])
	case !ok:
		return Placement{Path: LeftOut, Why: "its host has no mesh port left for the workload", Code: codeNoMeshPort}
	case !p.MTLS && !x.r.pol.Mesh.Plaintext:
		return Placement{Path: LeftOut, Why: "it is outside the mesh, and the mesh block says plaintext = false", Code: codeNoPlaintext}
	case !shared(e, x.r.sharesOf(x.s.Name)):
		return Placement{Path: LeftOut, Why: "service_defaults give its registries no share of the calls"}
	}
	at, ok := x.called[place{e.ServicePort, p.addrPort()}]
	if !ok || at.Workload != p.Workload || at.MTLS != p.MTLS {
		return Placement{Path: LeftOut, Why: fmt.Sprintf("another endpoint of the service is called at %s", p.addrPort()), Code: codeSameAddress}
	}
	if !p.MTLS {
		return Placement{Path: InPlaintext, At: at, Why: x.whyPlain(e)}
	}
	return Placement{Path: OverMesh, At: at, Why: whyMesh(e, p)}
}

func noted(n note) Placement {
	return Placement{Path: LeftOut, Why: n.Summary, Code: n.Code}
}

func whyMesh(e *registry.Endpoint, p placed) string {
	where := "at its host's verified address"
	if e.Address != p.Address {
		where = "as its host says"
	}
	switch {
	case p.As != 0:
		return fmt.Sprintf("workload %s listens there, %s; service_defaults lend its identity", p.Workload, where)
	case e.Workload == nil:
		return fmt.Sprintf("workload %s listens there, %s", p.Workload, where)
	}
	return fmt.Sprintf("%s runs %s there, at its verified address", p.Workload.Host, short(p.Workload.Service))
}

func (x *explainer) whyPlain(e *registry.Endpoint) string {
	for _, key := range x.r.atAddress.get(e.Address.String()) {
		if host := x.r.workloads.get(key).Host; host.Address == e.Address {
			return fmt.Sprintf("port %d is no registered workload of %s", e.Port, host.Name)
		}
	}
	for _, h := range x.r.pol.Hosts {
		if h.Address == e.Address {
			return fmt.Sprintf("no workload is registered on %s", h.Name)
		}
	}
	return "no host of the mesh has this address"
}

// Callers lists the proxies whose calls can reach service n, sorted by id: those of the workloads that have it, or a
// service whose routes lead to it, as an upstream or may call it by name, and gateways whose routes lead to it. The work grows with these.
func (v *View) Callers(n registry.Name) []string {
	if v.s == nil {
		return nil
	}
	var out []string
	sources := []sourceID{{Name: n}}
	users, _ := v.s.users.Get([]byte(n.String()))
	sources = append(sources, users...)
	for _, from := range sources {
		if from.gateway {
			out = append(out, v.gatewayCallers(from.Name, n)...)
			continue
		}
		keys, _ := v.s.callers.Get([]byte(from.Name.String()))
		for _, key := range keys {
			if w, _ := v.s.workloads.Get([]byte(key)); w != nil && v.reaches(w.Scope, from.Name, n) {
				out = append(out, proxiesOf(w)...)
			}
		}
		out = append(out, v.byName(from.Name, n)...)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// proxiesOf lists those that a workload calls through.
func proxiesOf(w *Workload) []string {
	if w.MeshPort == 0 {
		return nil
	}
	out := []string{proxyID(w.Host.Name, w.Proxy)}
	if w.Other.Leaving {
		out = append(out, proxyID(w.Host.Name, w.Other.Proxy))
	}
	return out
}

// byName lists the proxies of workloads whose calls of a service by name can reach service n.
func (v *View) byName(to, n registry.Name) []string {
	svc := v.Service(to)
	if svc == nil {
		return nil
	}
	var out []string
	seen := map[string]bool{}
	for _, p := range patternsOf(to) {
		keys, _ := v.s.reachedBy.Get([]byte(p))
		for _, key := range keys {
			if seen[key] || !v.Reach(key).leads(svc, n) {
				continue
			}
			seen[key] = true
			members, _ := v.s.reachers.Get([]byte(key))
			for _, m := range members {
				if w, _ := v.s.workloads.Get([]byte(m)); w != nil && w.Scope != nil && w.Scope.Capture != nil {
					out = append(out, proxiesOf(w)...)
				}
			}
		}
	}
	return out
}

// leads reports whether calls of a service by its name can reach service n.
func (h *Reach) leads(to *Service, n registry.Name) bool {
	i, ok := slices.BinarySearchFunc(h.Surface.Services, to.Name, func(s *Reached, name registry.Name) int { return s.Service.Compare(name) })
	return ok && slices.ContainsFunc(h.Surface.Services[i].Ports, func(p ReachedPort) bool {
		at := to.port(p.Number)
		return !p.Missing && at != nil && uses(at.Uses, n)
	})
}

// reaches reports whether calls of a scope to a service can reach service n.
func (v *View) reaches(s *Scope, to, n registry.Name) bool {
	svc := v.Service(to)
	return s != nil && svc != nil && slices.ContainsFunc(s.Upstreams, func(u *ScopeUpstream) bool {
		p := svc.port(u.Port)
		return u.Service == to && !u.Missing && p != nil && uses(p.Uses, n)
	})
}

func uses(all []ClusterRef, n registry.Name) bool {
	return slices.ContainsFunc(all, func(c ClusterRef) bool { return c.Service == n })
}

func (v *View) gatewayCallers(gateway, n registry.Name) []string {
	g, ok := find(v.s.policy.Gateways, gateway, func(g *configs.Gateway) configs.Block { return g.Block })
	if !ok {
		return nil
	}
	var out []string
	for _, host := range g.RunOn {
		id := gatewayProxyID(host, g.Namespace, g.Name)
		if p := lookup(v.Proxies, id); p != nil && p.Gateway != nil && uses(p.Gateway.Uses, n) {
			out = append(out, id)
		}
	}
	return out
}
