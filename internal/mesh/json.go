package mesh

import (
	"encoding/json"
	"fmt"
	"iter"
	"net/netip"
	"slices"

	iradix "github.com/hashicorp/go-immutable-radix/v2"

	"github.com/wattle-mesh/wattle/configs"
	"github.com/wattle-mesh/wattle/registry"
)

// The JSON form of a view is for people and golden files: names as they are written elsewhere, scopes by their
// key, each thing once. Equal views give equal bytes, by whatever steps they came about.
type (
	viewJSON struct {
		Mesh     *configs.Mesh     `json:"mesh"`
		Services []serviceJSON     `json:"services"`
		Scopes   []scopeJSON       `json:"scopes"`
		Reaches  []reachJSON       `json:"reaches,omitempty"`
		Proxies  []proxyJSON       `json:"proxies"`
		Ports    map[string]uint16 `json:"mesh_ports"`
		Slices   map[string]uint16 `json:"capture_slices,omitempty"` // of scopes: their numbers
	}
	serviceJSON struct {
		Name  string     `json:"service"`
		Ports []portJSON `json:"ports"`
	}
	portJSON struct {
		Number   uint16            `json:"port"`
		Protocol registry.Protocol `json:"protocol"`
		Routes   *routesJSON       `json:"routes,omitempty"`
		Clusters []clusterJSON     `json:"clusters"`
		Uses     []string          `json:"uses"`
	}
	routesJSON struct {
		Name         string            `json:"name"`
		VirtualHosts []virtualHostJSON `json:"virtual_hosts"`
	}
	virtualHostJSON struct {
		Name    string     `json:"name"`
		Domains []string   `json:"domains"`
		Rules   []ruleJSON `json:"rules"`
		Origin  string     `json:"origin,omitempty"`
	}
	ruleJSON struct {
		*configs.HTTPRoute
		Route  []destinationJSON `json:"route,omitempty"` // in the place of HTTPRoute's
		Origin string            `json:"origin,omitempty"`
	}
	destinationJSON struct {
		Cluster string `json:"cluster"`
		Weight  uint32 `json:"weight"`
		Missing bool   `json:"missing,omitempty"`
	}
	clusterJSON struct {
		Name       string                `json:"name"`
		Protocol   registry.Protocol     `json:"protocol"`
		Traffic    configs.TrafficPolicy `json:"traffic_policy"`
		Identities []string              `json:"identities"`
		Plaintext  bool                  `json:"plaintext"`
		Origin     string                `json:"origin,omitempty"`
		Endpoints  []endpointJSON        `json:"endpoints"`
	}
	endpointJSON struct {
		Address  netip.AddrPort    `json:"address"`
		MTLS     bool              `json:"mtls"`
		Workload string            `json:"workload,omitempty"`
		As       string            `json:"as,omitempty"` // the port of another service, as which it is called
		Priority uint32            `json:"priority,omitempty"`
		Weight   uint32            `json:"weight"`
		Health   registry.Health   `json:"health"`
		Locality registry.Locality `json:"locality,omitzero"`
	}
	scopeJSON struct {
		Key       string         `json:"key"`
		Service   string         `json:"service"`
		Identity  string         `json:"identity"`
		Variant   string         `json:"variant,omitempty"`
		Upstreams []upstreamJSON `json:"upstreams"`

		Capture *scopeCaptureJSON `json:"capture,omitempty"`
	}
	upstreamJSON struct {
		Service  string            `json:"service"`
		Port     uint16            `json:"port,omitempty"`
		Protocol registry.Protocol `json:"protocol"`
		Bind     netip.AddrPort    `json:"bind,omitzero"`
		Socket   string            `json:"socket,omitempty"`
		Missing  bool              `json:"missing,omitempty"`
		Origin   string            `json:"origin,omitempty"`
	}
	proxyJSON struct {
		ID        string         `json:"id"`
		Host      string         `json:"host"`
		Kind      ProxyKind      `json:"kind"`
		Address   netip.Addr     `json:"address,omitzero"`
		Workloads []workloadJSON `json:"workloads,omitempty"`
		Scopes    []string       `json:"scopes,omitempty"`
		Gateway   *gatewayJSON   `json:"gateway,omitempty"`
		Draining  bool           `json:"draining,omitempty"`

		Resources *configs.ProxyResources `json:"resources,omitempty"`
		Envoy     *configs.Envoy          `json:"envoy,omitempty"`
	}
	workloadJSON struct {
		Service  string                  `json:"service"`
		Instance string                  `json:"instance,omitempty"`
		Identity string                  `json:"identity"`
		MeshPort uint16                  `json:"mesh_port"`
		Moving   string                  `json:"moving,omitempty"` // from or to another proxy
		Ports    []registry.WorkloadPort `json:"ports"`
		Checks   []registry.Check        `json:"checks,omitempty"`
		Scope    string                  `json:"scope"`
		Origin   string                  `json:"origin,omitempty"`
	}
	gatewayJSON struct {
		Name     string       `json:"name"`
		Identity string       `json:"identity"`
		Servers  []serverJSON `json:"servers"`
		Uses     []string     `json:"uses"`
		Origin   string       `json:"origin,omitempty"`
	}
	serverJSON struct {
		Name   string         `json:"name"`
		Bind   netip.AddrPort `json:"bind"`
		Routes *routesJSON    `json:"routes"`
		Origin string         `json:"origin,omitempty"`
	}
)

