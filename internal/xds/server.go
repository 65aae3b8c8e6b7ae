// Package xds serves resources to proxies: the translator's changes in, delta xDS streams out. It keeps the
// table of everything published, sends each stream what its proxy has in scope, in an order that never breaks
// traffic, and remembers what each proxy acknowledged or refused.
package xds

import (
	"context"
	"log/slog"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"

	"github.com/wattle-mesh/wattle/translator"
)

// Options configure a Server.
type Options struct {
	Log *slog.Logger // nil: nothing is logged
	// Authorize decides whose configuration a stream gets, from the peer in ctx and the node that it claims to be. Its
	// error ends the stream and should be a gRPC status. Required.
	Authorize func(ctx context.Context, node *corev3.Node) (proxyID string, err error)
	// OnConverged, if set, is called once for each generation, when every stream that it touched has answered it or
	// ended: how many these were, how many of them refused something, and how long it took since Apply. It is called
	// from a goroutine of the server that holds no lock, never from within Apply.
	OnConverged func(gen uint64, proxies int, took time.Duration, nacked int)
	// Metrics, if set, gets the server's collectors.
	Metrics prometheus.Registerer
}

// Server is the table and its streams. Its methods may be called from any goroutine.
type Server struct {
	o Options
}

// New makes a server with an empty table.
func New(o Options) *Server { return &Server{o: o} }

// Register adds the aggregated discovery service to a gRPC server made with ServerOptions.
func (s *Server) Register(r grpc.ServiceRegistrar) {}

// Apply brings changes into the table and has them sent. It does not wait for any stream. The generation it
// returns is the one that OnConverged names.
func (s *Server) Apply(c translator.Changes) (gen uint64) { return 0 }

// ServerOptions returns what a gRPC server needs to carry the streams of a Server cheaply. Other services may be
// registered on the same gRPC server.
func ServerOptions() []grpc.ServerOption { return nil }

// Proxies returns the state of every proxy that is known or connected, sorted by id.
func (s *Server) Proxies() []ProxyStatus { return nil }
