package agent

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"

	"github.com/wattle-mesh/wattle/configs"
	"github.com/wattle-mesh/wattle/internal/api"
	"github.com/wattle-mesh/wattle/internal/ca"
	"github.com/wattle-mesh/wattle/internal/store"
	"github.com/wattle-mesh/wattle/internal/xds"
)

// port serves the agents' port as the server does, with node certificates that end after life. It returns a join token
// for h1.
func (w *world) port(life time.Duration) (token string) {
	w.t.Helper()
	log := slog.New(slog.NewTextHandler(w.log, nil))
	signs, err := ca.Open(filepath.Join(w.dir, "ca"), trustDomain, func() time.Time { return time.Now().Add(life - ca.NodeLife) })
	if err != nil {
		w.t.Fatal(err)
	}
	kept, err := store.Open(filepath.Join(w.dir, "server", "wattle.db"))
	if err != nil {
		w.t.Fatal(err)
	}
	registrar, err := api.NewRegistrar(api.RegistrarOptions{Log: log, Store: kept})
	if err != nil {
		w.t.Fatal(err)
	}
	nodes := api.NewNode(api.NodeOptions{Log: log, CA: signs, Store: kept, Registrar: registrar})
	w.xds = xds.New(xds.Options{Authorize: api.AuthorizeProxy[*corev3.Node]})
	l, err := net.Listen("tcp", w.at("ADDR:7501"))
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		ended <- api.NewPort(api.PortOptions{Log: log, CA: w.ca, Node: nodes, XDS: w.xds}).Serve(ctx, l)
	}()
	w.t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			w.t.Error(err)
		}
		if err := kept.Close(); err != nil {
			w.t.Error(err)
		}
	})
	resp, err := nodes.CreateToken(api.TokenRequest{Node: "h1"})
	if err != nil {
		w.t.Fatal(err)
	}
	return resp.Token
}

func TestAnAgentOutlivesItsCertificate(t *testing.T) {
	w := newWorld(t)
	token := w.port(4 * time.Second)
	w.start(func(c *configs.Agent) { c.Token = token })
	var streams []time.Time // when each began
	w.wait("a third stream, with a third certificate", func() error {
		for _, p := range w.xds.Proxies() {
			if p.Connected && (len(streams) == 0 || p.Since.After(streams[len(streams)-1])) {
				streams = append(streams, p.Since)
			}
		}
		if len(streams) < 3 {
			return fmt.Errorf("%d streams were there", len(streams))
		}
		return nil
	})
	if log := w.log.String(); strings.Contains(log, "expired since") {
		t.Error("the agent called on a connection whose certificate had ended")
	}
}
