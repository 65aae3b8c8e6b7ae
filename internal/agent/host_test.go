package agent

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/wattle-mesh/wattle/internal/api"
	"github.com/wattle-mesh/wattle/internal/api/apipb"
)

// twoServices is a host with two callers of one service each, all on it.
const twoServices = `
host "h1" {
  address = "ADDR"
  service "api" {
    port  = 9080
    local = "ADDR:9080"
  }
  service "web" {
    port  = 9070
    local = "ADDR:9070"
    upstream "api" { bind = "ADDR:10080" }
  }
  service "batch" {
    port  = 9060
    local = "ADDR:9060"
    upstream "web" { bind = "ADDR:10070" }
  }
}
`

func svc(name string) string { return "spiffe://" + trustDomain + "/ns/default/svc/" + name }

func TestAHostJoinsAndItsWorkloadsCallEachOtherAsThemselves(t *testing.T) {
	w := newWorld(t)
	w.listen()
	w.policy(twoServices)
	w.application("ADDR:9080")
	w.application("ADDR:9070")
	stop := w.join()

	if got := w.answers("ADDR:10080", 200); !strings.Contains(got, svc("web")) {
		t.Errorf("api was called by %q", got)
	}
	if got := w.answers("ADDR:10070", 200); !strings.Contains(got, svc("batch")) {
		t.Errorf("web was called by %q", got)
	}
	for _, name := range []string{"state/node.key", "state/node.pem", "run/host/xds.sock", "run/host/admin.sock"} {
		info, err := os.Stat(filepath.Join(w.dir, name))
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", name, info, err)
		}
	}
	w.wait("the server to know that h1/host has everything", func() error {
		for _, p := range w.xds.Proxies() {
			if p.ID == "h1/host" && p.Synced {
				return nil
			}
		}
		return fmt.Errorf("%+v", w.xds.Proxies())
	})

	// The server connects back, at the ports of the workloads.
	client := api.NewClient(api.ClientOptions{Address: "unix:" + filepath.Join(w.dir, "run", "agent.sock"), Agent: true})
	defer client.Close()
	reached, err := client.Reachable(t.Context())
	if err != nil || len(reached) == 0 || reached[0].Error != "" || reached[0].Port < 7443 {
		t.Errorf("%+v, %v", reached, err)
	}

	// Once joined, the token is never needed again.
	stop()
	w.start(nil)
	w.answers("ADDR:10080", 200)
}

func TestOneRefusedCertificateHoldsUpNoOtherWorkload(t *testing.T) {
	w := newWorld(t)
	w.listen()
	w.policy(twoServices)
	w.application("ADDR:9080")
	w.application("ADDR:9070")
	w.refuse(svc("api"), true)
	w.join()

	w.wait("the inbound listener", func() error {
		_, _, err := w.get("ADDR:10070")
		return err
	})
	began := time.Now()
	w.answers("ADDR:10070", 200) // batch calls web
	if took := time.Since(began); took > time.Second {
		t.Errorf("the other workload worked after %s", took)
	}
	if code, _, err := w.get("ADDR:10080"); err != nil || code != 503 {
		t.Errorf("api has no certificate, but a call gave %d, %v", code, err)
	}
	if log := w.log.String(); !strings.Contains(log, `"waiting for certificate" identity=`+svc("api")) {
		t.Error("the log does not say that api waits for its certificate")
	}
	w.wait("the report that api waits", func() error {
		for _, h := range w.lastReport().GetHealth() {
			if h.GetService() == "api" && !h.GetHealthy() && strings.HasPrefix(h.GetReason(), "waiting for certificate") {
				return nil
			}
		}
		return fmt.Errorf("%v", w.lastReport())
	})

	w.refuse(svc("api"), false)
	w.answers("ADDR:10080", 200)
	w.wait("the report that api waits no more", func() error {
		for _, h := range w.lastReport().GetHealth() {
			if !h.GetHealthy() {
				return fmt.Errorf("%v", h)
			}
		}
		return nil
	})
	if stats, err := w.admin("host", "/stats?filter=listener_manager.listener_in_place_updated"); err != nil || !strings.Contains(stats, ": 1") {
		t.Errorf("the chain was not added in place: %s, %v", stats, err)
	}
}

