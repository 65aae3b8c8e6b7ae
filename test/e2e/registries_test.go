package e2e

import (
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/wattle-mesh/wattle/test/load/echo"
)

// twoRegistries is a mesh of one caller, and a service outside the mesh that two registries know.
const twoRegistries = `
-- mesh.hcl --
mesh { trust_domain = "e2e.example" }
-- hosts.hcl --
host "h1" {
  address = "127.0.X.11"

  service "web" {
    port  = 9000
    local = "127.0.X.11:9000"
    upstream "shop" { bind = "127.0.X.11:9081" }
  }
}
-- server.hcl --
registry "static" "old" {
  path     = "DIR/registry/old"
  priority = 10
}

registry "static" "new" {
  path     = "DIR/registry/new"
  priority = 20
  failover = FAILOVER
}
-- registry/old/shop.hcl --
service "shop" {
  port = 9080
  endpoint { address = "127.0.X.21" }
  endpoint { address = "127.0.X.22" }
  endpoint { address = "127.0.X.23" }
}
-- registry/new/shop.hcl --
service "shop" {
  port = 9080
  endpoint { address = "127.0.X.31" }
}
`

// startShops runs the applications of both registries until the test ends; their version is the registry.
func startShops(t *testing.T, m *mesh) {
	t.Helper()
	for last, registry := range map[int]string{21: "old", 22: "old", 23: "old", 31: "new"} {
		s, err := echo.Listen(t.Context(), echo.Options{Name: "shop", Version: registry, HTTP: []string{m.at(fmt.Sprintf("127.0.X.%d:9080", last))}})
		if err != nil {
			t.Fatal(err)
		}
		serve(t, s.Run)
	}
}

// TestCallsMoveFromOneRegistryToAnother shares the calls 90/10 though the registries have three endpoints and one, then
// moves all of them.
func TestCallsMoveFromOneRegistryToAnother(t *testing.T) {
	t.Parallel()
	m := newMesh(t, strings.ReplaceAll(twoRegistries, "FAILOVER", "false"))
	startShops(t, m)
	r := request{Addr: "127.0.X.11:9081"}
	m.reached(t, r)
	m.change("shares.hcl", "service_defaults \"shop\" {\n  registries = { old = 90, new = 10 }\n}\n")
	const n = 2000
	if got := m.tally(t, n, r, version); got["old"]+got["new"] != n || !binomial(got["new"], n, 0.1) {
		t.Errorf("with 90 and 10: %v", got)
	}
	m.change("shares.hcl", "service_defaults \"shop\" {\n  registries = { old = 0, new = 10 }\n}\n")
	if got := m.tally(t, 200, r, version); got["new"] != 200 {
		t.Errorf("with 0 and 10: %v", got)
	}
}

// TestARegistryStandsInForAnother takes the endpoints of the first registry away and brings them back.
func TestARegistryStandsInForAnother(t *testing.T) {
	t.Parallel()
	m := newMesh(t, strings.ReplaceAll(twoRegistries, "FAILOVER", "true"))
	startShops(t, m)
	r := request{Addr: "127.0.X.11:9081"}
	m.reached(t, r)
	all := func(registry string) func() error {
		return func() error {
			if got := m.tally(t, 50, r, version); got[registry] != 50 {
				return fmt.Errorf("calls go to %v", got)
			}
			return nil
		}
	}
	eventually(t, "all calls to go to the old registry", all("old"))
	if got := m.tally(t, 500, r, version); got["old"] != 500 {
		t.Errorf("while both are there: %v", got)
	}
	file := m.path("registry", "old", "shop.hcl")
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	eventually(t, "all calls to go to the new registry", all("new"))
	m.writeRegistry("old/shop.hcl", string(text))
	eventually(t, "all calls to be back", all("old"))
}

