package api

import (
	"context"
	"log/slog"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/wattle-mesh/wattle/configs"
	"github.com/wattle-mesh/wattle/internal/store"
	"github.com/wattle-mesh/wattle/registry"
	"github.com/wattle-mesh/wattle/registry/registrytest"
)

func newRegistrar(t *testing.T) *Registrar {
	t.Helper()
	s, err := store.Open(filepath.Join(t.TempDir(), "state", "wattle.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	r, err := NewRegistrar(RegistrarOptions{Log: slog.New(slog.DiscardHandler), Store: s})
	if err != nil {
		t.Fatal(err)
	}
	r.SetPolicy(&configs.Policy{})
	return r
}

// fleet registers what the suite puts into the registry: an endpoint is a host with that address. A registry that
// is broken is a fleet that cannot reach the server.
type fleet struct {
	r      *Registrar
	mu     sync.Mutex
	cutOff bool
	want   []*registry.Service
	hosts  map[string]bool
}

func (f *fleet) put(services []*registry.Service) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.want = services
	f.deliver()
}

func (f *fleet) reach(can bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.cutOff = !can
	f.deliver()
}

func (f *fleet) deliver() {
	if f.cutOff {
		return
	}
	reports := map[string]said{}
	for name := range f.hosts {
		reports[name] = said{peer: netip.MustParseAddr("10.0.0.1")}
	}
	for _, s := range f.want {
		for _, e := range s.Endpoints {
			name := "h" + strings.ReplaceAll(e.Address.String(), ".", "-")
			svc := &configs.Service{Block: configs.Block{Namespace: s.Namespace, Name: s.Name.Name}, Weight: e.Weight, Meta: e.Meta.Map(),
				Ports: []configs.ServicePort{{Number: e.ServicePort, Protocol: string(s.Ports[0].Protocol), Local: netip.AddrPortFrom(e.Address, e.Port)}}}
			kept, err := stored(svc)
			if err != nil {
				panic(err)
			}
			reports[name] = said{peer: e.Address, registrations: []registration{{Service: svc, kept: kept}}}
		}
	}
	for name, s := range reports {
		f.hosts[name] = true
		f.r.mu.Lock()
		f.r.host(name).grant = store.Grant{Services: []string{"*/*"}}
		f.r.mu.Unlock()
		stream, _ := f.r.open(name)
		if _, err := f.r.report(name, stream, s); err != nil {
			panic(err)
		}
		f.r.close(name, stream)
	}
}

// plain shows the suite what it knows: endpoints where the applications listen, without hosts.
type plain struct {
	*Registrar
	known map[*registry.Service]*registry.Service
}

func (p plain) Run(ctx context.Context, publish func([]*registry.Service)) error {
	return p.Registrar.Run(ctx, func(set []*registry.Service) {
		out := make([]*registry.Service, len(set))
		for i, s := range set {
			if p.known[s] == nil {
				c := *s
				c.Endpoints = nil
				for _, e := range s.Endpoints {
					d := *e
					d.Port, d.Workload = e.Workload.Ports[0].Local.Port(), nil
					c.Endpoints = append(c.Endpoints, &d)
				}
				p.known[s] = &c
			}
			out[i] = p.known[s]
		}
		publish(out)
	})
}

func TestConformance(t *testing.T) {
	registrytest.Run(t, func(t *testing.T) registrytest.Registry {
		r := newRegistrar(t)
		f := &fleet{r: r, hosts: map[string]bool{}}
		return registrytest.Registry{
			Source: plain{r, map[*registry.Service]*registry.Service{}},
			Put:    f.put, Break: func() { f.reach(false) }, Mend: func() { f.reach(true) },
		}
	})
}

// A store that fails stops nothing: the services are published, Run says why, and what was not kept is kept later.
func TestAStoreThatFailsIsReportedAndTriedAgain(t *testing.T) {
	r := newRegistrar(t)
	dir := filepath.Join(t.TempDir(), "state")
	broken, err := store.Open(filepath.Join(dir, "wattle.db"))
	if err != nil {
		t.Fatal(err)
	}
	if err := broken.Close(); err != nil {
		t.Fatal(err)
	}
	working := r.o.Store
	r.o.Store = broken
	f := &fleet{r: r, hosts: map[string]bool{}}
	f.put([]*registry.Service{{Name: registry.Name{Namespace: "shop", Name: "reviews"}, Ports: []registry.Port{{Number: 9080, Protocol: registry.HTTP}},
		Endpoints: []*registry.Endpoint{{Address: netip.MustParseAddr("10.0.0.1"), Port: 9080, ServicePort: 9080, Weight: 1}}}})
	var sets [][]*registry.Service
	publish := func(s []*registry.Service) { sets = append(sets, s) }
	if err := r.Run(t.Context(), publish); err == nil || len(sets) != 1 || len(sets[0]) != 1 {
		t.Errorf("Run: %v, published %s", err, text(sets))
	}
	r.o.Store = working
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := r.Run(ctx, publish); err != nil {
		t.Errorf("Run with a store that works: %v", err)
	}
	if kept, err := working.Reports(); err != nil || len(kept) != 1 || len(kept[0].Registrations) != 1 {
		t.Errorf("kept: %s, %v", text(kept), err)
	}
}

// A thousand hosts: a report of one of them must not cost what all of them cost.
func BenchmarkReport(b *testing.B) {
	s, err := store.Open(filepath.Join(b.TempDir(), "state", "wattle.db"))
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	r, err := NewRegistrar(RegistrarOptions{Log: slog.New(slog.DiscardHandler), Store: s})
	if err != nil {
		b.Fatal(err)
	}
	r.SetPolicy(&configs.Policy{})
	f := &fleet{r: r, hosts: map[string]bool{}}
	var all []*registry.Service
	for i := range 1000 {
		all = append(all, &registry.Service{Name: registry.Name{Namespace: "shop", Name: "s" + strings.Repeat("x", i%50) + string(rune('a'+i%26))},
			Ports: []registry.Port{{Number: 9080, Protocol: registry.HTTP}}, Endpoints: []*registry.Endpoint{{
				Address: netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), Port: 9080, ServicePort: 9080, Weight: 1}}})
	}
	f.put(all)
	health := []store.Health{{Namespace: "shop", Service: "sa"}}
	stream, _ := r.open("h10-0-0-1")
	last := r.hosts["h10-0-0-1"].said
	for i := 0; b.Loop(); i++ {
		last.health = []store.Health{health[0]}
		last.health[0].Healthy = i%2 == 0
		if _, err := r.report("h10-0-0-1", stream, last); err != nil {
			b.Fatal(err)
		}
	}
}