func TestAnAgentThatComesBackTakesNothingFromItsEnvoy(t *testing.T) {
	w := newWorld(t)
	w.listen()
	w.policy(twoServices)
	w.application("ADDR:9080")
	w.application("ADDR:9070")
	stop := w.join()
	w.answers("ADDR:10080", 200)
	before, stats := w.envoys(), w.counters()
	keys := w.signatures(svc("api"))

	stop() // Envoy lives on, and the server goes away
	w.stop()
	w.answers("ADDR:10080", 200)
	if got := w.answers("ADDR:10070", 200); !strings.Contains(got, svc("batch")) { // its first call
		t.Errorf("web was called by %q", got)
	}
	w.start(nil)
	w.wait("Envoy to have found the new agent", func() error {
		if s, err := w.admin("host", "/stats?filter=control_plane.connected_state"); err != nil || !strings.Contains(s, ": 1") {
			return fmt.Errorf("%s %v", s, err)
		}
		return nil
	})
	w.answers("ADDR:10080", 200)

	w.listen()
	w.policy(strings.Replace(twoServices, `upstream "web" { bind = "ADDR:10070" }`, `upstream "web" { bind = "ADDR:10071" }`, 1))
	w.answers("ADDR:10071", 200) // what is new arrives
	if after := w.envoys(); !slices.Equal(before, after) {
		t.Errorf("Envoys were %v, are %v", before, after)
	}
	if after := w.counters(); after != strings.Replace(stats, "listener_removed: 0", "listener_removed: 1", 1) {
		t.Errorf("more was changed than one listener replaced by another: before\n%s\nafter\n%s", stats, after)
	}
	if now := w.signatures(svc("api")); now != keys {
		t.Errorf("a certificate that was good was asked for again: %d signatures, %d before", now, keys)
	}
}

// counters returns what Envoy has removed and changed.
func (w *world) counters() string {
	w.t.Helper()
	text, err := w.admin("host", "/stats?filter=listener_removed|listener_modified|cluster_removed|cluster_modified|listener_in_place_updated")
	if err != nil {
		w.t.Fatal(err)
	}
	return text
}

// nack is what the server has heard of a refusal.
func (w *world) nack() string {
	for _, p := range w.xds.Proxies() {
		for _, x := range p.Types {
			if x.Nack != nil {
				return x.Type + ": " + x.Nack.Message
			}
		}
	}
	return ""
}

func TestWhatEnvoyRefusesTheServerHearsInItsWords(t *testing.T) {
	w := newWorld(t)
	w.listen()
	w.policy(twoServices)
	w.application("ADDR:9080")
	w.join()
	w.answers("ADDR:10080", 200)

	broken := strings.Replace(twoServices, `upstream "web" { bind = "ADDR:10070" }`, `upstream "web" { bind = "unix:/nonexistent/web.sock" }`, 1)
	w.policy(broken)
	w.wait("the refusal", func() error {
		if n := w.nack(); !strings.HasPrefix(n, "listener: ") || !strings.Contains(n, "/nonexistent/web.sock") {
			return fmt.Errorf("%q", n)
		}
		return nil
	})
	w.answers("ADDR:10080", 200)

	// A server that starts again hears it again, though Envoy is not asked twice.
	w.stop()
	w.listen()
	w.wait("the refusal on a new stream", func() error {
		if n := w.nack(); !strings.Contains(n, "/nonexistent/web.sock") {
			return fmt.Errorf("%q", n)
		}
		return nil
	})
	w.policy(twoServices)
	w.wait("no refusal", func() error {
		if n := w.nack(); n != "" {
			return fmt.Errorf("%q", n)
		}
		return nil
	})
}

// What an Envoy refuses when it starts the server hears, and hears taken back once Envoy can do it: it is offered again.
func TestARefusalAtTheStartIsHeardAndTakenBack(t *testing.T) {
	w := newWorld(t)
	w.listen()
	late := filepath.Join(w.dir, "late")
	w.policy(strings.Replace(twoServices, `upstream "web" { bind = "ADDR:10070" }`, `upstream "web" { bind = "unix:`+late+`/web.sock" }`, 1))
	w.application("ADDR:9080")
	w.join()
	w.answers("ADDR:10080", 200)
	w.wait("the refusal", func() error {
		if n := w.nack(); !strings.HasPrefix(n, "listener: ") || !strings.Contains(n, late) {
			return fmt.Errorf("%q", n)
		}
		return nil
	})
	if err := os.Mkdir(late, 0o700); err != nil {
		t.Fatal(err)
	}
	w.wait("no refusal", func() error {
		if n := w.nack(); n != "" {
			return fmt.Errorf("%q", n)
		}
		return nil
	})
	if _, err := os.Stat(late + "/web.sock"); err != nil {
		t.Error(err)
	}
	if log := w.log.String(); strings.Count(log, "envoy refused") != 1 || strings.Count(log, "taken what it refused") != 1 {
		t.Error("it is not told once each")
	}
}

func TestAGatewayHasAnEnvoyAsLongAsItIsInThePlan(t *testing.T) {
	w := newWorld(t)
	w.listen()
	const gateway = `
gateway "public" {
  run_on = ["h1"]
  server "http" {
    bind = "ADDR"
    port = 8080
  }
}
virtual_service "api" {
  hosts    = ["*"]
  gateways = ["public"]
  http "all" {
    route { host = "api" }
  }
}
`
	w.policy(twoServices + gateway)
	w.application("ADDR:9080")
	w.join()
	if got := w.answers("ADDR:8080", 200); !strings.Contains(got, "spiffe://"+trustDomain+"/ns/default/gateway/public") {
		t.Errorf("api was called by %q", got)
	}
	w.answers("ADDR:10080", 200)
	if n := len(w.envoys()); n != 2 {
		t.Errorf("%d Envoys run", n)
	}
	w.policy(twoServices)
	w.wait("the gateway's Envoy to end", func() error {
		if n := len(w.envoys()); n != 1 {
			return fmt.Errorf("%d Envoys run", n)
		}
		return nil
	})
	w.answers("ADDR:10080", 200)
}

