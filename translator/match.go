package translator

import (
	"maps"
	"slices"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"

	"github.com/wattle-mesh/wattle/configs"
)

// routeMatch translates a match; an empty one matches every request.
func routeMatch(match *configs.HTTPMatch) *routev3.RouteMatch {
	m := &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: "/"}}
	if u := match.URI; u != nil {
		switch {
		case u.Exact != nil:
			m.PathSpecifier = &routev3.RouteMatch_Path{Path: *u.Exact}
		case u.Prefix != nil:
			m.PathSpecifier = &routev3.RouteMatch_Prefix{Prefix: *u.Prefix}
		case u.Regex != nil:
			m.PathSpecifier = &routev3.RouteMatch_SafeRegex{SafeRegex: regex(*u.Regex)}
		}
	}
	if match.Method != nil {
		m.Headers = append(m.Headers, headerMatcher(":method", match.Method))
	}
	for _, name := range slices.Sorted(maps.Keys(match.Headers)) {
		m.Headers = append(m.Headers, headerMatcher(name, match.Headers[name]))
	}
	for _, name := range slices.Sorted(maps.Keys(match.QueryParams)) {
		m.QueryParameters = append(m.QueryParameters, &routev3.QueryParameterMatcher{
			Name: name,
			QueryParameterMatchSpecifier: &routev3.QueryParameterMatcher_StringMatch{
				StringMatch: stringMatcher(match.QueryParams[name]),
			},
		})
	}
	return m
}

func headerMatcher(name string, s *configs.StringMatch) *routev3.HeaderMatcher {
	return &routev3.HeaderMatcher{
		Name:                 name,
		HeaderMatchSpecifier: &routev3.HeaderMatcher_StringMatch{StringMatch: stringMatcher(s)},
	}
}

func stringMatcher(s *configs.StringMatch) *matcherv3.StringMatcher {
	switch {
	case s.Prefix != nil:
		return &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Prefix{Prefix: *s.Prefix}}
	case s.Regex != nil:
		return &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_SafeRegex{SafeRegex: regex(*s.Regex)}}
	}
	return exactly(*s.Exact)
}

func exactly(s string) *matcherv3.StringMatcher {
	return &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Exact{Exact: s}}
}

// regex is a pattern in RE2's syntax that must match the whole value.
func regex(pattern string) *matcherv3.RegexMatcher { return &matcherv3.RegexMatcher{Regex: pattern} }
