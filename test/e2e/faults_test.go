package e2e

import (
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/wattle-mesh/wattle/test/load"
	"github.com/wattle-mesh/wattle/test/load/echo"
)

// faults is a mesh under the standard load: web calls shop, with default policy only. late has not called yet.
const faults = `
-- mesh.hcl --
mesh { trust_domain = "e2e.example" }
-- h1.hcl --
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
      port = 9085
      bind = "127.0.X.11:9082"
    }
    upstream "shop" {
      port = 9090
      bind = "127.0.X.11:9083"
    }
  }
  service "late" {
    port  = 9001
    local = "127.0.X.11:9001"
    upstream "shop" {
      port = 9080
      bind = "127.0.X.11:9091"
    }
    upstream "shop" {
      port = 9090
      bind = "127.0.X.11:9092"
    }
  }
}
-- h2.hcl --
` + shopHost + `
-- h3.hcl --
`

// shopHost is a host that runs shop. Its number is 2; another's text comes from (strings.Replacer) of shopOn.
const shopHost = `
host "h2" {
  address = "127.0.X.12"

  service "shop" {
    command = ["echo"]
    ports = {
      http  = { number = 9080, local = "127.0.X.12:9080" }
      rpc   = { number = 9085, local = "127.0.X.12:9085", protocol = "grpc" }
      lines = { number = 9090, local = "127.0.X.12:9090", protocol = "tcp" }
    }
    check "http" {
      path     = "/healthz"
      interval = "250ms"
    }
  }
}
`

// shopOn is shopHost for host hN.
func shopOn(n int) string {
	return strings.NewReplacer(`"h2"`, fmt.Sprintf(`"h%d"`, n), "127.0.X.12", fmt.Sprintf("127.0.X.1%d", n)).Replace(shopHost)
}

// side is how long the standard load runs on each side of a fault.
func side(t *testing.T) time.Duration {
	t.Helper()
	text := os.Getenv("WATTLE_E2E_SIDE") // for work on the tests; the claim is made for 30 s
	if text == "" {
		return 30 * time.Second
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// trial is a mesh, the load on it, and the faults so far.
type trial struct {
	*mesh
	t    *testing.T
	load *load.Load
	side time.Duration
}

// fault injects a fault under load and gives what became of the requests from before it until the load has gone on for side.
func (tr *trial) fault(name string, inject func(t *testing.T), judge func(*testing.T, *load.Report)) {
	tr.t.Helper()
	from := time.Now()
	tr.t.Run(name, func(t *testing.T) {
		inject(t)
		if err := tr.load.For(t.Context(), tr.side); err != nil {
			t.Fatal(err)
		}
		report := tr.load.Report().Window(from, time.Time{})
		t.Logf("%s:\n%s", name, report)
		judge(t, report)
	})
}

// noneFailed is the judge of faults that no caller may notice.
func noneFailed(t *testing.T, r *load.Report) {
	t.Helper()
	if all := r.All(); all.Failed > 0 {
		t.Errorf("%d of %d requests failed", all.Failed, all.Sent)
	}
}

// answered waits until a host has answered n requests that were sent from now on.
func (tr *trial) answered(t *testing.T, host string, n int) {
	t.Helper()
	from := time.Now()
	err := tr.load.Await(limited(t), func(r load.Result) bool {
		if r.Due.After(from) && r.Answer.Host == host {
			n--
		}
		return n <= 0
	})
	if err != nil {
		t.Fatalf("%s has not answered enough: %v", host, err)
	}
}

// silent waits until n requests in a row were answered by others than host.
func (tr *trial) silent(t *testing.T, host string, n int) {
	t.Helper()
	row := 0
	err := tr.load.Await(limited(t), func(r load.Result) bool {
		row++
		if r.Answer.Host == host {
			row = 0
		}
		return row >= n
	})
	if err != nil {
		t.Fatalf("%s goes on to answer: %v", host, err)
	}
}

// startTrial has web call shop in every way, so many times a second; zero: as often as the standard load does. The load ends with t.
func (m *mesh) startTrial(t *testing.T, rate float64, side time.Duration) *trial {
	t.Helper()
	return m.startTrialOf(t, rate, side, append(m.overHTTP("127.0.X.11:9081"),
		load.Target{Kind: load.GRPC, Addr: m.at("127.0.X.11:9082")}, load.Target{Kind: load.TCP, Addr: m.at("127.0.X.11:9083")})...)
}

// overHTTP are the ways to call what speaks HTTP.
func (m *mesh) overHTTP(addr string) []load.Target {
	return []load.Target{{Kind: load.Get, Addr: m.at(addr)}, {Kind: load.Post, Addr: m.at(addr)}, {Kind: load.H2, Addr: m.at(addr)}}
}

// startTrialOf is startTrial of other targets.
func (m *mesh) startTrialOf(t *testing.T, rate float64, side time.Duration, targets ...load.Target) *trial {
	t.Helper()
	l, err := load.Start(t.Context(), load.Options{Rate: rate, Targets: targets})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Stop() })
	return &trial{m, t, l, side}
}

