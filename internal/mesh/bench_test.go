package mesh

import (
	"fmt"
	"net/netip"
	"runtime"
	"slices"
	"testing"

	"github.com/wattle-mesh/wattle/configs"
	"github.com/wattle-mesh/wattle/registry"
)

// The large mesh of the benchmarks.
const (
	manyServices  = 1000
	manyHosts     = 1000
	perService    = 3 // endpoints
	perWorkload   = 20
	routesPerRule = 10
)

// largeWorld has a virtual service with ten routes for each service, three workloads of each on different hosts,
// and twenty upstreams for each workload.
func largeWorld() *world {
	w := newWorld()
	hosts := make([]registry.Host, manyHosts)
	for i := range hosts {
		hosts[i] = registry.Host{Name: fmt.Sprintf("h%04d", i), Address: netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})}
		w.hosts[hosts[i].Name] = &configs.Host{Name: hosts[i].Name, Address: hosts[i].Address, Origin: fmt.Sprintf("hosts.hcl:%d", i+1)}
	}
	for i := range manyServices {
		n := registry.Name{Namespace: "default", Name: fmt.Sprintf("svc-%04d", i)}
		s := &registry.Service{Name: n, Origin: fmt.Sprintf("services.hcl:%d", i+1), Ports: []registry.Port{{Number: 80, Protocol: registry.HTTP}}}
		for j := range perService {
			h := hosts[(i+j*manyHosts/perService)%manyHosts]
			load := &registry.Workload{Host: h, Service: n, Origin: s.Origin, Ports: []registry.WorkloadPort{{Port: s.Ports[0], Local: netip.MustParseAddrPort("127.0.0.1:80")}}}
			for k := range perWorkload {
				to := registry.Name{Namespace: "default", Name: fmt.Sprintf("svc-%04d", (i+k*17)%manyServices)}
				load.Upstreams = append(load.Upstreams, registry.Upstream{Service: to, Bind: netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, byte(1 + j)}), uint16(9000+k)), Origin: s.Origin})
			}
			s.Endpoints = append(s.Endpoints, &registry.Endpoint{Address: h.Address, Port: 80, ServicePort: 80, Meta: registry.LabelsOf(map[string]string{"version": fmt.Sprintf("v%d", j)}), Workload: load})
		}
		slices.SortFunc(s.Endpoints, func(a, b *registry.Endpoint) int { return a.Address.Compare(b.Address) })
		w.services[n] = s
		w.virtual[n] = largeVirtualService(n, 1)
	}
	return w
}

func largeVirtualService(n registry.Name, weight uint32) *configs.VirtualService {
	vs := &configs.VirtualService{Block: configs.Block{Namespace: n.Namespace, Name: n.Name, Origin: "routes.hcl:1"}, Hosts: []configs.ServiceRef{configs.ServiceRef(n)}, Gateways: []string{"mesh"}}
	for i := range routesPerRule {
		path := fmt.Sprintf("/%d/", i)
		vs.HTTP = append(vs.HTTP, &configs.HTTPRoute{
			Name: path, Origin: "routes.hcl:2", Match: []*configs.HTTPMatch{{URI: &configs.StringMatch{Prefix: &path}}},
			Route: []*configs.Destination{{Host: configs.ServiceRef(n), Weight: weight, Origin: "routes.hcl:3"}},
		})
	}
	return vs
}

var lastService = registry.Name{Namespace: "default", Name: fmt.Sprintf("svc-%04d", manyServices-1)}

// BenchmarkResolveFromNothing also reports what one view holds beside catalog and policy.
func BenchmarkResolveFromNothing(b *testing.B) {
	w := largeWorld()
	cat, pol := w.catalog(nil), w.policy()
	before := heap()
	view, _ := Resolve(nil, cat, pol)
	size := heap() - before
	runtime.KeepAlive(view)
	b.ReportAllocs()
	for b.Loop() {
		Resolve(nil, cat, pol)
	}
	b.ReportMetric(float64(size)/1e6, "MB/view")
}

func heap() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// BenchmarkResolveEndpoint changes the health of one endpoint.
func BenchmarkResolveEndpoint(b *testing.B) {
	w := largeWorld()
	was, pol := w.catalog(nil), w.policy()
	view, _ := Resolve(nil, was, pol)
	w.services[lastService] = withHealth(w.services[lastService], 1, registry.Unhealthy)
	now := w.catalog(was)
	b.ReportAllocs()
	for b.Loop() {
		Resolve(view, now, pol)
	}
}

// BenchmarkResolveRoute changes one route of 10,000 in 1000 virtual services.
func BenchmarkResolveRoute(b *testing.B) {
	w := largeWorld()
	cat := w.catalog(nil)
	view, _ := Resolve(nil, cat, w.policy())
	w.virtual[lastService] = largeVirtualService(lastService, 2)
	pol := w.policy()
	b.ReportAllocs()
	for b.Loop() {
		Resolve(view, cat, pol)
	}
}

// BenchmarkResolveWorkload takes one workload of 3000 away.
func BenchmarkResolveWorkload(b *testing.B) {
	w := largeWorld()
	was, pol := w.catalog(nil), w.policy()
	view, _ := Resolve(nil, was, pol)
	s := *w.services[lastService]
	s.Endpoints = s.Endpoints[1:]
	w.services[lastService] = &s
	now := w.catalog(was)
	b.ReportAllocs()
	for b.Loop() {
		Resolve(view, now, pol)
	}
}
