package datapath

import (
	"bufio"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/wattle-mesh/wattle/registry"
)

const trustDomain = "path.example"

// policy has web and admin, on h1, call two instances of shop and one of lines, on h2.
const policy = `
-- mesh.hcl --
mesh { trust_domain = "path.example" }
-- hosts.hcl --
host "h1" {
  address = "127.0.X.11"
  service "web" {
    port = 8000
    upstream "shop" { bind = "127.0.X.11:9081" }
    upstream "lines" { bind = "127.0.X.11:9082" }
    upstream "rpc" { bind = "127.0.X.11:9083" }
  }
  service "admin" {
    port = 8001
    upstream "shop" { bind = "127.0.X.11:9084" }
  }
}
host "h2" {
  address = "127.0.X.12"
  service "shop" {
    port     = 9080
    local    = "127.0.X.12:9080"
    instance = "a"
    meta     = { all = "yes" }
  }
  service "shop" {
    port     = 9080
    local    = "127.0.X.12:9081"
    instance = "b"
    meta     = { all = "yes" }
  }
  service "lines" {
    port     = 7000
    protocol = "tcp"
    local    = "127.0.X.12:7000"
  }
  service "rpc" {
    port     = 9090
    protocol = "http2"
    local    = "127.0.X.12:9090"
  }
}
-- shop.hcl --
virtual_service "shop" {
  hosts = ["shop"]
  http "vanish" {
    match { uri = { prefix = "/a.b" } }
    rewrite { uri = "/" }
    route { host = "shop" }
  }
  http "missing" {
    match { uri = "/missing" }
    route { host = "shop" }
    route { host = "gone" }
  }
  http "twice" {
    match { uri = { prefix = "/twice" } }
    retries {
      attempts = 1
      retry_on = [503]
    }
    route { host = "shop" }
  }
  http "header" {
    match { uri = "/header" }
    route {
      host   = "shop"
      subset = "header"
    }
  }
  http "query" {
    match { uri = "/query" }
    route {
      host   = "shop"
      subset = "query"
    }
  }
  http "cookie" {
    match { uri = "/cookie" }
    route {
      host   = "shop"
      subset = "cookie"
    }
  }
  http "ip" {
    match { uri = "/ip" }
    route {
      host   = "shop"
      subset = "ip"
    }
  }
  http "all" {
    match { uri = "/all" }
    route {
      host   = "shop"
      subset = "all"
    }
  }
  http "rest" {
    route { host = "shop" }
  }
}
destination_rule "shop" {
  host = "shop"
  subset "header" {
    labels = { all = "yes" }
    load_balancer {
      consistent_hash { http_header_name = "x-user" }
    }
  }
  subset "query" {
    labels = { all = "yes" }
    load_balancer {
      consistent_hash { http_query_parameter_name = "user" }
    }
  }
  subset "cookie" {
    labels = { all = "yes" }
    load_balancer {
      consistent_hash {
        http_cookie {
          name = "session"
          ttl  = "1h"
        }
      }
    }
  }
  subset "ip" {
    labels = { all = "yes" }
    load_balancer {
      consistent_hash { use_source_ip = true }
    }
  }
  subset "all" {
    labels = { all = "yes" }
    outlier_detection { min_health_percent = 100 }
  }
}
destination_rule "lines" {
  host = "lines"
  load_balancer {
    consistent_hash { use_source_ip = true }
  }
}
`

func identity(service string) string {
	return "spiffe://" + trustDomain + "/ns/default/svc/" + service
}

func shopKey(instance string) registry.WorkloadKey {
	return registry.WorkloadKey{Host: "h2", Service: registry.Name{Namespace: "default", Name: "shop"}, Instance: instance}
}

