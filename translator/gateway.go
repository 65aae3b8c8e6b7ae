package translator

import (
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/wattle-mesh/wattle/internal/mesh"
)

// headersTimeout is how long a client outside may take to send the headers of a request.
const headersTimeout = 30 * time.Second

// gatewayListener translates one listening address of a gateway. Clients are outside the mesh: nothing they say of
// identities or of how Envoy should treat their request is believed.
func gatewayListener(px *mesh.Proxy, s *mesh.Server) (*Resource, error) {
	var p packer
	name := "gw/" + s.Name
	m := p.manager(gateway, name)
	m.UseRemoteAddress = wrapperspb.Bool(true)
	m.SkipXffAppend = false
	m.ForwardClientCertDetails = hcmv3.HttpConnectionManager_SANITIZE
	m.PathWithEscapedSlashesAction = hcmv3.HttpConnectionManager_UNESCAPE_AND_REDIRECT
	m.CommonHttpProtocolOptions = &corev3.HttpProtocolOptions{HeadersWithUnderscoresAction: corev3.HttpProtocolOptions_DROP_HEADER}
	m.RequestHeadersTimeout = durationpb.New(headersTimeout)
	m.Http2ProtocolOptions = edgeHTTP2()
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

// edgeHTTP2 bounds what one connection from outside can make Envoy hold, as Envoy recommends for its edge.
func edgeHTTP2() *corev3.Http2ProtocolOptions {
	return &corev3.Http2ProtocolOptions{
		MaxConcurrentStreams:        wrapperspb.UInt32(100),
		InitialStreamWindowSize:     wrapperspb.UInt32(64 << 10),
		InitialConnectionWindowSize: wrapperspb.UInt32(1 << 20),
	}
}
