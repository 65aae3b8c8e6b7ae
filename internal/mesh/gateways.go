package mesh

import (
	"slices"
	"strings"

	"github.com/wattle-mesh/wattle/configs"
	"github.com/wattle-mesh/wattle/registry"
)

// routeGateway resolves the servers of gateway n; g is nil if it is gone.
func (r *resolver) routeGateway(n registry.Name, g *configs.Gateway) {
	about := "gateway " + n.String()
	if g == nil {
		r.setSource(sourceID{true, n}, nil)
		r.note(about, nil)
		return
	}
	p := r.pathfinder()
	attached := p.attachments(g, r.attached.get(n.String()))
	out := &Gateway{Namespace: n.Namespace, Name: n.Name, Identity: r.gatewayIdentity(n), Origin: g.Origin}
	for _, s := range g.Servers {
		routes := &Routes{Name: gatewayRouteName(n, s.Name)}
		claims := map[string]*configs.VirtualService{}
		for _, a := range attached {
			if domains := p.claim(claims, a.VirtualService, narrow(a.domains, s.Hosts)); len(domains) > 0 {
				routes.VirtualHosts = append(routes.VirtualHosts,
					&VirtualHost{Name: blockName(a.Block).String(), Domains: domains, Rules: a.rules, Origin: a.Origin})
			}
		}
		out.Servers = append(out.Servers, &Server{Name: s.Name, Bind: s.Bind, Routes: routes, Origin: s.Origin})
	}
	slices.SortFunc(p.uses, ClusterRef.Compare)
	p.uses = slices.Compact(p.uses)
	out.Uses = slices.Clone(p.uses)
	r.built[n] = out
	r.setSource(sourceID{true, n}, p.source())
	r.note(about, p.notes)
}

// attachment is a virtual service at a gateway, with the domains that mean it there.
type attachment struct {
	*configs.VirtualService
	domains []string
	rules   []*Rule
}

// attachments resolves those virtual services of which some server answers to a domain.
func (p *pathfinder) attachments(g *configs.Gateway, all []*configs.VirtualService) []attachment {
	var out []attachment
	for _, vs := range all {
		a := attachment{VirtualService: vs, domains: slices.Clone(vs.Domains)}
		for _, h := range vs.Hosts {
			a.domains = append(a.domains, p.r.domainsOf(registry.Name(h), blockName(g.Block))...)
		}
		if !slices.ContainsFunc(g.Servers, func(s *configs.GatewayServer) bool { return len(narrow(a.domains, s.Hosts)) > 0 }) {
			p.notes = append(p.notes, notServed(vs, g))
			continue
		}
		a.rules = p.rules(vs, 0)
		out = append(out, a)
	}
	return out
}

// domainsOf lists the Host headers that mean service n at a gateway: "reviews" in the gateway's own namespace,
// "reviews.shop" and "reviews.shop.mesh".
func (r *resolver) domainsOf(n, gateway registry.Name) []string {
	long := n.Name + "." + n.Namespace
	out := []string{long, long + "." + r.pol.Mesh.Domain}
	if n.Namespace == gateway.Namespace {
		out = append([]string{n.Name}, out...)
	}
	return out
}

// narrow leaves the part of domains that a server answers to.
func narrow(domains, hosts []string) []string {
	var out []string
	for _, d := range domains {
		for _, h := range hosts {
			if x := intersect(strings.ToLower(d), strings.ToLower(h)); x != "" && !slices.Contains(out, x) {
				out = append(out, x)
			}
		}
	}
	return out
}

// intersect returns what two patterns both match: "*", "*.example.com" or a whole name; "" if nothing. Patterns
// of one form are nested or apart, so that it is one of the two.
func intersect(a, b string) string {
	switch {
	case covers(a, b):
		return b
	case covers(b, a):
		return a
	}
	return ""
}

// covers reports whether pattern matches all that other matches.
func covers(pattern, other string) bool {
	suffix, wild := strings.CutPrefix(pattern, "*")
	if !wild {
		return pattern == other
	}
	rest, _ := strings.CutPrefix(other, "*")
	return strings.HasSuffix(rest, suffix) && (len(rest) > len(suffix) || strings.HasPrefix(other, "*"))
}

// claim takes domains for vs, without those that another one has: Envoy wants each once in a route configuration.
func (p *pathfinder) claim(claims map[string]*configs.VirtualService, vs *configs.VirtualService, domains []string) []string {
	var out []string
	for _, d := range domains {
		if first := claims[d]; first != nil {
			p.notes = append(p.notes, sameDomain(d, first, vs))
			continue
		}
		claims[d] = vs
		out = append(out, d)
	}
	return out
}
