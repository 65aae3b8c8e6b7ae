package translator_test

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"pgregory.net/rapid"

	"github.com/wattle-mesh/wattle/configs"
	"github.com/wattle-mesh/wattle/internal/mesh"
	"github.com/wattle-mesh/wattle/registry"
)

// world is a small model of what the stages before the translator read. Its names are few, so that changes meet.
type world struct {
	mesh     *configs.Mesh
	services map[registry.Name]*registry.Service
	virtual  map[registry.Name]*configs.VirtualService
	rules    map[registry.Name]*configs.DestinationRule
	gateways map[registry.Name]*configs.Gateway
	cat      *registry.Catalog
	view     *mesh.View
}

func newWorld() *world {
	return &world{
		mesh:     &configs.Mesh{Domain: "mesh", TrustDomain: "corp.example", MTLS: "strict", Plaintext: true},
		services: map[registry.Name]*registry.Service{},
		virtual:  map[registry.Name]*configs.VirtualService{},
		rules:    map[registry.Name]*configs.DestinationRule{},
		gateways: map[registry.Name]*configs.Gateway{},
	}
}

func byName[T any](m map[registry.Name]T) []T {
	var out []T
	for _, n := range slices.SortedFunc(maps.Keys(m), registry.Name.Compare) {
		out = append(out, m[n])
	}
	return out
}

func (w *world) policy() *configs.Policy {
	return &configs.Policy{Mesh: w.mesh, VirtualServices: byName(w.virtual), DestinationRules: byName(w.rules), Gateways: byName(w.gateways)}
}

// resolve makes the world's next view.
func (w *world) resolve() *mesh.View {
	w.cat = registry.Merge(w.cat, []registry.Set{{Name: "test", Services: byName(w.services)}}, nil)
	var moved []registry.WorkloadKey
	if w.view != nil {
		moved = w.view.Moves() // each takes a step with every view
	}
	w.view, _ = mesh.Resolve(w.view.Advance(moved), w.cat, w.policy())
	return w.view
}

// fresh is the world's view made from nothing, with what the last one had allotted.
func (w *world) fresh() *mesh.View {
	cat := registry.Merge(nil, []registry.Set{{Name: "test", Services: byName(w.services)}}, nil)
	v, _ := mesh.Resolve(&mesh.View{Allotted: w.view.Allotted}, cat, w.policy())
	return v
}

var (
	someNames   = []registry.Name{{Namespace: "default", Name: "a"}, {Namespace: "default", Name: "b"}, {Namespace: "shop", Name: "a"}}
	someGates   = []registry.Name{{Namespace: "default", Name: "edge"}, {Namespace: "shop", Name: "edge"}}
	someSubsets = []string{"v1", "v2"}
	somePorts   = []uint16{80, 81}
)

// change does one random thing to the world, and says what.
func (w *world) change(t *rapid.T) string {
	n := rapid.SampledFrom(someNames).Draw(t, "name")
	gone := rapid.IntRange(0, 3).Draw(t, "gone") == 0
	switch rapid.IntRange(0, 8).Draw(t, "what") {
	case 0, 1, 2:
		put(w.services, n, gone, func() *registry.Service { return drawService(t, n) })
		return "service " + n.String()
	case 3:
		if s := w.services[n]; s != nil && len(s.Endpoints) > 0 {
			w.services[n] = withHealth(s, rapid.IntRange(0, len(s.Endpoints)-1).Draw(t, "endpoint"), drawHealth(t))
		}
		return "health " + n.String()
	case 4, 5:
		put(w.virtual, n, gone, func() *configs.VirtualService { return drawVirtualService(t, n) })
		return "virtual_service " + n.String()
	case 6:
		put(w.rules, n, gone, func() *configs.DestinationRule { return drawRule(t, n) })
		return "destination_rule " + n.String()
	case 7:
		g := rapid.SampledFrom(someGates).Draw(t, "gateway")
		put(w.gateways, g, gone, func() *configs.Gateway { return drawGateway(t, g) })
		return "gateway " + g.String()
	}
	m := *w.mesh
	m.Plaintext = rapid.Bool().Draw(t, "plaintext")
	m.TrustDomain = rapid.SampledFrom([]string{"corp.example", "corp.example", "corp.example", "other.example"}).Draw(t, "trust domain")
	w.mesh = &m
	return "mesh"
}

func put[K comparable, T any](m map[K]T, key K, gone bool, draw func() T) {
	if gone {
		delete(m, key)
		return
	}
	m[key] = draw()
}

func drawHealth(t *rapid.T) registry.Health {
	return rapid.SampledFrom([]registry.Health{registry.Healthy, registry.Unhealthy, registry.Draining}).Draw(t, "health")
}

func withHealth(s *registry.Service, i int, h registry.Health) *registry.Service {
	c := *s
	c.Endpoints = slices.Clone(s.Endpoints)
	e := *s.Endpoints[i]
	e.Health = h
	c.Endpoints[i] = &e
	return &c
}

func address(n int) netip.Addr { return netip.AddrFrom4([4]byte{10, 0, 0, byte(n)}) }

