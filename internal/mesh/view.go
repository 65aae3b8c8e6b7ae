// Package mesh joins catalog and policy into the view: who may call whom, how, at which endpoints, and what
// each host runs. Pure: values in, values out.
package mesh

import (
	"maps"
	"net/netip"
	"slices"
	"strings"

	iradix "github.com/hashicorp/go-immutable-radix/v2"

	"github.com/wattle-mesh/wattle/configs"
	"github.com/wattle-mesh/wattle/registry"
)

// View is the mesh at one moment. It is persistent: a part whose inputs are unchanged since the view that
// was given to Resolve keeps its pointer, down to a single EndpointSet.
type View struct {
	Mesh     *configs.Mesh
	Services *iradix.Tree[*Service] // by Name.String()
	Scopes   *iradix.Tree[*Scope]   // by Scope.Key
	Proxies  *iradix.Tree[*Proxy]   // by Proxy.ID
	Reaches  *iradix.Tree[*Reach]   // by Reach.Key
	Allotted

	Gen     uint64 // grows by one with every Resolve; never zero
	PrevGen uint64 // the view that Changed is relative to; zero: none, everything may differ
	Changed Changed

	s        *state                 // what Resolve needs to find what changes next; nil in a View made by hand
	advanced []registry.WorkloadKey // whose Ports Advance changed
}

// Allotted is what workloads and services keep once it was given to them. The pipeline stores it, so that a restarted
// server gives the same.
type Allotted struct {
	Ports     Allotment // the mesh port of each workload
	Slices    Slices    // of the addresses for capture: the number of each captured workload's
	Addresses Addresses // of services that are called by name, in each slice
}

// Equal reports whether two are the same.
func (a Allotted) Equal(b Allotted) bool {
	return maps.Equal(a.Ports, b.Ports) && maps.Equal(a.Slices, b.Slices) && maps.Equal(a.Addresses, b.Addresses)
}

// Changed names what differs from the view PrevGen: what appeared, what has another pointer, and what is gone
// (look it up to see which). What it does not name kept its pointer. Sorted.
type Changed struct {
	Services []registry.Name
	Scopes   []string // keys
	Reaches  []string // keys
	Proxies  []string // ids
}

// Service returns the service n, or nil.
func (v *View) Service(n registry.Name) *Service { return lookup(v.Services, n.String()) }

// Scope returns the scope with this key, or nil.
func (v *View) Scope(key string) *Scope { return lookup(v.Scopes, key) }

// Reach returns the reach with this key, or nil.
func (v *View) Reach(key string) *Reach { return lookup(v.Reaches, key) }

// Proxy returns the proxy with this id, or nil. A host's name alone stands for its host proxy.
func (v *View) Proxy(id string) *Proxy {
	if p := lookup(v.Proxies, id); p != nil {
		return p
	}
	return lookup(v.Proxies, hostProxyID(id))
}

// lookup is Get on a tree that may be nil.
func lookup[T any](t *iradix.Tree[*T], key string) *T {
	if t == nil {
		return nil
	}
	x, _ := t.Get([]byte(key))
	return x
}

// Service is a service as its callers see it.
type Service struct {
	registry.Name
	Ports []*Port // sorted by number
}

// Port is one port of a service with everything its callers share. It splits in parts that change on their own.
type Port struct {
	Service   registry.Name
	Number    uint16
	Protocol  registry.Protocol // TCP if no registry knows it
	Routes    *Routes           // nil unless Protocol.IsHTTP
	Clusters  []*Cluster        // the whole service first, then by name those subsets that some route uses
	Endpoints []*EndpointSet    // one per cluster, same order
	// Uses lists every cluster that calls to this port can reach: what Routes refers to (but nothing Missing), or Clusters[0]. Sorted, without repeats.
	Uses []ClusterRef
}

// ClusterRef names a cluster. The zero Subset is the whole service.
type ClusterRef struct {
	Service registry.Name
	Port    uint16
	Subset  string
}

// Routes is the resolved HTTP routing of one service port, of one gateway server, or of one port of a reach.
type Routes struct {
	Name         string         // of the route configuration
	VirtualHosts []*VirtualHost // in order; callers of a service have one with the domain "*"
	Others       Others         // requests to hosts that no virtual host has
}

// Others says what happens to requests to other hosts. Zero: what Envoy does, 404.
type Others string

// What may happen to them.
const (
	Refused Others = "refused" // 404 with a reason
	Passed  Others = "passed"  // they go where they were sent
)

// VirtualHost is the rules for some domains.
type VirtualHost struct {
	Name    string
	Domains []string
	Rules   []*Rule // first match wins; none: 404, as Istio does. Without a virtual service there is one rule, the default, which matches everything
	Origin  string
}

// Rule is one HTTPRoute with its destinations resolved.
type Rule struct {
	*configs.HTTPRoute               // nil for the default rule
	Destinations       []Destination // empty if the rule redirects
	Origin             string
}

