package translator

import (
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	setcommonv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/common/set_filter_state/v3"
	directv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/direct_response/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	setstatev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/set_filter_state/v3"
	tcpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/wattle-mesh/wattle/configs"
	"github.com/wattle-mesh/wattle/internal/mesh"
)

// connectAttempts is how often a TCP connection is tried. Envoy does not remember where, so that connections that are
// opened at once may meet the same endpoint more than once.
const connectAttempts = 6

// outboundListener translates one upstream of a caller. Equal callers on all hosts share the resource.
// idle is the idle timeout of TCP connections, nil for Envoy's hour.
func outboundListener(s *mesh.Scope, u *mesh.ScopeUpstream, idle *configs.Duration) (*Resource, error) {
	var p packer
	name := variantOf(outListener(s.Service, u), s.Variant)
	l := &listenerv3.Listener{
		Name:             name,
		Address:          pipe(u.Socket),
		TrafficDirection: corev3.TrafficDirection_OUTBOUND,
	}
	if u.Socket == "" {
		l.Address = socket(u.Bind)
	}
	stat := "out/" + s.Service.String() + "/" + portName(u.Service, u.Port)
	chain := &listenerv3.FilterChain{}
	switch {
	case u.Protocol.IsHTTP():
		chain.Filters = []*listenerv3.Filter{p.callAs(s.Identity, ""), p.outboundManager(stat, u, s.Variant)}
	case u.Missing:
		chain.Filters = []*listenerv3.Filter{p.network("envoy.filters.network.direct_response", &directv3.Config{})}
	default:
		to := variantOf(clusterName(mesh.ClusterRef{Service: u.Service, Port: u.Port}), s.Variant)
		chain.Filters = []*listenerv3.Filter{
			p.callAs(s.Identity, tcpALPN),
			p.network("envoy.filters.network.tcp_proxy", &tcpv3.TcpProxy{
				StatPrefix:         stat,
				ClusterSpecifier:   &tcpv3.TcpProxy_Cluster{Cluster: to},
				MaxConnectAttempts: wrapperspb.UInt32(connectAttempts),
				IdleTimeout:        duration(idle),
				AccessLog:          p.connectionLog(stat),
			}),
		}
	}
	l.FilterChains = []*listenerv3.FilterChain{chain}
	return p.encode(Key{Type: Listener, Name: name}, l, u.Origin)
}

// callAs makes the connections behind a listener present the caller's certificate, and offer alpn if that is set.
func (p *packer) callAs(identity, alpn string) *listenerv3.Filter {
	state := func(key, value string) *setcommonv3.FilterStateValue {
		return &setcommonv3.FilterStateValue{
			Key: &setcommonv3.FilterStateValue_ObjectKey{ObjectKey: key},
			Value: &setcommonv3.FilterStateValue_FormatString{FormatString: &corev3.SubstitutionFormatString{
				Format: &corev3.SubstitutionFormatString_TextFormatSource{TextFormatSource: &corev3.DataSource{
					Specifier: &corev3.DataSource_InlineString{InlineString: value},
				}},
			}},
			SharedWithUpstream: setcommonv3.FilterStateValue_ONCE,
		}
	}
	caller := state("envoy.tls.certificate_mappers.on_demand_secret", OutSecret(identity))
	caller.FactoryKey = "envoy.hashable_string"
	values := []*setcommonv3.FilterStateValue{caller}
	if alpn != "" {
		values = append(values, state("envoy.network.application_protocols", alpn))
	}
	return p.network("envoy.filters.network.set_filter_state", &setstatev3.Config{OnNewConnection: values})
}

func (p *packer) outboundManager(stat string, u *mesh.ScopeUpstream, variant string) *listenerv3.Filter {
	m := p.manager(outbound, stat)
	m.RouteSpecifier = rds(variantOf(portName(u.Service, u.Port), variant))
	if u.Missing {
		name := "missing/" + portName(u.Service, u.Port)
		rc := p.routeConfiguration(name)
		rc.VirtualHosts = []*routev3.VirtualHost{{
			Name: name, Domains: []string{"*"},
			Routes: []*routev3.Route{{
				Match:  &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: "/"}},
				Action: unavailable("no registry knows " + portName(u.Service, u.Port)),
			}},
		}}
		m.RouteSpecifier = &hcmv3.HttpConnectionManager_RouteConfig{RouteConfig: rc}
	}
	return p.managerFilter(m)
}