// movedIn is a mesh in which instances of shop are registered with agents under other names, while a registry still
// names them shop: two of them under the name that shop may have, and one under another.
const movedIn = `
-- mesh.hcl --
mesh { trust_domain = "e2e.example" }
-- h1.hcl --
host "h1" {
  address = "127.0.X.11"

  service "web" {
    port  = 9000
    local = "127.0.X.11:9000"
    upstream "shop" { bind = "127.0.X.11:9081" }
  }
}
-- hosts.hcl --
host "h2" {
  address = "127.0.X.12"

  service "shop-new" {
    port    = 8080
    local   = "127.0.X.12:9080"
    meta    = { version = "h2" }
    command = ["echo"]
    check "http" { interval = "200ms" }
  }
}

host "h3" {
  address = "127.0.X.13"

  service "shop-new" {
    port    = 8080
    local   = "127.0.X.13:9080"
    meta    = { version = "h3" }
    command = ["echo"]
    check "http" { interval = "200ms" }
  }
}

host "h4" {
  address = "127.0.X.14"

  service "shop-spare" {
    port    = 8080
    local   = "127.0.X.14:9080"
    meta    = { version = "h4" }
    command = ["echo"]
    check "http" { interval = "200ms" }
  }
}
-- server.hcl --
registry "static" "old" { path = "DIR/registry/old" }
-- registry/old/shop.hcl --
service "shop" {
  port = 9080
  endpoint { address = "127.0.X.12" }
  endpoint { address = "127.0.X.13" }
  endpoint { address = "127.0.X.14" }
}
`

// TestAnEndpointMayHaveTheIdentityOfAnotherService calls instances of shop that have joined the mesh under another
// name: never in plaintext, not at all until service_defaults admit that identity, then over mTLS as themselves.
func TestAnEndpointMayHaveTheIdentityOfAnotherService(t *testing.T) {
	t.Parallel()
	m := newMesh(t, movedIn)
	r := request{Addr: "127.0.X.11:9081"}
	if resp := m.mustCall(t, r); resp.Status != http.StatusServiceUnavailable {
		t.Errorf("before: status %d from %+v", resp.Status, resp.Answer)
	}
	m.change("shop.hcl", "service_defaults \"shop\" {\n  identities = [\"shop-new\"]\n}\n")
	resp := m.reached(t, r)
	if got := resp.Answer.CallerID(); got != trustDomain+"/ns/default/svc/web" {
		t.Errorf("the caller is %q", got)
	}
	if got := m.tally(t, 200, r, version); got["h2"]+got["h3"] != 200 || got["h2"] < 50 || got["h3"] < 50 {
		t.Errorf("calls go to %v", got)
	}
	m.apps["h2/shop-new"].kill(t)
	eventually(t, "the agent's word to count", func() error {
		if got := m.tally(t, 50, r, version); got["h3"] != 50 {
			return fmt.Errorf("calls go to %v", got)
		}
		return nil
	})
	m.change("shop.hcl", "")
	eventually(t, "the endpoints to be left out again", func() error {
		if resp := m.mustCall(t, r); resp.Status != http.StatusServiceUnavailable {
			return fmt.Errorf("status %d from %+v", resp.Status, resp.Answer)
		}
		return nil
	})
}

// TestTheServerChecksEndpointsWithoutAnAgent leaves out what does not listen, though its registry names it, until it does.
func TestTheServerChecksEndpointsWithoutAnAgent(t *testing.T) {
	t.Parallel()
	m := newMesh(t, strings.ReplaceAll(twoRegistries, "FAILOVER", "false"))
	shop := func(last int, version string) {
		s, err := echo.Listen(t.Context(), echo.Options{Name: "shop", Version: version, HTTP: []string{m.at(fmt.Sprintf("127.0.X.%d:9080", last))}})
		if err != nil {
			t.Fatal(err)
		}
		serve(t, s.Run)
	}
	shop(21, "one")
	shop(31, "two") // 22 and 23 are named, and nothing is there
	m.change("checks.hcl", "service_defaults \"shop\" {\n  check \"tcp\" { interval = \"200ms\" }\n}\n")
	m.isUnhealthy(t, "127.0.X.22")
	m.isUnhealthy(t, "127.0.X.23")
	r := request{Addr: "127.0.X.11:9081"}
	m.reached(t, r)
	eventually(t, "calls to go to those that listen alone", func() error {
		if got := m.tally(t, 100, r, version); got["one"]+got["two"] != 100 {
			return fmt.Errorf("calls go to %v", got)
		}
		return nil
	})
	if out := m.wattle("catalog", "describe", "shop", "-addr", m.at("127.0.X.1:7500")); !strings.Contains(out, "check says unhealthy: tcp check of "+m.at("127.0.X.22:9080")) {
		t.Errorf("describe says\n%s", out)
	}
	shop(22, "three")
	eventually(t, "the one that came to be called", func() error {
		if got := m.tally(t, 100, r, version); got["three"] == 0 {
			return fmt.Errorf("calls go to %v", got)
		}
		return nil
	})
}
