package api

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	"github.com/wattle-mesh/wattle/internal/api/apipb"
	"github.com/wattle-mesh/wattle/internal/ca"
	"github.com/wattle-mesh/wattle/internal/xds"
)

// What anybody may cost the server that reaches the agents' port. Where there are too many connections of a kind the
// oldest goes: an honest one needs its place for milliseconds, and who wants to keep others out has to be faster.
const (
	handshakeTimeout = 10 * time.Second // until a connection has said who it is
	maxHandshakes    = 4096             // connections that have not
	handshakeBytes   = 32 << 10         // that a peer may send until then; a hello and a chain are 4 KB

	maxStrangers    = 256 // connections of peers that are no node
	strangerLife    = 15 * time.Second
	strangerStreams = 4        // of one connection
	strangerMessage = 32 << 10 // bytes; a Join is 2 KB

	maxOfNode   = 4       // connections of one node: one is in use, and one may be of an agent that was killed
	nodeStreams = 128     // of all of these together: one for each proxy, one of reports, and calls
	nodeMessage = 4 << 20 // bytes; what a proxy holds of one type, by name and version
)

// The age at which a node is asked to connect again, give or take a tenth: then a renewed certificate comes into use,
// and servers share the load again. Streams that are still open end after the grace.
const (
	connectionAge   = time.Hour
	connectionGrace = 5 * time.Second
)

// farewell is how long the connections of a node that has left may go on, so that it hears the answer.
const farewell = time.Second

// PortOptions configure a Port. All fields are required unless they say otherwise.
type PortOptions struct {
	Log   *slog.Logger
	CA    *ca.CA
	Names []string // DNS names and addresses that the server's certificate carries; may be nil
	Node  *Node
	XDS   *xds.Server // nil: none is served
}

// Port is the agents' port: TLS 1.3 with client certificates, and behind it two gRPC servers, for nodes and for
// strangers. Who is no node of the mesh may Join, in few bytes and little time, and nothing that it sends for another
// call is kept. A node's connection ends with its certificate at the latest. A node that comes with a certificate that
// has ended lately is a stranger that may also have it renewed.
type Port struct {
	o         PortOptions
	transport *transport
	age       time.Duration // connectionAge; tests have less
	grace     time.Duration // connectionGrace, likewise
	brief     time.Duration // strangerLife, likewise

	farewell time.Duration // likewise

	shaking   *crowd
	strangers *crowd
	guests    guests
}

// NewPort makes a Port that does nothing until Serve.
func NewPort(o PortOptions) *Port {
	return &Port{
		o: o, transport: newTransport(o.CA, o.CA.Server(o.Names)), age: connectionAge, grace: connectionGrace, brief: strangerLife, farewell: farewell,
		shaking: newCrowd(maxHandshakes), strangers: newCrowd(maxStrangers), guests: guests{of: map[string]*guest{}},
	}
}

// Serve serves until ctx is done, and closes l. It returns nil then, else why it cannot go on.
func (p *Port) Serve(ctx context.Context, l net.Listener) error {
	nodes, strangers := p.forNodes(), p.forStrangers()
	toNodes, toStrangers := newHandover(l.Addr()), newHandover(l.Addr())
	defer p.o.Node.o.Registrar.onLeft(func(node string) { p.guests.expel(node, p.farewell) })()
	g, ctx := errgroup.WithContext(ctx)
	serve := func(srv *grpc.Server, l net.Listener) error {
		if err := srv.Serve(l); !errors.Is(err, grpc.ErrServerStopped) { // before it began
			return err
		}
		return nil
	}
	g.Go(func() error { return serve(nodes, toNodes) })
	g.Go(func() error { return serve(strangers, toStrangers) })
	g.Go(func() error { return p.accept(ctx, l, toNodes, toStrangers) })
	g.Go(func() error {
		<-ctx.Done()
		err := l.Close()
		nodes.Stop()
		strangers.Stop()
		return err
	})
	return g.Wait()
}

// forNodes makes the server for peers that have a node's certificate.
func (p *Port) forNodes() *grpc.Server {
	alive := xds.Keepalive()
	alive.MaxConnectionAge, alive.MaxConnectionAgeGrace = p.age, p.grace
	srv := grpc.NewServer(append(append(xds.ServerOptions(), p.guards()...),
		grpc.Creds(handed{}),
		grpc.ConnectionTimeout(handshakeTimeout), // of HTTP/2
		grpc.MaxConcurrentStreams(nodeStreams),
		grpc.MaxRecvMsgSize(nodeMessage),
		grpc.KeepaliveParams(alive),
	)...)
	p.o.Node.Register(srv)
	if p.o.XDS != nil {
		p.o.XDS.Register(srv)
	}
	return srv
}

// forStrangers makes the server for all others.
func (p *Port) forStrangers() *grpc.Server {
	srv := grpc.NewServer(append(append(xds.ServerOptions(), p.guards()...),
		grpc.Creds(handed{}),
		grpc.ConnectionTimeout(handshakeTimeout),
		grpc.MaxConcurrentStreams(strangerStreams),
		grpc.MaxRecvMsgSize(strangerMessage),
		grpc.StaticStreamWindowSize(64<<10), // the least that HTTP/2 has
		grpc.StaticConnWindowSize(64<<10),
		grpc.MaxHeaderListSize(4<<10),
	)...)
	apipb.RegisterNodeServer(srv, p.o.Node)
	return srv
}

// accept takes connections until ctx is done.
func (p *Port) accept(ctx context.Context, l net.Listener, nodes, strangers *handover) error {
	var shakes sync.WaitGroup
	defer shakes.Wait()
	pause := 5 * time.Millisecond
	for {
		raw, err := l.Accept()
		if ctx.Err() != nil {
			if err == nil {
				_ = raw.Close()
			}
			return nil
		}
		if errors.Is(err, net.ErrClosed) {
			return err
		}
		if err != nil { // no file descriptor is left, or the peer has gone already
			p.o.Log.Warn("accept a connection of an agent", "error", err, "again_in", pause)
			select {
			case <-time.After(pause):
			case <-ctx.Done():
			}
			pause = min(2*pause, time.Second)
			continue
		}
		pause = 5 * time.Millisecond
		leave := p.shaking.enter(raw)
		shakes.Go(func() {
			defer leave()
			p.admit(ctx, raw, nodes, strangers)
		})
	}
}

// admit finds out who connects, and hands the connection to the server for it.
func (p *Port) admit(ctx context.Context, raw net.Conn, nodes, strangers *handover) {
	defer context.AfterFunc(ctx, func() { _ = raw.Close() })()
	if raw.SetDeadline(time.Now().Add(handshakeTimeout)) != nil {
		_ = raw.Close()
		return
	}
	hello := &thrifty{Conn: raw, left: handshakeBytes}
	conn, who, err := p.transport.handshake(hello)
	if err != nil {
		p.o.Log.Debug("no handshake with a peer at the agents' port", "peer", raw.RemoteAddr().String(), "error", err)
		_ = raw.Close()
		return
	}
	hello.freely()
	end := p.o.CA.Now().Add(p.brief)
	to := strangers
	if who.Node != "" {
		to, end = nodes, who.notAfter
	}
	known := &admitted{Conn: conn, raw: raw, who: who, end: end, now: p.o.CA.Now}
	if who.Node != "" {
		who.guest, known.leave = p.guests.enter(who.Node, raw)
	} else {
		known.leave = p.strangers.enter(raw)
	}
	known.watch()
	to.hand(known)
}