// Destination is a cluster and its share. Missing is set if no registry knows the service or the port, the
// port does not speak HTTP, or the subset is not declared: the translator answers 503 for it.
type Destination struct {
	ClusterRef
	Weight  uint32
	Missing bool
}

// Cluster is how one service port, or a subset of it, is called. It has no endpoints, so that these change alone.
type Cluster struct {
	ClusterRef
	Protocol   registry.Protocol
	Traffic    configs.TrafficPolicy
	Identities []string // SPIFFE ids that mesh endpoints may have; sorted
	Plaintext  bool     // whether endpoints outside the mesh may be called
	Origin     string   // the destination rule, or the service
}

// EndpointSet is the endpoints of one cluster.
type EndpointSet struct {
	ClusterRef
	Endpoints []Endpoint // sorted by address, port
}

// Endpoint is where a caller's proxy connects to.
type Endpoint struct {
	Address  netip.Addr      // of the host or of the endpoint
	Port     uint16          // the workload's mesh port, or the endpoint's own port
	MTLS     bool            // over the mesh port; else plaintext
	Priority uint32          // lower is tried first; there may be gaps
	Weight   uint32          // at least 1
	Health   registry.Health // Healthy, Unhealthy or Draining
	Locality registry.Locality
	Workload registry.WorkloadKey // why it is called over mTLS: the workload that it leads to; zero outside the mesh
	As       uint16               // the port of the workload's service that it is, if that is another service; else zero
}

// Scope is what one kind of caller needs: an identity and its upstreams. Equal workloads on many hosts share one.
type Scope struct {
	Key       string        // content hash of the fields below, but for the Origins and what is in the reach
	Service   registry.Name // the caller; its identity is spiffe://td/ns/<namespace>/svc/<name>
	Identity  string
	Variant   string           // of the clusters that its calls go to, which it shares with nobody; empty: those that all share
	Upstreams []*ScopeUpstream // sorted by service, port, bind
	Capture   *ScopeCapture    // nil: it has no capture
}

// ScopeUpstream is one listener of a caller.
type ScopeUpstream struct {
	Service  registry.Name
	Port     uint16
	Protocol registry.Protocol // HTTP-like or TCP decides the listener's filters
	Bind     netip.AddrPort
	Socket   string
	Missing  bool // no registry knows the service or port (then Port may be zero and Protocol is HTTP): the listener answers 503 or closes
	Origin   string
}

// ProxyKind says what a proxy is for.
type ProxyKind string

// The kinds of proxy.
const (
	HostProxy    ProxyKind = "host"
	SidecarProxy ProxyKind = "sidecar"
	GatewayProxy ProxyKind = "gateway"
)

// Proxy is one Envoy.
type Proxy struct {
	ID        string // "h1/host", "h1/web", "edge/gw-public" (for namespace default, else "edge/gw-shop.public")
	Host      string
	Kind      ProxyKind
	Address   netip.Addr  // of the host; not of a gateway
	Workloads []*Workload // those that have a seat at it; sorted by key
	Scopes    []*Scope    // of the workloads that call through it; sorted by key, without repeats
	Gateway   *Gateway    // gateway proxy
	Draining  bool        // host proxy: the host is in maintenance

	Resources *configs.ProxyResources // what it may use; nil: what its unit says
	Envoy     *configs.Envoy          // that all proxies of the host run; host proxy; nil: what the agent's file says
}

// Workload is a registered workload with what the mesh allotted to it.
type Workload struct {
	*registry.Workload
	Seats
	Identity string
	Scope    *Scope
}

// Name is what the proxy is called on its host: "host", "web", "gw-public".
func (p *Proxy) Name() string { return strings.TrimPrefix(p.ID, p.Host+"/") }

// Gateway is a gateway's resolved servers.
type Gateway struct {
	Namespace, Name string
	Identity        string // spiffe://td/ns/<namespace>/gateway/<name>
	Servers         []*Server
	Uses            []ClusterRef // every cluster its routes reach; sorted, without repeats
	Origin          string
}

// Server is one listening address of a gateway.
type Server struct {
	Name   string
	Bind   netip.AddrPort
	Routes *Routes
	Origin string
}

// On lists the proxies of a host, sorted by id.
func (v *View) On(host string) []*Proxy {
	var out []*Proxy
	if v.Proxies == nil {
		return nil
	}
	it := v.Proxies.Root().Iterator()
	it.SeekPrefix([]byte(host + "/"))
	for _, p, ok := it.Next(); ok; _, p, ok = it.Next() {
		out = append(out, p)
	}
	return out
}

// ProxyIDs lists the ids of all proxies, sorted.
func (v *View) ProxyIDs() []string {
	var out []string
	it := v.Proxies.Root().Iterator()
	for k, _, ok := it.Next(); ok; k, _, ok = it.Next() {
		out = append(out, string(k))
	}
	return out
}

// Variants lists those of all scopes, sorted.
func (v *View) Variants() []string {
	var out []string
	for s := range values(v.Scopes) {
		if s.Variant != "" {
			out = append(out, s.Variant)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}