// drawService draws a service with at most one endpoint a host, each a workload or outside the mesh.
func drawService(t *rapid.T, n registry.Name) *registry.Service {
	s := &registry.Service{Name: n}
	for _, p := range somePorts {
		if protocol := rapid.SampledFrom([]registry.Protocol{"none", registry.HTTP, registry.HTTP, registry.GRPC, registry.TCP}).Draw(t, "protocol"); protocol != "none" {
			s.Ports = append(s.Ports, registry.Port{Number: p, Protocol: protocol})
		}
	}
	for h := 1; h <= 3 && len(s.Ports) > 0; h++ {
		kind := rapid.SampledFrom([]string{"none", "plain", "workload", "workload"}).Draw(t, "endpoint")
		if kind == "none" {
			continue
		}
		var w *registry.Workload
		if kind == "workload" {
			w = drawWorkload(t, s, h)
		}
		priority := rapid.SampledFrom([]uint32{0, 0, 1, 7}).Draw(t, "priority")
		meta := map[string]string{"version": rapid.SampledFrom(someSubsets).Draw(t, "version")}
		for _, p := range s.Ports {
			s.Endpoints = append(s.Endpoints, &registry.Endpoint{Address: address(h), Port: p.Number, ServicePort: p.Number, Priority: priority, Health: drawHealth(t), Meta: registry.LabelsOf(meta), Workload: w})
		}
	}
	return s
}

func drawWorkload(t *rapid.T, s *registry.Service, h int) *registry.Workload {
	w := &registry.Workload{
		Service: s.Name, Origin: "hosts.hcl:1", Instance: rapid.SampledFrom([]string{"", "i1"}).Draw(t, "instance"),
		Host:    registry.Host{Name: fmt.Sprintf("host%d", h), Address: address(h)},
		Sidecar: rapid.IntRange(0, 2).Draw(t, "mode") == 0, Isolate: rapid.IntRange(0, 2).Draw(t, "isolated") == 0,
	}
	for _, p := range s.Ports {
		w.Ports = append(w.Ports, registry.WorkloadPort{Port: p, Local: netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), p.Number)})
	}
	for i := range rapid.IntRange(0, 3).Draw(t, "upstreams") {
		w.Upstreams = append(w.Upstreams, registry.Upstream{
			Service: rapid.SampledFrom(someNames).Draw(t, "upstream"), Port: rapid.SampledFrom(somePorts).Draw(t, "upstream port"),
			Bind: netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(9000+i)), Origin: "hosts.hcl:2",
		})
	}
	if rapid.Bool().Draw(t, "capture") {
		w.Capture = &registry.Capture{
			Mode:     rapid.SampledFrom([]registry.CaptureMode{registry.Loopback, registry.Transparent}).Draw(t, "mode"),
			Services: []registry.Name{rapid.SampledFrom(append([]registry.Name{{Namespace: "default", Name: "*"}, {Namespace: "*", Name: "*"}}, someNames...)).Draw(t, "pattern")},
		}
		for i := range w.Upstreams {
			if rapid.Bool().Draw(t, "by name") {
				w.Upstreams[i].Bind = netip.AddrPort{}
			}
		}
	}
	return w
}

func drawRef(t *rapid.T) configs.ServiceRef {
	return configs.ServiceRef(rapid.SampledFrom(someNames).Draw(t, "host"))
}

func drawVirtualService(t *rapid.T, n registry.Name) *configs.VirtualService {
	vs := &configs.VirtualService{
		Block: configs.Block{Namespace: n.Namespace, Name: n.Name, Origin: "routes.hcl:1"}, Hosts: []configs.ServiceRef{drawRef(t)},
		Gateways: rapid.SampledFrom([][]string{{"mesh"}, {"mesh", "default/edge"}, {"default/edge", "shop/edge"}}).Draw(t, "gateways"),
		Domains:  rapid.SampledFrom([][]string{nil, {"*"}, {"a.example.com"}}).Draw(t, "domains"),
	}
	for range rapid.IntRange(0, 2).Draw(t, "rules") {
		h := &configs.HTTPRoute{Origin: "routes.hcl:2"}
		for range rapid.IntRange(1, 2).Draw(t, "destinations") {
			h.Route = append(h.Route, &configs.Destination{
				Host: drawRef(t), Weight: 1, Port: rapid.SampledFrom([]uint16{0, 80, 81}).Draw(t, "port"),
				Subset: rapid.SampledFrom(append([]string{""}, someSubsets...)).Draw(t, "subset"),
			})
		}
		vs.HTTP = append(vs.HTTP, h)
	}
	return vs
}

func drawRule(t *rapid.T, n registry.Name) *configs.DestinationRule {
	d := &configs.DestinationRule{Block: configs.Block{Namespace: n.Namespace, Name: n.Name, Origin: "rules.hcl:1"}, Host: configs.ServiceRef(n)}
	if rapid.Bool().Draw(t, "balancer") {
		d.Traffic.LoadBalancer = &configs.LoadBalancer{Simple: "random"}
	}
	if rapid.Bool().Draw(t, "pool") {
		idle := configs.Duration(rapid.IntRange(1, 2).Draw(t, "idle") * 1e9)
		d.Traffic.ConnectionPool = &configs.ConnectionPool{TCP: &configs.TCPPool{IdleTimeout: &idle}}
	}
	for _, s := range rapid.SliceOfNDistinct(rapid.SampledFrom(someSubsets), 0, 2, rapid.ID).Draw(t, "subsets") {
		d.Subsets = append(d.Subsets, &configs.Subset{Name: s, Labels: map[string]string{"version": rapid.SampledFrom(someSubsets).Draw(t, "label")}})
	}
	return d
}

func drawGateway(t *rapid.T, n registry.Name) *configs.Gateway {
	g := &configs.Gateway{Block: configs.Block{Namespace: n.Namespace, Name: n.Name, Origin: "gateways.hcl:1"}}
	g.RunOn = rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"host1", "host2"}), 1, 2, rapid.ID).Draw(t, "run on")
	g.Servers = []*configs.GatewayServer{{
		Name: "http", Bind: netip.MustParseAddrPort("127.0.0.1:8080"), Protocol: "http", Hosts: []string{"*"}, Origin: "gateways.hcl:2",
	}}
	return g
}
