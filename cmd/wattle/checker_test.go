package main

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"github.com/wattle-mesh/wattle/configs"
	"github.com/wattle-mesh/wattle/registry"
)

// TestTheServerChecksWhatHasNoAgent follows the words of active checks from the policy to the catalog.
func TestTheServerChecksWhatHasNoAgent(t *testing.T) {
	var broken atomic.Bool
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if broken.Load() || r.URL.Path != "/healthz" {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}))
	defer app.Close()
	gone, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gone.Close()
	n := registry.Name{Namespace: "default", Name: "web"}
	endpoint := func(at string) *registry.Endpoint {
		a := netip.MustParseAddrPort(at)
		return &registry.Endpoint{Address: a.Addr(), Port: a.Port(), ServicePort: 80, Health: registry.Healthy}
	}
	well, dead := endpoint(app.Listener.Addr().String()), endpoint(gone.Addr().String())
	inside := endpoint("127.0.0.1:1")
	inside.Workload = &registry.Workload{Service: n, Host: registry.Host{Name: "h1", Address: inside.Address}, Ports: []registry.WorkloadPort{{Port: registry.Port{Number: 80}}}}
	other := endpoint("127.0.0.1:2")
	other.ServicePort = 81
	sets := func(endpoints ...*registry.Endpoint) []registry.Set {
		return []registry.Set{{Name: "files", Services: []*registry.Service{{Name: n, Ports: []registry.Port{{Number: 80, Protocol: registry.HTTP}, {Number: 81}}, Endpoints: endpoints}}}}
	}
	agents := registry.HealthMap{inside.Workload.Key(): {Health: registry.Healthy}}
	news := make(chan struct{}, 100)
	c := newChecker(slog.New(slog.DiscardHandler), nil, func() registry.HealthMap { return agents }, func() { news <- struct{}{} })
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	check := &configs.Check{Type: "http", Path: "/healthz", Interval: configs.Duration(20 * time.Millisecond), Timeout: configs.Duration(time.Second), Healthy: 1, Unhealthy: 1}
	policy := &configs.Policy{ServiceDefaults: []*configs.ServiceDefaults{{Block: configs.Block{Namespace: "default", Name: "web"}, Checks: []*configs.Check{check}}}}
	var catalog *registry.Catalog
	// await merges and matches as the loop does until the endpoints' health is as wanted.
	await := func(what string, endpoints []*registry.Endpoint, want ...registry.Health) {
		t.Helper()
		limit := time.After(20 * time.Second)
		for {
			catalog = registry.Merge(nil, sets(endpoints...), c.Health())
			c.match(ctx, policy, catalog)
			got := map[string]registry.Health{}
			for _, e := range catalog.Service(n).Endpoints {
				got[e.String()] = e.Health
			}
			ok := true
			for i, e := range endpoints {
				ok = ok && got[e.String()] == want[i]
			}
			if ok {
				return
			}
			select {
			case <-news:
			case <-limit:
				t.Fatalf("%s: %v", what, got)
			}
		}
	}
	if got := c.Health(); len(got) != 1 {
		t.Errorf("without checks: %v", got)
	}
	all := []*registry.Endpoint{dead, inside, other, well}
	await("one is dead", all, registry.Unhealthy, registry.Healthy, registry.Healthy, registry.Healthy)
	if alive, known := c.alive(n, dead); alive || !known {
		t.Errorf("the dead one: %t, %t", alive, known)
	}
	if _, known := c.alive(n, other); known {
		t.Error("another port is checked")
	}
	broken.Store(true)
	await("both are", all, registry.Unhealthy, registry.Healthy, registry.Healthy, registry.Unhealthy)
	broken.Store(false)
	await("one is well again", all, registry.Unhealthy, registry.Healthy, registry.Healthy, registry.Healthy)
	await("what is gone is not checked", []*registry.Endpoint{well}, registry.Healthy)
	if _, known := c.alive(n, dead); known {
		t.Error("what is gone has a word")
	}
	policy = &configs.Policy{}
	await("nobody asks for checks", []*registry.Endpoint{well, dead}, registry.Healthy, registry.Healthy)
	if got := c.Health(); len(got) != 1 || c.running != 0 {
		t.Errorf("afterwards: %v, %d run", got, c.running)
	}
}
