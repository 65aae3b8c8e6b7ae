package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
)

// broadcaster is the least that a gRPC server can do: it has no table and no scopes, sends the same bytes to every stream
// and reads what comes back. Its transport has the options that the server has.
type broadcaster struct {
	discoveryv3.UnimplementedAggregatedDiscoveryServiceServer
	dir     string
	mu      sync.Mutex
	streams map[grpc.ServerStream]struct{}
}

func newBroadcaster(dir string) *broadcaster {
	return &broadcaster{dir: dir, streams: map[grpc.ServerStream]struct{}{}}
}

func (b *broadcaster) do(_ context.Context, name string, arg json.RawMessage) (any, error) {
	switch name {
	case "start":
		return b.start()
	case "send":
		var message []byte
		if err := json.Unmarshal(arg, &message); err != nil {
			return nil, err
		}
		return b.send(message)
	}
	return nil, fmt.Errorf("no order %q", name)
}

func (b *broadcaster) start() (string, error) {
	authority, err := openCA(b.dir)
	if err != nil {
		return "", err
	}
	cert, err := authority.Server([]string{serverName}).Certificate()
	if err != nil {
		return "", err
	}
	srv := grpc.NewServer(
		grpc.Creds(credentials.NewTLS(&tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{*cert},
			ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: authority.Pool()})),
		grpc.ForceServerCodecV2(rawCodec{}),
		grpc.ReadBufferSize(4<<10),
		grpc.StaticStreamWindowSize(256<<10),
		grpc.StaticConnWindowSize(1<<20),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 30 * time.Second, Timeout: 10 * time.Second}),
	)
	discoveryv3.RegisterAggregatedDiscoveryServiceServer(srv, b)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	go func() { exit(srv.Serve(l)) }()
	return l.Addr().String(), nil
}

// DeltaAggregatedResources reads until the client goes.
func (b *broadcaster) DeltaAggregatedResources(g discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error {
	var s grpc.ServerStream = g
	b.mu.Lock()
	b.streams[s] = struct{}{}
	b.mu.Unlock()
	defer func() {
		b.mu.Lock()
		delete(b.streams, s)
		b.mu.Unlock()
	}()
	var in []byte
	for {
		if err := s.RecvMsg(&in); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
	}
}

// send encodes once and sends to all.
func (b *broadcaster) send(message []byte) (began int64, err error) {
	began = time.Now().UnixNano()
	b.mu.Lock()
	defer b.mu.Unlock()
	var prepared *grpc.PreparedMsg
	for s := range b.streams {
		if prepared == nil {
			prepared = &grpc.PreparedMsg{}
			if err := prepared.Encode(s, message); err != nil {
				return 0, err
			}
		}
		if err := s.SendMsg(prepared); err != nil {
			return 0, err
		}
	}
	return began, nil
}
