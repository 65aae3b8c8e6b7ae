package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/wattle-mesh/wattle/translator"
)

// clients are the proxies of one server: each has a connection of its own, asks for everything by wildcard, acknowledges
// at once, and knows no more of what it got than its name and version.
type clients struct {
	dir    string
	papers papers
	all    []*client
	plan   connect

	marker  atomic.Pointer[[]byte] // what arrivals are of; nil: nothing is awaited
	seenMu  sync.Mutex
	missing int
	arrived chan struct{} // closed when nothing is missing
	seen    []int64       // when; wall clock, nanoseconds
	sample  []byte        // the first awaited message

	resources, bytes, messages atomic.Int64
}

func newClients(dir string) *clients { return &clients{dir: dir} }

// connect says how many clients connect where.
type connect struct {
	Addr  string `json:"addr"`
	N     int    `json:"n"`
	Bare  bool   `json:"bare"`  // to the broadcaster: it answers nothing
	Track bool   `json:"track"` // remember versions, to reconnect with
}

// awaited says which message comes to how many clients.
type awaited struct {
	Marker []byte `json:"marker"`
	N      int    `json:"n"`
}

// arrivals are when the awaited message came to each client, sorted; and the message.
type arrivals struct {
	At      []int64 `json:"at"`
	Message []byte  `json:"message"`
}

// traffic is what was received since it was last asked for.
type traffic struct {
	Took      time.Duration `json:"took"`
	Messages  int64         `json:"messages"`
	Resources int64         `json:"resources"`
	Bytes     int64         `json:"bytes"` // of resources
}

func (c *clients) do(ctx context.Context, name string, arg json.RawMessage) (any, error) {
	switch name {
	case "connect":
		if err := json.Unmarshal(arg, &c.plan); err != nil {
			return nil, err
		}
		if err := c.papers.read(c.dir); err != nil {
			return nil, err
		}
		return c.connect(ctx)
	case "reconnect":
		return c.reconnect(ctx)
	case "arm":
		var a awaited
		if err := json.Unmarshal(arg, &a); err != nil {
			return nil, err
		}
		c.seen, c.arrived, c.missing, c.sample = make([]int64, 0, a.N), make(chan struct{}), a.N, nil
		c.marker.Store(&a.Marker)
		return nil, nil
	case "wait":
		return c.wait(ctx)
	}
	return nil, fmt.Errorf("no order %q", name)
}

