package configs

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/zclconf/go-cty/cty"
)

var redirectBlock = newBlock(block[Redirect]{
	doc: "Answers with a redirection. At least one of uri, authority and scheme is given.",
	attrs: []attr[Redirect]{
		field("uri", urlPath(""), func(r *Redirect) *string { return &r.URI }, "The new path.").orText("the request's path"),
		field("authority", authority(), func(r *Redirect) *string { return &r.Authority }, "The new host, and port if there is one.").orText("the request's host"),
		field("scheme", oneOf("http", "https"), func(r *Redirect) *string { return &r.Scheme }, "The new scheme.").orText("the request's scheme"),
		field("code", redirectCode(), func(r *Redirect) *int { return &r.Code }, "The status code.").or(cty.NumberIntVal(301)),
	},
	finish: func(d *decoder, r *Redirect) {
		for _, name := range []string{"uri", "authority", "scheme"} {
			if _, _, ok := d.frame.reader.attr(name); ok {
				return
			}
		}
		d.failFrame(d.frame, codeMissingAttr, "the redirect leads to where it came from", "Give it a uri, an authority or a scheme.")
	},
})

func redirectCode() kind[int] {
	codes := []int{301, 302, 303, 307, 308}
	return kind[int]{"number", "301, 302, 303, 307, 308", func(d *decoder, v cty.Value) (int, bool) {
		n, ok := whole[int](300, 399).parse(d, v)
		if ok && !slices.Contains(codes, n) {
			d.fail(codeRange, fmt.Sprintf("%s cannot be %d", d.what(), n), "Write one of 301, 302, 303, 307 and 308.")
			return 0, false
		}
		return n, ok
	}}
}

var rewriteBlock = newBlock(block[Rewrite]{
	doc: "Changes requests before they are sent on. At least one of the two is given.",
	attrs: []attr[Rewrite]{
		field("uri", urlPath(""), func(r *Rewrite) *string { return &r.URI }, "What replaces the prefix that was matched; the whole path, if the match was exact or a regex. Without a uri match the prefix is `/`. The query stays."),
		field("authority", authority(), func(r *Rewrite) *string { return &r.Authority }, "The new Host header."),
	},
	finish: func(d *decoder, r *Rewrite) {
		_, _, uri := d.frame.reader.attr("uri")
		_, _, authority := d.frame.reader.attr("authority")
		if !uri && !authority {
			d.failFrame(d.frame, codeMissingAttr, "the rewrite changes nothing", "Give it a uri or an authority.")
		}
	},
})

// retryConditions are those of Envoy: x-envoy-retry-on and x-envoy-retry-grpc-on in the router filter's documentation.
var retryConditions = []string{
	"5xx", "gateway-error", "reset", "reset-before-request", "connect-failure", "envoy-ratelimited", "retriable-4xx", "refused-stream",
	"retriable-status-codes", "retriable-headers", "http3-post-connect-failure",
	"cancelled", "deadline-exceeded", "internal", "resource-exhausted", "unavailable",
}

var retriesBlock = newBlock(block[Retries]{
	doc: "When a request is tried again.",
	attrs: []attr[Retries]{
		field("attempts", whole[uint32](0, 100), func(r *Retries) *uint32 { return &r.Attempts }, "How often it is tried again at most. `0` turns retries off.").must(),
		optional("per_try_timeout", duration(time.Millisecond, 7*day), func(r *Retries) **Duration { return &r.PerTryTimeout }, "How long one try may take.").orText("the rule's timeout"),
		field("retry_on", list(retryCondition(), 1), func(r *Retries) *[]string { return &r.RetryOn }, "What is tried again. With status codes and `5xx` the application may see a request twice.").
			or(cty.TupleVal([]cty.Value{cty.StringVal("connect-failure"), cty.StringVal("refused-stream"), cty.StringVal("unavailable")})),
	},
})

func retryCondition() kind[string] {
	return kind[string]{"condition", "a status code from 100 to 599, or one of " + strings.Join(retryConditions, ", "), func(d *decoder, v cty.Value) (string, bool) {
		if v.Type() == cty.Number && !v.IsNull() {
			v = cty.StringVal(valueWord(v))
		}
		if v.Type() != cty.String || v.IsNull() {
			d.wrongType(v, "a string")
			return "", false
		}
		s := v.AsString()
		if n, err := strconv.Atoi(s); err == nil && n >= 100 && n <= 599 && len(s) == 3 || slices.Contains(retryConditions, s) {
			return s, true
		}
		d.fail(codeWord, fmt.Sprintf("nothing to retry on: %q", short(s)), "Write a status code from 100 to 599, or one of "+strings.Join(retryConditions, ", ")+"."+didYouMean(s, retryConditions))
		return "", false
	}}
}

var faultBlock = newBlock(block[Fault]{
	doc: "Delays or refuses a share of the requests. At least one of the two is given.",
	blocks: []child[Fault]{
		one("delay", faultDelayBlock, func(f *Fault) **FaultDelay { return &f.Delay }, "Holds requests back."),
		one("abort", faultAbortBlock, func(f *Fault) **FaultAbort { return &f.Abort }, "Answers requests with an error."),
	},
	finish: func(d *decoder, f *Fault) {
		if f.Delay == nil && f.Abort == nil {
			d.failFrame(d.frame, codeMissingBlock, "the fault does nothing", "Add a delay block or an abort block.")
		}
	},
})

var faultDelayBlock = newBlock(block[FaultDelay]{
	doc: "Holds a share of the requests back.",
	attrs: []attr[FaultDelay]{
		field("fixed_delay", duration(time.Millisecond, day), func(f *FaultDelay) *Duration { return &f.FixedDelay }, "For how long.").must(),
		field("percentage", percent(), func(f *FaultDelay) *float64 { return &f.Percentage }, "How many of them.").or(cty.NumberIntVal(100)),
	},
})

// grpcStatuses are gRPC's codes by name, without OK.
var grpcStatuses = []string{
	"CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED",
	"FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED",
}

var faultAbortBlock = newBlock(block[FaultAbort]{
	doc: "Answers a share of the requests with an error. Exactly one status is given.",
	attrs: []attr[FaultAbort]{
		field("http_status", whole[uint32](200, 599), func(f *FaultAbort) *uint32 { return &f.HTTPStatus }, "The status code."),
		field("grpc_status", oneOf(grpcStatuses...), func(f *FaultAbort) *string { return &f.GRPCStatus }, "The gRPC status."),
		field("percentage", percent(), func(f *FaultAbort) *float64 { return &f.Percentage }, "How many of them.").or(cty.NumberIntVal(100)),
	},
	finish: func(d *decoder, f *FaultAbort) {
		d.exactlyOne("abort", "http_status", "grpc_status")
	},
})