// TestFaultsUnderLoad injects one fault after the other under the standard load; each has the load for 30 s before it and after it.
func TestFaultsUnderLoad(t *testing.T) {
	t.Parallel()
	m := newMesh(t, faults+shopOn(3), "h2")
	relay := m.relayed(t, "h2", "127.0.X.12", "shop", "")
	m.sync()
	m.reached(t, request{Addr: "127.0.X.11:9081"})
	tr := m.startTrial(t, 0, side(t))
	tr.fault("nothing", func(*testing.T) {}, noneFailed)
	tr.fault("a new instance takes traffic", func(t *testing.T) {
		m.change("h4.hcl", shopOn(4))
		tr.answered(t, "h4", 50)
	}, noneFailed)
	tr.fault("an instance takes another's place on its host", func(t *testing.T) {
		m.write("h4.hcl", strings.Replace(shopOn(4), `command = ["echo"]`, `instance = "b"`, 1)) // by the same application
		eventually(t, "another mesh port of h4", func() error { return dial(t.Context(), m.at("127.0.X.14:7444")) })
		tr.answered(t, "h4", 50)
	}, noneFailed)
	tr.fault("an instance that is removed gets no more requests", func(t *testing.T) {
		m.change("h4.hcl", m.at(`host "h4" { address = "127.0.X.14" }`))
		tr.silent(t, "h4", 400)
	}, noneFailed)
	tr.fault("an unhealthy instance leaves, and comes back", func(t *testing.T) {
		health := func(status int) {
			m.mustCall(t, request{Addr: "127.0.X.13:9080", Method: http.MethodPost, Path: fmt.Sprintf("/control/health?status=%d", status)})
		}
		health(http.StatusServiceUnavailable)
		tr.silent(t, "h3", 400)
		health(http.StatusOK)
		tr.answered(t, "h3", 50)
	}, noneFailed)
	tr.killApplication()
	tr.killServer(relay)
	tr.killAgents()
}

// killApplication kills one of two applications. Every HTTP request and gRPC call that it had not received is answered
// by the other. A TCP exchange cannot be tried again: its first bytes are on their way when the callee's proxy finds
// that the port refuses. So of these some are lost until the check has noticed, and none after that.
func (tr *trial) killApplication() {
	const key, spread = "h3/shop", 500 * time.Millisecond
	var noticed time.Time
	delivered := tr.delivered("h3")
	tr.fault("an application is killed", func(t *testing.T) {
		tr.apps[key].kill(t)
		tr.isUnhealthy(t, "127.0.X.13")
		noticed = time.Now().Add(spread)
		tr.silent(t, "h3", 400)
		tr.apps[key].start(t)
		tr.answered(t, "h3", 50)
	}, func(t *testing.T, r *load.Report) {
		received, err := echo.Receipts(tr.receipts(key))
		if err != nil {
			t.Fatal(err)
		}
		lost, failed := r.Without(received)
		exchanges := failed.Where(func(x load.Result) bool { return x.Kind == load.TCP })
		requests := failed.Where(func(x load.Result) bool { return x.Kind != load.TCP })
		unread := tr.delivered("h3") - delivered - len(lost.Results)
		t.Logf("lost: %d that the application had read, %d on their way to it; %d TCP exchanges before the check had noticed",
			len(lost.Results), max(unread, 0), len(exchanges.Results))
		if n := len(requests.Results); n > max(unread, 0) {
			t.Errorf("%d requests failed that the application never had:\n%s", n, requests)
		}
		noneFailed(t, exchanges.Window(noticed, time.Time{}))
	})
}

// delivered counts the requests of which a host's Envoy has logged that the application had them when it died.
func (tr *trial) delivered(host string) int {
	text, err := os.ReadFile(tr.agents[host].log)
	if err != nil {
		tr.t.Fatal(err)
	}
	n := 0
	for line := range strings.Lines(string(text)) {
		if strings.Contains(line, `"at":"in/`) && strings.Contains(line, `"flags":"UC`) {
			n++
		}
	}
	return n
}

// killServer kills the server and starts it again. Nobody notices, and nothing that the agents have is sent again.
func (tr *trial) killServer(r *relay) {
	tr.fault("the server is killed and started again", func(t *testing.T) {
		resources, streams := r.resources.Load(), r.streams.Load()
		tr.server.kill(t)
		if err := tr.load.For(t.Context(), tr.side/2); err != nil {
			t.Fatal(err)
		}
		tr.server.start(t)
		eventually(t, "the server to answer", func() error { _, err := tr.tryStatus(); return tr.alive(err, tr.server) })
		tr.sync()
		if r.streams.Load() == streams {
			t.Error("h2's agent has opened no stream to the new server")
		}
		if n := r.resources.Load() - resources; n > 0 {
			t.Errorf("%d resources were sent to h2 again", n)
		}
	}, noneFailed)
}

// killAgents kills the agents of the caller and of a callee. Traffic goes on, also that of a workload which has not called
// before: its certificate is in Envoy already. An agent that comes back finds its Envoy and keeps it.
func (tr *trial) killAgents() {
	tr.fault("agents are killed and started again", func(t *testing.T) {
		envoys := tr.envoys(t)
		for _, h := range []string{"h1", "h2"} {
			tr.agents[h].kill(t)
		}
		if err := tr.load.For(t.Context(), tr.side/2); err != nil {
			t.Fatal(err)
		}
		resp := tr.mustCall(t, request{Addr: "127.0.X.11:9091"})
		if id := resp.Answer.CallerID(); resp.Status != http.StatusOK || id != "spiffe://e2e.example/ns/default/svc/late" {
			t.Errorf("first call of late: status %d, caller %q: %s", resp.Status, id, resp.Body)
		}
		if _, err := exchange(t.Context(), tr.at("127.0.X.11:9092"), "first"); err != nil {
			t.Errorf("first exchange of late: %v", err)
		}
		for _, h := range []string{"h1", "h2"} {
			tr.agents[h].start(t)
		}
		tr.sync()
		if now := tr.envoys(t); now != envoys {
			t.Errorf("Envoys were %s, are %s", envoys, now)
		}
	}, noneFailed)
}
