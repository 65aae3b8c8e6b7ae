package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/wattle-mesh/wattle/test/load/echo"
)

// partly is a mesh with a service of which a registry knows more than the mesh.
const partly = `
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

host "h2" {
  address = "127.0.X.12"

  service "shop" {
    port    = 9080
    local   = "127.0.X.12:9080"
    meta    = { version = "inside" }
    command = ["echo"]
    check "http" { interval = "200ms" }
  }
}
-- server.hcl --
registry "static" "old" { path = "DIR/registry/old" }
-- registry/old/shop.hcl --
WHAT OLD KNOWS
-- registry/old/alias.hcl --
service "alias" {
  port = 9080
  endpoint { address = "127.0.X.12" }
}
`

// known is what the registry says of shop, with the weight of what is outside the mesh.
func known(weight int) string {
	return fmt.Sprintf(`service "shop" {
  port = 9080
  endpoint { address = "127.0.X.12" }
  endpoint {
    address = "127.0.X.12"
    port    = 9999
    health  = "draining"
    reason  = "it moves"
  }
  endpoint {
    address = "127.0.X.21"
    weight  = %d
  }
}
`, weight)
}

// described is what wattle catalog describe -json says.
type described struct {
	Sources, Proxies []string
	Endpoints        []struct {
		Address, Health, Reason, Path, At, Why, Code, Idle string
		Port                                               int
		Sources                                            []string
		Taken                                              bool
		Words                                              []struct{ Voice, Source, Health, Reason string }
	}
}

func (m *mesh) describe(t *testing.T, service string) described {
	t.Helper()
	var d described
	if err := json.Unmarshal([]byte(m.wattle("catalog", "describe", "-json", service)), &d); err != nil {
		t.Fatal(err)
	}
	return d
}

// shown writes the endpoints of a description, a line for each.
func (d described) shown() string {
	var out []string
	for _, e := range d.Endpoints {
		out = append(out, fmt.Sprintf("%s:%d of %s is %s, %s at %s: %s; taken %t", e.Address, e.Port, strings.Join(e.Sources, "+"), e.Health, e.Path, e.At, e.Why, e.Taken))
	}
	return strings.Join(out, "\n")
}

// TestTheCatalogSaysHowEndpointsAreCalled holds what describe says against real calls, and watches an application die.
func TestTheCatalogSaysHowEndpointsAreCalled(t *testing.T) {
	t.Parallel()
	m := newMesh(t, strings.ReplaceAll(partly, "WHAT OLD KNOWS\n", known(1)))
	s, err := echo.Listen(t.Context(), echo.Options{Name: "shop", Version: "outside", HTTP: []string{m.at("127.0.X.21:9080")}})
	if err != nil {
		t.Fatal(err)
	}
	serve(t, s.Run)

	want := m.at(`127.0.X.12:9080 of policy+old is healthy, mesh at 127.0.X.12:7443: h2 runs shop there, at its verified address; taken true
127.0.X.12:9999 of old is draining, plaintext at 127.0.X.12:9999: port 9999 is no registered workload of h2; taken false
127.0.X.21:9080 of old is healthy, plaintext at 127.0.X.21:9080: no host of the mesh has this address; taken true`)
	eventually(t, "the catalog to say what is called how", func() error {
		d := m.describe(t, "shop")
		if got := d.shown(); got != want || !slices.Equal(d.Proxies, []string{"h1/host"}) {
			return fmt.Errorf("used by %q\n%s", d.Proxies, got)
		}
		return nil
	})
	r := request{Addr: "127.0.X.11:9081"}
	m.reached(t, r)
	callers := m.tally(t, 100, r, func(resp *response) string { return version(resp) + " " + resp.Answer.CallerID() })
	if len(callers) != 2 || callers["inside "+trustDomain+"/ns/default/svc/web"] == 0 || callers["outside "] == 0 {
		t.Errorf("those who were called saw the callers %v", callers)
	}
	if d := m.describe(t, "alias"); d.Endpoints[0].Path != "left out" || d.Endpoints[0].Code != "W2014" || d.Endpoints[0].Taken || len(d.Proxies) > 0 {
		t.Errorf("a workload of another identity: %+v", d)
	}
	if out := m.wattle("catalog", "list", "sh"); !strings.Contains(out, "default/shop  9080/http  policy:1,old:3  2/3      1     2          0         0     1") {
		t.Errorf("list:\n%s", out)
	}

	watch := m.process("watch", filepath.Join(suite.bin, "wattle"), "catalog", "describe", "shop", "-watch", "-addr", m.at("127.0.X.1:7500"))
	watch.start(t)
	saw := func(what, line string, again func(attempt int)) {
		t.Helper()
		attempt := 0
		eventually(t, "the watch to see "+what, func() error {
			attempt++
			again(attempt)
			text, err := os.ReadFile(watch.log)
			if err == nil && !strings.Contains(string(text), m.at(line)) {
				err = fmt.Errorf("it saw\n%s", text)
			}
			return m.alive(err, watch)
		})
	}
	saw("a weight", "default/shop  127.0.X.21:9080  weight: ", func(attempt int) { m.writeRegistry("old/shop.hcl", known(1+attempt%5)) })
	m.apps["h2/shop"].kill(t)
	saw("an application die", "default/shop  127.0.X.12:9080  health: healthy -> unhealthy (", func(int) {})
	d := m.describe(t, "shop")
	if e := d.Endpoints[0]; e.Taken || len(e.Words) == 0 || e.Words[len(e.Words)-1].Voice != "agent" || e.Words[len(e.Words)-1].Health != "unhealthy" || e.Reason == "" {
		t.Errorf("%+v", e)
	}

	// A server that ends and comes back is no end of the watch.
	if err := m.server.stop(); err != nil {
		t.Fatal(err)
	}
	m.server.start(t)
	saw("the server come back", "wattle: connected again", func(int) {})
	m.writeRegistry("old/shop.hcl", strings.Replace(known(1), "127.0.X.21", "127.0.X.22", 1))
	saw("an endpoint go", "default/shop  127.0.X.21:9080  removed", func(int) {})
	if err := watch.cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	<-watch.done
	if watch.err != nil {
		t.Errorf("the watch ended with %v", watch.err)
	}
}
