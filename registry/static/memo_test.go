package static

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/wattle-mesh/wattle/configs"
	"github.com/wattle-mesh/wattle/registry"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var plain = cmp.Options{cmpopts.EquateComparable(netip.Addr{}, netip.AddrPort{}), cmpopts.EquateEmpty()}

// workload returns a service block with port 9080.
func workload(name, version string) *configs.Service {
	return &configs.Service{
		Block: configs.Block{Namespace: "default", Name: name, Origin: name + ".hcl:1"}, Weight: 1,
		Ports: []configs.ServicePort{{Number: 9080, Protocol: "http", Local: netip.MustParseAddrPort("127.0.0.1:9080")}},
		Meta:  map[string]string{"version": version},
	}
}

func host(name string, address byte, services ...*configs.Service) *configs.Host {
	return &configs.Host{Name: name, Address: netip.AddrFrom4([4]byte{10, 0, 0, address}), MeshPort: 7443, Zone: "z1", Services: services}
}

func TestServicesOfHostsAreWorkloads(t *testing.T) {
	reviews := workload("reviews", "v1")
	reviews.Instance = "one"
	reviews.Upstreams = []*configs.Upstream{{Service: configs.ServiceRef{Namespace: "default", Name: "ratings"}, Bind: netip.MustParseAddrPort("127.0.0.1:9081")}}
	reviews.Checks = []*configs.Check{{Type: "http", Port: 9080, Path: "/", Interval: configs.Duration(time.Second), Timeout: configs.Duration(time.Second), Healthy: 1, Unhealthy: 2}}
	got := Services(&configs.Policy{Hosts: []*configs.Host{host("h1", 1, reviews)}})

	port := registry.Port{Number: 9080, Protocol: registry.HTTP}
	at := netip.MustParseAddr("10.0.0.1")
	zone := registry.Locality{Zone: "z1"}
	name := registry.Name{Namespace: "default", Name: "reviews"}
	want := []*registry.Service{{
		Name: name, Ports: []registry.Port{port}, Origin: "reviews.hcl:1",
		Endpoints: []*registry.Endpoint{{
			Address: at, Port: 9080, ServicePort: 9080, Meta: registry.LabelsOf(map[string]string{"version": "v1"}), Weight: 1, Locality: zone,
			Workload: &registry.Workload{
				Host:    registry.Host{Name: "h1", Address: at, Locality: zone, MeshPort: 7443},
				Service: name, Instance: "one", Origin: "reviews.hcl:1",
				Ports:     []registry.WorkloadPort{{Port: port, Local: netip.MustParseAddrPort("127.0.0.1:9080")}},
				Upstreams: []registry.Upstream{{Service: registry.Name{Namespace: "default", Name: "ratings"}, Bind: netip.MustParseAddrPort("127.0.0.1:9081")}},
				Checks:    []registry.Check{{Type: "http", Port: 9080, Path: "/", Interval: time.Second, Timeout: time.Second, Healthy: 1, Unhealthy: 2}},
			},
		}},
	}}
	if d := cmp.Diff(want, got, plain); d != "" {
		t.Error(d)
	}
}

func TestServicesOutsideHostsHaveTheirEndpoints(t *testing.T) {
	db := workload("db", "v1")
	db.Ports = append(db.Ports, configs.ServicePort{Number: 9090, Protocol: "tcp"})
	db.Endpoints = []*configs.Endpoint{
		{Address: netip.MustParseAddr("10.9.0.1"), Weight: 1},
		{Address: netip.MustParseAddr("10.9.0.2"), Port: 5432, PortFor: 9090, Weight: 2, Meta: map[string]string{"zone": "z2"}},
	}
	got := Services(&configs.Policy{Services: []*configs.Service{db}})
	want := []*registry.Endpoint{
		{Address: netip.MustParseAddr("10.9.0.1"), Port: 9080, ServicePort: 9080, Weight: 1, Meta: registry.LabelsOf(map[string]string{"version": "v1"})},
		{Address: netip.MustParseAddr("10.9.0.2"), Port: 5432, ServicePort: 9090, Weight: 2, Meta: registry.LabelsOf(map[string]string{"version": "v1", "zone": "z2"})},
	}
	if d := cmp.Diff(want, got[0].Endpoints, plain); d != "" {
		t.Error(d)
	}
}

