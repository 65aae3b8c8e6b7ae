package datapath

import (
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
)

// edge has a gateway, on h1, lead to an application in the mesh, to one outside, and to one that is down in the mesh.
const edge = `
-- mesh.hcl --
mesh { trust_domain = "path.example" }
-- hosts.hcl --
host "h1" { address = "127.0.X.11" }
host "h2" {
  address = "127.0.X.12"
  service "shop" {
    port  = 9080
    local = "127.0.X.12:9080"
  }
  service "down" {
    port  = 9090
    local = "127.0.X.12:9090"
  }
}
service "down" {
  port = 9090
  endpoint { address = "127.0.X.13" }
}
service "legacy" {
  port = 9080
  endpoint { address = "127.0.X.13" }
}
gateway "public" {
  run_on = ["h1"]
  server "http" {
    bind = "127.0.X.1"
    port = 8080
  }
}
virtual_service "front" {
  hosts    = ["*"]
  gateways = ["public"]
  http "legacy" {
    match { uri = { prefix = "/legacy" } }
    route { host = "legacy" }
  }
  http "down" {
    match { uri = { prefix = "/down" } }
    route { host = "down" }
  }
  http "shop" {
    route { host = "shop" }
  }
}
`

func TestGateway(t *testing.T) {
	p := newPath(t, edge)
	gateway := p.at("127.0.X.1:8080")
	apps := map[string]*app{
		"/":       startApp(t, "shop", p.at("127.0.X.12:9080")),
		"/legacy": startApp(t, "legacy", p.at("127.0.X.13:9080")),
	}
	for path, a := range apps {
		t.Run("what a client outside says to Envoy and of callers does not reach "+a.name, func(t *testing.T) {
			for header, passes := range fromOutside {
				got := mustCall(t, gateway, request(t, "GET", path, header+": 12345"))
				seen := a.requests()
				if got.StatusCode != http.StatusOK || len(seen) != 1 {
					t.Errorf("%s: status %d, the request came %d times", header, got.StatusCode, len(seen))
				} else if v := seen[0].Header.Get(header); (v == "12345") != passes {
					t.Errorf("%s: the application saw %q", header, v)
				}
			}
		})
		t.Run("a client outside does not see what "+a.name+" says to Envoy", func(t *testing.T) {
			for header, passes := range fromInside {
				got := mustCall(t, gateway, request(t, "GET", path+"?header="+url.QueryEscape(header+": 12345")))
				if v := got.Header.Get(header); got.StatusCode != http.StatusOK || (v == "12345") != passes || !passes && v != "" {
					t.Errorf("%s: status %d, the client saw %q", header, got.StatusCode, v)
				}
			}
		})
	}
	t.Run("a header that an application may mistake for another is refused", func(t *testing.T) {
		if got := mustCall(t, gateway, request(t, "GET", "/", "x_forwarded_client_cert: 1")); got.StatusCode != http.StatusBadRequest {
			t.Errorf("status %d, want 400", got.StatusCode)
		}
	})
	t.Run("a long body that no application in the mesh saw is tried elsewhere", func(t *testing.T) {
		startApp(t, "down", p.at("127.0.X.13:9090"))
		for i := range 30 {
			r := request(t, "POST", "/down")
			body := strings.Repeat("x", 500_000)
			r.Body, r.ContentLength = io.NopCloser(strings.NewReader(body)), int64(len(body))
			if got := mustCall(t, gateway, r); got.StatusCode != http.StatusOK || got.body != "down" {
				t.Fatalf("request %d: status %d by %q", i, got.StatusCode, got.body)
			}
		}
	})
	t.Run("connections are upgraded", func(t *testing.T) { upgrade(t, gateway) })
}

// fromOutside is whether a request header passes a gateway. Of those that do not, Envoy sets some by its own knowledge.
var fromOutside = map[string]bool{
	"x-forwarded-client-cert":                  false,
	"x-wattle-anything":                        false,
	"x-wattle-unprocessed":                     false,
	"x-envoy-attempt-count":                    false,
	"x-envoy-decorator-operation":              false,
	"x-envoy-expected-rq-timeout-ms":           false,
	"x-envoy-external-address":                 false,
	"x-envoy-force-trace":                      false,
	"x-envoy-hedge-on-per-try-timeout":         false,
	"x-envoy-internal":                         false,
	"x-envoy-ip-tags":                          false,
	"x-envoy-is-timeout-retry":                 false,
	"x-envoy-max-retries":                      false,
	"x-envoy-original-host":                    false,
	"x-envoy-original-path":                    false,
	"x-envoy-peer-metadata":                    false,
	"x-envoy-peer-metadata-id":                 false,
	"x-envoy-retriable-header-names":           false,
	"x-envoy-retriable-status-codes":           false,
	"x-envoy-retry-grpc-on":                    false,
	"x-envoy-retry-on":                         false,
	"x-envoy-upstream-alt-stat-name":           false,
	"x-envoy-upstream-rq-per-try-timeout-ms":   false,
	"x-envoy-upstream-rq-timeout-alt-response": false,
	"x-envoy-upstream-rq-timeout-ms":           false,
	"x-envoy-upstream-stream-duration-ms":      false,
	"x-wattle":                                 true,
	"x-envoy":                                  true,
	"x-user":                                   true,
	"authorization":                            true,
	"cookie":                                   true,
}

// fromInside is whether a response header passes a gateway.
var fromInside = map[string]bool{
	"x-wattle-anything":             false,
	"x-wattle-unprocessed":          false,
	"x-envoy-attempt-count":         false,
	"x-envoy-decorator-operation":   false,
	"x-envoy-degraded":              false,
	"x-envoy-overloaded":            false,
	"x-envoy-ratelimited":           false,
	"x-envoy-upstream-service-time": false,
	"x-user":                        true,
	"set-cookie":                    true,
	"server":                        true,
}
