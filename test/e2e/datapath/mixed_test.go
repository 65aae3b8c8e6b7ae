package datapath

import (
	"net/http"
	"testing"
)

// mixed has web, on h1, call services whose endpoints are in the mesh, outside it, and both.
const mixed = `
-- mesh.hcl --
mesh { trust_domain = "path.example" }
-- hosts.hcl --
host "h1" {
  address = "127.0.X.11"
  service "web" {
    port = 8000
    upstream "legacy" { bind = "127.0.X.11:9081" }
    upstream "shop" { bind = "127.0.X.11:9082" }
    upstream "rpc" { bind = "127.0.X.11:9083" }
  }
}
host "h2" {
  address = "127.0.X.12"
  service "shop" {
    port  = 9080
    local = "127.0.X.12:9080"
  }
  service "rpc" {
    port     = 9090
    protocol = "grpc"
    local    = "127.0.X.12:9090"
  }
}
service "legacy" {
  port = 9080
  endpoint { address = "127.0.X.13" }
  endpoint { address = "127.0.X.14" }
}
service "shop" {
  port = 9080
  endpoint { address = "127.0.X.13" }
}
service "rpc" {
  port     = 9090
  protocol = "grpc"
  endpoint { address = "127.0.X.13" }
}
`

// TestOutsideTheMesh calls endpoints in plaintext, beside others of the same service in the mesh.
func TestOutsideTheMesh(t *testing.T) {
	p := newPath(t, mixed)
	outside := startApp(t, "outside", p.at("127.0.X.13:9080"))
	other := startApp(t, "other", p.at("127.0.X.14:9080"))
	startApp(t, "rpc", p.at("127.0.X.13:9090"))

	t.Run("an endpoint outside cannot have a request sent elsewhere", func(t *testing.T) {
		for _, query := range []string{"unprocessed=1", "unprocessed=true", "unprocessed=1,true", "unprocessed=true,true", "unprocessed=true&status=200", "unprocessed=true&status=503"} {
			got := mustCall(t, p.at("127.0.X.11:9081"), request(t, "POST", "/?"+query))
			if got.Header.Get("x-wattle-unprocessed") != "" || got.Header.Get("x-envoy-attempt-count") != "1" {
				t.Errorf("%s: status %d with %v", query, got.StatusCode, got.Header)
			}
			if n := len(outside.requests()) + len(other.requests()); n != 1 {
				t.Errorf("%s: the request came %d times", query, n)
			}
		}
	})
	t.Run("a request that no application in the mesh saw is tried outside", func(t *testing.T) {
		tried := 0
		for i := range 40 {
			got := mustCall(t, p.at("127.0.X.11:9082"), request(t, "POST", "/"))
			if got.StatusCode != http.StatusOK || got.body != "outside" || got.Header.Get("x-wattle-unprocessed") != "" {
				t.Fatalf("request %d: status %d by %q with %v", i, got.StatusCode, got.body, got.Header)
			}
			if got.Header.Get("x-envoy-attempt-count") != "1" {
				tried++
			}
		}
		if tried == 0 {
			t.Error("the endpoint in the mesh was never picked")
		}
	})
	t.Run("a gRPC call that no application in the mesh saw is tried outside", func(t *testing.T) {
		tried := 0
		for i := range 40 {
			got := mustCall(t, p.at("127.0.X.11:9083"), request(t, "POST", "/shop.Shop/Buy", "content-type: application/grpc", "te: trailers"))
			if got.StatusCode != http.StatusOK || got.body != "rpc" || got.Header.Get("x-wattle-unprocessed") != "" {
				t.Fatalf("call %d: status %d by %q with %v", i, got.StatusCode, got.body, got.Header)
			}
			if got.Header.Get("x-envoy-attempt-count") != "1" {
				tried++
			}
		}
		if tried == 0 {
			t.Error("the endpoint in the mesh was never picked")
		}
	})
	t.Run("an endpoint outside is not told who calls", func(t *testing.T) {
		outside.requests()
		mustCall(t, p.at("127.0.X.11:9082"), request(t, "GET", "/", "x-forwarded-client-cert: URI="+identity("admin")))
		if seen := outside.requests(); len(seen) != 1 || seen[0].Header.Get("x-forwarded-client-cert") != "" {
			t.Errorf("it saw %v", seen)
		}
	})
}
