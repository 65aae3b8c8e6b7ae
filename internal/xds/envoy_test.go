package xds

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3" // for protojson, as the next
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/wattle-mesh/wattle/translator"
)

// envoyLimit is how long anything may take that takes moments. The machine may be busy.
const envoyLimit = 30 * time.Second

const envoyBootstrap = `
node: { id: p0, cluster: test }
admin: { address: { pipe: { path: DIR/admin.sock } } }
dynamic_resources:
  cds_config: { ads: {}, resource_api_version: V3 }
  lds_config: { ads: {}, resource_api_version: V3 }
  ads_config:
    api_type: DELTA_GRPC
    transport_api_version: V3
    set_node_on_first_message_only: true
    grpc_services:
    - envoy_grpc: { cluster_name: xds, retry_policy: { retry_back_off: { base_interval: 0.05s, max_interval: 0.2s } } }
static_resources:
  clusters:
  - name: xds
    connect_timeout: 1s
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: { http2_protocol_options: {} }
    load_assignment:
      cluster_name: xds
      endpoints: [{ lb_endpoints: [{ endpoint: { address: { pipe: { path: DIR/xds.sock } } } }] }]
`

// rig is a Server, a real Envoy that has all from it over a unix socket in plain text, and applications "a" and "b",
// which answer with their names. Sockets stand in for ports.
type rig struct {
	t      *testing.T // of the part that runs
	whole  *testing.T
	dir    string
	srv    *Server
	stop   func() // ends the server's gRPC side
	have   map[translator.Key]*translator.Resource
	client *http.Client // of Envoy's listener
	admin  *http.Client
	wire   *recorder
}

func newRig(t *testing.T) *rig {
	t.Helper()
	dir, err := os.MkdirTemp("", "wxds-") // short, for the sockets in it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	r := &rig{t: t, whole: t, dir: dir, have: map[translator.Key]*translator.Resource{}, wire: &recorder{}}
	r.client, r.admin = r.dial("in.sock"), r.dial("admin.sock")
	for _, name := range []string{"a", "b"} {
		r.application(name)
		r.put(translator.Cluster, name, r.cluster(name, "1s"))
		r.put(translator.Endpoint, name, r.endpoint(name))
	}
	r.put(translator.Listener, "in", r.listener("in"))
	r.put(translator.Route, "main", r.route("a", "b"))
	r.serve()
	r.start()
	r.synced()
	return r
}

// dial returns a client of a unix socket.
func (r *rig) dial(socket string) *http.Client {
	return &http.Client{Timeout: envoyLimit, Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", filepath.Join(r.dir, socket))
	}}}
}

func (r *rig) application(name string) {
	r.t.Helper()
	l, err := net.Listen("unix", filepath.Join(r.dir, name+".sock"))
	if err != nil {
		r.t.Fatal(err)
	}
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, name) })}
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	r.whole.Cleanup(func() { _ = s.Close(); <-done })
}

// serve starts a Server that has published all there is.
func (r *rig) serve() {
	r.t.Helper()
	r.srv = New(Options{Authorize: authorizeByID})
	r.apply()
	g := grpc.NewServer(append(ServerOptions(), grpc.StreamInterceptor(r.wire.intercept))...)
	r.srv.Register(g)
	l, err := net.Listen("unix", filepath.Join(r.dir, "xds.sock"))
	if err != nil {
		r.t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- g.Serve(l) }()
	ended := false
	r.stop = func() {
		if !ended {
			ended = true
			g.Stop()
			<-done
		}
	}
	r.whole.Cleanup(func() { r.stop() })
}

