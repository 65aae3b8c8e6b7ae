// Package translator turns the view into Envoy's resources: a view in, encoded resources and the scopes
// that need them out. Pure, and memoised per part of the view: a part that kept its pointer keeps its resources.
package translator

// Type is the kind of an xDS resource. Its order is the order in which additions are sent; removals go in reverse.
type Type uint8

// The types, in the order of make-before-break.
const (
	HostPlan Type = iota // wattle.v1.HostPlan
	Secret
	Cluster
	Endpoint
	Listener
	Route
	NumTypes int = iota
)

// URL returns the type URL.
func (t Type) URL() string {
	return [NumTypes]string{
		"type.googleapis.com/wattle.v1.HostPlan",
		"type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
		"type.googleapis.com/envoy.config.cluster.v3.Cluster",
		"type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
		"type.googleapis.com/envoy.config.listener.v3.Listener",
		"type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
	}[t]
}

// String returns the short name that people read.
func (t Type) String() string {
	return [NumTypes]string{"plan", "secret", "cluster", "endpoint", "listener", "route"}[t]
}

// Key identifies a resource in the table. Two resources of one type and name differ in their variant; a
// proxy never has two variants of one name in scope.
type Key struct {
	Type    Type
	Name    string // what Envoy sees
	Variant string // empty for what all proxies share
}

// CertsCluster is the cluster by which an Envoy fetches the secrets that its workloads call with, ahead of their first call.
const CertsCluster = "certs"

// Resource is one encoded resource. Immutable; its bytes are shared by everything that sends it.
type Resource struct {
	Key
	Version string // content hash of the body
	// Wire is the encoded envoy.service.discovery.v3.Resource: name, version and the body as Any.
	Wire   []byte
	Origin string // the policy position that produced it, for NACKs
}

// Scope is a named set of resources that come and go together. Immutable; equal scopes share a pointer.
type Scope struct {
	Name string
	Keys []Key    // sorted, without repeats
	Uses []string // names of scopes that this one includes; sorted
}

// Proxy lists the scopes that one proxy needs.
type Proxy struct {
	ID     string
	Scopes []string // sorted names
}

// Changes is what differs between two outputs. A consumer that applies every Changes in order has the whole.
type Changes struct {
	Resources   []*Resource // added or changed; of the version it had if only its Origin moved
	Removed     []Key
	Scopes      []*Scope // added or changed
	GoneScopes  []string
	Proxies     []*Proxy // added or changed
	GoneProxies []string
}

// Empty reports whether nothing changed.
func (c Changes) Empty() bool {
	return len(c.Resources)+len(c.Removed)+len(c.Scopes)+len(c.GoneScopes)+len(c.Proxies)+len(c.GoneProxies) == 0
}