// wait waits until all that was armed has arrived.
func (c *clients) wait(ctx context.Context) (*arrivals, error) {
	select {
	case <-c.arrived:
	case <-time.After(20 * time.Second):
		return nil, fmt.Errorf("%d clients have not got the change", c.missing)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	c.seenMu.Lock()
	defer c.seenMu.Unlock()
	c.marker.Store(nil)
	slices.Sort(c.seen)
	return &arrivals{At: c.seen, Message: c.sample}, nil
}

// connect brings all clients up to the last answer of their first requests.
func (c *clients) connect(ctx context.Context) (*traffic, error) {
	pool, err := c.papers.pool()
	if err != nil {
		return nil, err
	}
	for i := range c.plan.N {
		cert, err := c.papers.Nodes[i].certificate()
		if err != nil {
			return nil, err
		}
		creds := credentials.NewTLS(&tls.Config{MinVersion: tls.VersionTLS13, RootCAs: pool, ServerName: serverName, Certificates: []tls.Certificate{cert}})
		node, err := proto.Marshal(&corev3.Node{Id: c.papers.Nodes[i].Name + "/host"})
		if err != nil {
			return nil, err
		}
		c.all = append(c.all, &client{of: c, creds: creds, node: node})
	}
	return c.up(ctx)
}

// reconnect drops all connections and brings them up again with what they hold.
func (c *clients) reconnect(ctx context.Context) (*traffic, error) {
	for _, x := range c.all {
		x.down()
	}
	c.resources.Store(0)
	c.bytes.Store(0)
	c.messages.Store(0)
	return c.up(ctx)
}

// up connects all clients at once.
func (c *clients) up(ctx context.Context) (*traffic, error) {
	began := time.Now()
	errs := make(chan error, len(c.all))
	for _, x := range c.all {
		go func() { errs <- x.up(ctx) }()
	}
	var failed error
	for range c.all {
		failed = errors.Join(failed, <-errs)
	}
	return &traffic{time.Since(began), c.messages.Load(), c.resources.Load(), c.bytes.Load()}, failed
}

// client is one proxy.
type client struct {
	of    *clients
	creds credentials.TransportCredentials
	node  []byte
	conn  *grpc.ClientConn
	g     grpc.ClientStream
	sendM sync.Mutex
	ended chan struct{}
	ready chan struct{} // closed by the answer to the last question
	asked bool
	held  [translator.NumTypes]map[string]string
}

// patience bounds how long a client tries to get all that it should have.
const patience = 2 * time.Minute

// up connects, again and again as an agent does, until the server has answered everything.
func (x *client) up(ctx context.Context) error {
	for end := time.Now().Add(patience); ; {
		err := x.try(ctx)
		if err == nil || time.Now().After(end) || ctx.Err() != nil {
			return err
		}
		if x.g != nil {
			x.down()
		}
	}
}

// try connects and returns when the server has answered everything: the first requests of all types, and then one more
// for the last type, which is answered when nothing else is left.
func (x *client) try(ctx context.Context) (err error) {
	x.g = nil
	x.conn, err = grpc.NewClient("passthrough:///"+x.of.plan.Addr, grpc.WithTransportCredentials(x.creds),
		grpc.WithReadBufferSize(8<<10), grpc.WithInitialWindowSize(4<<20), grpc.WithInitialConnWindowSize(8<<20))
	if err != nil {
		return err
	}
	x.g, err = x.conn.NewStream(ctx, &discoveryv3.AggregatedDiscoveryService_ServiceDesc.Streams[1],
		discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResources_FullMethodName,
		grpc.ForceCodecV2(rawCodec{}), grpc.MaxCallRecvMsgSize(1<<30), grpc.StaticMethod(), grpc.WaitForReady(true))
	if err != nil {
		return err
	}
	x.ended, x.ready, x.asked = make(chan struct{}), make(chan struct{}), false
	go x.read()
	for t := range translator.NumTypes {
		var b []byte
		if t == 0 {
			b = protowire.AppendTag(b, reqNode, protowire.BytesType)
			b = protowire.AppendBytes(b, x.node)
		}
		b = put(b, reqType, translator.Type(t).URL())
		b = put(b, reqSubscribe, "*")
		for name, version := range x.held[t] {
			b = protowire.AppendTag(b, reqInitial, protowire.BytesType)
			b = protowire.AppendBytes(b, put(put(nil, 1, name), 2, version))
		}
		if err := x.send(b); err != nil {
			return err
		}
	}
	if x.of.plan.Bare {
		return nil
	}
	if err := x.send(put(put(nil, reqType, translator.Route.URL()), reqSubscribe, "*")); err != nil {
		return err
	}
	select {
	case <-x.ready:
		return nil
	case <-x.ended:
		return errors.New("the stream ended")
	case <-time.After(patience):
		return errors.New("no answer")
	}
}

func (x *client) send(b []byte) error {
	x.sendM.Lock()
	defer x.sendM.Unlock()
	return x.g.SendMsg(b)
}

func (x *client) down() {
	x.conn.Close()
	<-x.ended
}

// read acknowledges what comes until the stream ends.
func (x *client) read() {
	defer close(x.ended)
	var in []byte
	for {
		if err := x.g.RecvMsg(&in); err != nil {
			return
		}
		now := time.Now().UnixNano()
		if err := x.take(in); err != nil {
			return
		}
		x.of.note(in, now)
		if cap(in) > 64<<10 {
			in = nil
		}
	}
}

// take reads what a response is and acknowledges it.
func (x *client) take(in []byte) error {
	var typ, nonce []byte
	n, size := 0, 0
	err := each(in, func(num protowire.Number, v []byte) {
		switch num {
		case resType:
			typ = v
		case resNonce:
			nonce = v
		case resResource:
			n++
			size += len(v)
		}
	})
	if err != nil {
		return err
	}
	x.of.messages.Add(1)
	x.of.resources.Add(int64(n))
	x.of.bytes.Add(int64(size))
	if x.of.plan.Track {
		if err := x.track(in, string(typ)); err != nil {
			return err
		}
	}
	ack := make([]byte, 0, 128)
	ack = put(ack, reqType, string(typ))
	ack = put(ack, reqNonce, string(nonce))
	if err := x.send(ack); err != nil {
		return err
	}
	if string(typ) == translator.Route.URL() && n == 0 && !x.asked {
		x.asked = true
		close(x.ready)
	}
	return nil
}

// track remembers the names and versions in a response.
func (x *client) track(in []byte, typ string) error {
	i := 0
	for translator.Type(i).URL() != typ {
		if i++; i == translator.NumTypes {
			return fmt.Errorf("no type %q", typ)
		}
	}
	if x.held[i] == nil {
		x.held[i] = map[string]string{}
	}
	var failed error
	err := each(in, func(num protowire.Number, v []byte) {
		switch num {
		case resResource:
			var name, version string
			failed = errors.Join(failed, each(v, func(num protowire.Number, v []byte) {
				switch num {
				case 1:
					version = string(v)
				case 3:
					name = string(v)
				}
			}))
			x.held[i][name] = version
		case resRemoved:
			delete(x.held[i], string(v))
		}
	})
	return errors.Join(err, failed)
}

// note records the arrival of what is awaited.
func (c *clients) note(in []byte, now int64) {
	m := c.marker.Load()
	if m == nil || !bytes.Contains(in, *m) {
		return
	}
	c.seenMu.Lock()
	defer c.seenMu.Unlock()
	c.seen = append(c.seen, now)
	if c.sample == nil {
		c.sample = slices.Clone(in)
	}
	if c.missing--; c.missing == 0 {
		close(c.arrived)
	}
}