func TestMemoKeepsThePointersOfUnchangedBlocks(t *testing.T) {
	v1, v2, web := workload("reviews", "v1"), workload("reviews", "v2"), workload("web", "v1")
	h2 := host("h2", 2, v2)
	var m Memo
	first := m.Services(&configs.Policy{Hosts: []*configs.Host{host("h1", 1, v1, web), h2}})
	same := m.Services(&configs.Policy{Hosts: []*configs.Host{host("h1", 1, v1, web), h2}})
	if &first[0] != &same[0] {
		t.Error("a host that was loaded again with the same blocks changed the slice")
	}
	second := m.Services(&configs.Policy{Hosts: []*configs.Host{host("h1", 1, workload("reviews", "v3"), web), h2}})
	if first[1] != second[1] {
		t.Error("web lost its pointer")
	}
	if first[0] == second[0] || first[0].Endpoints[1] != second[0].Endpoints[1] {
		t.Error("reviews kept its pointer, or the endpoint on h2 lost its own")
	}
	third := m.Services(&configs.Policy{Hosts: []*configs.Host{h2}})
	if len(third) != 1 || len(third[0].Endpoints) != 1 || len(first) != 2 || len(first[0].Endpoints) != 2 {
		t.Error("h1 is not gone, or what was given out changed")
	}
	if moved := m.Services(&configs.Policy{Hosts: []*configs.Host{host("h2", 9, v2)}}); moved[0].Endpoints[0].Address.As4()[3] != 9 {
		t.Error("the host's new address did not reach its endpoint")
	}
	if none := m.Services(&configs.Policy{}); len(none) != 0 {
		t.Errorf("got %v of nothing", none)
	}
}

func TestMemoSaysWhenBlocksDisagree(t *testing.T) {
	other := workload("reviews", "v2")
	other.Ports[0].Protocol, other.Origin = "tcp", "h2.hcl:7"
	var m Memo
	got := m.Services(&configs.Policy{Hosts: []*configs.Host{host("h1", 1, workload("reviews", "v1")), host("h2", 2, other)}})
	if p := got[0].Ports; len(p) != 1 || p[0].Protocol != registry.HTTP {
		t.Errorf("ports %v", p)
	}
	ds := m.Diagnostics()
	if len(ds) != 1 || ds[0].Origin() != "h2.hcl:7" || !strings.Contains(ds[0].Summary, "port 9080 of service default/reviews is tcp here, but http at reviews.hcl:1") {
		t.Errorf("diagnostics: %v", ds)
	}
}

// However policies follow each other, the memo gives what each one gives alone.
func TestMemoEqualsAFreshStart(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		pool := map[string]*configs.Service{} // blocks that the loader would keep
		var m Memo
		for range rapid.IntRange(1, 6).Draw(t, "policies") {
			p := drawPolicy(t, pool)
			got := m.Services(p)
			if d := cmp.Diff(Services(p), got, plain); d != "" {
				t.Fatal(d)
			}
			if !slices.IsSortedFunc(got, func(a, b *registry.Service) int { return a.Name.Compare(b.Name) }) {
				t.Fatal("not sorted")
			}
			if again := m.Services(p); len(got) > 0 && &again[0] != &got[0] {
				t.Fatal("the same policy gave another slice")
			}
		}
	})
}

func drawPolicy(t *rapid.T, pool map[string]*configs.Service) *configs.Policy {
	block := func(where string) func(*rapid.T) *configs.Service {
		return func(t *rapid.T) *configs.Service {
			name := rapid.SampledFrom([]string{"a", "b", "c", "d"}).Draw(t, "service")
			version := rapid.SampledFrom([]string{"v1", "v2"}).Draw(t, "version")
			key := where + name + version
			if pool[key] == nil {
				s := workload(name, version)
				s.Instance, s.Origin = version, key
				if where == "" {
					s.Endpoints = []*configs.Endpoint{{Address: netip.AddrFrom4([4]byte{10, 9, 0, name[0]}), Weight: 1}}
				}
				pool[key] = s
			}
			return pool[key]
		}
	}
	origin := func(s *configs.Service) string { return s.Origin }
	p := &configs.Policy{}
	for i := range byte(3) {
		name := fmt.Sprintf("h%d", i)
		if rapid.Bool().Draw(t, name) {
			p.Hosts = append(p.Hosts, host(name, i+1, rapid.SliceOfNDistinct(rapid.Custom(block(name)), 0, 4, origin).Draw(t, "blocks")...))
		}
	}
	byName := func(s *configs.Service) string { return s.Block.Name }
	p.Services = rapid.SliceOfNDistinct(rapid.Custom(block("")), 0, 3, byName).Draw(t, "outside")
	slices.SortFunc(p.Services, compareServices)
	return p
}

// BenchmarkMemo changes one of many service blocks.
func BenchmarkMemo(b *testing.B) {
	for _, n := range []int{1000, 10_000} {
		b.Run(fmt.Sprintf("services=%d", n), func(b *testing.B) {
			p, q := &configs.Policy{}, &configs.Policy{}
			for i := range n {
				s := workload(fmt.Sprintf("svc-%05d", i), "v1")
				s.Endpoints = []*configs.Endpoint{{Address: netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), Weight: 1}}
				p.Services = append(p.Services, s)
			}
			q.Services = slices.Clone(p.Services)
			q.Services[n/2] = workload(q.Services[n/2].Name, "v2")
			var m Memo
			m.Services(p)
			for b.Loop() {
				p, q = q, p
				m.Services(p)
			}
		})
	}
}
