package pipeline

import (
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/wattle-mesh/wattle/configs"
	"github.com/wattle-mesh/wattle/internal/mesh"
	"github.com/wattle-mesh/wattle/registry"
	"github.com/wattle-mesh/wattle/translator"
)

// flapping is a service with so many endpoints, of which one is missing in turn.
func flapping(name string, endpoints, turn int) *registry.Service {
	s := &registry.Service{Name: registry.Name{Namespace: "default", Name: name}, Ports: []registry.Port{{Number: 80, Protocol: registry.HTTP}}}
	for i := range endpoints {
		if i != turn {
			s.Endpoints = append(s.Endpoints, &registry.Endpoint{Address: netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), Port: 80, ServicePort: 80})
		}
	}
	return s
}

// paced is a pacer with the catalog and the view that come of it.
type paced struct {
	pacer
	now    time.Time
	policy *configs.Policy
	State
	pushes map[string]int
}

func newPaced() *paced {
	return &paced{pacer: pacer{gap: time.Second}, now: time.Unix(1_800_000_000, 0), policy: &configs.Policy{Mesh: &configs.Mesh{Plaintext: true}}, pushes: map[string]int{}}
}

func (p *paced) round(after time.Duration, health registry.HealthMap, services ...*registry.Service) {
	p.now = p.now.Add(after)
	sets, health := p.pace([]registry.Set{{Name: "consul", Services: services}}, health, p.now)
	next := State{Catalog: registry.Merge(p.Catalog, sets, health)}
	next.View, _ = mesh.Resolve(p.View, next.Catalog, p.policy)
	p.note(&p.State, &next, p.now)
	for _, n := range next.Catalog.Changed {
		p.pushes[n.Name]++
	}
	p.State = next
}

func (p *paced) endpoints(name string) int {
	if s := p.Catalog.Service(registry.Name{Namespace: "default", Name: name}); s != nil {
		return len(s.Endpoints)
	}
	return 0
}

func TestAFlappingServiceChangesOnceASecondAndOthersAtOnce(t *testing.T) {
	p := newPaced()
	other := flapping("other", 3, -1)
	p.round(0, nil, flapping("flap", 100, -1), other)
	p.round(10*time.Millisecond, nil, flapping("flap", 100, 0), other)
	if p.endpoints("flap") != 99 {
		t.Error("the first change is not taken at once")
	}
	p.round(10*time.Millisecond, nil, flapping("flap", 90, -1), flapping("other", 2, -1))
	if p.endpoints("flap") != 99 || p.endpoints("other") != 2 {
		t.Errorf("%d and %d endpoints: the second change of one, the first of another", p.endpoints("flap"), p.endpoints("other"))
	}
	if want := p.now.Add(990 * time.Millisecond); !p.due.Equal(want) {
		t.Errorf("it is due at %s, want %s", p.due, want)
	}
	p.round(980*time.Millisecond, nil, p.sets[0].Services[:0]...)
	if p.endpoints("flap") != 99 || p.endpoints("other") != 2 {
		t.Error("removed within the second")
	}
	p.round(10*time.Millisecond, nil)
	if p.endpoints("flap") != 0 || p.endpoints("other") != 2 {
		t.Error("not removed after it")
	}
	before := p.pushes["flap"]
	for i := range 1000 { // 100 instances, each once a second, for 10 s
		p.round(10*time.Millisecond, nil, flapping("flap", 100, i%100))
	}
	if n := p.pushes["flap"] - before; n > 11 || n < 9 {
		t.Errorf("%d pushes within 10 s", n)
	}
	p.round(time.Second, nil, flapping("flap", 100, 7))
	if p.endpoints("flap") != 99 || !p.due.IsZero() {
		t.Error("the last state is not taken")
	}
}

