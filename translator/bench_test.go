package translator_test

import (
	"fmt"
	"net/netip"
	"runtime"
	"slices"
	"testing"

	"github.com/wattle-mesh/wattle/configs"
	"github.com/wattle-mesh/wattle/registry"
	"github.com/wattle-mesh/wattle/translator"
)

// The large mesh of the benchmarks: as many hosts as services, and three workloads of each service.
const (
	manyServices  = 1000
	perService    = 3
	perWorkload   = 20 // upstreams
	routesPerRule = 10
)

func largeWorld() *world {
	w := newWorld()
	hosts := make([]registry.Host, manyServices)
	for i := range hosts {
		hosts[i] = registry.Host{Name: fmt.Sprintf("h%04d", i), Address: netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})}
	}
	for i := range manyServices {
		n := registry.Name{Namespace: "default", Name: fmt.Sprintf("svc-%04d", i)}
		port := registry.Port{Number: 80, Protocol: registry.HTTP}
		s := &registry.Service{Name: n, Origin: fmt.Sprintf("services.hcl:%d", i+1), Ports: []registry.Port{port}}
		for j := range perService {
			load := &registry.Workload{
				Host: hosts[(i+j*manyServices/perService)%manyServices], Service: n, Origin: s.Origin,
				Ports: []registry.WorkloadPort{{Port: port, Local: netip.MustParseAddrPort("127.0.0.1:80")}},
			}
			for k := range perWorkload {
				load.Upstreams = append(load.Upstreams, registry.Upstream{
					Service: registry.Name{Namespace: "default", Name: fmt.Sprintf("svc-%04d", (i+k*17)%manyServices)},
					Bind:    netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, byte(1 + j)}), uint16(9000+k)),
				})
			}
			s.Endpoints = append(s.Endpoints, &registry.Endpoint{Address: load.Host.Address, Port: 80, ServicePort: 80, Workload: load})
		}
		slices.SortFunc(s.Endpoints, func(a, b *registry.Endpoint) int { return a.Address.Compare(b.Address) })
		w.services[n] = s
		w.virtual[n] = largeVirtualService(n, "/new")
	}
	return w
}

// largeVirtualService has ten routes, of which the last rewrites to the path.
func largeVirtualService(n registry.Name, path string) *configs.VirtualService {
	vs := &configs.VirtualService{
		Block: configs.Block{Namespace: n.Namespace, Name: n.Name, Origin: "routes.hcl:1"},
		Hosts: []configs.ServiceRef{configs.ServiceRef(n)}, Gateways: []string{"mesh"},
	}
	for i := range routesPerRule {
		prefix := fmt.Sprintf("/%d/", i)
		vs.HTTP = append(vs.HTTP, &configs.HTTPRoute{
			Name: prefix, Origin: "routes.hcl:2", Match: []*configs.HTTPMatch{{URI: &configs.StringMatch{Prefix: &prefix}}},
			Route: []*configs.Destination{{Host: configs.ServiceRef(n), Weight: 1, Origin: "routes.hcl:3"}},
		})
	}
	vs.HTTP[routesPerRule-1].Rewrite = &configs.Rewrite{URI: path}
	return vs
}

var lastService = registry.Name{Namespace: "default", Name: fmt.Sprintf("svc-%04d", manyServices-1)}

// benchmarkChange measures the translation of one change of the large mesh, from nothing but the outputs before it.
func benchmarkChange(b *testing.B, wantResources int, change func(w *world)) {
	w := largeWorld()
	was, err := translator.Translate(nil, w.resolve())
	if err != nil {
		b.Fatal(err)
	}
	change(w)
	now := w.resolve()
	b.ReportAllocs()
	for b.Loop() {
		out, err := translator.Translate(was, now)
		if err != nil || len(out.Changes.Resources) != wantResources {
			b.Fatalf("%d resources changed, want %d: %v", len(out.Changes.Resources), wantResources, err)
		}
	}
}

// BenchmarkTranslateEndpoint changes the health of one endpoint of 3000.
func BenchmarkTranslateEndpoint(b *testing.B) {
	benchmarkChange(b, 1, func(w *world) {
		w.services[lastService] = withHealth(w.services[lastService], 1, registry.Unhealthy)
	})
}

// BenchmarkTranslateRoute changes one route of 10,000 in 1000 route configurations.
func BenchmarkTranslateRoute(b *testing.B) {
	benchmarkChange(b, 1, func(w *world) { w.virtual[lastService] = largeVirtualService(lastService, "/newer") })
}

// BenchmarkTranslateFromNothing also reports what one output holds.
func BenchmarkTranslateFromNothing(b *testing.B) {
	view := largeWorld().resolve()
	before := heap()
	out, err := translator.Translate(nil, view)
	if err != nil {
		b.Fatal(err)
	}
	size := heap() - before
	runtime.KeepAlive(out)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := translator.Translate(nil, view); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(size)/1e6, "MB/output")
	b.ReportMetric(float64(len(out.Changes.Resources)), "resources")
}

func heap() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
