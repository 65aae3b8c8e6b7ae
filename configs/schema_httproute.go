package configs

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/zclconf/go-cty/cty"
)

var httpRouteBlock = newBlock(block[HTTPRoute]{
	doc: "A rule for HTTP requests.",
	labels: []label[HTTPRoute]{
		named("name", anyName(), func(r *HTTPRoute) *string { return &r.Name }, "Its name, for logs and diagnostics; one of a kind in the virtual service."),
	},
	attrs: []attr[HTTPRoute]{
		optional("timeout", duration(0, 7*day), func(r *HTTPRoute) **Duration { return &r.Timeout }, "How long the whole answer may take, retries included. `\"0s\"` is without limit.").orText("no limit"),
	},
	blocks: []child[HTTPRoute]{
		many("match", httpMatchBlock, func(r *HTTPRoute) *[]*HTTPMatch { return &r.Match }, "Which requests the rule is for: those that any of its match blocks fits. Without one: all."),
		many("route", destinationBlock, func(r *HTTPRoute) *[]*Destination { return &r.Route }, "Where they are sent. Several share the requests by weight."),
		one("redirect", redirectBlock, func(r *HTTPRoute) **Redirect { return &r.Redirect }, "Instead of route: the client is sent elsewhere."),
		one("rewrite", rewriteBlock, func(r *HTTPRoute) **Rewrite { return &r.Rewrite }, "Changes requests before they are sent on."),
		one("retries", retriesBlock, func(r *HTTPRoute) **Retries { return &r.Retries }, "When a request is tried again. Without the block: twice, on `connect-failure`, `refused-stream` and `unavailable`, which is when no application has seen the request."),
		one("fault", faultBlock, func(r *HTTPRoute) **Fault { return &r.Fault }, "Delays or refuses a share of the requests, to test how callers bear it."),
	},
	origin: func(r *HTTPRoute) *string { return &r.Origin },
	finish: finishHTTPRoute,
})

func finishHTTPRoute(d *decoder, r *HTTPRoute) {
	if (len(r.Route) > 0) == (r.Redirect != nil) {
		d.failFrame(d.frame, codeExactlyOne, fmt.Sprintf("rule %q needs either route or redirect", r.Name), "Add route blocks to send requests on, or one redirect block to send the client elsewhere.")
		return
	}
	if r.Redirect != nil && r.Rewrite != nil {
		d.failFrame(d.frame.child("rewrite", 0), codeNotHere, "rewrite beside redirect", "A request that is redirected is not sent on. Say in redirect what the client is to ask for.")
	}
	if r.Timeout != nil && *r.Timeout > 0 && r.Retries != nil && r.Retries.PerTryTimeout != nil && *r.Retries.PerTryTimeout > *r.Timeout {
		d.report(d.at(d.frame.child("retries", 0), "per_try_timeout"), Warning, codeNoEffect, fmt.Sprintf("per_try_timeout is longer than the timeout of rule %q", r.Name),
			fmt.Sprintf("The whole answer may take %s, all tries together, so that no try is ever cut off by itself. Make it shorter, or remove it.", span(time.Duration(*r.Timeout))))
	}
	said, sum := 0, uint64(0)
	for i, dst := range r.Route {
		if _, _, ok := d.frame.child("route", i).reader.attr("weight"); ok {
			said++
			sum += uint64(dst.Weight)
		} else {
			dst.Weight = 1
		}
	}
	switch {
	case said == 0 || !d.clean():
	case said < len(r.Route):
		d.failFrame(d.frame, codeWeightMix, "some routes have a weight and some have none", "Give each a weight, or none, for equal shares.")
	case sum == 0:
		d.report(d.at(d.frame.child("route", 0), "weight"), Error, codeWeightSum, "the weights add up to zero", "Give at least one route a weight above zero, or remove the weights for equal shares.")
	}
}

var destinationBlock = newBlock(block[Destination]{
	doc: "One place that a rule sends requests to.",
	attrs: []attr[Destination]{
		field("host", serviceRef(), func(t *Destination) *ServiceRef { return &t.Host }, "The service.").must(),
		field("subset", anyName(), func(t *Destination) *string { return &t.Subset }, "A subset that the service's destination_rule declares.").orText("the whole service"),
		field("port", port(), func(t *Destination) *uint16 { return &t.Port }, "The service's port.").orText("the port that the request came for, or the service's only one"),
		field("weight", whole[uint32](0, 1_000_000), func(t *Destination) *uint32 { return &t.Weight }, "Its share of the requests, relative to the other routes of the rule: all of them say one, or none does.").orText("equal shares"),
	},
	origin: func(t *Destination) *string { return &t.Origin },
	finish: func(d *decoder, t *Destination) {
		if t.Subset != "" && t.Host.Name != "" {
			d.out.subsetRefs = append(d.out.subsetRefs, subsetRef{t.Host, t.Subset, d.at(d.frame, "subset")})
		}
	},
})

