package e2e

import (
	"fmt"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/wattle-mesh/wattle/test/load"
)

// departing is a mesh whose web calls shop, at an upstream that the test calls in its place.
const departing = `
mesh { trust_domain = "e2e.example" }

host "h1" {
  address = "127.0.X.11"
  service "web" {
    port = 9000
    upstream "shop" { bind = "127.0.X.11:9081" }
  }
}
`

// shops is a host that runs an instance of shop for each name.
func shops(n int, names ...string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "host \"h%d\" {\n  address = \"127.0.X.1%[1]d\"\n", n)
	for i, name := range names {
		at := fmt.Sprintf("127.0.X.1%d:908%d", n, i)
		fmt.Fprintf(&b, `
  service "shop" {
    instance = %q
    port     = 9080
    local    = %q
    command  = [%q, "-name", "shop", "-host", "h%d-%[1]s", "-http", %[2]q]
    check "http" {
      path     = "/healthz"
      interval = "250ms"
    }
  }
`, name, at, filepath.Join(suite.bin, "app"), n)
	}
	return b.String() + "}\n"
}

// TestDevLosesNoRequestToADeparture removes a host and then one service of a host under load, of which a part is slow:
// what they run goes on until everybody has left, and then it is gone. Coming back works at any time.
func TestDevLosesNoRequestToADeparture(t *testing.T) {
	t.Parallel()
	m := prepareDev(t)
	m.write("mesh.hcl", departing)
	m.write("h2.hcl", shops(2, "a", "b"))
	m.write("h3.hcl", shops(3, "a"))
	m.server.start(t)
	m.says(t, `ready in`)
	fast, slow := m.steady(t, 100, "20ms"), m.steady(t, 10, "3s")
	defer fast.load.Stop()
	defer slow.load.Stop()
	slow.answered(t, "h3-a", 1) // from now on some are always under way

	before := m.children(t)
	m.write("h3.hcl", "")
	m.leaves(t, "shop.a@h3")
	m.leaves(t, "agent h3")
	fast.silent(t, "h3-a", 100)
	m.write("h2.hcl", shops(2, "a"))
	m.leaves(t, "shop.b@h2")
	fast.silent(t, "h2-b", 100)
	after := m.children(t)
	for argv, pid := range before {
		gone := strings.Contains(argv, "h3") || strings.Contains(argv, "h2-b")
		if now := after[argv]; gone && now != 0 || !gone && now != pid {
			t.Errorf("%s: was process %d, is %d", argv, pid, now)
		}
	}

	m.write("h3.hcl", shops(3, "a"))
	slow.answered(t, "h3-a", 3)
	m.returns(t)
	slow.answered(t, "h3-a", 3)
	for _, tr := range []*trial{fast, slow} {
		report := tr.load.Stop()
		t.Logf("%s", report)
		noneFailed(t, report)
	}

	conn, err := connect(t.Context(), m.at("127.0.X.12:9080"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	m.write("h2.hcl", "")
	m.says(t, `shop.a@h2 +\| is not in the policy any more, it goes on until nobody uses it`)
	began := time.Now()
	m.signal(t, syscall.SIGINT)
	<-m.server.done
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("dev ended %s after SIGINT", took)
	}
	m.devLeftNothing(t)
}

// steady starts a load of web's on shop, in requests that take so long.
func (m *mesh) steady(t *testing.T, rate float64, delay string) *trial {
	t.Helper()
	target := load.Target{Kind: load.Get, Addr: m.at("127.0.X.11:9081"), Path: "/?delay=" + delay}
	m.reached(t, request{Addr: target.Addr})
	l, err := load.Start(t.Context(), load.Options{Targets: []load.Target{target}, Rate: rate, Timeout: readyLimit})
	if err != nil {
		t.Fatal(err)
	}
	return &trial{mesh: m, t: t, load: l}
}

// leaves waits until a process that the policy does not name any more has ended because nobody used it.
func (m *mesh) leaves(t *testing.T, name string) {
	t.Helper()
	m.says(t, name+` +\| is not in the policy any more, it goes on until nobody uses it`)
	m.says(t, name+` +\| has ended: nobody used it any more`)
}

// returns removes h3 and restores it while somebody is connected to its application, which is the same then.
func (m *mesh) returns(t *testing.T) {
	t.Helper()
	app := func() (pid int) {
		for argv, p := range m.children(t) {
			if strings.Contains(argv, "h3-a") {
				pid = p
			}
		}
		return pid
	}
	before := app()
	conn, err := connect(t.Context(), m.at("127.0.X.13:9080"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	m.write("h3.hcl", "")
	m.says(t, `(?s)(shop.a@h3 +\| is not in the policy any more, .*){2}`)
	m.write("h3.hcl", shops(3, "a"))
	m.says(t, `shop.a@h3 +\| is in the policy again, it goes on`)
	if after := app(); before == 0 || after != before {
		t.Errorf("the application was process %d, is %d", before, after)
	}
}
