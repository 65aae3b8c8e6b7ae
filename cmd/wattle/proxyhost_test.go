package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/wattle-mesh/wattle/adapters"
	"github.com/wattle-mesh/wattle/adapters/process"
	"github.com/wattle-mesh/wattle/internal/admin"
	"github.com/wattle-mesh/wattle/internal/envoys"
)

// do runs one command line and returns what it prints.
func do(t *testing.T, want int, a ...string) string {
	t.Helper()
	var out, bad bytes.Buffer
	if code := run(t.Context(), a, &out, &bad); code != want {
		t.Errorf("%q: exit code %d, want %d\n%s%s", a, code, want, out.String(), bad.String())
	}
	return out.String() + bad.String()
}

const plainEnvoy = `{
  "admin": {"address": {"pipe": {"path": "%s/admin.sock", "mode": 384}}},
  "static_resources": {
    "listeners": [{"name": "in", "address": {"socket_address": {"address": "127.0.0.1", "port_value": %d}}, "filter_chains": [{"filters": [{
      "name": "http", "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "in/shop/web:8080",
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "db.shop:5432|v1"}}]}]},
        "http_filters": [{"name": "router", "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}]}}]}]}],
    "clusters": [{"name": "db.shop:5432|v1", "type": "STATIC", "load_assignment": {"cluster_name": "x", "endpoints": [{"lb_endpoints": [{"endpoint": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": %d}}}}]}]}}]
  }
}`

// envoyHost runs one Envoy as an agent's process adapter does, and returns the run folder and where the Envoy listens.
func envoyHost(t *testing.T) (runDir, address string) {
	t.Helper()
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "hello") }))
	t.Cleanup(app.Close)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address = l.Addr().String()
	l.Close()
	var at, of int
	fmt.Sscanf(address, "127.0.0.1:%d", &at)
	fmt.Sscanf(strings.TrimPrefix(app.URL, "http://"), "127.0.0.1:%d", &of)
	if runDir, err = os.MkdirTemp("", "wattle-"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(runDir) })
	binary, err := process.FindEnvoy(filepath.Join("..", "..", ".bin", "envoy"))
	if err != nil {
		t.Fatal(err)
	}
	a := process.New(process.Options{Log: slog.New(slog.DiscardHandler), Envoy: binary, Dir: runDir, Concurrency: 1, LogLevel: "info", Stop: true})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- a.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	err = a.Apply(ctx, adapters.Plan{Proxies: []adapters.Proxy{{ID: "h1/host", Name: "host", Bootstrap: fmt.Appendf(nil, plainEnvoy, filepath.Join(runDir, "host"), at, of)}}})
	if err != nil {
		t.Fatal(err)
	}
	client := admin.New(filepath.Join(runDir, "host", "admin.sock"))
	limit, stop := context.WithTimeout(t.Context(), 30*time.Second)
	defer stop()
	if err := until(limit, func() bool { s, err := client.Server(limit); return err == nil && s.State == admin.Live }); err != nil {
		t.Fatal(err)
	}
	return runDir, address
}

