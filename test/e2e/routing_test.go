package e2e

import (
	"fmt"
	"math"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/wattle-mesh/wattle/test/load/echo"
)

// routing is a mesh for tests that only call: web calls shop, whose versions run on three hosts, two instances of v1 on
// one of them.
const routing = `
-- mesh.hcl --
mesh { trust_domain = "e2e.example" }

gateway "public" {
  run_on = ["edge"]
  server "http" {
    bind = "127.0.X.1"
    port = 8080
  }
}
-- hosts.hcl --
host "edge" { address = "127.0.X.10" }

host "h1" {
  address = "127.0.X.11"

  service "web" {
    port  = 9000
    local = "127.0.X.11:9000"
    upstream "shop" {
      port = 9080
      bind = "127.0.X.11:9081"
    }
    upstream "shop" {
      port = 9090
      bind = "127.0.X.11:9082"
    }
    upstream "shop" {
      port = 9080
      bind = "unix:DIR/shop.sock"
    }
    upstream "shop" {
      port = 9090
      bind = "unix:DIR/lines.sock"
    }
    upstream "outside" { bind = "127.0.X.11:9083" }
    upstream "nowhere" { bind = "127.0.X.11:9084" }
  }
}

host "h2" {
  address = "127.0.X.12"

  dynamic "service" {
    for_each = ["a", "b"]
    labels   = ["shop"]
    content {
      instance = service.value
      meta     = { version = "v1" }
      command  = ["echo"]
      ports = {
        http  = { number = 9080, local = "127.0.X.12:${9080 + service.key}" }
        lines = { number = 9090, protocol = "tcp", local = "127.0.X.12:${9090 + service.key}" }
      }
    }
  }
}

host "h3" {
  address = "127.0.X.13"

  dynamic "service" {
    for_each = ["v2", "v3"]
    labels   = ["shop"]
    content {
      instance = service.value
      meta     = { version = service.value }
      command  = ["echo"]
      ports = {
        http  = { number = 9080, local = "127.0.X.13:${9080 + service.key}" }
        lines = { number = 9090, protocol = "tcp", local = "127.0.X.13:${9090 + service.key}" }
      }
    }
  }
}

service "outside" {
  port = 9070
  endpoint { address = "127.0.X.14" }
}
-- shop.hcl --
virtual_service "shop" {
  hosts = ["shop"]

  http "testers" {
    match { headers = { end-user = { exact = "jason" } } }
    route {
      host   = "shop"
      subset = "v2"
    }
  }
  http "writers" {
    match {
      method       = { exact = "POST" }
      query_params = { draft = { regex = "[0-9]+" } }
    }
    route {
      host   = "shop"
      subset = "v3"
    }
  }
  http "retried" {
    match { uri = { prefix = "/flaky" } }
    retries {
      attempts = 2
      retry_on = ["5xx"]
    }
    route {
      host   = "shop"
      subset = "v2"
    }
  }
  http "hurried" {
    match { uri = { prefix = "/slow" } }
    timeout = "300ms"
    route {
      host   = "shop"
      subset = "v2"
    }
  }
  http "delayed" {
    match { uri = { exact = "/delayed" } }
    fault {
      delay { fixed_delay = "400ms" }
    }
    route { host = "shop" }
  }
  http "broken" {
    match { uri = { exact = "/broken" } }
    fault {
      abort {
        http_status = 418
        percentage  = 50
      }
    }
    route { host = "shop" }
  }
  http "moved" {
    match { uri = { exact = "/old" } }
    redirect {
      uri       = "/new"
      authority = "shop.example"
      code      = 308
    }
  }
  http "rewritten" {
    match { uri = { prefix = "/api/" } }
    rewrite {
      uri       = "/v1/"
      authority = "api.example"
    }
    route { host = "shop" }
  }
  http "everyone" {
    route {
      host   = "shop"
      subset = "v1"
      weight = 90
    }
    route {
      host   = "shop"
      subset = "v3"
      weight = 10
    }
  }
}

destination_rule "shop" {
  host = "shop"
  subset "v1" { labels = { version = "v1" } }
  subset "v2" { labels = { version = "v2" } }
  subset "v3" { labels = { version = "v3" } }
}

virtual_service "front" {
  hosts    = ["*"]
  gateways = ["public"]
  http "only" {
    match { uri = { prefix = "/shop" } }
    route {
      host   = "shop"
      port   = 9080
      subset = "v2"
    }
  }
}
`

