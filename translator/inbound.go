package translator

import (
	"maps"
	"net/netip"
	"slices"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	inspectorv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/tls_inspector/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tcpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/wattle-mesh/wattle/configs"
	"github.com/wattle-mesh/wattle/internal/mesh"
	"github.com/wattle-mesh/wattle/registry"
)

// handshakeTimeout is how long a caller may take for the TLS handshake. Before its first word, Envoy's own 15 s hold.
const handshakeTimeout = 10 * time.Second

// inboundListeners translates a proxy's mesh ports, each a listener with a filter chain for every port of every
// workload there. Only chains ever change in a listener, so that a new workload drains nobody's connections.
func inboundListeners(px *mesh.Proxy, m *configs.Mesh) ([]*Resource, error) {
	byPort := map[uint16][]*mesh.Workload{}
	for _, w := range px.Workloads {
		port := w.PortAt(px.Name())
		byPort[port] = append(byPort[port], w)
	}
	var out []*Resource
	for _, port := range slices.Sorted(maps.Keys(byPort)) {
		var p packer
		l := &listenerv3.Listener{
			Name:             inListener(port),
			Address:          socket(netip.AddrPortFrom(px.Address, port)),
			TrafficDirection: corev3.TrafficDirection_INBOUND,
			TcpKeepalive:     keepalive(),
			ListenerFilters:  []*listenerv3.ListenerFilter{p.listenerFilter("envoy.filters.listener.tls_inspector", &inspectorv3.TlsInspector{})},
		}
		for _, w := range byPort[port] {
			for _, wp := range w.Ports {
				l.FilterChains = append(l.FilterChains, p.inboundChain(w, wp, m))
			}
		}
		r, err := p.encode(Key{Type: Listener, Name: l.Name, Variant: px.ID}, l, byPort[port][0].Origin)
		if err != nil {
			return nil, err
		}
		out = append(out, r)
	}
	return out, nil
}

// keepalive notices a peer that is gone without a word within two minutes.
func keepalive() *corev3.TcpKeepalive {
	return &corev3.TcpKeepalive{KeepaliveTime: wrapperspb.UInt32(60), KeepaliveInterval: wrapperspb.UInt32(20), KeepaliveProbes: wrapperspb.UInt32(3)}
}

// inboundChain leads one port of one workload to its application. SNI and ALPN pick it.
func (p *packer) inboundChain(w *mesh.Workload, port registry.WorkloadPort, m *configs.Mesh) *listenerv3.FilterChain {
	name := localCluster(w, port.Number)
	alpn := []string{"h2", "http/1.1"}
	filter := p.managerFilter(p.inboundManager(name))
	if !port.Protocol.IsHTTP() {
		alpn = []string{tcpALPN}
		filter = p.inboundTCP(name)
	}
	return &listenerv3.FilterChain{
		Name: name,
		FilterChainMatch: &listenerv3.FilterChainMatch{
			TransportProtocol:    "tls",
			ServerNames:          []string{sni(w.Service, port.Number, m.Domain)},
			ApplicationProtocols: alpn,
		},
		TransportSocket:               p.downstreamTLS(w.Identity, m.TrustDomain, alpn),
		TransportSocketConnectTimeout: durationpb.New(handshakeTimeout),
		Filters:                       []*listenerv3.Filter{filter},
	}
}

// inboundManager passes requests to the application as they are, with the caller's identity in
// x-forwarded-client-cert. Whatever the application says of unprocessed requests is removed; what Envoy itself
// knows of them is added after that.
func (p *packer) inboundManager(name string) *hcmv3.HttpConnectionManager {
	m := p.manager(inbound, name)
	m.CommonHttpProtocolOptions = &corev3.HttpProtocolOptions{IdleTimeout: durationpb.New(idleIn)}
	m.ForwardClientCertDetails = hcmv3.HttpConnectionManager_SANITIZE_SET
	m.SetCurrentClientCertDetails = &hcmv3.HttpConnectionManager_SetCurrentClientCertDetails{Uri: true}
	m.LocalReplyConfig = sayUnprocessed()
	m.RouteSpecifier = &hcmv3.HttpConnectionManager_RouteConfig{RouteConfig: &routev3.RouteConfiguration{
		Name:                    name,
		ResponseHeadersToRemove: []string{unprocessed},
		VirtualHosts: []*routev3.VirtualHost{{
			Name: name, Domains: []string{"*"},
			Routes: []*routev3.Route{{
				Match: &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: "/"}},
				Action: &routev3.Route_Route{Route: &routev3.RouteAction{
					ClusterSpecifier: &routev3.RouteAction_Cluster{Cluster: name},
					Timeout:          durationpb.New(0), // the caller's proxy bounds requests
				}},
			}},
		}},
	}}
	return m
}

// inboundTCP has no idle timeout, which the caller's proxy has; keep-alives notice a caller's host that vanished.
func (p *packer) inboundTCP(name string) *listenerv3.Filter {
	return p.network("envoy.filters.network.tcp_proxy", &tcpv3.TcpProxy{
		StatPrefix:       name,
		ClusterSpecifier: &tcpv3.TcpProxy_Cluster{Cluster: name},
		IdleTimeout:      durationpb.New(0),
		AccessLog:        p.connectionLog(name),
	})
}