func TestDataPath(t *testing.T) {
	p := newPath(t, policy)
	shop := p.at("127.0.X.11:9081")
	a := startApp(t, "a", p.at("127.0.X.12:9080"))
	startLines(t, "lines", p.at("127.0.X.12:7000"))

	// The instance b does not run yet.
	t.Run("a request that no application saw is tried elsewhere, whatever its method", func(t *testing.T) {
		for i := range 40 {
			if got := mustCall(t, shop, request(t, "POST", "/")); got.StatusCode != http.StatusOK || got.body != "a" {
				t.Fatalf("request %d: status %d by %q", i, got.StatusCode, got.body)
			}
		}
	})
	t.Run("the proxy of an application that refuses says so at the mesh port", func(t *testing.T) {
		got := p.direct(t, "7444", "web", request(t, "GET", "/"))
		if got.StatusCode != http.StatusServiceUnavailable || got.Header.Get("x-wattle-unprocessed") != "true" {
			t.Errorf("status %d with %v", got.StatusCode, got.Header)
		}
	})
	b := startApp(t, "b", p.at("127.0.X.12:9081"))

	t.Run("an application cannot say that it has not seen a request", func(t *testing.T) {
		a.requests()
		if got := p.direct(t, "7443", "web", request(t, "GET", "/?unprocessed=true&status=503")); got.StatusCode != http.StatusServiceUnavailable || got.Header.Get("x-wattle-unprocessed") != "" {
			t.Errorf("status %d with %v", got.StatusCode, got.Header)
		}
		b.requests()
		a.requests()
		if got := mustCall(t, shop, request(t, "POST", "/?unprocessed=true&status=503")); got.StatusCode != http.StatusServiceUnavailable || got.Header.Get("x-wattle-unprocessed") != "" {
			t.Errorf("status %d with %v", got.StatusCode, got.Header)
		}
		if n := len(a.requests()) + len(b.requests()); n != 1 {
			t.Errorf("the request came %d times", n)
		}
	})
	t.Run("a policy's retry goes to the other instance", func(t *testing.T) {
		for range 10 {
			a.requests()
			b.requests()
			if got := mustCall(t, shop, request(t, "GET", "/twice?status=503")); got.StatusCode != http.StatusServiceUnavailable || got.Header.Get("x-envoy-attempt-count") != "2" {
				t.Fatalf("status %d with %v", got.StatusCode, got.Header)
			}
			if len(a.requests()) != 1 || len(b.requests()) != 1 {
				t.Fatal("one instance was asked twice")
			}
		}
	})
	t.Run("what the application sees of the caller is the proxy's word", func(t *testing.T) {
		a.requests()
		p.direct(t, "7443", "web", request(t, "GET", "/", "x-forwarded-client-cert: URI=spiffe://path.example/ns/default/svc/admin", "x-wattle-unprocessed: 1"))
		seen := a.requests()
		if len(seen) != 1 {
			t.Fatalf("%d requests", len(seen))
		}
		if got := seen[0].Header.Values("x-forwarded-client-cert"); len(got) != 1 || !strings.Contains(got[0], "URI="+identity("web")) || strings.Contains(got[0], "admin") {
			t.Errorf("x-forwarded-client-cert is %q", got)
		}
		if seen[0].Header.Get("x-wattle-unprocessed") != "" {
			t.Error("the application sees x-wattle-unprocessed")
		}
	})
	t.Run("what an application says to Envoy and of callers does not reach its callee", func(t *testing.T) {
		a.requests()
		b.requests()
		mustCall(t, shop, request(t, "GET", "/", "x-forwarded-client-cert: URI="+identity("admin"), "x-envoy-attempt-count: 7", "x-wattle-anything: 1"))
		seen := append(a.requests(), b.requests()...)
		if len(seen) != 1 {
			t.Fatalf("%d requests", len(seen))
		}
		h := seen[0].Header
		if got := h.Values("x-forwarded-client-cert"); len(got) != 1 || !strings.Contains(got[0], "URI="+identity("web")) || strings.Contains(got[0], "admin") {
			t.Errorf("x-forwarded-client-cert is %q", got)
		}
		if got := h.Values("x-envoy-attempt-count"); len(got) != 1 || got[0] != "1" || h.Get("x-wattle-anything") != "" {
			t.Errorf("the callee sees %v", h)
		}
	})
	t.Run("a prefix that becomes the root takes its slash along", func(t *testing.T) {
		for path, want := range map[string]string{"/a.b/x?q=1": "/x?q=1", "/a.b": "/", "/a.bc": "/c", "/axb/y": "/axb/y"} {
			a.requests()
			b.requests()
			mustCall(t, shop, request(t, "GET", path))
			if seen := append(a.requests(), b.requests()...); len(seen) != 1 || seen[0].RequestURI != want {
				t.Errorf("%s: %d requests, want one of %s: %v", path, len(seen), want, seen)
			}
		}
	})
	t.Run("the share of a service that nobody knows is answered 503", func(t *testing.T) {
		got := map[int]int{}
		for range 60 {
			got[mustCall(t, shop, request(t, "GET", "/missing")).StatusCode]++
		}
		if got[200] == 0 || got[503] == 0 || got[200]+got[503] != 60 {
			t.Errorf("statuses %v, want some 200 and some 503", got)
		}
	})
	t.Run("connections are upgraded", func(t *testing.T) { upgrade(t, shop) })
	t.Run("HTTP/2 reaches the application", func(t *testing.T) {
		rpc := startApp(t, "rpc", p.at("127.0.X.12:9090"))
		got := mustCall(t, p.at("127.0.X.11:9083"), request(t, "GET", "/"))
		if seen := rpc.requests(); got.StatusCode != http.StatusOK || len(seen) != 1 || seen[0].ProtoMajor != 2 {
			t.Errorf("status %d, requests %v", got.StatusCode, seen)
		}
	})
	t.Run("bytes reach the application", func(t *testing.T) {
		conn, err := net.Dial("tcp", p.at("127.0.X.11:9082"))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		fmt.Fprintln(conn, "hello")
		if line, err := bufio.NewReader(conn).ReadString('\n'); line != "lines: hello\n" {
			t.Errorf("%q, %v", line, err)
		}
	})
	t.Run("consistent hashes", func(t *testing.T) { hashes(t, shop) })
	t.Run("health", func(t *testing.T) { health(t, p, shop) })
	t.Run("only workloads and gateways of the trust domain are let in", func(t *testing.T) { admission(t, p) })
	t.Run("callers that fall silent are let go", func(t *testing.T) { silence(t, p) })
	t.Run("failures are logged as JSON", func(t *testing.T) { logged(t, p, shop) })
}