func TestCertificatesAreRenewedInPlace(t *testing.T) {
	w := newWorld(t)
	w.listen()
	w.policy(twoServices)
	w.application("ADDR:9080")
	w.mu.Lock()
	w.skew = -24*time.Hour + 4*time.Second // what is signed for a day ends in four seconds
	w.mu.Unlock()
	w.join()
	w.answers("ADDR:10080", 200)
	before := w.counters()
	first := w.signatures(svc("api"))
	w.wait("two more certificates", func() error {
		if _, _, err := w.get("ADDR:10080"); err != nil {
			t.Fatal(err)
		}
		if n := w.signatures(svc("api")); n < first+2 {
			return fmt.Errorf("%d more", n-first)
		}
		return nil
	})
	w.answers("ADDR:10080", 200)
	if after := w.counters(); after != before {
		t.Errorf("listeners or clusters were changed: before\n%s\nafter\n%s", before, after)
	}
}

func TestChecksAndRegistrationsAreReported(t *testing.T) {
	w := newWorld(t)
	w.listen()
	w.objects = []*apipb.Refusal{{Namespace: "default", Service: "stray", Reason: "not granted"}}
	w.policy(`
host "h1" {
  address = "ADDR"
  service "api" {
    port  = 9080
    local = "ADDR:9080"
    check "tcp" {
      interval = "100ms"
      unhealthy_threshold = 1
    }
  }
}
`)
	const stray = `service "stray" { port = 9999 }`
	file := filepath.Join(w.dir, "services.d", "stray.hcl")
	write(t, file, stray)
	stop := w.join()
	reported := func(what string, ok func(*apipb.ReportRequest) bool) {
		t.Helper()
		w.wait("a report with "+what, func() error {
			if r := w.lastReport(); r == nil || !ok(r) {
				return fmt.Errorf("the last is %v", r)
			}
			return nil
		})
	}
	registered := func(r *apipb.ReportRequest) bool {
		return len(r.GetRegistrations()) == 1 && r.GetRegistrations()[0].GetService() == "stray" && r.GetAddress() == w.address.String()
	}
	healthy := func(is bool) func(*apipb.ReportRequest) bool {
		return func(r *apipb.ReportRequest) bool {
			return registered(r) && len(r.GetHealth()) == 1 && r.GetHealth()[0].GetHealthy() == is
		}
	}
	reported("an application that is not there", healthy(false))
	w.application("ADDR:9080")
	reported("one that is", healthy(true))
	if log := w.log.String(); strings.Count(log, "not granted") != 1 {
		t.Error("the refusal was not logged once")
	}

	// A file that breaks takes nothing back, not even when the agent starts again.
	write(t, file, "service {")
	w.wait("the diagnostic", func() error {
		if !strings.Contains(w.log.String(), "on stray.hcl:1") {
			return fmt.Errorf("it is not in the log")
		}
		return nil
	})
	stop()
	reports := func() []*apipb.ReportRequest {
		w.mu.Lock()
		defer w.mu.Unlock()
		return slices.Clone(w.reports)
	}
	before := len(reports())
	w.start(nil)
	w.wait("a report of the next agent", func() error {
		if len(reports()) == before {
			return fmt.Errorf("there is none")
		}
		return nil
	})
	for _, r := range reports()[before:] {
		if !healthy(true)(r) {
			t.Errorf("the agent that came back reported %v", r)
		}
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	reported("no registration", func(r *apipb.ReportRequest) bool { return len(r.GetRegistrations()) == 0 })
}

func TestAnEnvoyThatCrashesComesBackWithEverything(t *testing.T) {
	w := newWorld(t)
	w.listen()
	w.policy(twoServices)
	w.application("ADDR:9080")
	w.join()
	w.answers("ADDR:10080", 200)
	w.stop() // it gets all of it from its agent
	if err := syscall.Kill(w.envoys()[0], syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	w.answers("ADDR:10080", 200)
}

func TestACallerWithoutCertificateFailsAtOnce(t *testing.T) {
	w := newWorld(t)
	w.listen()
	w.policy(twoServices)
	w.application("ADDR:9080")
	w.application("ADDR:9070")
	w.refuse(svc("web"), true)
	w.join()
	began := time.Now()
	w.answers("ADDR:10080", 503) // web calls api, in nobody's name
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("it took %s", took)
	}
	w.refuse(svc("web"), false)
	if got := w.answers("ADDR:10080", 200); !strings.Contains(got, svc("web")) {
		t.Errorf("api was called by %q", got)
	}
}