func TestAChangeThatNoCallerSeesDelaysNothing(t *testing.T) {
	p := newPaced()
	web := func(port uint16, labels map[string]string) *registry.Service {
		s := flapping("web", 2, -1)
		s.Endpoints[0].Port, s.Endpoints[0].Meta = port, registry.LabelsOf(labels)
		return s
	}
	seen := func() (uint16, string) {
		e := p.Catalog.Service(registry.Name{Namespace: "default", Name: "web"}).Endpoints[0]
		return e.Port, e.Meta.Get("build")
	}
	p.round(0, nil, web(80, nil))
	p.round(time.Second, nil, web(80, map[string]string{"build": "1"}))
	p.round(time.Millisecond, nil, web(81, map[string]string{"build": "1"}))
	if port, build := seen(); port != 81 || build != "1" {
		t.Errorf("port %d of build %q: the new port waits though callers saw nothing of the new label", port, build)
	}
	p.round(time.Millisecond, nil, web(81, map[string]string{"build": "2"}))
	if _, build := seen(); build != "1" {
		t.Error("what follows a change that callers saw does not wait")
	}
}

func TestFlappingHealthIsPaced(t *testing.T) {
	p := newPaced()
	key := registry.WorkloadKey{Host: "h1", Service: registry.Name{Namespace: "default", Name: "web"}}
	web := flapping("web", 1, -1)
	web.Endpoints[0].Workload = &registry.Workload{Host: registry.Host{Name: "h1", Address: web.Endpoints[0].Address}, Service: key.Service,
		Ports: []registry.WorkloadPort{{Port: web.Ports[0]}}}
	health := func() registry.Health { return p.Catalog.Service(key.Service).Endpoints[0].Health }
	says := func(h registry.Health) registry.HealthMap {
		return registry.HealthMap{key: {Health: h}, {Host: "h2", Service: registry.Name{Name: "other"}}: {Health: h}}
	}
	p.round(0, registry.HealthMap{})
	p.round(time.Millisecond, registry.HealthMap{}, web) // not reported yet: its agent's first word is not held back
	p.round(time.Millisecond, says(registry.Healthy), web)
	if health() != registry.Healthy {
		t.Fatal("the first word of an agent is held back")
	}
	p.round(time.Millisecond, says(registry.Unhealthy), web)
	if health() != registry.Healthy || p.due.IsZero() {
		t.Error("the second one is not")
	}
	p.round(time.Millisecond, registry.HealthMap{}, web)
	if health() != registry.Healthy {
		t.Error("its absence is not held back")
	}
	p.round(time.Second, says(registry.Unhealthy), web)
	if health() != registry.Unhealthy {
		t.Error("it is held back after a second")
	}
	p.round(time.Second, says(registry.Healthy), web)
	if health() != registry.Healthy {
		t.Error("it is held back a second later")
	}
}

func TestTheLoopTakesWhatWasHeldBack(t *testing.T) {
	w := prepare(t, map[string]string{"mesh.hcl": host}, flapping("web", 3, -1))
	w.o.Pace = 20 * time.Millisecond
	w.run()
	endpoints := func(n int) func(*State) bool {
		return func(s *State) bool {
			if s.Catalog == nil {
				return false
			}
			web := s.Catalog.Service(registry.Name{Namespace: "default", Name: "web"})
			return web != nil && len(web.Endpoints) == n+1 // the policy's own
		}
	}
	w.until(endpoints(3))
	for range 5 {
		w.registries.set(flapping("web", 4, -1))
		w.until(endpoints(4))
		w.registries.set(flapping("web", 5, -1)) // held back; nothing else happens
		w.until(endpoints(5))
	}
}

// BenchmarkFlapping is a second of a catalog of 5000 services with 20,000 endpoints, and one with 100 instances that come
// and go once a second, each at another moment. The share of a core is what the server spends on it.
func BenchmarkFlapping(b *testing.B) {
	l := New(Options{Log: slog.New(slog.DiscardHandler), Dir: b.TempDir(), Revisions: &revisions{}, Pace: time.Second,
		Publish: func(translator.Changes) uint64 { return 1 }})
	regs := &registries{nudge: func() {}}
	l.o.Registries = regs
	var services []*registry.Service
	for i := range 5000 {
		services = append(services, flapping(fmt.Sprintf("svc-%04d", i), 4, -1))
	}
	publish := func(turn int) {
		next := append([]*registry.Service{flapping("flap", 100, turn)}, services...)
		regs.set(next...)
	}
	publish(-1)
	r, err := newRound(l)
	if err != nil {
		b.Fatal(err)
	}
	r.run(true, true)
	for b.Loop() {
		for i := range 100 {
			publish(i)
			r.run(false, true)
		}
		r.pacer.pushed = nil // the second is over
	}
	b.ReportMetric(b.Elapsed().Seconds()/float64(b.N)*100, "%core")
}