// start starts Envoy; it ends with the test, or with the test's process.
func (r *rig) start() {
	r.t.Helper()
	path := os.Getenv("ENVOY")
	if path == "" {
		path = filepath.Join("..", "..", ".bin", "envoy")
	}
	if _, err := os.Stat(path); err != nil {
		r.t.Fatalf("no Envoy: %v; make tools fetches it, or set ENVOY", err)
	}
	config, log := filepath.Join(r.dir, "envoy.yaml"), filepath.Join(r.dir, "envoy.log")
	if err := os.WriteFile(config, []byte(strings.ReplaceAll(envoyBootstrap, "DIR", r.dir)), 0o600); err != nil {
		r.t.Fatal(err)
	}
	cmd := exec.Command(path, "-c", config, "--use-dynamic-base-id", "--concurrency", "1", "--log-level", "warning", "--log-path", log)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started, done := make(chan error), make(chan struct{})
	go func() {
		runtime.LockOSThread() // the death signal is bound to the thread that starts the child
		defer close(done)
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait() // it is killed
		}
	}()
	if err := <-started; err != nil {
		r.t.Fatal(err)
	}
	r.whole.Cleanup(func() {
		_ = cmd.Process.Kill() // an error means that it has ended
		<-done
		if r.whole.Failed() {
			text, err := os.ReadFile(log)
			r.whole.Logf("envoy: %v\n%s", err, text)
		}
	})
}

// put has the next apply publish a message.
func (r *rig) put(typ translator.Type, name string, m proto.Message) {
	r.t.Helper()
	body, err := anypb.New(m)
	if err != nil {
		r.t.Fatal(err)
	}
	sum := sha256.Sum256(body.Value)
	version := hex.EncodeToString(sum[:8])
	wire, err := proto.Marshal(&discoveryv3.Resource{Name: name, Version: version, Resource: body})
	if err != nil {
		r.t.Fatal(err)
	}
	k := translator.Key{Type: typ, Name: name}
	r.have[k] = &translator.Resource{Key: k, Version: version, Wire: wire, Origin: name + ".hcl:7"}
}

// apply publishes all there is, but removed, which goes.
func (r *rig) apply(removed ...translator.Key) {
	s := &translator.Scope{Name: "all"}
	var c translator.Changes
	for _, k := range removed {
		delete(r.have, k)
	}
	for k, res := range r.have {
		s.Keys = append(s.Keys, k)
		c.Resources = append(c.Resources, res)
	}
	c.Removed, c.Scopes, c.Proxies = removed, []*translator.Scope{s}, []*translator.Proxy{{ID: "p0", Scopes: []string{"all"}}}
	r.srv.Apply(c)
}

// read parses a message, in which DIR stands for the folder.
func read[M proto.Message](r *rig, into M, text string) M {
	r.t.Helper()
	if err := protojson.Unmarshal([]byte(strings.ReplaceAll(text, "DIR", r.dir)), into); err != nil {
		r.t.Fatal(err)
	}
	return into
}

func (r *rig) cluster(name, timeout string) proto.Message {
	return read(r, &clusterv3.Cluster{}, fmt.Sprintf(`{"name": %q, "type": "EDS", "connect_timeout": %q,
		"eds_cluster_config": {"eds_config": {"ads": {}, "resource_api_version": "V3"}}}`, name, timeout))
}

func (r *rig) endpoint(name string) proto.Message {
	return read(r, &endpointv3.ClusterLoadAssignment{}, fmt.Sprintf(
		`{"cluster_name": %q, "endpoints": [{"lb_endpoints": [{"endpoint": {"address": {"pipe": {"path": "DIR/%s.sock"}}}}]}]}`, name, name))
}

// route leads /NAME to the cluster of that name.
func (r *rig) route(names ...string) proto.Message {
	var routes []string
	for _, n := range names {
		routes = append(routes, fmt.Sprintf(`{"match": {"prefix": "/%s"}, "route": {"cluster": %q}}`, n, n))
	}
	return read(r, &routev3.RouteConfiguration{}, fmt.Sprintf(`{"name": "main", "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [%s]}]}`, strings.Join(routes, ",")))
}

// listener is one at a socket of its name.
func (r *rig) listener(name string) proto.Message {
	return read(r, &listenerv3.Listener{}, fmt.Sprintf(`{"name": %q, "address": {"pipe": {"path": "DIR/%s.sock"}}, "filter_chains": [{"filters": [
		{"name": "hcm", "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
		"stat_prefix": "in", "rds": {"route_config_name": "main", "config_source": {"ads": {}, "resource_api_version": "V3"}},
		"http_filters": [{"name": "router", "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}]}}]}]}`, name, name))
}

