package translator

import (
	"net/netip"
	"slices"
	"strconv"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	httpinspectorv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/http_inspector/v3"
	originaldstv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/original_dst/v3"
	directv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/direct_response/v3"
	tcpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	httpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/wattle-mesh/wattle/configs"
	"github.com/wattle-mesh/wattle/internal/mesh"
	"github.com/wattle-mesh/wattle/internal/mesh/planpb"
	"github.com/wattle-mesh/wattle/registry"
)

// sniffTimeout is how long the first bytes of a redirected connection are waited for, to see whether they are HTTP. A
// client that lets the server speak first waits that long.
const sniffTimeout = 200 * time.Millisecond

// SO_PRIORITY of Linux: socket(7), asm-generic/socket.h.
const (
	solSocket  = 1
	soPriority = 12
)

// captured is what one listener of a caller with capture is made of: with equal ones, a listener is kept.
type captured struct {
	service  registry.Name // the zero value: those that share the address
	port     mesh.ReachedPort
	bind     netip.AddrPort
	idle     configs.Duration // of TCP
	hasIdle  bool
	identity string
}

// capturedListeners translates how a caller's calls by name reach it, and keeps what old has.
func (t *transaction) capturedListeners(s *mesh.Scope, old map[captured]*Resource) (map[captured]*Resource, error) {
	out := map[captured]*Resource{}
	c := s.Capture
	var failed error
	add := func(key captured, make func() (*Resource, error)) {
		key.identity = s.Identity
		r := old[key]
		if r == nil || t.remake {
			var err error
			if r, err = make(); err != nil {
				failed = err
				return
			}
		}
		out[key] = r
	}
	for _, port := range c.Surface.Shared {
		bind := netip.AddrPortFrom(mesh.SharedIn(c.Slice), port)
		add(captured{port: mesh.ReachedPort{Number: port}, bind: bind}, func() (*Resource, error) { return sharedListener(s, bind, t.v.Reach(c.Reach)) })
	}
	for _, to := range c.Surface.Services {
		if !to.Own() {
			continue
		}
		for _, p := range to.Ports {
			u := &mesh.ScopeUpstream{Service: to.Service, Port: p.Number, Protocol: p.Protocol, Bind: netip.AddrPortFrom(to.In(c.Slice), p.Number), Missing: p.Missing}
			key := captured{service: to.Service, port: p, bind: u.Bind}
			idle := t.idleOf(u)
			if idle != nil {
				key.idle, key.hasIdle = *idle, true
			}
			add(key, func() (*Resource, error) { return outboundListener(s, u, idle) })
		}
	}
	return out, failed
}

// sharedListener translates the address of a caller at which services that speak HTTP are told apart by Host.
func sharedListener(s *mesh.Scope, bind netip.AddrPort, h *mesh.Reach) (*Resource, error) {
	var p packer
	stat := "out/" + s.Service.String() + "/*:" + strconv.Itoa(int(bind.Port()))
	name := stat + "@" + bind.String()
	l := &listenerv3.Listener{
		Name: name, Address: socket(bind), TrafficDirection: corev3.TrafficDirection_OUTBOUND,
		FilterChains: []*listenerv3.FilterChain{{Filters: p.byHost(s, stat, reachRoutes(h, h.Routes, bind.Port()))}},
	}
	return p.encode(Key{Type: Listener, Name: name, Variant: reachScope(h.Key)}, l, "") // callers of one name may differ in what they reach
}

// byHost are the filters of a chain whose requests go where their Host says.
func (p *packer) byHost(s *mesh.Scope, stat, routes string) []*listenerv3.Filter {
	m := p.manager(outbound, stat)
	m.RouteSpecifier = rds(variantOf(routes, s.Variant))
	return []*listenerv3.Filter{p.callAs(s.Identity, ""), p.managerFilter(m)}
}

// reachRoutes returns the name of the routes of a port, one of those that all has.
func reachRoutes(h *mesh.Reach, all []*mesh.Routes, port uint16) string {
	i, _ := slices.BinarySearch(h.Surface.HTTPPorts, port)
	return all[i].Name
}

// redirectListeners translates where a caller's redirected connections arrive, over IPv4 and over IPv6: apart, and the second
// bound whether its address is there or not, so that a host without IPv6 lacks no more than that. Only chains ever change in them, so that a new port drains nobody's
// connections.
func (t *transaction) redirectListeners(s *mesh.Scope) ([]*Resource, error) {
	var out []*Resource
	for _, local := range []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()} {
		r, err := t.redirectListener(s, netip.AddrPortFrom(local, s.Capture.RedirectPort))
		if err != nil {
			return nil, err
		}
		out = append(out, r)
	}
	return out, nil
}

