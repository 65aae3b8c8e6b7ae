package translator

import (
	"math"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	lbcommonv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/common/v3"
	leastv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/least_request/v3"
	randomv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/random/v3"
	ringv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/ring_hash/v3"
	roundv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/round_robin/v3"
	rawv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/raw_buffer/v3"
	httpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/wattle-mesh/wattle/configs"
	"github.com/wattle-mesh/wattle/internal/mesh"
	"github.com/wattle-mesh/wattle/registry"
)

const (
	connectTimeout  = 5 * time.Second
	minimumRingSize = 1024
	// idleLocal is how long an idle connection to an application is kept: shorter than applications commonly keep them
	// (Node.js 5 s), so that no request meets a connection that the application just closes.
	idleLocal = 4 * time.Second
)

// cluster translates how a service port or subset is called. All callers on all hosts share the resource, unless it is
// the variant of some.
func cluster(c *mesh.Cluster, domain, variant string) (*Resource, error) {
	var p packer
	name := variantOf(clusterName(c.ClusterRef), variant)
	m := &clusterv3.Cluster{
		Name:                          name,
		ClusterDiscoveryType:          &clusterv3.Cluster_Type{Type: clusterv3.Cluster_EDS},
		EdsClusterConfig:              &clusterv3.Cluster_EdsClusterConfig{EdsConfig: ads()},
		ConnectTimeout:                durationpb.New(connectTimeout),
		CircuitBreakers:               circuitBreakers(c.Traffic.ConnectionPool),
		LoadBalancingPolicy:           p.loadBalancing(c.Protocol, c.Traffic.LoadBalancer),
		OutlierDetection:              outlierDetection(c.Traffic.OutlierDetection),
		TypedExtensionProtocolOptions: p.protocolOptions(c.Protocol, c.Traffic.ConnectionPool, p.believeProxies(c)...),
		CommonLbConfig: &clusterv3.Cluster_CommonLbConfig{
			HealthyPanicThreshold: panicThreshold(c.Traffic.OutlierDetection),
			UpdateMergeWindow:     durationpb.New(0), // changes of endpoints take effect at once
		},
		IgnoreHealthOnHostRemoval: true,
	}
	if pool := c.Traffic.ConnectionPool; pool != nil && pool.TCP != nil && pool.TCP.ConnectTimeout != nil {
		m.ConnectTimeout = duration(pool.TCP.ConnectTimeout)
	}
	mtls := p.upstreamTLS(sni(c.Service, c.Port, domain), c.Identities, nil)
	if c.Plaintext {
		m.TransportSocketMatches = []*clusterv3.Cluster_TransportSocketMatch{
			{Name: "mtls", Match: mtlsMetadata(), TransportSocket: mtls},
			{Name: "plaintext", Match: &structpb.Struct{}, TransportSocket: p.plaintext()},
		}
	} else {
		m.TransportSocket = mtls
	}
	return p.encode(Key{Type: Cluster, Name: name}, m, c.Origin)
}

// panicThreshold is below which share of healthy endpoints all are called. Unless the policy says otherwise, that no
// endpoint is healthy is an answer (503, UH), not a reason to call dead ones.
func panicThreshold(o *configs.OutlierDetection) *typev3.Percent {
	if o == nil || o.MinHealthPercent == nil {
		return &typev3.Percent{Value: 0}
	}
	return &typev3.Percent{Value: float64(*o.MinHealthPercent)}
}

func mtlsMetadata() *structpb.Struct {
	return &structpb.Struct{Fields: map[string]*structpb.Value{mtlsMatch: structpb.NewBoolValue(true)}}
}

func (p *packer) plaintext() *corev3.TransportSocket {
	return &corev3.TransportSocket{
		Name:       "envoy.transport_sockets.raw_buffer",
		ConfigType: &corev3.TransportSocket_TypedConfig{TypedConfig: p.any(&rawv3.RawBuffer{})},
	}
}

