package agent

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"

	"github.com/wattle-mesh/wattle/configs"
)

// How the connection to a server is kept.
const (
	connectLimit = 5 * time.Second
	maxReconnect = 5 * time.Second
	pingAfter    = 10 * time.Second // without a word from the server
	pingLimit    = 5 * time.Second
	maxMessage   = 256 << 20 // bytes: the first response holds everything in scope
)

// dial prepares the connection to the servers: the first that answers, and the next when it fails. Nothing
// happens before the first call, and nothing leaves this host while barred, if it is set, says why not.
func dial(cfg *configs.Agent, conf *tls.Config, barred func() error) (*grpc.ClientConn, error) {
	if len(cfg.Servers) == 0 {
		return nil, fmt.Errorf("the configuration names no server")
	}
	var state resolver.State
	for _, s := range cfg.Servers {
		host, _, err := net.SplitHostPort(s)
		if err != nil {
			return nil, fmt.Errorf("server: %w", err)
		}
		state.Addresses = append(state.Addresses, resolver.Address{Addr: s, ServerName: host})
	}
	servers := manual.NewBuilderWithScheme("wattle")
	servers.InitialState(state)
	d := net.Dialer{}
	if cfg.SourceAddress.IsValid() {
		d.LocalAddr = &net.TCPAddr{IP: cfg.SourceAddress.AsSlice()}
	}
	backoffs := backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: maxReconnect}
	return grpc.NewClient("wattle:///servers",
		grpc.WithResolvers(servers),
		grpc.WithTransportCredentials(credentials.NewTLS(conf)),
		grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
			if barred != nil {
				if err := barred(); err != nil {
					return nil, err
				}
			}
			return d.DialContext(ctx, "tcp", addr)
		}),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoffs, MinConnectTimeout: connectLimit}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: pingAfter, Timeout: pingLimit, PermitWithoutStream: true}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage)),
		grpc.WithDisableServiceConfig(),
		grpc.WithNoProxy(),
	)
}
