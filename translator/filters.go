package translator

import (
	"slices"
	"time"

	commonfaultv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/common/fault/v3"
	faultv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/fault/v3"
	routerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/genproto/googleapis/rpc/code"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/wattle-mesh/wattle/configs"
)

const (
	mutationFilter = "envoy.filters.http.header_mutation"
	faultFilter    = "envoy.filters.http.fault"
	routerFilter   = "envoy.filters.http.router"
)

// place says where in the mesh a connection manager stands.
type place uint8

const (
	inbound place = iota
	outbound
	gateway
	places
)

// filters is the order of HTTP filters, and who has them. This list is the only place that says it.
func (p *packer) filters(at place) []*hcmv3.HttpFilter {
	var out []*hcmv3.HttpFilter
	for _, f := range []struct {
		name   string
		config proto.Message
		at     []place
	}{
		{mutationFilter, keepInside(), []place{gateway}},     // first: the last that answers pass
		{faultFilter, noFault(), []place{outbound, gateway}}, // routes say what it does
		{routerFilter, &routerv3.Router{}, []place{inbound, outbound, gateway}},
	} {
		if slices.Contains(f.at, at) {
			out = append(out, p.httpFilter(f.name, f.config))
		}
	}
	return out
}

// httpFilter packs an HTTP filter.
func (p *packer) httpFilter(name string, m proto.Message) *hcmv3.HttpFilter {
	return &hcmv3.HttpFilter{Name: name, ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: p.any(m)}}
}

// noFault keeps Envoy from counting by a request header that anybody may set to anything.
func noFault() *faultv3.HTTPFault { return &faultv3.HTTPFault{DisableDownstreamClusterStats: true} }

// fault translates a route's fault.
func fault(f *configs.Fault) *faultv3.HTTPFault {
	m := noFault()
	if d := f.Delay; d != nil {
		m.Delay = &commonfaultv3.FaultDelay{
			FaultDelaySecifier: &commonfaultv3.FaultDelay_FixedDelay{FixedDelay: durationpb.New(time.Duration(d.FixedDelay))},
			Percentage:         percent(d.Percentage),
		}
	}
	if a := f.Abort; a != nil {
		m.Abort = &faultv3.FaultAbort{Percentage: percent(a.Percentage)}
		if a.GRPCStatus != "" {
			m.Abort.ErrorType = &faultv3.FaultAbort_GrpcStatus{GrpcStatus: uint32(code.Code_value[a.GRPCStatus])}
		} else {
			m.Abort.ErrorType = &faultv3.FaultAbort_HttpStatus{HttpStatus: a.HTTPStatus}
		}
	}
	return m
}

// percent keeps four decimals of a percentage.
func percent(v float64) *typev3.FractionalPercent {
	return &typev3.FractionalPercent{Numerator: uint32(v*10_000 + 0.5), Denominator: typev3.FractionalPercent_MILLION}
}