// MarshalJSON writes the view, sorted by names.
func (v *View) MarshalJSON() ([]byte, error) {
	out := viewJSON{
		Mesh:     v.Mesh,
		Services: convert(slices.SortedFunc(values(v.Services), func(a, b *Service) int { return a.Name.Compare(b.Name) }), (*Service).json),
		Scopes:   convert(slices.SortedFunc(values(v.Scopes), compareScopes), (*Scope).json),
		Proxies:  convert(slices.Collect(values(v.Proxies)), (*Proxy).json),
		Reaches:  convert(slices.Collect(values(v.Reaches)), (*Reach).json),
		Ports:    map[string]uint16{},
		Slices:   map[string]uint16{},
	}
	for k, port := range v.Ports {
		out.Ports[k.String()] = port.MeshPort
	}
	for k, n := range v.Slices {
		out.Slices[k.String()] = n
	}
	return json.Marshal(out)
}

// compareScopes orders by caller, then key.
func compareScopes(a, b *Scope) int {
	if c := a.Service.Compare(b.Service); c != 0 {
		return c
	}
	return compareKeys(a, b)
}

// values yields a tree's values in the order of their keys; of no tree, none.
func values[T any](t *iradix.Tree[T]) iter.Seq[T] {
	return func(yield func(T) bool) {
		if t == nil {
			return
		}
		it := t.Root().Iterator()
		for _, v, ok := it.Next(); ok; _, v, ok = it.Next() {
			if !yield(v) {
				return
			}
		}
	}
}

// convert gives a list that is never nil: lists in the JSON form are [] when empty.
func convert[T, U any](all []T, f func(T) U) []U {
	out := make([]U, len(all))
	for i, x := range all {
		out[i] = f(x)
	}
	return out
}

func (s *Service) json() serviceJSON {
	return serviceJSON{Name: s.Name.String(), Ports: convert(s.Ports, (*Port).json)}
}

func (p *Port) json() portJSON {
	out := portJSON{
		Number: p.Number, Protocol: p.Protocol, Routes: p.Routes.json(),
		Clusters: convert(p.Clusters, (*Cluster).json), Uses: convert(p.Uses, clusterName),
	}
	for i, set := range p.Endpoints {
		out.Clusters[i].Endpoints = convert(set.Endpoints, Endpoint.json)
	}
	return out
}

func (r *Routes) json() *routesJSON {
	if r == nil {
		return nil
	}
	return &routesJSON{Name: r.Name, VirtualHosts: convert(r.VirtualHosts, (*VirtualHost).json)}
}

func (h *VirtualHost) json() virtualHostJSON {
	return virtualHostJSON{Name: h.Name, Domains: h.Domains, Rules: convert(h.Rules, (*Rule).json), Origin: h.Origin}
}

func (r *Rule) json() ruleJSON {
	return ruleJSON{HTTPRoute: r.HTTPRoute, Route: convert(r.Destinations, Destination.json), Origin: r.Origin}
}

func (d Destination) json() destinationJSON {
	return destinationJSON{Cluster: clusterName(d.ClusterRef), Weight: d.Weight, Missing: d.Missing}
}

func (c *Cluster) json() clusterJSON {
	return clusterJSON{
		Name: clusterName(c.ClusterRef), Protocol: c.Protocol, Traffic: c.Traffic, Identities: c.Identities,
		Plaintext: c.Plaintext, Origin: c.Origin,
	}
}

func (e Endpoint) json() endpointJSON {
	workload, as := "", ""
	if e.MTLS {
		workload = e.Workload.String()
	}
	if e.As != 0 {
		as = clusterName(ClusterRef{Service: e.Workload.Service, Port: e.As})
	}
	return endpointJSON{netip.AddrPortFrom(e.Address, e.Port), e.MTLS, workload, as, e.Priority, e.Weight, e.Health, e.Locality}
}

func (s *Scope) json() scopeJSON {
	return scopeJSON{Key: s.Key, Service: s.Service.String(), Identity: s.Identity, Variant: s.Variant, Upstreams: convert(s.Upstreams, (*ScopeUpstream).json), Capture: s.Capture.json()}
}

func (u *ScopeUpstream) json() upstreamJSON {
	return upstreamJSON{u.Service.String(), u.Port, u.Protocol, u.Bind, u.Socket, u.Missing, u.Origin}
}

func (p *Proxy) json() proxyJSON {
	return proxyJSON{
		ID: p.ID, Host: p.Host, Kind: p.Kind, Address: p.Address, Workloads: convert(p.Workloads, (*Workload).json),
		Scopes: convert(p.Scopes, func(s *Scope) string { return s.Key }), Gateway: p.Gateway.json(),
		Draining: p.Draining, Resources: p.Resources, Envoy: p.Envoy,
	}
}

func (w *Workload) json() workloadJSON {
	moving := ""
	switch {
	case w.Moving() && w.Other.Leaving:
		moving = fmt.Sprintf("from %s, port %d, to %s", w.Other.Proxy, w.Other.Port, w.Proxy)
	case w.Moving():
		moving = fmt.Sprintf("from %s to %s, port %d", w.Proxy, w.Other.Proxy, w.Other.Port)
	}
	return workloadJSON{w.Service.String(), w.Instance, w.Identity, w.MeshPort, moving, w.Ports, w.Checks, w.Scope.Key, w.Origin}
}

func (g *Gateway) json() *gatewayJSON {
	if g == nil {
		return nil
	}
	name := registry.Name{Namespace: g.Namespace, Name: g.Name}.String()
	return &gatewayJSON{Name: name, Identity: g.Identity, Servers: convert(g.Servers, (*Server).json), Uses: convert(g.Uses, clusterName), Origin: g.Origin}
}

func (s *Server) json() serverJSON {
	return serverJSON{s.Name, s.Bind, s.Routes.json(), s.Origin}
}