var httpMatchBlock = newBlock(block[HTTPMatch]{
	doc: "A request fits when everything that is said fits.",
	attrs: []attr[HTTPMatch]{
		optional("uri", stringMatch(pathPattern), func(m *HTTPMatch) **StringMatch { return &m.URI }, "The path, without the query, which query_params matches."),
		optional("method", stringMatch(methodPattern), func(m *HTTPMatch) **StringMatch { return &m.Method }, "The method, in upper case: `\"GET\"`, ..."),
		field("headers", dict(pointer(stringMatch(nil)), stringMatchHint, headerKey), func(m *HTTPMatch) *map[string]*StringMatch { return &m.Headers }, "Headers by name; case does not matter in names."),
		field("query_params", dict(pointer(stringMatch(nil)), stringMatchHint, textKey), func(m *HTTPMatch) *map[string]*StringMatch { return &m.QueryParams }, "Parameters of the query by name."),
	},
	origin: func(m *HTTPMatch) *string { return &m.Origin },
})

const stringMatchHint = `"text", or { exact = "text" }, { prefix = "text" } or { regex = "RE2" }`

// pointer is k for a pointer.
func pointer[V any](k kind[V]) kind[*V] {
	return kind[*V]{k.name, k.hint, func(d *decoder, v cty.Value) (*V, bool) {
		got, ok := k.parse(d, v)
		return &got, ok
	}}
}

// stringMatch is a pattern; check, if not nil, looks at the text of exact and prefix.
func stringMatch(check func(*decoder, string) bool) kind[StringMatch] {
	return kind[StringMatch]{"pattern", stringMatchHint, func(d *decoder, v cty.Value) (m StringMatch, ok bool) {
		if v.Type() == cty.String && !v.IsNull() {
			s := v.AsString()
			return StringMatch{Exact: &s}, check == nil || check(d, s)
		}
		if v.IsNull() || !(v.Type().IsObjectType() || v.Type().IsMapType()) || v.LengthInt() != 1 {
			d.fail(codeExactlyOne, d.what()+" is no pattern", "Write "+stringMatchHint+": exactly one of them.")
			return m, false
		}
		it := v.ElementIterator()
		it.Next()
		how, val := it.Element()
		d.inside(how, func() { m, ok = d.pattern(how.AsString(), val, check) })
		return m, ok
	}}
}

func (d *decoder) pattern(how string, v cty.Value, check func(*decoder, string) bool) (m StringMatch, ok bool) {
	s, ok := anyText().parse(d, v)
	if !ok {
		return m, false
	}
	switch how {
	case "exact":
		return StringMatch{Exact: &s}, check == nil || check(d, s)
	case "prefix":
		if s == "" {
			d.fail(codeEmpty, d.what()+" is empty", "Every text begins with the empty text. Leave it out.")
			return m, false
		}
		return StringMatch{Prefix: &s}, check == nil || check(d, s)
	case "regex":
		return StringMatch{Regex: &s}, d.checkRegex(s)
	}
	d.fail(codeWord, fmt.Sprintf("no way to match: %q", short(how)), "Write exact, prefix or regex."+didYouMean(how, []string{"exact", "prefix", "regex"}))
	return m, false
}

func pathPattern(d *decoder, s string) bool {
	if _, ok := urlPath("").parse(d, cty.StringVal(s)); !ok {
		return false
	}
	if i := strings.IndexAny(s, "?#"); i >= 0 {
		d.fail(codePath, fmt.Sprintf("%s has more than a path: %q", d.what(), short(s)), fmt.Sprintf("It is compared with the path alone: write %q, and match the query with query_params.", s[:i]))
		return false
	}
	return true
}

// methods are those that HTTP itself has. They are upper case, and clients send others as they are.
var methods = []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "CONNECT", "OPTIONS", "TRACE"}

// methodPattern refuses a method that no client sends: they are compared with case.
func methodPattern(d *decoder, s string) bool {
	if upper := strings.ToUpper(s); s != upper && slices.Contains(methods, upper) {
		d.fail(codeWord, fmt.Sprintf("%s cannot be %q", d.what(), s), fmt.Sprintf("Methods are upper case: write %q.", upper))
		return false
	}
	return true
}
