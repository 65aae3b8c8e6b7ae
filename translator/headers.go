package translator

import (
	mutationrulesv3 "github.com/envoyproxy/go-control-plane/envoy/config/common/mutation_rules/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	mutationv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/header_mutation/v3"
	codecv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/upstream_codec/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	earlyv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/http/early_header_mutation/header_mutation/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"

	"github.com/wattle-mesh/wattle/internal/mesh"
)

// Prefixes of header names. Wattle's own are taken from no request. Envoy's steer it, or tell of what is behind it. At a
// gateway neither passes, in neither direction.
const (
	wattleHeaders = "x-wattle-"
	envoyHeaders  = "x-envoy-"
)

// isUnprocessed is the value of the unprocessed header: what Envoy writes for the mtlsMatch of an endpoint.
const isUnprocessed = "true"

// without removes the headers whose names begin with one of the prefixes.
func without(prefixes []string) []*mutationrulesv3.HeaderMutation {
	out := make([]*mutationrulesv3.HeaderMutation, len(prefixes))
	for i, prefix := range prefixes {
		out[i] = &mutationrulesv3.HeaderMutation{Action: &mutationrulesv3.HeaderMutation_RemoveOnMatch_{
			RemoveOnMatch: &mutationrulesv3.HeaderMutation_RemoveOnMatch{KeyMatcher: &matcherv3.StringMatcher{
				MatchPattern: &matcherv3.StringMatcher_Prefix{Prefix: prefix},
			}},
		}}
	}
	return out
}

// early removes request headers before anything looks at them.
func (p *packer) early(at place) []*corev3.TypedExtensionConfig {
	prefixes := []string{wattleHeaders}
	if at == gateway {
		prefixes = append(prefixes, envoyHeaders)
	}
	return []*corev3.TypedExtensionConfig{
		p.extension("envoy.http.early_header_mutation.header_mutation", &earlyv3.HeaderMutation{Mutations: without(prefixes)}),
	}
}

// keepInside removes from responses what clients outside have no business with.
func keepInside() *mutationv3.HeaderMutation {
	inside := without([]string{envoyHeaders, wattleHeaders})
	return &mutationv3.HeaderMutation{Mutations: &mutationv3.Mutations{ResponseMutations: inside, ResponseTrailersMutations: inside}}
}

// believeProxies are the filters on the way to endpoints of which some may be outside the mesh; nil if none may. Only
// the proxy of a mesh endpoint may say that nobody has seen a request: in answers that say so, the value is replaced by
// whether the endpoint is one, before the router looks at it.
func (p *packer) believeProxies(c *mesh.Cluster) []*hcmv3.HttpFilter {
	if !c.Plaintext || !c.Protocol.IsHTTP() {
		return nil
	}
	proof := &mutationrulesv3.HeaderMutation{Action: &mutationrulesv3.HeaderMutation_Append{Append: &corev3.HeaderValueOption{
		Header:         &corev3.HeaderValue{Key: unprocessed, Value: "%UPSTREAM_METADATA(envoy.transport_socket_match:" + mtlsMatch + ")%"},
		AppendAction:   corev3.HeaderValueOption_OVERWRITE_IF_EXISTS,
		KeepEmptyValue: true,
	}}}
	return []*hcmv3.HttpFilter{
		p.httpFilter(mutationFilter, &mutationv3.HeaderMutation{Mutations: &mutationv3.Mutations{
			ResponseMutations: []*mutationrulesv3.HeaderMutation{proof},
		}}),
		p.httpFilter("envoy.filters.http.upstream_codec", &codecv3.UpstreamCodec{}),
	}
}
