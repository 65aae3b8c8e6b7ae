package translator

import (
	"net"
	"regexp"
	"strconv"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/wattle-mesh/wattle/configs"
	"github.com/wattle-mesh/wattle/internal/mesh"
)

// routes translates the routing of a service port or, at gateway, of a gateway's server. Callers in the mesh learn how
// many attempts a request took, clients outside do not.
func routes(r *mesh.Routes, at place, variant string) (*Resource, error) {
	p := packer{variant: variant}
	m := p.routeConfiguration(variantOf(r.Name, variant))
	m.IgnorePortInHostMatching = true
	origin := ""
	for _, vh := range r.VirtualHosts {
		if origin == "" {
			origin = vh.Origin
		}
		v := p.virtualHost(vh, at)
		v.IncludeRequestAttemptCount = true // an application's own word of it reaches nobody
		if v.IncludeAttemptCountInResponse = at != gateway; at == gateway {
			v.RequestBodyBufferLimit = wrapperspb.UInt64(edgeRetryBuffer)
		}
		m.VirtualHosts = append(m.VirtualHosts, v)
	}
	if rest := p.others(r); rest != nil {
		m.VirtualHosts = append(m.VirtualHosts, rest)
	}
	return p.encode(Key{Type: Route, Name: m.Name}, m, origin)
}

// routeConfiguration is what all route configurations of callers share: Wattle's own header stays inside.
func (p *packer) routeConfiguration(name string) *routev3.RouteConfiguration {
	return &routev3.RouteConfiguration{
		Name:                    name,
		ResponseHeadersToRemove: []string{unprocessed},
		ValidateClusters:        wrapperspb.Bool(false), // a cluster that comes later must not refuse the routes
	}
}

func (p *packer) virtualHost(vh *mesh.VirtualHost, at place) *routev3.VirtualHost {
	m := &routev3.VirtualHost{Name: vh.Name, Domains: vh.Domains}
	for _, rule := range vh.Rules {
		m.Routes = append(m.Routes, p.rule(rule, at)...)
	}
	return m
}

// rule translates one rule: a route for each of its matches.
func (p *packer) rule(rule *mesh.Rule, at place) []*routev3.Route {
	spec := rule.HTTPRoute
	if spec == nil {
		spec = &configs.HTTPRoute{}
	}
	matches := spec.Match
	if len(matches) == 0 {
		matches = []*configs.HTTPMatch{{}}
	}
	var out []*routev3.Route
	for _, match := range matches {
		r := &routev3.Route{Name: spec.Name, Match: routeMatch(match)}
		switch {
		case spec.Redirect != nil:
			r.Action = &routev3.Route_Redirect{Redirect: redirect(spec.Redirect)}
		case missing(rule.Destinations):
			r.Action = unavailable("no such service, port or subset")
		default:
			a := p.action(spec, match, rule.Destinations)
			if at == gateway {
				a.IdleTimeout = edgeIdle(spec.Timeout)
			}
			r.Action = &routev3.Route_Route{Route: a}
		}
		if spec.Fault != nil {
			r.TypedPerFilterConfig = map[string]*anypb.Any{faultFilter: p.any(fault(spec.Fault))}
		}
		out = append(out, r)
	}
	return out
}

// missing reports whether no destination exists.
func missing(all []mesh.Destination) bool {
	for _, d := range all {
		if !d.Missing {
			return false
		}
	}
	return true
}

// unavailable answers 503 with a reason.
func unavailable(reason string) *routev3.Route_DirectResponse {
	return &routev3.Route_DirectResponse{DirectResponse: &routev3.DirectResponseAction{
		Status: 503,
		Body:   &corev3.DataSource{Specifier: &corev3.DataSource_InlineString{InlineString: "wattle: " + reason + "\n"}},
	}}
}

func (p *packer) action(spec *configs.HTTPRoute, match *configs.HTTPMatch, to []mesh.Destination) *routev3.RouteAction {
	a := &routev3.RouteAction{
		Timeout:     durationpb.New(0), // Envoy's own default is 15 s
		RetryPolicy: p.retryPolicy(spec.Retries),
	}
	if spec.Timeout != nil {
		a.Timeout = duration(spec.Timeout)
	}
	if w := spec.Rewrite; w != nil {
		rewrite(a, w, match)
	}
	if len(to) == 1 {
		a.ClusterSpecifier = &routev3.RouteAction_Cluster{Cluster: variantOf(clusterName(to[0].ClusterRef), p.variant)}
		return a
	}
	weighted := &routev3.WeightedCluster{}
	for _, d := range to {
		name := variantOf(clusterName(d.ClusterRef), p.variant)
		if d.Missing {
			name = missingCluster(d.ClusterRef) // Envoy has no such cluster: it answers 503 (NC) for that share
		}
		weighted.Clusters = append(weighted.Clusters, &routev3.WeightedCluster_ClusterWeight{
			Name: name, Weight: wrapperspb.UInt32(d.Weight),
		})
	}
	a.ClusterSpecifier = &routev3.RouteAction_WeightedClusters{WeightedClusters: weighted}
	return a
}

// rewrite changes the path: the matched prefix, or all of it if the match was exact or a regex. As in Istio, a prefix
// without a slash at its end that becomes "/" takes the slash after it along: of /api/x remains /x, not //x.
func rewrite(a *routev3.RouteAction, w *configs.Rewrite, match *configs.HTTPMatch) {
	var prefix string
	if match.URI != nil && match.URI.Prefix != nil {
		prefix = *match.URI.Prefix
	}
	switch {
	case w.URI == "":
	case match.URI != nil && match.URI.Regex != nil:
		literal := strings.ReplaceAll(w.URI, `\`, `\\`)
		a.RegexRewrite = &matcherv3.RegexMatchAndSubstitute{Pattern: regex("^/.*$"), Substitution: literal}
	case w.URI == "/" && prefix != "" && !strings.HasSuffix(prefix, "/"):
		a.RegexRewrite = &matcherv3.RegexMatchAndSubstitute{
			Pattern: regex("^" + regexp.QuoteMeta(prefix) + "/?(.*)"), Substitution: `/\1`,
		}
	default:
		a.PrefixRewrite = w.URI
	}
	if w.Authority != "" {
		a.HostRewriteSpecifier = &routev3.RouteAction_HostRewriteLiteral{HostRewriteLiteral: w.Authority}
	}
}

func redirect(r *configs.Redirect) *routev3.RedirectAction {
	m := &routev3.RedirectAction{ResponseCode: redirectCode(r.Code)}
	if r.URI != "" {
		m.PathRewriteSpecifier = &routev3.RedirectAction_PathRedirect{PathRedirect: r.URI}
	}
	if r.Scheme != "" {
		m.SchemeRewriteSpecifier = &routev3.RedirectAction_SchemeRedirect{SchemeRedirect: r.Scheme}
	}
	m.HostRedirect = r.Authority
	if host, port, err := net.SplitHostPort(r.Authority); err == nil {
		if n, err := strconv.ParseUint(port, 10, 16); err == nil {
			m.HostRedirect, m.PortRedirect = host, uint32(n)
		}
	}
	return m
}

func redirectCode(code int) routev3.RedirectAction_RedirectResponseCode {
	switch code {
	case 302:
		return routev3.RedirectAction_FOUND
	case 303:
		return routev3.RedirectAction_SEE_OTHER
	case 307:
		return routev3.RedirectAction_TEMPORARY_REDIRECT
	case 308:
		return routev3.RedirectAction_PERMANENT_REDIRECT
	}
	return routev3.RedirectAction_MOVED_PERMANENTLY
}
