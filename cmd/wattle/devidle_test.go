package main

import (
	"encoding/json"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"testing"

	"github.com/wattle-mesh/wattle/configs"
	"github.com/wattle-mesh/wattle/internal/api"
	"github.com/wattle-mesh/wattle/internal/xds"
)

func TestAnApplicationIsLetGoByItsEnvoyAndItsCallers(t *testing.T) {
	proxies := []xds.ProxyStatus{{ID: "h1/gw-public"}, {ID: "h1/host", Synced: true}, {ID: "h10/host"}}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(api.Proxies{Proxies: proxies}) // the client would say
	}))
	defer srv.Close()
	d := &dev{client: api.NewClient(api.ClientOptions{Address: srv.Listener.Addr().String()})}
	defer d.client.Close()

	// The application itself: it has its connection open for as long as it likes.
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	where := at(l.Addr().String())
	letGo := func(want bool, what string) {
		t.Helper()
		if got := d.letGo(t.Context(), "h1", where); got != want {
			t.Errorf("%s: let go is %t", what, got)
		}
	}
	letGo(true, "without callers")
	proxies[1].Synced = false
	letGo(false, "an Envoy that has not acknowledged")
	proxies = slices.Delete(proxies, 1, 2)
	letGo(true, "an Envoy that has ended")

	caller, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer caller.Close()
	letGo(false, "a connection that was not accepted yet")
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	letGo(false, "a caller")
	if err := caller.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	letGo(false, "a caller that waits for the answer")
	conn.Close()
	letGo(true, "a caller that was answered")
	srv.Close()
	letGo(false, "a server that does not answer")
}

func TestWhereAHostsEnvoysListen(t *testing.T) {
	h := &configs.Host{
		Name: "h1", Address: netip.MustParseAddr("127.0.0.2"), MeshPort: 7443,
		Services: []*configs.Service{{Upstreams: []*configs.Upstream{{Bind: at("127.0.1.1:9081")[0]}, {Socket: "/run/x.sock"}}}},
	}
	gateway := func(host, bind string) *configs.Gateway {
		return &configs.Gateway{RunOn: []string{host}, Servers: []*configs.GatewayServer{{Bind: at(bind)[0]}}}
	}
	policy := &configs.Policy{Gateways: []*configs.Gateway{gateway("h1", "127.0.0.1:80"), gateway("h2", "127.0.0.1:81")}}
	if got, want := listens(policy, h), at("127.0.0.2:7443", "127.0.1.1:9081", "127.0.0.1:80"); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}
