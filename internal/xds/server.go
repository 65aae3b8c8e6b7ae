// Package xds serves resources to proxies: the translator's changes in, delta xDS streams out. It keeps the
// table of everything published, sends each stream what its proxy has in scope, in an order that never breaks
// traffic, and remembers what each proxy acknowledged or refused.
package xds

import (
	"context"
	"log/slog"
	"sync"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"

	"github.com/wattle-mesh/wattle/translator"
)

// Options configure a Server.
type Options struct {
	Log *slog.Logger // nil: nothing is logged
	// Authorize decides whose configuration a stream gets, from the peer in ctx and the node that it claims to be. Its
	// error ends the stream and should be a gRPC status. Required.
	Authorize func(ctx context.Context, node *corev3.Node) (proxyID string, err error)
	// MaxNames bounds the names that a stream may subscribe to in one type. A wildcard is none. 0: 131072.
	MaxNames int
	// Stamp, if set, says how late it is, for each Apply. It is called without a lock.
	Stamp func() Stamp
	// OnConverged, if set, is called once for each generation, when every stream that it touched has answered it or
	// ended: how many were sent something, how many of them refused something, and how long it took since Apply. It is
	// called from a goroutine of the server that holds no lock, never from within Apply and never twice at a time.
	OnConverged func(gen uint64, proxies int, took time.Duration, nacked int)
	// Metrics, if set, gets the server's collectors.
	Metrics prometheus.Registerer
}

// Server is the table and its streams. Its methods may be called from any goroutine. One lock guards it all: what it
// is held for takes microseconds, and nothing is sent under it.
type Server struct {
	o       Options
	metrics *metrics

	mu sync.Mutex
	table
	mint mint
	jobs jobs
}

// New makes a server with an empty table.
func New(o Options) *Server {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.MaxNames == 0 {
		o.MaxNames = maxNames
	}
	s := &Server{o: o, metrics: newMetrics(o.Metrics), table: newTable(), mint: newMint()}
	if o.Metrics != nil {
		o.Metrics.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "wattle_xds_quarantined", Help: "Proxies that serve an older state, because Envoy could not live with what was sent."}, s.quarantined))
	}
	return s
}

// Register adds the aggregated discovery service, of which only the delta protocol is implemented, to a gRPC server
// made with ServerOptions.
func (s *Server) Register(r grpc.ServiceRegistrar) {
	discoveryv3.RegisterAggregatedDiscoveryServiceServer(r, discovery{s: s})
}

// Apply brings changes into the table and has them sent. It does not wait for any stream. The generation it
// returns is the one that OnConverged names.
func (s *Server) Apply(c translator.Changes) (gen uint64) {
	var stamp Stamp
	if s.o.Stamp != nil {
		stamp = s.o.Stamp()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mint.stamp = stamp
	r := &round{began: time.Now(), waiting: 1}
	touched := s.apply(c)
	r.gen = s.gen
	for _, p := range touched {
		if p.stream != nil {
			p.stream.joinRound(r)
			s.queue(p.stream)
		}
	}
	s.leave(r)
	return r.gen
}

// ServerOptions returns what a gRPC server needs to carry the streams of a Server cheaply. Other services may be
// registered on the same gRPC server. Fixed windows keep gRPC from estimating the bandwidth, which costs a ping for
// every acknowledgement that is read.
func ServerOptions() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.ForceServerCodecV2(codec{}),
		grpc.ReadBufferSize(0),
		grpc.StaticStreamWindowSize(256 << 10),
		grpc.StaticConnWindowSize(1 << 20),
		grpc.MaxConcurrentStreams(256),
		grpc.MaxRecvMsgSize(16 << 20),
		grpc.MaxHeaderListSize(16 << 10),
		grpc.KeepaliveParams(Keepalive()),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}),
	}
}

// Keepalive returns how ServerOptions has dead peers noticed, for a server that bounds the age of its connections
// besides.
func Keepalive() keepalive.ServerParameters {
	return keepalive.ServerParameters{Time: 30 * time.Second, Timeout: 10 * time.Second}
}
