package translator

import (
	"sync"
	"time"

	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// idleIn is how long an idle connection of a caller's proxy stays: longer than the caller keeps it (1 h), so that no
// request meets a closing connection.
const idleIn = 2 * time.Hour

// fixed is what all connection managers of a place have, packed.
type fixed struct {
	filters []*hcmv3.HttpFilter
	early   []*corev3.TypedExtensionConfig
	err     error
}

// everywhere returns what is fixed, by place. There are as many managers as callers times upstreams: it is packed once,
// and only read after that.
var everywhere = sync.OnceValue(func() (out [places]fixed) {
	for at := range places {
		var p packer
		out[at] = fixed{filters: p.filters(at), early: p.early(at)}
		out[at].err = p.err
	}
	return out
})

// manager is what the connection managers of all places share.
func (p *packer) manager(at place, statPrefix string) *hcmv3.HttpConnectionManager {
	fixed := everywhere()[at]
	if p.err == nil {
		p.err = fixed.err
	}
	return &hcmv3.HttpConnectionManager{
		StatPrefix:                    statPrefix,
		HttpFilters:                   fixed.filters,
		AccessLog:                     p.requestLog(statPrefix),
		StreamIdleTimeout:             durationpb.New(0), // routes bound requests; streams may be long
		NormalizePath:                 wrapperspb.Bool(true),
		MergeSlashes:                  true,
		PathWithEscapedSlashesAction:  hcmv3.HttpConnectionManager_KEEP_UNCHANGED,
		ServerHeaderTransformation:    hcmv3.HttpConnectionManager_PASS_THROUGH,
		UseRemoteAddress:              wrapperspb.Bool(false),
		SkipXffAppend:                 true,
		UpgradeConfigs:                []*hcmv3.HttpConnectionManager_UpgradeConfig{{UpgradeType: "websocket"}},
		EarlyHeaderMutationExtensions: fixed.early,
	}
}

// sayUnprocessed marks the answers that Envoy itself gives because the application has not seen the request: its port
// refused (UF), it has no endpoint (UH), or it has just left this host (NC). An application's own header of that name is
// removed by the route.
func sayUnprocessed() *hcmv3.LocalReplyConfig {
	return &hcmv3.LocalReplyConfig{Mappers: []*hcmv3.ResponseMapper{{
		Filter: &accesslogv3.AccessLogFilter{FilterSpecifier: &accesslogv3.AccessLogFilter_ResponseFlagFilter{
			ResponseFlagFilter: &accesslogv3.ResponseFlagFilter{Flags: []string{"UF", "UH", "NC"}},
		}},
		HeadersToAdd: []*corev3.HeaderValueOption{{
			Header:       &corev3.HeaderValue{Key: unprocessed, Value: isUnprocessed},
			AppendAction: corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD,
		}},
	}}}
}

// network packs a network filter.
func (p *packer) network(name string, m proto.Message) *listenerv3.Filter {
	return &listenerv3.Filter{Name: name, ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: p.any(m)}}
}

// listenerFilter packs a listener filter.
func (p *packer) listenerFilter(name string, m proto.Message) *listenerv3.ListenerFilter {
	return &listenerv3.ListenerFilter{Name: name, ConfigType: &listenerv3.ListenerFilter_TypedConfig{TypedConfig: p.any(m)}}
}

func (p *packer) managerFilter(m *hcmv3.HttpConnectionManager) *listenerv3.Filter {
	return p.network("envoy.filters.network.http_connection_manager", m)
}

// rds has a connection manager take its routes over ADS.
func rds(name string) *hcmv3.HttpConnectionManager_Rds {
	return &hcmv3.HttpConnectionManager_Rds{Rds: &hcmv3.Rds{RouteConfigName: name, ConfigSource: ads()}}
}
