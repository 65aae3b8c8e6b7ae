package xds

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

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

// The pause between two attempts to open a stream, before jitter.
const (
	minPause = 200 * time.Millisecond
	maxPause = 10 * time.Second
)

// maxReceived bounds a response: the whole of a large mesh comes in one.
const maxReceived = 256 << 20

// Client keeps one delta stream open and remembers the versions it has, so that a reconnect transfers only what differs.
type Client struct {
	o        ClientOptions
	versions [translator.NumTypes]map[string]string // what was taken in; guarded by mu
	mu       sync.Mutex
	live     *clientStream // nil: none is up; guarded by mu
}

// clientStream is one stream. Requests are sent under the client's lock.
type clientStream struct {
	grpc.ClientStream
	end context.CancelCauseFunc
}

// NewClient makes a client that does nothing until Run.
func NewClient(o ClientOptions) *Client {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	c := &Client{o: o}
	for t := range c.versions {
		c.versions[t] = map[string]string{}
		for name, version := range o.Known[translator.Type(t)] {
			c.versions[t][name] = version
		}
	}
	return c
}

// Run keeps the stream open, with back-off and jitter between attempts, until ctx is done.
func (c *Client) Run(ctx context.Context) error {
	pause := backoff.NewExponentialBackOff()
	pause.InitialInterval, pause.MaxInterval = minPause, maxPause
	for {
		began := time.Now()
		err := c.stream(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if c.o.OnStream != nil {
			c.o.OnStream(err)
		}
		if time.Since(began) > maxPause {
			pause.Reset()
		}
		wait := pause.NextBackOff()
		level := slog.LevelWarn
		if Aged(err) {
			level = slog.LevelDebug
		}
		c.o.Log.Log(ctx, level, "xds stream ended", "error", err, "again_in", wait)
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return nil
		}
	}
}

// Aged reports whether a call ended because its connection was as old as the server lets any become. That is no fault:
// the next call makes a new one.
func Aged(err error) bool {
	return status.Code(err) == codes.Unavailable && strings.Contains(err.Error(), `"max_age"`) // grpc-go's word for it in GOAWAY
}

// stream opens a stream and reads it to its end.
func (c *Client) stream(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	g, err := c.o.Conn.NewStream(ctx, &discoveryv3.AggregatedDiscoveryService_ServiceDesc.Streams[1],
		discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResources_FullMethodName,
		grpc.ForceCodecV2(codec{}), grpc.MaxCallRecvMsgSize(maxReceived), grpc.StaticMethod())
	if err != nil {
		return err
	}
	s := &clientStream{g, cancel}
	if err := c.open(s); err != nil {
		return err
	}
	defer c.close()
	if c.o.OnStream != nil {
		c.o.OnStream(nil)
	}
	for {
		var in incoming
		if err := g.RecvMsg(&in); err != nil {
			if why := context.Cause(ctx); errors.Is(why, errBroken) {
				err = why
			}
			return err
		}
		if !in.known {
			continue
		}
		r := &Response{Type: in.typ, Stamp: in.stamp, Resources: in.resources, Removed: in.removed, c: c, s: s, nonce: in.nonce}
		if err := c.o.Handle(r); !errors.Is(err, ErrLater) {
			r.Answer(err)
		}
	}
}

// open sends the first request of each type.
func (c *Client) open(s *clientStream) error {
	node, err := proto.Marshal(c.o.Node)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, t := range c.o.Types {
		q := query{typ: t, subscribe: []string{"*"}, initial: c.versions[t]}
		if i == 0 {
			q.node = node
		}
		if err := s.SendMsg(q.encode()); err != nil {
			return err
		}
	}
	c.live = s
	return nil
}

// Again asks for resources of a type once more, to answer otherwise than before. Without a stream the next one brings
// them.
func (c *Client) Again(t translator.Type, names []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, name := range names {
		delete(c.versions[t], name)
	}
	if c.live == nil {
		return
	}
	q := query{typ: t, subscribe: names}
	if err := c.live.SendMsg(q.encode()); err != nil {
		c.o.Log.Debug("request on a stream that ends", "error", err) // the reader sees why
	}
}

func (c *Client) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.live = nil
}

// Response is one delta response.
type Response struct {
	Type      translator.Type
	Stamp     Stamp                  // zero: the server says none
	Resources []*translator.Resource // without Variant and Origin
	Removed   []string

	c     *Client
	s     *clientStream
	nonce string
}

// errBroken is why a stream ends that the caller wants no more of.
var errBroken = errors.New("the stream is not wanted")

// Break refuses the response and ends the stream: the next one begins with what was taken in before. It may be called from
// any goroutine.
func (r *Response) Break(err error) {
	r.Answer(err)
	if r.s != nil {
		r.s.end(fmt.Errorf("%w: %w", errBroken, err))
	}
}

// Answer acknowledges the response (nil) or refuses it. Only the first call counts, and none after the stream has
// ended. It may be called from any goroutine.
func (r *Response) Answer(err error) {
	c := r.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if r.nonce == "" || c.live != r.s {
		return
	}
	q := query{typ: r.Type, nonce: r.nonce}
	r.nonce = ""
	if err != nil {
		q.refused = cmp.Or(err.Error(), "refused")
	} else {
		have := c.versions[r.Type]
		for _, res := range r.Resources {
			have[res.Name] = res.Version
		}
		for _, name := range r.Removed {
			delete(have, name)
		}
	}
	if err := r.s.SendMsg(q.encode()); err != nil {
		c.o.Log.Debug("answer on a stream that ends", "error", err) // the reader sees why
	}
}
