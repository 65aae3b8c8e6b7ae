package e2e

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	grpcstatus "google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/wattle-mesh/wattle/internal/api/apipb"
)

const xdsMethod = discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResources_FullMethodName

// relay stands between an agent and the server and passes everything on. It counts the resources that the server
// sends, and can let the signing of one identity fail. Towards the server it uses the node's own certificate,
// towards the agent the server's.
type relay struct {
	server    grpc.ClientConnInterface
	refused   atomic.Value // string: the identity
	resources atomic.Int64 // that the server has sent by xDS
	streams   atomic.Int64 // of xDS, opened so far
}

// listen serves the relay at addr until the test ends.
func (r *relay) listen(t *testing.T, addr string, cert tls.Certificate) {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	srv := grpc.NewServer(
		grpc.Creds(credentials.NewTLS(&tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{cert}, ClientAuth: tls.RequireAnyClientCert})),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: time.Second, PermitWithoutStream: true}),
		grpc.UnknownServiceHandler(r.pass), grpc.ForceServerCodecV2(raw{}))
	ended := make(chan error, 1)
	go func() { ended <- srv.Serve(l) }()
	t.Cleanup(func() {
		srv.Stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// relayed starts the agent of a bare host with a relay between it and the server.
func (m *mesh) relayed(t *testing.T, host, address, services, refused string) *relay {
	t.Helper()
	n := m.issue(t, host, services)
	r := &relay{server: n.dial(t, m)}
	r.refused.Store(refused)
	at := m.at("127.0.X.1:7502")
	r.listen(t, at, m.standIn(t, n))
	m.startAgent(host, m.at(address), n.dir, at, map[string]string{})
	return r
}

// pass carries one call, of whatever kind, in both directions.
func (r *relay) pass(_ any, agent grpc.ServerStream) error {
	method, _ := grpc.MethodFromServerStream(agent)
	ctx, cancel := context.WithCancel(agent.Context())
	defer cancel()
	md, _ := metadata.FromIncomingContext(ctx)
	server, err := r.server.NewStream(metadata.NewOutgoingContext(ctx, md), &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, method, grpc.ForceCodecV2(raw{}))
	if err != nil {
		return err
	}
	if method == xdsMethod {
		r.streams.Add(1)
	}
	refusal := make(chan error, 1)
	go r.up(method, agent, server, func(err error) { refusal <- err; cancel() })
	for {
		var m message
		if err := server.RecvMsg(&m); err != nil {
			select {
			case err = <-refusal:
			default:
			}
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		var response discoveryv3.DeltaDiscoveryResponse
		if method == xdsMethod && proto.Unmarshal(m, &response) == nil {
			r.resources.Add(int64(len(response.GetResources())))
		}
		if err := agent.SendMsg(&m); err != nil {
			return err
		}
	}
}

// up carries what the agent says, until the call ends.
func (r *relay) up(method string, agent grpc.ServerStream, server grpc.ClientStream, refuse func(error)) {
	for {
		var m message
		if err := agent.RecvMsg(&m); err != nil {
			_ = server.CloseSend() // if the agent is gone, the call's context says so to the server
			return
		}
		var sign apipb.SignRequest
		if method == apipb.Node_Sign_FullMethodName && proto.Unmarshal(m, &sign) == nil && sign.GetIdentity() == r.refused.Load() {
			refuse(grpcstatus.Errorf(codes.PermissionDenied, "%s: not today", sign.GetIdentity()))
			return
		}
		if server.SendMsg(&m) != nil {
			return // RecvMsg says why
		}
	}
}

// message is one encoded message.
type message []byte

// raw leaves messages as they are.
type raw struct{}

var _ encoding.CodecV2 = raw{}

func (raw) Name() string { return "proto" }

func (raw) Marshal(v any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(*v.(*message))}, nil
}

func (raw) Unmarshal(data mem.BufferSlice, v any) error {
	*v.(*message) = data.Materialize()
	return nil
}