// eventually waits for a condition of another process.
func (r *rig) eventually(what string, check func() error) {
	r.t.Helper()
	limit := time.After(envoyLimit)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		err := check()
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-limit:
			r.t.Fatalf("%s: %v", what, err)
		}
	}
}

// status returns what the Server says of Envoy.
func (r *rig) status() (ProxyStatus, map[string]TypeStatus) {
	types := map[string]TypeStatus{}
	all := r.srv.Proxies()
	for _, t := range all[0].Types {
		types[t.Type] = t
	}
	return all[0], types
}

// synced waits until Envoy has asked for all four types and acknowledged everything.
func (r *rig) synced() {
	r.t.Helper()
	r.eventually("Envoy is in sync", func() error {
		if st, types := r.status(); !st.Synced || len(types) != 4 {
			return fmt.Errorf("%+v", st)
		}
		return nil
	})
}

// call returns the status and the body of a request through Envoy.
func (r *rig) call(path string) (string, error) {
	return fetch(r.client, "http://in"+path)
}

func fetch(c *http.Client, url string) (string, error) {
	resp, err := c.Get(url)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return fmt.Sprintf("%d %s", resp.StatusCode, text), err
}

// answers checks what Envoy answers now, or waits for it if it has just been started.
func (r *rig) answers(path, want string) {
	r.t.Helper()
	r.eventually("GET "+path, func() error {
		got, err := r.call(path)
		if err == nil && got != want {
			err = fmt.Errorf("%s, want %s", got, want)
		}
		return err
	})
}

// stats returns Envoy's counters and gauges of these names.
func (r *rig) stats(names ...string) map[string]int {
	r.t.Helper()
	text, err := fetch(r.admin, "http://admin/stats?format=json")
	if err != nil {
		r.t.Fatal(err)
	}
	var all struct {
		Stats []struct {
			Name  string
			Value any
		}
	}
	if err := json.Unmarshal([]byte(strings.TrimPrefix(text, "200 ")), &all); err != nil {
		r.t.Fatal(err)
	}
	out := map[string]int{}
	for _, s := range all.Stats {
		if n, ok := s.Value.(float64); ok {
			for _, want := range names {
				if s.Name == want {
					out[want] = int(n)
				}
			}
		}
	}
	return out
}

// TestARealEnvoy tells the story of one Envoy; each part goes on where the one before it ended.
func TestARealEnvoy(t *testing.T) {
	r := newRig(t)
	r.answers("/a", "200 a")
	r.answers("/b", "200 b")
	parts := []struct {
		name string
		run  func(*testing.T, *rig)
	}{
		{"a changed cluster gets its endpoints again and is warm", changedCluster},
		{"a refused listener is in the status, and the rest goes on", refusedListener},
		{"a reconnect with what the server has transfers nothing", reconnect},
		{"a cluster goes after the routes that refer to it", removedCluster},
	}
	for _, p := range parts {
		t.Run(p.name, func(t *testing.T) {
			r.t = t
			p.run(t, r)
		})
	}
}

func changedCluster(t *testing.T, r *rig) {
	from, was := r.wire.count(), r.stats("cluster.a.update_success", "cluster_manager.cluster_modified")
	r.put(translator.Cluster, "a", r.cluster("a", "2s"))
	r.apply()
	r.eventually("the changed cluster is warm", func() error {
		now := r.stats("cluster.a.update_success", "cluster_manager.cluster_modified", "cluster_manager.warming_clusters")
		if now["cluster_manager.cluster_modified"] != was["cluster_manager.cluster_modified"]+1 || now["cluster_manager.warming_clusters"] != 0 {
			return fmt.Errorf("%v", now)
		}
		return nil
	})
	r.synced()
	var sent []string
	for _, line := range r.wire.since(from) {
		if kind, rest, _ := strings.Cut(line, " "); kind != "ack" {
			_, names, _ := strings.Cut(rest, " ")
			sent = append(sent, kind+" "+names)
		}
	}
	if got := strings.Join(sent, ", "); got != "cluster a, endpoint a" {
		t.Errorf("sent: %s", got)
	}
	r.answers("/a", "200 a")
}

