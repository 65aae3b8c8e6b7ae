package translator

import (
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/wattle-mesh/wattle/configs"
	"github.com/wattle-mesh/wattle/internal/mesh"
)

// What clients outside may take of time and memory; where not said otherwise, as Envoy's "Configuring Envoy as an edge
// proxy" recommends. An idle connection ends after an hour by itself.
const (
	headersTimeout    = 30 * time.Second // to send the headers of a request
	requestTimeout    = time.Hour        // to send all of a request; Envoy's 5 min would cut off large uploads
	idleStreamTimeout = 5 * time.Minute  // without a byte either way; a route's timeout may be longer
	edgeBuffer        = 32 << 10         // bytes, of a connection
	edgeRetryBuffer   = 1 << 20          // bytes, of a request that is to be tried again, as everywhere in the mesh
)

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
	m.CommonHttpProtocolOptions = &corev3.HttpProtocolOptions{HeadersWithUnderscoresAction: corev3.HttpProtocolOptions_REJECT_REQUEST}
	m.RequestHeadersTimeout = durationpb.New(headersTimeout)
	m.RequestTimeout = durationpb.New(requestTimeout)
	m.StreamIdleTimeout = durationpb.New(idleStreamTimeout)
	m.Http2ProtocolOptions = edgeHTTP2()
	m.RouteSpecifier = rds(s.Routes.Name)
	l := &listenerv3.Listener{
		Name:                          name,
		Address:                       socket(s.Bind),
		TrafficDirection:              corev3.TrafficDirection_OUTBOUND,
		PerConnectionBufferLimitBytes: wrapperspb.UInt32(edgeBuffer),
		FilterChains: []*listenerv3.FilterChain{{
			Filters: []*listenerv3.Filter{p.callAs(px.Gateway.Identity, ""), p.managerFilter(m)},
		}},
	}
	return p.encode(Key{Type: Listener, Name: name, Variant: px.ID}, l, s.Origin)
}

// edgeIdle is how long a request of a route may be silent at a gateway, nil for idleStreamTimeout: as long as its answer
// may take, if the policy says that.
func edgeIdle(timeout *configs.Duration) *durationpb.Duration {
	if timeout == nil || *timeout > 0 && time.Duration(*timeout) <= idleStreamTimeout {
		return nil
	}
	return duration(timeout)
}

// edgeHTTP2 bounds what one connection from outside can make Envoy hold, as Envoy recommends for its edge.
func edgeHTTP2() *corev3.Http2ProtocolOptions {
	return &corev3.Http2ProtocolOptions{
		MaxConcurrentStreams:        wrapperspb.UInt32(100),
		InitialStreamWindowSize:     wrapperspb.UInt32(64 << 10),
		InitialConnectionWindowSize: wrapperspb.UInt32(1 << 20),
	}
}
