package translator

import (
	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	streamv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/stream/v3"
	"google.golang.org/protobuf/types/known/structpb"
)

// firstLogged is the least status code that is logged.
const firstLogged = 500

// requestLog writes a JSON line to Envoy's standard output for each request that went wrong: answered with 500 or more,
// or with a response flag, which is Envoy's word for why. The query stays out, for what it may hold.
func (p *packer) requestLog(at string) []*accesslogv3.AccessLog {
	return p.accessLog(at, anyOf(statusFrom(firstLogged), flagged()), map[string]string{
		"method":     "%REQ(:METHOD)%",
		"authority":  "%REQ(:AUTHORITY)%",
		"path":       "%PATH(NQ:ORIG_OR_PATH)%",
		"status":     "%RESPONSE_CODE%",
		"attempts":   "%UPSTREAM_REQUEST_ATTEMPT_COUNT%",
		"route":      "%ROUTE_NAME%",
		"request_id": "%REQ(X-REQUEST-ID)%",
	})
}

// connectionLog does the same for connections that carry bytes.
func (p *packer) connectionLog(at string) []*accesslogv3.AccessLog {
	return p.accessLog(at, flagged(), map[string]string{"received": "%BYTES_RECEIVED%", "sent": "%BYTES_SENT%"})
}

// accessLog adds to fields what requests and connections have in common. at names the place, as statistics do.
func (p *packer) accessLog(at string, when *accesslogv3.AccessLogFilter, fields map[string]string) []*accesslogv3.AccessLog {
	format := &structpb.Struct{Fields: map[string]*structpb.Value{}}
	for _, all := range []map[string]string{fields, {
		"time":     "%START_TIME%",
		"at":       at,
		"flags":    "%RESPONSE_FLAGS%",
		"details":  "%RESPONSE_CODE_DETAILS%",
		"failure":  "%UPSTREAM_TRANSPORT_FAILURE_REASON%",
		"took_ms":  "%DURATION%",
		"cluster":  "%UPSTREAM_CLUSTER%",
		"upstream": "%UPSTREAM_HOST%",
		"from":     "%DOWNSTREAM_REMOTE_ADDRESS%",
		"caller":   "%DOWNSTREAM_PEER_URI_SAN%",
	}} {
		for k, v := range all {
			format.Fields[k] = structpb.NewStringValue(v)
		}
	}
	return []*accesslogv3.AccessLog{{
		Name:   "envoy.access_loggers.stdout",
		Filter: when,
		ConfigType: &accesslogv3.AccessLog_TypedConfig{TypedConfig: p.any(&streamv3.StdoutAccessLog{
			AccessLogFormat: &streamv3.StdoutAccessLog_LogFormat{LogFormat: &corev3.SubstitutionFormatString{
				Format:          &corev3.SubstitutionFormatString_JsonFormat{JsonFormat: format},
				OmitEmptyValues: true,
			}},
		})},
	}}
}

func anyOf(filters ...*accesslogv3.AccessLogFilter) *accesslogv3.AccessLogFilter {
	return &accesslogv3.AccessLogFilter{FilterSpecifier: &accesslogv3.AccessLogFilter_OrFilter{
		OrFilter: &accesslogv3.OrFilter{Filters: filters},
	}}
}

// flagged passes what has any response flag.
func flagged() *accesslogv3.AccessLogFilter {
	return &accesslogv3.AccessLogFilter{FilterSpecifier: &accesslogv3.AccessLogFilter_ResponseFlagFilter{
		ResponseFlagFilter: &accesslogv3.ResponseFlagFilter{},
	}}
}

func statusFrom(code uint32) *accesslogv3.AccessLogFilter {
	return &accesslogv3.AccessLogFilter{FilterSpecifier: &accesslogv3.AccessLogFilter_StatusCodeFilter{
		StatusCodeFilter: &accesslogv3.StatusCodeFilter{Comparison: &accesslogv3.ComparisonFilter{
			Op: accesslogv3.ComparisonFilter_GE,
			// The runtime key is required, but nothing sets it.
			Value: &corev3.RuntimeUInt32{DefaultValue: code, RuntimeKey: "wattle.access_log.min_status"},
		}},
	}}
}