// TestFirstCallWithoutAgent has callers that have not called before find their certificates while nobody gives any.
func TestFirstCallWithoutAgent(t *testing.T) {
	p := newPath(t, policy)
	a := startApp(t, "a", p.at("127.0.X.12:9080"))
	startApp(t, "b", p.at("127.0.X.12:9081"))
	p.halt()
	for what, caller := range map[string]string{"web": "127.0.X.11:9081", "admin": "127.0.X.11:9084"} {
		for range 10 {
			if got := mustCall(t, p.at(caller), request(t, "GET", "/")); got.StatusCode != http.StatusOK {
				t.Fatalf("%s: status %d: %s", what, got.StatusCode, got.body)
			}
		}
		for _, r := range a.requests() {
			if got := r.Header.Get("x-forwarded-client-cert"); !strings.Contains(got, "URI="+identity(what)) {
				t.Errorf("%s: the callee sees %s", what, got)
			}
		}
	}
}

// direct calls a mesh port of h2 as a service would whose proxy is not Envoy.
func (p *path) direct(t *testing.T, port, caller string, r *http.Request) *answer {
	t.Helper()
	got, err := p.dial(t, port, r, &tls.Config{Certificates: []tls.Certificate{p.pki.leaf(t, identity(caller))}})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func (p *path) dial(t *testing.T, port string, r *http.Request, config *tls.Config) (*answer, error) {
	t.Helper()
	config.ServerName, config.NextProtos = "9080.shop.default.mesh", []string{"http/1.1"}
	config.InsecureSkipVerify = true // the name is in a URI; Envoy's side is what is tried
	r.URL.Scheme = "https"
	return call(t, p.at("127.0.X.12:"+port), r, config)
}

// upgrade speaks through a connection that both proxies have upgraded.
func upgrade(t *testing.T, addr string) {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprint(conn, "GET / HTTP/1.1\r\nHost: shop\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
	in := bufio.NewReader(conn)
	resp, err := http.ReadResponse(in, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("status %d", resp.StatusCode)
	}
	fmt.Fprintln(conn, "hello")
	if line, err := in.ReadString('\n'); line != "hello\n" {
		t.Errorf("%q, %v", line, err)
	}
}

// hashes has requests with one key go to one instance, and those with many keys to both.
func hashes(t *testing.T, shop string) {
	for what, r := range map[string]func(user string) *http.Request{
		"header": func(user string) *http.Request { return request(t, "GET", "/header", "x-user: "+user) },
		"query":  func(user string) *http.Request { return request(t, "GET", "/query?user="+user) },
		"cookie": func(user string) *http.Request { return request(t, "GET", "/cookie", "cookie: session="+user) },
	} {
		all := map[string]int{}
		for user := range 20 {
			mine := map[string]int{}
			for range 5 {
				mine[mustCall(t, shop, r(fmt.Sprint("user", user))).body]++
			}
			if len(mine) != 1 {
				t.Errorf("%s: the requests of one user went to %v", what, mine)
			}
			for k := range mine {
				all[k]++
			}
		}
		if len(all) != 2 {
			t.Errorf("%s: users went to %v, want both instances", what, all)
		}
	}
	same := map[string]int{}
	for range 30 {
		same[mustCall(t, shop, request(t, "GET", "/ip")).body]++
	}
	if len(same) != 1 {
		t.Errorf("source IP: one client went to %v", same)
	}
	first := mustCall(t, shop, request(t, "GET", "/cookie"))
	cookies := first.Cookies()
	if len(cookies) != 1 || cookies[0].Name != "session" || cookies[0].MaxAge != 3600 {
		t.Fatalf("a request without a cookie got %v", first.Header)
	}
	for range 10 {
		if got := mustCall(t, shop, request(t, "GET", "/cookie", "cookie: session="+cookies[0].Value)); got.body != first.body {
			t.Errorf("the cookie led to %s, then to %s", first.body, got.body)
		}
	}
}

// health changes which instances are healthy: what Envoy has acknowledged holds for the next request.
func health(t *testing.T, p *path, shop string) {
	for range 3 {
		for _, down := range []string{"a", "b"} {
			p.setUnhealthy(shopKey(down))
			for range 30 {
				if got := mustCall(t, shop, request(t, "GET", "/")); got.StatusCode != http.StatusOK || got.body == down {
					t.Fatalf("%s is unhealthy: status %d by %q", down, got.StatusCode, got.body)
				}
			}
		}
	}
	p.setUnhealthy(shopKey("a"), shopKey("b"))
	if got := mustCall(t, shop, request(t, "GET", "/")); got.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("none is healthy: status %d by %q, want 503", got.StatusCode, got.body)
	}
	if got := mustCall(t, shop, request(t, "GET", "/all")); got.StatusCode != http.StatusOK {
		t.Errorf("none is healthy, but the policy calls all then: status %d", got.StatusCode)
	}
	p.setUnhealthy()
}

// admission tries certificates at the mesh port.
func admission(t *testing.T, p *path) {
	for what, c := range map[string]struct {
		certificates []tls.Certificate
		let          bool
	}{
		"a workload":               {[]tls.Certificate{p.pki.leaf(t, identity("web"))}, true},
		"a gateway":                {[]tls.Certificate{p.pki.leaf(t, "spiffe://path.example/ns/default/gateway/public")}, true},
		"a host":                   {[]tls.Certificate{p.pki.leaf(t, "spiffe://path.example/node/h1")}, false},
		"another trust domain":     {[]tls.Certificate{p.pki.leaf(t, "spiffe://path.example.org/ns/default/svc/web")}, false},
		"another CA":               {[]tls.Certificate{newPKI(t).leaf(t, identity("web"))}, false},
		"nobody, no certificate":   {nil, false},
		"an identity in the query": {[]tls.Certificate{p.pki.leaf(t, "spiffe://other?spiffe://path.example/ns/default/svc/web")}, false},
	} {
		got, err := p.dial(t, "7443", request(t, "GET", "/"), &tls.Config{Certificates: c.certificates})
		if let := err == nil && got.StatusCode == http.StatusOK; let != c.let {
			t.Errorf("%s: let in: %v, want %v (%v)", what, let, c.let, err)
		}
	}
	if got, err := call(t, p.at("127.0.X.12:7443"), request(t, "GET", "/"), nil); err == nil {
		t.Errorf("plaintext: status %d", got.StatusCode)
	}
}

// silence starts a handshake at the mesh port and never ends it.
func silence(t *testing.T, p *path) {
	conn, err := net.Dial("tcp", p.at("127.0.X.12:7443"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetReadDeadline(time.Now().Add(14 * time.Second)); err != nil { // less than what is heard before a ClientHello
		t.Fatal(err)
	}
	err = tls.Client(deaf{conn}, &tls.Config{ServerName: "9080.shop.default.mesh", NextProtos: []string{"h2"}, InsecureSkipVerify: true}).Handshake()
	if !errors.Is(err, errClosed) {
		t.Errorf("the connection was not closed: %v", err)
	}
}

// deaf is a connection that sends and does not listen: a Read ends when the peer closes it.
type deaf struct{ net.Conn }

var errClosed = errors.New("closed by the peer")

func (d deaf) Read([]byte) (int, error) {
	if _, err := io.Copy(io.Discard, d.Conn); err != nil && !errors.Is(err, syscall.ECONNRESET) {
		return 0, err
	}
	return 0, errClosed
}

// logged looks for a failed request in what the caller's Envoy prints. Requests that went well are not there.
func logged(t *testing.T, p *path, shop string) {
	mustCall(t, shop, request(t, "GET", "/fine-request"))
	mustCall(t, shop, request(t, "GET", "/failed-request?secret=1&status=500"))
	eventually(t, "a line about the request", func() error {
		for line := range strings.Lines(p.envoys["h1/host"].printed()) {
			if !strings.Contains(line, "/failed-request") {
				continue
			}
			var got map[string]any
			if err := json.Unmarshal([]byte(line), &got); err != nil {
				return err
			}
			if got["status"] != 500.0 || got["path"] != "/failed-request" || got["route"] != "rest" || got["at"] != "out/default/web/shop.default:9080" {
				t.Fatalf("unexpected line: %s", line)
			}
			return nil
		}
		return fmt.Errorf("not in %s", p.envoys["h1/host"].printed())
	})
	if strings.Contains(p.envoys["h1/host"].printed(), "/fine-request") {
		t.Error("a request that went well is logged")
	}
}