// circuitBreakers bounds what the policy bounds. Envoy's own defaults (1024 connections, 3 retries at a time) would
// fail requests that nobody asked to limit.
func circuitBreakers(pool *configs.ConnectionPool) *clusterv3.CircuitBreakers {
	unlimited := func() *wrapperspb.UInt32Value { return wrapperspb.UInt32(math.MaxUint32) }
	t := &clusterv3.CircuitBreakers_Thresholds{
		MaxConnections: unlimited(), MaxPendingRequests: unlimited(), MaxRequests: unlimited(), MaxRetries: unlimited(),
	}
	set := func(to **wrapperspb.UInt32Value, v *uint32) {
		if v != nil {
			*to = wrapperspb.UInt32(*v)
		}
	}
	if pool != nil && pool.TCP != nil {
		set(&t.MaxConnections, pool.TCP.MaxConnections)
	}
	if pool != nil && pool.HTTP != nil {
		set(&t.MaxPendingRequests, pool.HTTP.MaxPendingRequests)
		set(&t.MaxRequests, pool.HTTP.MaxRequests)
		set(&t.MaxRetries, pool.HTTP.MaxRetries)
	}
	return &clusterv3.CircuitBreakers{Thresholds: []*clusterv3.CircuitBreakers_Thresholds{t}}
}

// loadBalancing says how an endpoint is picked. Unless the policy says it, TCP goes round: the least busy endpoint may be
// a dead one, and another attempt must not lead back to it.
func (p *packer) loadBalancing(protocol registry.Protocol, lb *configs.LoadBalancer) *clusterv3.LoadBalancingPolicy {
	if lb == nil {
		lb = new(configs.LoadBalancer)
	}
	name, config := "least_request", proto.Message(&leastv3.LeastRequest{})
	switch {
	case lb.ConsistentHash != nil:
		name, config = "ring_hash", ringHash(lb.ConsistentHash)
	case lb.Simple == "random":
		name, config = "random", &randomv3.Random{}
	case lb.Simple == "round_robin", lb.Simple == "" && !protocol.IsHTTP():
		name, config = "round_robin", &roundv3.RoundRobin{}
	}
	return &clusterv3.LoadBalancingPolicy{Policies: []*clusterv3.LoadBalancingPolicy_Policy{
		{TypedExtensionConfig: p.extension("envoy.load_balancing_policies."+name, config)},
	}}
}

// ringHash keeps the hash's key in the cluster: routes do not know which of their destinations hash.
func ringHash(h *configs.ConsistentHash) *ringv3.RingHash {
	size := h.MinimumRingSize
	if size == 0 {
		size = minimumRingSize
	}
	return &ringv3.RingHash{
		MinimumRingSize: wrapperspb.UInt64(size),
		ConsistentHashingLbConfig: &lbcommonv3.ConsistentHashingLbConfig{
			HashPolicy: []*routev3.RouteAction_HashPolicy{hashPolicy(h)},
		},
	}
}

func hashPolicy(h *configs.ConsistentHash) *routev3.RouteAction_HashPolicy {
	switch {
	case h.HTTPHeaderName != "":
		return &routev3.RouteAction_HashPolicy{PolicySpecifier: &routev3.RouteAction_HashPolicy_Header_{
			Header: &routev3.RouteAction_HashPolicy_Header{HeaderName: h.HTTPHeaderName}}}
	case h.HTTPQueryParameterName != "":
		return &routev3.RouteAction_HashPolicy{PolicySpecifier: &routev3.RouteAction_HashPolicy_QueryParameter_{
			QueryParameter: &routev3.RouteAction_HashPolicy_QueryParameter{Name: h.HTTPQueryParameterName}}}
	case h.HTTPCookie != nil:
		return &routev3.RouteAction_HashPolicy{PolicySpecifier: &routev3.RouteAction_HashPolicy_Cookie_{
			Cookie: &routev3.RouteAction_HashPolicy_Cookie{Name: h.HTTPCookie.Name, Path: h.HTTPCookie.Path, Ttl: duration(h.HTTPCookie.TTL)}}}
	default:
		return &routev3.RouteAction_HashPolicy{PolicySpecifier: &routev3.RouteAction_HashPolicy_ConnectionProperties_{
			ConnectionProperties: &routev3.RouteAction_HashPolicy_ConnectionProperties{SourceIp: true}}}
	}
}

func outlierDetection(o *configs.OutlierDetection) *clusterv3.OutlierDetection {
	if o == nil {
		return nil
	}
	m := &clusterv3.OutlierDetection{
		Consecutive_5Xx:           u32(o.Consecutive5xxErrors),
		ConsecutiveGatewayFailure: u32(o.ConsecutiveGatewayErrors),
		Interval:                  duration(o.Interval),
		BaseEjectionTime:          duration(o.BaseEjectionTime),
		MaxEjectionPercent:        u32(o.MaxEjectionPercent),
		EnforcingSuccessRate:      wrapperspb.UInt32(0), // only what the policy names ejects
	}
	m.EnforcingConsecutive_5Xx = enforce(o.Consecutive5xxErrors)
	m.EnforcingConsecutiveGatewayFailure = enforce(o.ConsecutiveGatewayErrors)
	return m
}