func (t *transaction) redirectListener(s *mesh.Scope, bind netip.AddrPort) (*Resource, error) {
	var p packer
	h := t.v.Reach(s.Capture.Reach)
	stat := "redirect/" + s.Service.String()
	name := stat + "@" + bind.String()
	l := &listenerv3.Listener{
		Name: name, Address: socket(bind), TrafficDirection: corev3.TrafficDirection_OUTBOUND,
		ListenerFilters: []*listenerv3.ListenerFilter{
			p.listenerFilter("envoy.filters.listener.original_dst", &originaldstv3.OriginalDst{}),
			p.listenerFilter("envoy.filters.listener.http_inspector", &httpinspectorv3.HttpInspector{}),
		},
		ListenerFiltersTimeout:           durationpb.New(sniffTimeout),
		ContinueOnListenerFiltersTimeout: true,
		FilterChains:                     []*listenerv3.FilterChain{p.noLoop(bind)},
	}
	if bind.Addr().Is6() {
		l.Freebind = wrapperspb.Bool(true)
	}
	by := h.Routes
	if h.Open != nil {
		by = h.Open
		l.DefaultFilterChain = &listenerv3.FilterChain{Name: passedCluster, Filters: []*listenerv3.Filter{p.passOn(stat)}}
	}
	for _, port := range h.Surface.HTTPPorts {
		number := strconv.Itoa(int(port))
		l.FilterChains = append(l.FilterChains, &listenerv3.FilterChain{
			Name: number,
			FilterChainMatch: &listenerv3.FilterChainMatch{
				DestinationPort: wrapperspb.UInt32(uint32(port)), ApplicationProtocols: []string{"http/1.0", "http/1.1", "h2c"},
			},
			Filters: p.byHost(s, stat+"/*:"+number, reachRoutes(h, by, port)),
		})
	}
	return p.encode(Key{Type: Listener, Name: name, Variant: reachScope(h.Key)}, l, "")
}

// noLoop closes connections that were sent to the listener itself: to pass them on would be to call itself for ever.
func (p *packer) noLoop(bind netip.AddrPort) *listenerv3.FilterChain {
	return &listenerv3.FilterChain{
		Name: "loop",
		FilterChainMatch: &listenerv3.FilterChainMatch{
			DestinationPort: wrapperspb.UInt32(uint32(bind.Port())),
			PrefixRanges:    []*corev3.CidrRange{{AddressPrefix: bind.Addr().String(), PrefixLen: wrapperspb.UInt32(uint32(bind.Addr().BitLen()))}},
		},
		Filters: []*listenerv3.Filter{p.network("envoy.filters.network.direct_response", &directv3.Config{})},
	}
}

// passOn carries bytes to where they were sent.
func (p *packer) passOn(stat string) *listenerv3.Filter {
	return p.network("envoy.filters.network.tcp_proxy", &tcpv3.TcpProxy{
		StatPrefix: stat, ClusterSpecifier: &tcpv3.TcpProxy_Cluster{Cluster: passedCluster},
		AccessLog: p.connectionLog(stat),
	})
}

// passed translates the cluster of what goes to where it was sent. All proxies share it.
func passed() (*Resource, error) {
	var p packer
	m := &clusterv3.Cluster{
		Name:                 passedCluster,
		ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_ORIGINAL_DST},
		LbPolicy:             clusterv3.Cluster_CLUSTER_PROVIDED,
		ConnectTimeout:       durationpb.New(connectTimeout),
		CircuitBreakers:      circuitBreakers(nil),
		UpstreamBindConfig: &corev3.BindConfig{SocketOptions: []*corev3.SocketOption{{
			Description: "so that a guard knows what is passed on from what the proxy sends",
			Level:       solSocket, Name: soPriority, Value: &corev3.SocketOption_IntValue{IntValue: planpb.PassedPriority}, State: corev3.SocketOption_STATE_PREBIND,
		}}},
		TypedExtensionProtocolOptions: map[string]*anypb.Any{"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": p.any(&httpv3.HttpProtocolOptions{
			UpstreamProtocolOptions: &httpv3.HttpProtocolOptions_UseDownstreamProtocolConfig{
				UseDownstreamProtocolConfig: &httpv3.HttpProtocolOptions_UseDownstreamHttpConfig{
					HttpProtocolOptions: &corev3.Http1ProtocolOptions{}, Http2ProtocolOptions: &corev3.Http2ProtocolOptions{},
				},
			},
		})},
	}
	return p.encode(Key{Type: Cluster, Name: passedCluster}, m, "")
}