func TestADrainPassesAtOnceWithinTheSecond(t *testing.T) {
	p := newPaced()
	with := func(drains ...int) *registry.Service {
		s := flapping("web", 4, -1)
		for i := range s.Endpoints {
			if slices.Contains(drains, i) {
				s.Endpoints[i].Health, s.Endpoints[i].Reason = registry.Draining, "maintenance"
			}
		}
		return s
	}
	health := func() string {
		var out strings.Builder
		for _, e := range p.Catalog.Service(registry.Name{Namespace: "default", Name: "web"}).Endpoints {
			out.WriteString(map[registry.Health]string{"": "h", registry.Healthy: "h", registry.Unhealthy: "u", registry.Draining: "d"}[e.Health])
		}
		return out.String()
	}
	p.round(0, nil, with())
	p.round(time.Millisecond, nil, with(0))
	two := with(0, 1)
	two.Endpoints[2].Health, two.Endpoints[3].Weight = registry.Unhealthy, 5
	p.round(time.Millisecond, nil, two)
	if got := health(); got != "ddhh" {
		t.Errorf("what drains beside what may not change yet: %s", got)
	}
	set := p.sets[0].Services[0]
	p.round(time.Millisecond, nil, two)
	if p.sets[0].Services[0] != set {
		t.Error("a service that is held back as before has another pointer")
	}
	p.round(time.Millisecond, nil, with(1))
	if got := health(); got != "ddhh" || p.due.IsZero() {
		t.Errorf("one that drains no more came back within the second: %s", got)
	}
	p.round(time.Second, nil, with(1))
	if got := health(); got != "hdhh" {
		t.Error(got)
	}
}

// Drains that flap pass at once only once a second, and none of them is lost.
func TestDrainsThatFlapArePaced(t *testing.T) {
	p := newPaced()
	with := func(drains int) *registry.Service {
		s := flapping("web", 50, -1)
		for i := range drains {
			s.Endpoints[i].Health = registry.Draining
		}
		return s
	}
	p.round(0, nil, with(0))
	before := p.pushes["web"]
	for i := range 500 { // each of 50 instances begins and ends to drain once a second, for 10 s
		p.round(20*time.Millisecond, nil, with(i%50))
	}
	if n := p.pushes["web"] - before; n > 21 || n < 9 {
		t.Errorf("%d pushes within 10 s", n)
	}
	p.round(2*time.Second, nil, with(50))
	for _, e := range p.Catalog.Service(registry.Name{Namespace: "default", Name: "web"}).Endpoints {
		if e.Health != registry.Draining {
			t.Errorf("%s does not drain", e)
		}
	}
}

func TestAnAgentsDrainPassesAtOnceWithinTheSecond(t *testing.T) {
	p := newPaced()
	key := func(host string) registry.WorkloadKey {
		return registry.WorkloadKey{Host: host, Service: registry.Name{Namespace: "default", Name: "web"}}
	}
	s := flapping("web", 2, -1)
	for i, e := range s.Endpoints {
		e.Workload = &registry.Workload{Host: registry.Host{Name: []string{"h1", "h2"}[i], Address: e.Address}, Service: s.Name, Ports: []registry.WorkloadPort{{Port: s.Ports[0]}}}
	}
	health := func(h1, h2 registry.Health) registry.HealthMap {
		return registry.HealthMap{key("h1"): {Health: h1}, key("h2"): {Health: h2}}
	}
	p.round(0, health(registry.Healthy, registry.Healthy), s)
	p.round(time.Millisecond, health(registry.Unhealthy, registry.Healthy), s)
	p.round(time.Millisecond, health(registry.Healthy, registry.Draining), s)
	var got []registry.Health
	for _, e := range p.Catalog.Service(s.Name).Endpoints {
		got = append(got, e.Health)
	}
	if !slices.Equal(got, []registry.Health{registry.Unhealthy, registry.Draining}) {
		t.Errorf("%q: the first waits for its second, the other one drains at once", got)
	}
}