func TestRouting(t *testing.T) {
	t.Parallel()
	m := newMesh(t, routing)
	const shop, lines = "127.0.X.11:9081", "127.0.X.11:9082"

	t.Run("weights split the requests within binomial bounds", func(t *testing.T) {
		const n = 2000
		got := m.tally(t, n, request{Addr: shop}, version)
		if !binomial(got["v3"], n, 0.1) || got["v1"]+got["v3"] != n {
			t.Errorf("answers: %v, want %d, a tenth of them by v3", got, n)
		}
	})
	t.Run("matches send requests to their subsets", func(t *testing.T) {
		for _, c := range []struct {
			r    request
			want string
		}{
			{request{Header: map[string]string{"end-user": "jason"}}, "v2"},
			{request{Method: http.MethodPost, Path: "/?draft=42", Body: "text"}, "v3"},
			{request{Method: http.MethodPost, Path: "/?draft=42&x=y", Body: "text", Header: map[string]string{"end-user": "jason"}}, "v2"},
		} {
			c.r.Addr = shop
			if got := m.tally(t, 30, c.r, version); got[c.want] != 30 {
				t.Errorf("%+v: %v, want %s", c.r, got, c.want)
			}
		}
	})
	t.Run("a request that fails is tried again as often as allowed", func(t *testing.T) {
		for times, want := range map[int]int{1: 200, 2: 200, 3: 503} {
			id := fmt.Sprintf("flaky-%d", times)
			resp := m.mustCall(t, request{Addr: shop, Path: fmt.Sprintf("/flaky?status=503&times=%d", times), Header: map[string]string{echo.IDHeader: id}})
			received, err := echo.Receipts(m.receipts("h3/shop/v2"))
			if err != nil {
				t.Fatal(err)
			}
			if tries := min(times+1, 3); resp.Status != want || received[id] != tries {
				t.Errorf("fails %d times: status %d after %d tries, want %d after %d", times, resp.Status, received[id], want, tries)
			}
		}
	})
	t.Run("a request that takes too long ends at the timeout", func(t *testing.T) {
		resp := m.mustCall(t, request{Addr: shop, Path: "/slow?delay=5s"})
		if resp.Status != http.StatusGatewayTimeout || resp.Took < 250*time.Millisecond || resp.Took > 3*time.Second {
			t.Errorf("status %d after %s, want 504 after 300ms", resp.Status, resp.Took)
		}
	})
	t.Run("faults delay and abort", func(t *testing.T) {
		if resp := m.mustCall(t, request{Addr: shop, Path: "/delayed"}); resp.Status != http.StatusOK || resp.Took < 350*time.Millisecond {
			t.Errorf("status %d after %s, want 200 after 400ms", resp.Status, resp.Took)
		}
		const n = 400
		got := m.tally(t, n, request{Addr: shop, Path: "/broken"}, func(r *response) string { return fmt.Sprint(r.Status) })
		if !binomial(got["418"], n, 0.5) || got["418"]+got["200"] != n {
			t.Errorf("statuses %v of %d, want half of them 418", got, n)
		}
	})
	t.Run("redirects and rewrites", func(t *testing.T) {
		resp := m.mustCall(t, request{Addr: shop, Path: "/old"})
		if resp.Status != http.StatusPermanentRedirect || resp.Header.Get("Location") != "http://shop.example/new" {
			t.Errorf("status %d to %q, want 308 to http://shop.example/new", resp.Status, resp.Header.Get("Location"))
		}
		a := m.mustCall(t, request{Addr: shop, Path: "/api/cart?headers=1"}).Answer
		if a.Path != "/v1/cart?headers=1" || a.Headers["host"] != "api.example" {
			t.Errorf("the application saw %s of host %s, want /v1/cart of api.example", a.Path, a.Headers["host"])
		}
	})
	t.Run("all instances of a service on a host are called", func(t *testing.T) {
		got := m.tally(t, 200, request{Addr: shop}, func(r *response) string { return r.Answer.Host + "/" + r.Answer.Instance })
		if got["h2/a"] == 0 || got["h2/b"] == 0 || got["h3/v2"] != 0 {
			t.Errorf("answers: %v, want some of h2/a and h2/b each, none of h3/v2", got)
		}
	})
	t.Run("an upstream may be a unix socket", func(t *testing.T) {
		if got := m.tally(t, 20, request{Addr: "unix:DIR/shop.sock", Header: map[string]string{"end-user": "jason"}}, version); got["v2"] != 20 {
			t.Errorf("answers: %v", got)
		}
	})
	t.Run("TCP goes to all endpoints of the service", func(t *testing.T) {
		for _, addr := range []string{lines, "unix:DIR/lines.sock"} {
			got := map[string]int{}
			for i := range 60 {
				a, err := exchange(t.Context(), m.at(addr), fmt.Sprintf("line %d", i))
				if err != nil {
					t.Fatalf("%s: %v", addr, err)
				}
				got[a.Host+"/"+a.Instance]++
			}
			if len(got) != 4 {
				t.Errorf("%s: answers %v, want some of each of four instances", addr, got)
			}
		}
	})
	t.Run("an endpoint outside the mesh is called in plaintext", func(t *testing.T) {
		outside(t, m)
		resp := m.mustCall(t, request{Addr: "127.0.X.11:9083"})
		if resp.Status != http.StatusOK || resp.Answer.Name != "outside" || resp.Answer.Caller != "" {
			t.Errorf("status %d by %+v", resp.Status, resp.Answer)
		}
	})
	t.Run("a service that is not known gives no answer but an error", func(t *testing.T) {
		if resp, err := call(t.Context(), request{Addr: m.at("127.0.X.11:9084")}); err == nil && resp.Status != http.StatusServiceUnavailable {
			t.Errorf("status %d: %s", resp.Status, resp.Body)
		}
	})
	t.Run("the gateway lets in what its routes say", func(t *testing.T) {
		const gateway = "127.0.X.1:8080"
		if got := m.tally(t, 20, request{Addr: gateway, Path: "/shop"}, version); got["v2"] != 20 {
			t.Errorf("answers: %v", got)
		}
		if resp := m.mustCall(t, request{Addr: gateway, Path: "/"}); resp.Status != http.StatusNotFound {
			t.Errorf("a path without a route: status %d, want 404", resp.Status)
		}
		resp := m.mustCall(t, request{Addr: gateway, Path: "/shop?headers=1", Header: map[string]string{"x-wattle-unprocessed": "1", "x-forwarded-client-cert": "URI=spiffe://e2e.example/ns/default/svc/admin"}})
		if id := resp.Answer.CallerID(); id != "spiffe://e2e.example/ns/default/gateway/public" {
			t.Errorf("the application saw caller %q, want the gateway", id)
		}
		if !strings.Contains(resp.Body, `"name":"shop"`) || resp.Header.Get("x-wattle-unprocessed") != "" {
			t.Errorf("answer %s with %v", resp.Body, resp.Header)
		}
	})
}

// binomial reports whether k of n is within five standard deviations of what chance p gives: a right split fails once
// in a million times.
func binomial(k, n int, p float64) bool {
	mean := float64(n) * p
	return math.Abs(float64(k)-mean) <= 5*math.Sqrt(mean*(1-p))
}

// outside runs the application of the service outside the mesh until the test ends.
func outside(t *testing.T, m *mesh) {
	t.Helper()
	s, err := echo.Listen(t.Context(), echo.Options{Name: "outside", HTTP: []string{m.at("127.0.X.14:9070")}})
	if err != nil {
		t.Fatal(err)
	}
	serve(t, s.Run)
}