// enforce says in percent whether a limit that is nil or zero, which turns it off, ejects.
func enforce(limit *uint32) *wrapperspb.UInt32Value {
	if limit == nil || *limit == 0 {
		return wrapperspb.UInt32(0)
	}
	return wrapperspb.UInt32(100)
}

// protocolOptions says what is spoken to the endpoints, and which filters are on the way to them. HTTP offers its
// version by ALPN on mesh connections.
func (p *packer) protocolOptions(protocol registry.Protocol, pool *configs.ConnectionPool, filters ...*hcmv3.HttpFilter) map[string]*anypb.Any {
	if !protocol.IsHTTP() {
		return nil
	}
	o := &httpv3.HttpProtocolOptions{CommonHttpProtocolOptions: &corev3.HttpProtocolOptions{}, HttpFilters: filters}
	if pool != nil && pool.TCP != nil {
		o.CommonHttpProtocolOptions.IdleTimeout = duration(pool.TCP.IdleTimeout)
	}
	if pool != nil && pool.HTTP != nil {
		o.CommonHttpProtocolOptions.MaxRequestsPerConnection = u32(pool.HTTP.MaxRequestsPerConnection)
		if pool.HTTP.IdleTimeout != nil {
			o.CommonHttpProtocolOptions.IdleTimeout = duration(pool.HTTP.IdleTimeout)
		}
	}
	explicit := &httpv3.HttpProtocolOptions_ExplicitHttpConfig{}
	if protocol == registry.HTTP {
		explicit.ProtocolConfig = &httpv3.HttpProtocolOptions_ExplicitHttpConfig_HttpProtocolOptions{HttpProtocolOptions: &corev3.Http1ProtocolOptions{}}
	} else {
		explicit.ProtocolConfig = &httpv3.HttpProtocolOptions_ExplicitHttpConfig_Http2ProtocolOptions{Http2ProtocolOptions: &corev3.Http2ProtocolOptions{}}
	}
	o.UpstreamProtocolOptions = &httpv3.HttpProtocolOptions_ExplicitHttpConfig_{ExplicitHttpConfig: explicit}
	return map[string]*anypb.Any{"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": p.any(o)}
}

// local translates the way from an inbound chain to the application.
func local(proxy string, w *mesh.Workload, port registry.WorkloadPort) (*Resource, error) {
	var p packer
	name := localCluster(w, port.Number)
	m := &clusterv3.Cluster{
		Name:                          name,
		ClusterDiscoveryType:          &clusterv3.Cluster_Type{Type: clusterv3.Cluster_STATIC},
		ConnectTimeout:                durationpb.New(connectTimeout),
		CircuitBreakers:               circuitBreakers(nil),
		TypedExtensionProtocolOptions: p.protocolOptions(port.Protocol, localPool()),
		LoadAssignment: &endpointv3.ClusterLoadAssignment{
			ClusterName: name,
			Endpoints: []*endpointv3.LocalityLbEndpoints{{LbEndpoints: []*endpointv3.LbEndpoint{{
				HostIdentifier: &endpointv3.LbEndpoint_Endpoint{Endpoint: &endpointv3.Endpoint{Address: socket(port.Local)}},
			}}}},
		},
	}
	return p.encode(Key{Type: Cluster, Name: name, Variant: proxy}, m, w.Origin)
}

func localPool() *configs.ConnectionPool {
	idle := configs.Duration(idleLocal)
	return &configs.ConnectionPool{HTTP: &configs.HTTPPool{IdleTimeout: &idle}}
}

// certs translates the cluster that has no endpoints and fetches the outbound secrets of a proxy, so that a caller's
// first call works while the agent is down.
func certs(proxy string, identities []string) (*Resource, error) {
	var p packer
	names := []string{selfSecret}
	for _, id := range identities {
		names = append(names, OutSecret(id))
	}
	m := &clusterv3.Cluster{
		Name:                 CertsCluster,
		ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_STATIC},
		ConnectTimeout:       durationpb.New(connectTimeout),
		LoadAssignment:       &endpointv3.ClusterLoadAssignment{ClusterName: CertsCluster},
		TransportSocket:      p.upstreamTLS("", nil, names),
	}
	return p.encode(Key{Type: Cluster, Name: CertsCluster, Variant: proxy}, m, "")
}
