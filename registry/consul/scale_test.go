package consul

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"
	"golang.org/x/sync/errgroup"

	"github.com/wattle-mesh/wattle/registry"
)

// The registry of the size that the speed is promised for.
const (
	manyServices = 1000
	perService   = 3
)

// fill registers many services with so many instances each.
func fill(t testing.TB, p *peer, services, instances int) {
	t.Helper()
	var g errgroup.Group
	g.SetLimit(16)
	for s := range services {
		g.Go(func() error {
			for i := range instances {
				if err := change(p, s, i, 8080, api.HealthPassing); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
}

// change registers one instance of a service, on one of a hundred nodes.
func change(p *peer, s, i, port int, health string) error {
	name := fmt.Sprintf("s%d", s)
	service := &api.AgentService{ID: fmt.Sprintf("%s-%d", name, i), Service: name, Port: port, Address: fmt.Sprintf("10.%d.%d.%d", i+1, s/250, s%250+1),
		Meta: map[string]string{"version": "v1"}, Tags: []string{"prod"}}
	return put(p.api, fmt.Sprintf("node-%d", (s*perService+i)%100), service, &api.HealthCheck{CheckID: service.ID, Name: "alive", Status: health})
}

// instance returns one endpoint as it is served.
func (m *mesh) instance(s, i int) *registry.Endpoint {
	name := registry.Name{Namespace: "default", Name: fmt.Sprintf("s%d", s)}
	set := m.Sets()[0].Services
	k, ok := slices.BinarySearchFunc(set, name, func(s *registry.Service, n registry.Name) int { return s.Name.Compare(n) })
	if !ok || len(set[k].Endpoints) <= i {
		return nil
	}
	return set[k].Endpoints[i]
}

// latency changes one instance after the other, and returns how long each took to be served.
func (m *mesh) latency(p *peer, instances, changes int) []time.Duration {
	m.t.Helper()
	var took []time.Duration
	for n := range changes {
		s, i := (n*37)%manyServices, n%instances
		health, want := api.HealthCritical, registry.Unhealthy
		if e := m.instance(s, i); e != nil && e.Health == registry.Unhealthy {
			health, want = api.HealthPassing, registry.Healthy
		}
		start := time.Now()
		if err := change(p, s, i, 8080, health); err != nil {
			m.t.Fatal(err)
		}
		deadline := time.After(patience)
		for e := m.instance(s, i); e == nil || e.Health != want; e = m.instance(s, i) {
			select {
			case <-m.changed:
			case <-deadline:
				m.t.Fatalf("instance %d of service %d did not become %s within %s", i, s, want, patience)
			}
		}
		took = append(took, time.Since(start))
	}
	slices.Sort(took)
	return took
}

func (m *mesh) awaitMany(services, instances int) {
	m.t.Helper()
	eventually(m.t, "all services", func() bool {
		st := m.Status()[0]
		return st.Services == services && st.Endpoints == services*instances
	})
}

func TestAThousandServicesNeedFewConnections(t *testing.T) {
	t.Parallel()
	p := newPeer(t, nil).ready()
	fill(t, p, manyServices, 1)
	for how, most := range map[string]int{"TLS": 8, "plaintext": 50} {
		t.Run(how, func(t *testing.T) {
			cable, body := modes[how](t, p)
			m := join(t, body)
			m.awaitMany(manyServices, 1)
			m.latency(p, 1, 10)
			peak, now := cable.peak()
			if peak > most {
				t.Errorf("%d connections at once, want at most %d", peak, most)
			}
			t.Logf("%d connections, at most %d", now, peak)
			if sets := m.published(); sets > 100 {
				t.Errorf("%d sets were published for 11 changes", sets)
			}
		})
	}
}

// BenchmarkChange is how long the change of one instance among 3000 takes to be served.
func BenchmarkChange(b *testing.B) {
	p := newPeer(b, nil).ready()
	fill(b, p, manyServices, perService)
	for how := range modes {
		b.Run(how, func(b *testing.B) {
			cable, body := modes[how](b, p)
			start := time.Now()
			m := join(b, body)
			m.awaitMany(manyServices, perService)
			first := time.Since(start)
			m.latency(p, perService, 5)
			b.ResetTimer()
			took := m.latency(p, perService, b.N)
			peak, _ := cable.peak()
			b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "median-ms")
			b.ReportMetric(float64(took[len(took)-1].Microseconds())/1000, "longest-ms")
			b.ReportMetric(float64(peak), "connections")
			b.ReportMetric(float64(first.Microseconds())/1000, "first-ms")
		})
	}
}
