package e2e

import (
	"fmt"
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
