// Package echo is the application of the standard load: a server for HTTP/1, HTTP/2 without TLS and gRPC on
// one port and for short TCP exchanges on another, which says who answers, gives back what it got, is slow,
// failing or unhealthy on demand, and writes down each request before it answers.
package echo

import (
	"encoding/json"
	"strings"
)

// Headers of the load. gRPC metadata has the same names.
const (
	IDHeader      = "x-load-id"                 // the request's id; the answer carries it back
	AnswerHeader  = "x-load-answer"             // the Answer as JSON, beside an echoed body
	AttemptHeader = "x-envoy-attempt-count"     // how many tries the request took, if Envoy says so
	CallerHeader  = "x-forwarded-client-cert"   // the caller's identity, as the callee's Envoy saw it
	RPC           = "/wattle.test.v1.Echo/Say"  // the unary call: a google.protobuf.BytesValue back and forth
	StreamRPC     = "/wattle.test.v1.Echo/Talk" // the same with any number of messages, each of which comes back at once
	Hold          = "hold\n"                    // the first line of a TCP exchange that lasts: each line after it comes back at once
)

// Answer is what the server says of itself and of the request.
type Answer struct {
	Name     string            `json:"name"`
	Version  string            `json:"version,omitempty"`
	Host     string            `json:"host,omitempty"`
	Instance string            `json:"instance,omitempty"`
	ID       string            `json:"id,omitempty"`      // of the request
	Method   string            `json:"method,omitempty"`  // HTTP
	Path     string            `json:"path,omitempty"`    // HTTP: path and query as they arrived
	Proto    string            `json:"proto,omitempty"`   // HTTP
	Caller   string            `json:"caller,omitempty"`  // CallerHeader as it arrived
	Attempt  string            `json:"attempt,omitempty"` // AttemptHeader as it arrived
	Seq      uint64            `json:"seq"`               // how many requests this process had received with this one
	Headers  map[string]string `json:"headers,omitempty"` // all that arrived, lower case, if the query says headers
}

// CallerID returns the SPIFFE id in Caller, or "".
func (a Answer) CallerID() string {
	_, rest, ok := strings.Cut(a.Caller, "URI=")
	if !ok {
		return ""
	}
	id, _, _ := strings.Cut(rest, ";")
	id, _, _ = strings.Cut(id, ",")
	return strings.Trim(id, `"`)
}

// JSON returns the answer in one line.
func (a Answer) JSON() string {
	b, err := json.Marshal(a)
	if err != nil {
		return "{}" // strings and a number always encode
	}
	return string(b)
}
