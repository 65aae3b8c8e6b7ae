package translator

import (
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/wattle-mesh/wattle/internal/mesh"
)

// gatewayListener translates one listening address of a gateway. Clients are outside the mesh: nothing they say of
// identities or of how Envoy should treat their request is believed.
func gatewayListener(px *mesh.Proxy, s *mesh.Server) (*Resource, error) {
	var p packer
	name := "gw/" + s.Name
	m := p.manager(gateway, name, outside()...)
	m.UseRemoteAddress = wrapperspb.Bool(true)
	m.SkipXffAppend = false
	m.ForwardClientCertDetails = hcmv3.HttpConnectionManager_SANITIZE
	m.PathWithEscapedSlashesAction = hcmv3.HttpConnectionManager_UNESCAPE_AND_REDIRECT
	m.CommonHttpProtocolOptions = &corev3.HttpProtocolOptions{HeadersWithUnderscoresAction: corev3.HttpProtocolOptions_DROP_HEADER}
	m.RouteSpecifier = rds(s.Routes.Name)
	l := &listenerv3.Listener{
		Name:             name,
		Address:          socket(s.Bind),
		TrafficDirection: corev3.TrafficDirection_OUTBOUND,
		FilterChains: []*listenerv3.FilterChain{{
			Filters: []*listenerv3.Filter{p.callAs(px.Gateway.Identity, ""), p.managerFilter(m)},
		}},
	}
	return p.encode(Key{Type: Listener, Name: name, Variant: px.ID}, l, s.Origin)
}
