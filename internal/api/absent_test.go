package api

import (
	"log/slog"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/wattle-mesh/wattle/configs"
	"github.com/wattle-mesh/wattle/internal/store"
	"github.com/wattle-mesh/wattle/registry"
)

// A host is dead when its agent is silent for a minute and its Envoy does not answer, unless most hosts are silent.
func TestAHostWhoseLeaseHasRunOut(t *testing.T) {
	kept, err := store.Open(filepath.Join(t.TempDir(), "state", "wattle.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer kept.Close()
	var asked []netip.AddrPort
	there := map[netip.AddrPort]bool{}
	r, err := NewRegistrar(RegistrarOptions{Log: slog.New(slog.DiscardHandler), Store: kept, Answers: func(at netip.AddrPort) bool {
		asked = append(asked, at)
		return there[at]
	}})
	if err != nil {
		t.Fatal(err)
	}
	r.mu.Lock()
	for _, name := range []string{"h1", "h2", "h3"} {
		h := r.host(name)
		h.address = netip.MustParseAddr("10.0.0." + name[1:])
		h.said.health = []store.Health{{Namespace: "shop", Service: "web", Healthy: true}}
		h.putHealth(r.health)
		h.end = make(chan struct{})
	}
	r.mu.Unlock()
	health := func(host string) registry.HealthWord {
		return r.Health()[registry.WorkloadKey{Host: host, Service: registry.Name{Namespace: "shop", Name: "web"}}]
	}
	leave := func(host string, since time.Time) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.hosts[host].end, r.hosts[host].left = nil, since
	}
	now := time.Now()
	leave("h1", now.Add(-hostLease+time.Second))
	if r.miss(now) || len(asked) > 0 {
		t.Error("a lease was taken for over that was not")
	}
	there[netip.MustParseAddrPort("10.0.0.1:7443")] = true
	if r.miss(now.Add(time.Second)) || !slices.Equal(asked, []netip.AddrPort{netip.MustParseAddrPort("10.0.0.1:7443")}) {
		t.Errorf("a host whose Envoy answers was taken for dead; asked %v", asked)
	}
	clear(there)
	if !r.miss(now.Add(time.Second)) || health("h1").Health != registry.Unhealthy || !strings.Contains(health("h1").Reason, "host h1 is gone: its agent has been silent since") {
		t.Errorf("%+v", health("h1"))
	}
	if health("h2").Health != registry.Healthy {
		t.Errorf("another host: %+v", health("h2"))
	}
	leave("h2", now.Add(-time.Hour))
	if r.miss(now.Add(time.Second)) || health("h2").Health != registry.Healthy {
		t.Errorf("most hosts are silent: %+v", health("h2"))
	}
	r.open("h2")
	there[netip.MustParseAddrPort("10.0.0.1:7443")] = true
	if !r.miss(now.Add(time.Second)) || health("h1").Health != registry.Healthy {
		t.Errorf("its Envoy is back: %+v", health("h1"))
	}
	clear(there)
	r.miss(now.Add(time.Second))
	r.open("h1")
	if health("h1").Health != registry.Healthy {
		t.Errorf("its agent is back: %+v", health("h1"))
	}
	r.SetPolicy(&configs.Policy{Hosts: []*configs.Host{{Name: "h1", Address: netip.MustParseAddr("10.0.0.1"), MeshPort: 8000, Mode: "sidecar", Services: []*configs.Service{service("web")}}}})
	leave("h1", now.Add(-hostLease))
	asked = nil
	if r.miss(now); len(asked) != configs.MeshPorts || asked[31] != netip.MustParseAddrPort("10.0.0.1:8031") {
		t.Errorf("of a host with sidecars asked at %v", asked)
	}
}
