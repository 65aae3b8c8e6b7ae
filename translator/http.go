package translator

import (
	"time"

	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	mutationrulesv3 "github.com/envoyproxy/go-control-plane/envoy/config/common/mutation_rules/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	earlyv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/http/early_header_mutation/header_mutation/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// idleIn is how long an idle connection of a caller's proxy stays: longer than the caller keeps it (1 h), so that no
// request meets a closing connection.
const idleIn = 2 * time.Hour

// manager is what the connection managers of all places share.
func (p *packer) manager(at place, statPrefix string, remove ...string) *hcmv3.HttpConnectionManager {
	return &hcmv3.HttpConnectionManager{
		StatPrefix:                   statPrefix,
		HttpFilters:                  p.filters(at),
		AccessLog:                    p.requestLog(statPrefix),
		StreamIdleTimeout:            durationpb.New(0), // routes bound requests; streams may be long
		NormalizePath:                wrapperspb.Bool(true),
		MergeSlashes:                 true,
		PathWithEscapedSlashesAction: hcmv3.HttpConnectionManager_KEEP_UNCHANGED,
		ServerHeaderTransformation:   hcmv3.HttpConnectionManager_PASS_THROUGH,
		UseRemoteAddress:             wrapperspb.Bool(false),
		SkipXffAppend:                true,
		UpgradeConfigs:               []*hcmv3.HttpConnectionManager_UpgradeConfig{{UpgradeType: "websocket"}},
		// Wattle's own header is never taken from a request.
		EarlyHeaderMutationExtensions: []*corev3.TypedExtensionConfig{p.withoutHeaders(append(remove, unprocessed)...)},
	}
}

// withoutHeaders removes request headers before anything looks at them.
func (p *packer) withoutHeaders(names ...string) *corev3.TypedExtensionConfig {
	m := &earlyv3.HeaderMutation{}
	for _, n := range names {
		m.Mutations = append(m.Mutations, &mutationrulesv3.HeaderMutation{Action: &mutationrulesv3.HeaderMutation_Remove{Remove: n}})
	}
	return p.extension("envoy.http.early_header_mutation.header_mutation", m)
}

// outside lists the request headers that steer Envoy or name a caller: from clients outside they are removed.
func outside() []string {
	return []string{
		"x-forwarded-client-cert",
		"x-envoy-attempt-count", "x-envoy-decorator-operation", "x-envoy-expected-rq-timeout-ms", "x-envoy-external-address",
		"x-envoy-force-trace", "x-envoy-hedge-on-per-try-timeout", "x-envoy-internal", "x-envoy-ip-tags",
		"x-envoy-is-timeout-retry", "x-envoy-max-retries", "x-envoy-original-path", "x-envoy-peer-metadata",
		"x-envoy-retriable-header-names", "x-envoy-retriable-status-codes", "x-envoy-retry-grpc-on", "x-envoy-retry-on",
		"x-envoy-upstream-alt-stat-name", "x-envoy-upstream-rq-per-try-timeout-ms",
		"x-envoy-upstream-rq-timeout-alt-response", "x-envoy-upstream-rq-timeout-ms", "x-envoy-upstream-stream-duration-ms",
	}
}

// inside lists the response headers that tell of what is behind a gateway: clients outside do not get them.
func inside() []string {
	return []string{"x-envoy-attempt-count", "x-envoy-decorator-operation", "x-envoy-overloaded", "x-envoy-upstream-service-time"}
}

// sayUnprocessed marks the answers that Envoy itself gives because the application has not seen the request: its port
// refused (UF) or it has no endpoint (UH). An application's own header of that name is removed by the route.
func sayUnprocessed() *hcmv3.LocalReplyConfig {
	return &hcmv3.LocalReplyConfig{Mappers: []*hcmv3.ResponseMapper{{
		Filter: &accesslogv3.AccessLogFilter{FilterSpecifier: &accesslogv3.AccessLogFilter_ResponseFlagFilter{
			ResponseFlagFilter: &accesslogv3.ResponseFlagFilter{Flags: []string{"UF", "UH"}},
		}},
		HeadersToAdd: []*corev3.HeaderValueOption{{
			Header:       &corev3.HeaderValue{Key: unprocessed, Value: "1"},
			AppendAction: corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD,
		}},
	}}}
}

// network packs a network filter.
func (p *packer) network(name string, m proto.Message) *listenerv3.Filter {
	return &listenerv3.Filter{Name: name, ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: p.any(m)}}
}

func (p *packer) managerFilter(m *hcmv3.HttpConnectionManager) *listenerv3.Filter {
	return p.network("envoy.filters.network.http_connection_manager", m)
}

// rds has a connection manager take its routes over ADS.
func rds(name string) *hcmv3.HttpConnectionManager_Rds {
	return &hcmv3.HttpConnectionManager_Rds{Rds: &hcmv3.Rds{RouteConfigName: name, ConfigSource: ads()}}
}