func TestTheEnvoysOfAHostAreListedSteeredAndRead(t *testing.T) {
	dir, address := envoyHost(t)
	web := &http.Client{Transport: &http.Transport{}}
	defer web.CloseIdleConnections()
	get := func() *http.Response {
		t.Helper()
		resp, err := web.Get("http://" + address)
		if err != nil {
			t.Fatal(err)
		}
		_, err = io.Copy(io.Discard, resp.Body)
		if err := errors.Join(err, resp.Body.Close()); err != nil {
			t.Fatal(err)
		}
		return resp
	}
	get()
	get()
	out := do(t, 0, "proxy", "list", "-run-dir", dir)
	if !regexp.MustCompile(`(?m)^host +running, LIVE +\d+ +0 +1\.\d+\.\d+ +\d+s ago +\d+ MB +1$`).MatchString(out) {
		t.Errorf("list:\n%s", out)
	}
	var before []envoys.State
	if err := json.Unmarshal([]byte(do(t, 0, "proxy", "list", "-run-dir", dir, "-json")), &before); err != nil || len(before) != 1 || before[0].PID == 0 || before[0].Memory == 0 {
		t.Errorf("list as JSON: %+v, %v", before, err)
	}

	out = do(t, 0, "proxy", "stats", "host", "-run-dir", dir)
	for _, want := range []string{`(?m)^in/shop/web:8080 +http +2 +0 +0 +0 +0 +1$`, `(?m)^db\.shop:5432\|v1 +2 +0 +0 +0 +0 +1 +0 +1/1$`} {
		if !regexp.MustCompile(want).MatchString(out) {
			t.Errorf("stats lack %s:\n%s", want, out)
		}
	}
	if out = do(t, 0, "proxy", "stats", "host", "-run-dir", dir, "-filter", "downstream_rq_total$"); !strings.Contains(out, "http.in/shop/web_8080.downstream_rq_total  2") {
		t.Errorf("stats that are picked:\n%s", out)
	}
	if out = do(t, 0, "proxy", "stats", "host", "-run-dir", dir, "-filter", "nothing", "-json"); out != "[]\n" {
		t.Errorf("no stats: %q", out)
	}
	do(t, 2, "proxy", "stats", "host", "-run-dir", dir, "-filter", "(")

	if out = do(t, 0, "proxy", "logs", "host", "-run-dir", dir, "-n", "3"); strings.Count(out, "\n") != 3 || !strings.Contains(out, "envoy host") {
		t.Errorf("logs:\n%s", out)
	}

	if out = do(t, 0, "proxy", "drain", "host", "-run-dir", dir); !strings.Contains(out, "nothing is under way") {
		t.Errorf("drain: %s", out)
	}
	if resp := get(); !resp.Close {
		t.Error("who is connected is not told to go")
	}
	do(t, 0, "proxy", "drain", "host", "-run-dir", dir, "-undo")
	if resp := get(); resp.Close {
		t.Error("who is connected is told to go yet")
	}

	if out = do(t, 2, "proxy", "restart", "host", "-run-dir", dir, "-reload"); !strings.Contains(out, "without hot restart") {
		t.Errorf("reload: %s", out)
	}
	do(t, 0, "proxy", "restart", "host", "-run-dir", dir)
	var after []envoys.State
	if err := json.Unmarshal([]byte(do(t, 0, "proxy", "list", "-run-dir", dir, "-json")), &after); err != nil || after[0].PID == before[0].PID || after[0].State != "running, LIVE" {
		t.Errorf("after the restart: %+v, %v", after, err)
	}
	get()

	if out = do(t, 2, "proxy", "logs", "gw-none", "-run-dir", dir); !strings.Contains(out, `no proxy "gw-none"; it has host`) {
		t.Errorf("a proxy that there is not: %s", out)
	}
	if out = do(t, 1, "proxy", "list", "-run-dir", filepath.Join(dir, "none")); !strings.Contains(out, "is this a host of the mesh?") {
		t.Errorf("no host: %s", out)
	}
}

func TestTheLastLinesOfALog(t *testing.T) {
	for _, c := range []struct {
		text string
		n    int
		want string
	}{
		{"a\nb\nc\n", 2, "b\nc\n"}, {"a\nb\nc", 1, "c"}, {"a\nb\n", 5, "a\nb\n"}, {"a\n", 0, ""}, {"", 3, ""},
	} {
		if got := string(lastLines([]byte(c.text), c.n)); got != c.want {
			t.Errorf("%q, %d: %q, want %q", c.text, c.n, got, c.want)
		}
	}
}

// syncedText is a text that is written while it is read.
type syncedText struct {
	c chan string
}

func (s syncedText) Write(p []byte) (int, error) { s.c <- string(p); return len(p), nil }

func TestALogIsFollowed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "envoy.log")
	if err := os.WriteFile(path, []byte("one\ntwo\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	out, ended := syncedText{make(chan string, 8)}, make(chan error, 1)
	go func() { ended <- tail(ctx, out, path, 1, true) }()
	if got := <-out.c; got != "two\n" {
		t.Errorf("%q", got)
	}
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, line := range []string{"three\n", "four\n"} {
		if _, err := f.WriteString(line); err != nil {
			t.Fatal(err)
		}
		if got := <-out.c; got != line {
			t.Errorf("%q, want %q", got, line)
		}
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
