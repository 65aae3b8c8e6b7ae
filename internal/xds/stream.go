package xds

import (
	"context"
	"io"
	"math"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"golang.org/x/time/rate"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/wattle-mesh/wattle/translator"
)

// stream is one client's delta stream. The server's lock guards it.
type stream struct {
	srv   *Server
	send  func(any) error // called by one goroutine at a time, without the lock
	proxy *proxy          // nil until the first request
	since time.Time
	subs  [translator.NumTypes]sub

	claims   bool       // the client holds state of an earlier stream
	rewarm   []*message // clusters that were sent to such a client before it asked for endpoints
	await    []*message // clusters whose endpoints the client may have yet to ask for
	awaitEnd time.Time
	blocked  bool // something waits for await
	timer    *time.Timer

	queued  bool // for a worker
	sending bool // some goroutine is in flush
	broken  bool // nothing can be sent any more
	kicked  string
	unacked int // bytes

	loud *rate.Limiter // nil: it has refused nothing

	reached uint64   // generation of the last response
	rounds  []*round // that wait for the stream
}

// discovery is the gRPC service.
type discovery struct {
	discoveryv3.UnimplementedAggregatedDiscoveryServiceServer
	s *Server
}

func (d discovery) DeltaAggregatedResources(g discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error {
	return d.s.serve(g)
}

// serve reads requests until the stream ends. Responses are sent from here when a request brings them about, else by
// the workers.
func (s *Server) serve(g grpc.ServerStream) error {
	st := &stream{srv: s, send: g.SendMsg, since: time.Now()}
	defer s.end(st)
	var r request
	for {
		if err := g.RecvMsg(&r); err != nil {
			if err == io.EOF {
				return nil
			}
			return err
		}
		if st.proxy == nil {
			if err := s.open(g.Context(), st, &r); err != nil {
				return err
			}
		}
		if err := s.handle(st, &r); err != nil {
			return err
		}
	}
}

// open finds the proxy that a new stream is for. An older stream of the same proxy ends.
func (s *Server) open(ctx context.Context, st *stream, r *request) error {
	if r.node == nil {
		return status.Error(codes.InvalidArgument, "the first request has no node")
	}
	node := &corev3.Node{}
	if err := (proto.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(r.node, node); err != nil {
		return status.Errorf(codes.InvalidArgument, "node: %v", err)
	}
	r.node = []byte{}
	id, err := s.o.Authorize(ctx, node)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.proxy(id)
	if old := p.stream; old != nil {
		s.detach(old)
		old.kicked = "replaced by a newer stream of " + id
		s.queue(old)
	}
	p.stream, st.proxy = st, p
	s.metrics.streams.Inc()
	return nil
}

// handle takes in a request and sends what it brings about.
func (s *Server) handle(st *stream, r *request) error {
	if r.renamed {
		return status.Error(codes.InvalidArgument, "the node of a stream cannot change")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if st.proxy.stream != st {
		return status.Error(codes.Aborted, st.kicked)
	}
	if !r.known {
		return nil // an Envoy that asks for a type that we do not have does without
	}
	b := &st.subs[r.typ]
	if b.tooMany(r, s.o.MaxNames) {
		return status.Errorf(codes.ResourceExhausted, "more than %d names", s.o.MaxNames)
	}
	if b.on {
		if r.answers && b.inflight && r.nonce == b.last.gen {
			s.metrics.answered(r.typ, r.refused)
			st.answer(r.typ, r)
			if r.refused {
				s.report(st, r.typ, b.nack)
			}
		}
		st.amend(r.typ, r)
	} else {
		st.begin(r.typ, r)
	}
	s.flush(st, math.MaxInt)
	return nil
}

// A proxy's first refusals are logged, and loudRate a second of what it goes on with.
const (
	loudRate  = 1
	loudBurst = 20
)

// report logs a refusal.
func (s *Server) report(st *stream, t translator.Type, n *Nack) {
	if st.loud == nil {
		st.loud = rate.NewLimiter(loudRate, loudBurst)
	}
	if !st.loud.Allow() {
		return
	}
	proxy := st.proxy.id
	s.notify(func() {
		s.o.Log.Error("proxy refused its configuration", "proxy", proxy, "type", t.String(), "generation", n.Generation,
			"message", n.Message, "resources", n.Resources)
	})
}

// end forgets a stream.
func (s *Server) end(st *stream) {
	s.mu.Lock()
	defer s.mu.Unlock()
	st.broken = true
	if st.timer != nil {
		st.timer.Stop()
	}
	if st.proxy != nil && st.proxy.stream == st {
		s.detach(st)
		s.forget(st.proxy)
	}
}

// detach separates a stream from its proxy.
func (s *Server) detach(st *stream) {
	st.proxy.stream = nil
	st.leaveRounds()
	s.metrics.streams.Dec()
}

// wakeAfter has the stream looked at again after d. Only the latest call counts.
func (st *stream) wakeAfter(d time.Duration) {
	if st.timer != nil {
		st.timer.Stop()
	}
	st.timer = time.AfterFunc(d, func() {
		st.srv.mu.Lock()
		defer st.srv.mu.Unlock()
		st.srv.queue(st)
	})
}