func refusedListener(t *testing.T, r *rig) {
	bad := r.listener("bad").(*listenerv3.Listener)
	bad.FilterChains[0].Filters[0].GetTypedConfig().TypeUrl = "type.googleapis.com/no.such.Filter"
	r.put(translator.Listener, "bad", bad)
	r.apply()
	var nack *Nack
	r.eventually("the refusal is in the status", func() error {
		st, types := r.status()
		if nack = types["listener"].Nack; nack == nil || st.Synced {
			return fmt.Errorf("%+v", st)
		}
		return nil
	})
	if !strings.Contains(nack.Message, "no.such.Filter") || len(nack.Resources) != 1 || nack.Resources[0] != (NackResource{"bad", "bad.hcl:7"}) {
		t.Errorf("%+v", nack)
	}
	r.answers("/a", "200 a")
	r.put(translator.Listener, "bad", r.listener("bad"))
	r.apply()
	r.synced()
	if _, types := r.status(); types["listener"].Nack != nil {
		t.Errorf("the mended listener is still refused: %+v", types["listener"].Nack)
	}
}

func reconnect(t *testing.T, r *rig) {
	counters := []string{"cluster_manager.cds.update_success", "listener_manager.lds.update_success", "cluster.a.update_success", "cluster.b.update_success",
		"http.in.rds.main.update_success", "cluster_manager.cluster_modified", "listener_manager.listener_modified", "http.in.rds.main.config_reload"}
	was := r.stats(counters...)
	if len(was) != len(counters) {
		t.Fatalf("Envoy has other counters: %v", was)
	}
	r.stop()
	r.eventually("Envoy sees that the server is gone", func() error {
		if connected, ok := r.stats("control_plane.connected_state")["control_plane.connected_state"]; connected != 0 || !ok {
			return errors.New("connected, or without the gauge that says so")
		}
		return nil
	})
	r.answers("/a", "200 a")
	from := r.wire.count()
	r.serve() // another server with the same content
	r.synced()
	if lines := r.wire.since(from); len(lines) > 0 {
		t.Errorf("transferred: %q", lines)
	}
	for name, n := range r.stats(counters...) {
		if n != was[name] {
			t.Errorf("%s went from %d to %d", name, was[name], n)
		}
	}
}

func removedCluster(t *testing.T, r *rig) {
	from := r.wire.count()
	r.put(translator.Route, "main", r.route("a"))
	r.apply(translator.Key{Type: translator.Cluster, Name: "b"}, translator.Key{Type: translator.Endpoint, Name: "b"})
	r.eventually("the route is gone", func() error {
		switch got, err := r.call("/b"); {
		case err != nil:
			return err
		case got == "200 b":
			return errors.New(got)
		case !strings.HasPrefix(got, "404 "):
			t.Errorf("GET /b: %s; the cluster went before the route", got)
		}
		return nil
	})
	r.eventually("the cluster is gone", func() error {
		if n := r.stats("cluster_manager.active_clusters")["cluster_manager.active_clusters"]; n != 2 { // a and the server's
			return fmt.Errorf("%d clusters", n)
		}
		return nil
	})
	r.synced()
	acked, removed := -1, -1
	lines := r.wire.since(from)
	for i, line := range lines {
		switch {
		case strings.HasPrefix(line, "ack route "):
			acked = i
		case strings.HasPrefix(line, "cluster ") && strings.HasSuffix(line, " -b"):
			removed = i
		}
	}
	if acked < 0 || removed < acked {
		t.Errorf("want the cluster to go after the route was acknowledged: %q", lines)
	}
	r.answers("/a", "200 a")
}
