package translator

import (
	"maps"
	"net/netip"
	"slices"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/wattle-mesh/wattle/internal/mesh"
	"github.com/wattle-mesh/wattle/registry"
)

// lastLevel is the highest priority that Envoy takes (LocalityLbEndpoints.priority).
const lastLevel = 128

// group is what the endpoints of one LocalityLbEndpoints have in common.
type group struct {
	locality registry.Locality
	level    uint32
}

// endpoints translates the endpoints of a cluster, grouped by locality and priority in the order of their first
// endpoint.
func endpoints(set *mesh.EndpointSet, domain, variant string) (*Resource, error) {
	name := variantOf(clusterName(set.ClusterRef), variant)
	m := &endpointv3.ClusterLoadAssignment{ClusterName: name}
	groups, levels := map[group]*endpointv3.LocalityLbEndpoints{}, levels(set.Endpoints)
	for i := range set.Endpoints {
		e := &set.Endpoints[i]
		of := group{e.Locality, levels[e.Priority]}
		g := groups[of]
		if g == nil {
			g = &endpointv3.LocalityLbEndpoints{Locality: locality(e.Locality), Priority: of.level}
			groups[of] = g
			m.Endpoints = append(m.Endpoints, g)
		}
		g.LbEndpoints = append(g.LbEndpoints, endpoint(e, domain))
	}
	return encode(Key{Type: Endpoint, Name: name}, m, "")
}

// levels gives each priority of a cluster's endpoints its place in their order, from 0: Envoy refuses endpoints whose
// priorities have gaps. What lies beyond its last one shares that.
func levels(endpoints []mesh.Endpoint) map[uint32]uint32 {
	out := map[uint32]uint32{}
	for i := range endpoints {
		out[endpoints[i].Priority] = 0
	}
	for i, p := range slices.Sorted(maps.Keys(out)) {
		out[p] = min(uint32(i), lastLevel)
	}
	return out
}

// endpoint translates one endpoint. The name of one that is called as another service replaces the server name of the
// cluster (UpstreamTlsContext.auto_host_sni).
func endpoint(e *mesh.Endpoint, domain string) *endpointv3.LbEndpoint {
	m := &endpointv3.LbEndpoint{
		HostIdentifier:      &endpointv3.LbEndpoint_Endpoint{Endpoint: &endpointv3.Endpoint{Address: socket(netip.AddrPortFrom(e.Address, e.Port))}},
		HealthStatus:        health(e.Health),
		LoadBalancingWeight: wrapperspb.UInt32(max(e.Weight, 1)),
	}
	if e.As != 0 {
		m.GetEndpoint().Hostname = sni(e.Workload.Service, e.As, domain)
	}
	if e.MTLS {
		m.Metadata = &corev3.Metadata{FilterMetadata: map[string]*structpb.Struct{"envoy.transport_socket_match": mtlsMetadata()}}
	}
	return m
}

func health(h registry.Health) corev3.HealthStatus {
	switch h {
	case registry.Unhealthy:
		return corev3.HealthStatus_UNHEALTHY
	case registry.Draining:
		return corev3.HealthStatus_DRAINING
	}
	return corev3.HealthStatus_HEALTHY
}

func locality(l registry.Locality) *corev3.Locality {
	if l == (registry.Locality{}) {
		return nil
	}
	return &corev3.Locality{Region: l.Region, Zone: l.Zone, SubZone: l.Rack}
}

// socket is a TCP address.
func socket(a netip.AddrPort) *corev3.Address {
	return &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
		Address:       a.Addr().String(),
		PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: uint32(a.Port())},
	}}}
}

// pipe is a unix socket that only its owner may connect to.
func pipe(path string) *corev3.Address {
	return &corev3.Address{Address: &corev3.Address_Pipe{Pipe: &corev3.Pipe{Path: path, Mode: 0o600}}}
}
