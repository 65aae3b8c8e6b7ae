package registry

import (
	"encoding/json"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

var plain = cmp.Options{cmpopts.EquateComparable(netip.Addr{}, netip.AddrPort{}), cmpopts.EquateEmpty()}

// merged merges sets named a, b, ... and returns the service "s" and what they disagree about.
func merged(t *testing.T, health HealthMap, sets ...[]*Service) (*Service, []Diagnostic) {
	t.Helper()
	named := make([]Set, len(sets))
	for i, services := range sets {
		named[i] = Set{Name: string(rune('a' + i)), Services: services}
	}
	c := Merge(nil, named, health)
	s := c.Service(Name{"default", "s"})
	if s == nil {
		t.Fatal("no service s")
	}
	return s, c.Diagnostics()
}

func TestMergeUnitesEndpointsOfOnePlace(t *testing.T) {
	first := outside("10.0.0.1", "version", "v1")
	second := outside("10.0.0.1", "zone", "z1")
	second.Weight, second.Priority = 3, 7
	got, ds := merged(t, nil, []*Service{service("s", first)}, []*Service{service("s", second, outside("10.0.0.2"))})
	want := &Service{
		Name: Name{"default", "s"}, Ports: []Port{{Number: 80, Protocol: HTTP}}, Sources: []string{"a", "b"},
		Endpoints: []*Endpoint{
			{Address: first.Address, Port: 8080, ServicePort: 80, Priority: 7, Weight: 3, Meta: LabelsOf(map[string]string{"version": "v1", "zone": "z1"}), Sources: []string{"a", "b"}},
			{Address: netip.MustParseAddr("10.0.0.2"), Port: 8080, ServicePort: 80, Sources: []string{"b"}},
		},
	}
	if d := cmp.Diff(want, got, plain); d != "" {
		t.Error(d)
	}
	if len(ds) > 0 {
		t.Errorf("diagnostics: %v", ds)
	}
	if d := cmp.Diff(map[string]string{"version": "v1"}, first.Meta.Map()); d != "" {
		t.Errorf("the published endpoint changed: %s", d)
	}
}

func TestMergeTakesTheFirstWordAndSaysSo(t *testing.T) {
	a, b := service("s", outside("10.0.0.1", "version", "v1")), service("s", outside("10.0.0.1", "version", "v2"))
	a.Origin = "hosts/s.hcl:3"
	b.Ports = []Port{{Number: 80, Name: "web", Protocol: TCP}, {Number: 81}}
	got, ds := merged(t, nil, []*Service{a}, []*Service{b})
	wantPorts := []Port{{Number: 80, Name: "web", Protocol: HTTP}, {Number: 81}}
	if d := cmp.Diff(wantPorts, got.Ports); d != "" {
		t.Error(d)
	}
	if v := got.Endpoints[0].Meta.Get("version"); v != "v1" {
		t.Errorf("version = %s, want that of the first set", v)
	}
	want := []string{
		"hosts/s.hcl:3: warning W4201: registries disagree about service default/s: port 80 is http, but b says tcp",
		`hosts/s.hcl:3: warning W4203: registries disagree about service default/s: meta "version" of endpoint 10.0.0.1:8080 is "v1" by a, but "v2" by b`,
	}
	if d := cmp.Diff(want, texts(ds)); d != "" {
		t.Error(d)
	}
}

func TestMergeTakesTheFirstPriorityThatIsSaid(t *testing.T) {
	a, b := outside("10.0.0.1"), outside("10.0.0.1")
	a.Priority, b.Priority = 10, 20
	got, ds := merged(t, nil, []*Service{service("s", outside("10.0.0.1"))}, []*Service{service("s", a)}, []*Service{service("s", b)})
	if p := got.Endpoints[0].Priority; p != 10 {
		t.Errorf("priority %d, want that of the first set that says one", p)
	}
	want := []string{"warning W4203: registries disagree about service default/s: the priority of endpoint 10.0.0.1:8080 is 10 by a, but 20 by c"}
	if d := cmp.Diff(want, texts(ds)); d != "" {
		t.Error(d)
	}
}

func texts(ds []Diagnostic) []string {
	var out []string
	for _, d := range ds {
		out = append(out, d.String())
	}
	return out
}

func TestMergeFindsAWorkloadByWhereItListens(t *testing.T) {
	workload := inside("s", "h1", "10.0.0.1", "")
	consul := &Endpoint{Address: workload.Address, Port: 80, ServicePort: 80, Health: Unhealthy, Reason: "check failed", Meta: LabelsOf(map[string]string{"version": "v1"})}
	for _, sets := range [][][]*Service{
		{{service("s", workload)}, {service("s", consul)}},
		{{service("s", consul)}, {service("s", workload)}},
	} {
		got, ds := merged(t, nil, sets...)
		if len(got.Endpoints) != 1 || len(ds) > 0 {
			t.Fatalf("got %d endpoints and diagnostics %v", len(got.Endpoints), ds)
		}
		e := got.Endpoints[0]
		if e.Workload != workload.Workload || e.Health != Unhealthy || e.Reason != "check failed" || e.Meta.Get("version") != "v1" || len(e.Sources) != 2 {
			t.Errorf("got %+v", e)
		}
	}
}

func TestMergeLetsOneSetDeclareAWorkload(t *testing.T) {
	operator, agent := inside("s", "h1", "10.0.0.1", ""), inside("s", "h1", "10.6.6.6", "")
	agent.Workload.Checks = []Check{{Type: "tcp", Port: 80}}
	more := *agent
	more.ServicePort, more.Port = 81, 81
	agentSays := service("s", agent, &more)
	agentSays.Ports = append(agentSays.Ports, Port{Number: 81})
	got, ds := merged(t, nil, []*Service{service("s", operator)}, []*Service{agentSays})
	if len(got.Endpoints) != 1 || got.Endpoints[0].Address != operator.Address || got.Endpoints[0].Workload != operator.Workload {
		t.Errorf("got %v", got.Endpoints)
	}
	if len(ds) != 2 || ds[0].Code != workloadConflict || ds[1].Code != hostConflict {
		t.Errorf("diagnostics: %v", texts(ds))
	}
}

func TestMergeLetsTheWorseHealthHold(t *testing.T) {
	key := inside("s", "h1", "10.0.0.1", "").Workload.Key()
	for _, c := range []struct{ registry, agent, want Health }{
		{"", "", ""},
		{"", Healthy, Healthy},
		{Healthy, Unhealthy, Unhealthy},
		{Unhealthy, Healthy, Unhealthy},
		{Draining, Healthy, Draining},
		{Draining, Unhealthy, Unhealthy},
	} {
		e := inside("s", "h1", "10.0.0.1", "")
		e.Health, e.Reason = c.registry, "the registry's reason"
		got, _ := merged(t, HealthMap{key: {c.agent, "the agent's reason"}}, []*Service{service("s", e)})
		if h := got.Endpoints[0].Health; h != c.want {
			t.Errorf("registry %q, agent %q: got %q, want %q", c.registry, c.agent, h, c.want)
		}
		if r := got.Endpoints[0].Reason; c.registry != c.agent && strings.Contains(r, "agent") != (c.want == c.agent) {
			t.Errorf("registry %q, agent %q: reason %q", c.registry, c.agent, r)
		}
	}
}

func TestMergeTakesAWorkloadOfWhichNoAgentHasSpokenForUnhealthy(t *testing.T) {
	inside, outside := inside("s", "h1", "10.0.0.1", ""), outside("10.0.0.2")
	sets := []Set{{Name: "a", Services: []*Service{service("s", inside, outside)}}}
	health := func(c *Catalog) (out []Health) {
		for s := range c.All() {
			for _, e := range s.Endpoints {
				out = append(out, e.Health)
			}
		}
		return out
	}
	none := Merge(nil, sets, nil)
	if got := health(none); !slices.Equal(got, []Health{"", ""}) {
		t.Errorf("in a world without agents: %q", got)
	}
	silent := Merge(none, sets, HealthMap{})
	if got := health(silent); !slices.Equal(got, []Health{Unhealthy, ""}) {
		t.Errorf("before its agent has spoken: %q", got)
	}
	heard := Merge(silent, sets, HealthMap{inside.Workload.Key(): {Health: Healthy}})
	if got := health(heard); !slices.Equal(got, []Health{Healthy, ""}) {
		t.Errorf("after its agent has spoken: %q", got)
	}
}

func TestMergeKeepsWhatDidNotChange(t *testing.T) {
	web, db := service("web", outside("10.0.0.1"), outside("10.0.0.2")), service("db", outside("10.0.0.3"))
	first := Merge(nil, []Set{{Name: "a", Services: []*Service{db, web}}}, nil)
	if want := []Name{db.Name, web.Name}; !slices.Equal(first.Changed, want) || first.Gen != 1 || first.PrevGen != 0 {
		t.Errorf("first: changed %v, gen %d after %d", first.Changed, first.Gen, first.PrevGen)
	}

	less := service("web", web.Endpoints[1])
	second := Merge(first, []Set{{Name: "a", Services: []*Service{db, less}}}, nil)
	if want := []Name{web.Name}; !slices.Equal(second.Changed, want) || second.Gen != 2 || second.PrevGen != 1 {
		t.Errorf("second: changed %v, gen %d after %d", second.Changed, second.Gen, second.PrevGen)
	}
	if first.Service(db.Name) != second.Service(db.Name) {
		t.Error("db lost its pointer")
	}
	if first.Service(web.Name).Endpoints[1] != second.Service(web.Name).Endpoints[0] {
		t.Error("the endpoint that stayed lost its pointer")
	}
	if n := len(first.Service(web.Name).Endpoints); n != 2 {
		t.Errorf("the first catalog changed: %d endpoints", n)
	}

	// The driver made it anew, and it is the same.
	third := Merge(second, []Set{{Name: "a", Services: []*Service{service("db", outside("10.0.0.3"))}}}, nil)
	if want := []Name{web.Name}; !slices.Equal(third.Changed, want) {
		t.Errorf("third: changed %v", third.Changed)
	}
	if third.Service(web.Name) != nil || third.Service(db.Name) != first.Service(db.Name) {
		t.Error("web is still there, or db lost its pointer")
	}
}

func TestMergeForgetsAConflictThatEnds(t *testing.T) {
	a := Set{Name: "a", Services: []*Service{service("s", outside("10.0.0.1", "version", "v1"))}}
	c := Merge(nil, []Set{a, {Name: "b", Services: []*Service{service("s", outside("10.0.0.1", "version", "v2"))}}}, nil)
	if len(c.Diagnostics()) != 1 {
		t.Fatalf("diagnostics: %v", c.Diagnostics())
	}
	c = Merge(c, []Set{a, {Name: "b"}}, nil)
	if len(c.Diagnostics()) != 0 {
		t.Errorf("diagnostics: %v", c.Diagnostics())
	}
}

func TestCatalogHasAStableJSONForm(t *testing.T) {
	e := inside("web", "h1", "10.0.0.1", "")
	c := Merge(nil, []Set{{Name: "policy", Services: []*Service{service("web", e)}}}, HealthMap{e.Workload.Key(): {Unhealthy, "connection refused"}})
	got, err := json.MarshalIndent(c, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	want := `{
  "services": [
    {
      "namespace": "default",
      "name": "web",
      "ports": [
        {
          "number": 80,
          "protocol": "http"
        }
      ],
      "endpoints": [
        {
          "address": "10.0.0.1",
          "port": 80,
          "service_port": 80,
          "health": "unhealthy",
          "reason": "connection refused",
          "words": [
            {
              "voice": "agent",
              "health": "unhealthy",
              "reason": "connection refused"
            }
          ],
          "sources": [
            "policy"
          ],
          "workload": {
            "host": {
              "name": "h1",
              "address": "10.0.0.1"
            },
            "service": {
              "namespace": "default",
              "name": "web"
            },
            "ports": [
              {
                "number": 80,
                "protocol": "http",
                "local": "127.0.0.1:80"
              }
            ]
          }
        }
      ],
      "sources": [
        "policy"
      ]
    }
  ]
}`
	if d := cmp.Diff(want, string(got)); d != "" {
		t.Error(d)
	}
}

func TestMergeRanksRegistriesByPriority(t *testing.T) {
	set := func(name, version string, standing Standing) Set {
		return Set{Name: name, Services: []*Service{service("s", outside("10.0.0.1", "version", version))}, Standing: standing}
	}
	late, early := set("a", "v1", Standing{Priority: 20}), set("b", "v2", Standing{Priority: 10})
	c := Merge(nil, []Set{late, early}, nil)
	if v := c.Service(Name{"default", "s"}).Endpoints[0].Meta.Get("version"); v != "v2" {
		t.Errorf("version %s, want that of the registry with the lower priority", v)
	}
	late.Standing.Priority = 5
	c = Merge(c, []Set{late, early}, nil)
	if v := c.Service(Name{"default", "s"}).Endpoints[0].Meta.Get("version"); v != "v1" || len(c.Changed) != 1 {
		t.Errorf("after the priorities changed: version %s, changed %v", v, c.Changed)
	}
}

func TestMergeMakesLevelsOfRegistriesInAFailover(t *testing.T) {
	own := outside("10.0.0.2")
	own.Priority = 3
	sets := []Set{
		{Name: "a", Services: []*Service{service("s", outside("10.0.0.1"))}, Standing: Standing{Priority: 10}},
		{Name: "b", Services: []*Service{service("s", outside("10.0.0.1"), own)}, Standing: Standing{Priority: 20, Failover: true}},
		{Name: "c", Services: []*Service{service("s", outside("10.0.0.2"), outside("10.0.0.3"))}, Standing: Standing{Priority: 30, Failover: true}},
	}
	c := Merge(nil, sets, nil)
	var got []uint32
	for _, e := range c.Service(Name{"default", "s"}).Endpoints {
		got = append(got, e.Priority)
	}
	if want := []uint32{0, 20<<16 | 3, 30 << 16}; !slices.Equal(got, want) || len(c.Diagnostics()) > 0 {
		t.Errorf("priorities %v, want %v; diagnostics %v", got, want, texts(c.Diagnostics()))
	}
}

func TestMergeMultipliesWeights(t *testing.T) {
	own := outside("10.0.0.2")
	own.Weight = 3
	c := Merge(nil, []Set{{Name: "a", Services: []*Service{service("s", outside("10.0.0.1"), own)}, Standing: Standing{Weight: 5}}}, nil)
	s := c.Service(Name{"default", "s"})
	if a, b := s.Endpoints[0].Weight, s.Endpoints[1].Weight; a != 5 || b != 15 {
		t.Errorf("weights %d and %d, want 5 and 15", a, b)
	}
}

func TestMergeLetsOneSetPlaceAHost(t *testing.T) {
	a := Set{Name: "a", Services: []*Service{service("web", inside("web", "h1", "10.0.0.1", ""))}}
	b := Set{Name: "b", Services: []*Service{service("db", inside("db", "h1", "10.0.0.2", ""))}}
	first := Merge(nil, []Set{a, b}, nil)
	db := first.Service(Name{"default", "db"}).Endpoints[0]
	if at := netip.MustParseAddr("10.0.0.1"); db.Address != at || db.Workload.Host.Address != at || b.Services[0].Endpoints[0].Workload.Host.Address == at {
		t.Errorf("db is at %s, its host at %s", db.Address, db.Workload.Host.Address)
	}
	want := []string{"warning W4205: registries disagree about host h1: it is at 10.0.0.1 by a, but at 10.0.0.2 by b"}
	if d := cmp.Diff(want, texts(first.Diagnostics())); d != "" {
		t.Error(d)
	}
	// The first registry has no workload there any more: the host moves to where the second one says.
	second := Merge(first, []Set{{Name: "a"}, b}, nil)
	if db := second.Service(Name{"default", "db"}).Endpoints[0]; db.Address != netip.MustParseAddr("10.0.0.2") || len(second.Changed) != 2 || len(second.Diagnostics()) > 0 {
		t.Errorf("db is at %s; changed: %v; diagnostics: %v", db.Address, second.Changed, second.Diagnostics())
	}
}
