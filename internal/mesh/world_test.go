package mesh

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"pgregory.net/rapid"

	"github.com/wattle-mesh/wattle/configs"
	"github.com/wattle-mesh/wattle/registry"
)

// world is a small model of everything that Resolve reads. Its names are few, so that random changes meet.
type world struct {
	mesh     *configs.Mesh
	services map[registry.Name]*registry.Service
	virtual  map[registry.Name]*configs.VirtualService
	rules    map[registry.Name]*configs.DestinationRule
	defaults map[registry.Name]*configs.ServiceDefaults
	gateways map[registry.Name]*configs.Gateway
	hosts    map[string]*configs.Host
	health   registry.HealthMap // nil until an agent speaks
}

func newWorld() *world {
	return &world{
		mesh:     &configs.Mesh{Domain: "mesh", TrustDomain: "corp.example", MTLS: "strict", Plaintext: true},
		services: map[registry.Name]*registry.Service{},
		virtual:  map[registry.Name]*configs.VirtualService{},
		rules:    map[registry.Name]*configs.DestinationRule{},
		defaults: map[registry.Name]*configs.ServiceDefaults{},
		gateways: map[registry.Name]*configs.Gateway{},
		hosts:    map[string]*configs.Host{},
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
	p := &configs.Policy{Mesh: w.mesh, VirtualServices: byName(w.virtual), DestinationRules: byName(w.rules), ServiceDefaults: byName(w.defaults), Gateways: byName(w.gateways)}
	for _, h := range slices.Sorted(maps.Keys(w.hosts)) {
		p.Hosts = append(p.Hosts, w.hosts[h])
	}
	return p
}

func (w *world) catalog(prev *registry.Catalog) *registry.Catalog {
	return registry.Merge(prev, []registry.Set{{Name: "test", Services: byName(w.services)}}, w.health)
}

var (
	someNames    = []registry.Name{{Namespace: "default", Name: "a"}, {Namespace: "default", Name: "b"}, {Namespace: "default", Name: "bb"}, {Namespace: "shop", Name: "a"}}
	someGateways = []registry.Name{{Namespace: "default", Name: "edge"}, {Namespace: "shop", Name: "edge"}}
	someHosts    = []string{"host1", "host2", "host3"}
	someSubsets  = []string{"v1", "v2", "v3"}
	somePorts    = []uint16{80, 81}
)

// change does one random thing to the world, and says what.
func drawDefaults(t *rapid.T, n registry.Name) *configs.ServiceDefaults {
	d := &configs.ServiceDefaults{
		Block:     configs.Block{Namespace: n.Namespace, Name: n.Name, Origin: drawOrigin(t)},
		Protocol:  rapid.SampledFrom([]string{"", "http", "tcp"}).Draw(t, "protocol"),
		Region:    rapid.SampledFrom([]string{"", "eu"}).Draw(t, "region"),
		HealthyIf: rapid.SampledFrom([]string{"registry and agent", "agent"}).Draw(t, "healthy_if"),
	}
	if rapid.Bool().Draw(t, "labelled") {
		d.Labels = map[string]string{"version": "v1"}
	}
	if rapid.Bool().Draw(t, "lent") {
		other := rapid.SampledFrom(someNames).Draw(t, "other")
		d.Identities = []configs.ServiceRef{configs.ServiceRef(other)}
	}
	if rapid.Bool().Draw(t, "shared") {
		d.Registries = map[string]uint32{"test": rapid.SampledFrom([]uint32{0, 1}).Draw(t, "share"), "other": 1}
	}
	return d
}

func (w *world) change(t *rapid.T) string {
	n := rapid.SampledFrom(someNames).Draw(t, "name")
	gone := rapid.IntRange(0, 3).Draw(t, "gone") == 0
	switch rapid.IntRange(0, 11).Draw(t, "what") {
	case 0, 1, 2:
		set(w.services, n, gone, func() *registry.Service { return drawService(t, n) })
		return "service " + n.String()
	case 3, 4:
		if s := w.services[n]; s != nil && len(s.Endpoints) > 0 {
			w.services[n] = withHealth(s, rapid.IntRange(0, len(s.Endpoints)-1).Draw(t, "endpoint"), drawHealth(t))
		}
		return "health " + n.String()
	case 5:
		set(w.virtual, n, gone, func() *configs.VirtualService { return drawVirtualService(t, n) })
		return "virtual_service " + n.String()
	case 6:
		if old := w.rules[n]; old != nil && rapid.Bool().Draw(t, "relabel") {
			w.rules[n] = relabelled(t, old)
			return "labels of destination_rule " + n.String()
		}
		set(w.rules, n, gone, func() *configs.DestinationRule { return drawRule(t, n) })
		return "destination_rule " + n.String()
	case 7:
		g := rapid.SampledFrom(someGateways).Draw(t, "gateway")
		set(w.gateways, g, gone, func() *configs.Gateway { return drawGateway(t, g) })
		return "gateway " + g.String()
	case 8:
		h := rapid.SampledFrom(someHosts).Draw(t, "host")
		set(w.hosts, h, gone, func() *configs.Host {
			return &configs.Host{Name: h, Address: drawAddress(t), MeshPort: 7443}
		})
		return "host " + h
	case 9:
		if rapid.IntRange(0, 3).Draw(t, "of a host") == 0 {
			h := rapid.SampledFrom(someHosts).Draw(t, "host")
			w.speak(registry.HostKey(h), registry.HealthWord{Health: rapid.SampledFrom([]registry.Health{"", registry.Draining}).Draw(t, "operator's word")})
			return "maintenance of " + h
		}
		if all := w.workloads(); len(all) > 0 {
			k := rapid.SampledFrom(all).Draw(t, "workload")
			w.speak(k, registry.HealthWord{Health: rapid.SampledFrom([]registry.Health{registry.Healthy, registry.Unhealthy}).Draw(t, "agent's word")})
			return "health of " + k.String()
		}
	case 10:
		set(w.defaults, n, gone, func() *configs.ServiceDefaults { return drawDefaults(t, n) })
		return "service_defaults " + n.String()
	}
	if rapid.IntRange(0, 5).Draw(t, "mesh") == 0 {
		m := *w.mesh
		m.Plaintext, m.Origin = rapid.Bool().Draw(t, "plaintext"), drawOrigin(t)
		w.mesh = &m
	}
	return "mesh"
}

// workloads lists those that the registry names.
func (w *world) workloads() []registry.WorkloadKey {
	var out []registry.WorkloadKey
	for _, s := range byName(w.services) {
		for _, e := range s.Endpoints {
			if e.Workload != nil {
				out = append(out, e.Workload.Key())
			}
		}
	}
	return out
}

// speak has the agent of a workload say what its health is.
func (w *world) speak(k registry.WorkloadKey, word registry.HealthWord) {
	now := registry.HealthMap{k: word}
	for k, word := range w.health {
		if _, has := now[k]; !has {
			now[k] = word
		}
	}
	w.health = now
}

func set[K comparable, T any](m map[K]T, key K, gone bool, draw func() T) {
	if gone {
		delete(m, key)
		return
	}
	m[key] = draw()
}

func drawOrigin(t *rapid.T) string {
	return fmt.Sprintf("x.hcl:%d", rapid.IntRange(1, 3).Draw(t, "line"))
}

func drawAddress(t *rapid.T) netip.Addr {
	return netip.AddrFrom4([4]byte{10, 0, 0, byte(rapid.IntRange(1, 4).Draw(t, "address"))})
}

func drawHealth(t *rapid.T) registry.Health {
	return rapid.SampledFrom([]registry.Health{"", registry.Healthy, registry.Unhealthy, registry.Draining}).Draw(t, "health")
}

func withHealth(s *registry.Service, i int, h registry.Health) *registry.Service {
	c := *s
	c.Endpoints = slices.Clone(s.Endpoints)
	e := *s.Endpoints[i]
	e.Health = h
	c.Endpoints[i] = &e
	return &c
}

// drawService draws a service with up to four endpoints: workloads of its own, those of others, and plain ones.
func drawService(t *rapid.T, n registry.Name) *registry.Service {
	s := &registry.Service{Name: n, Origin: drawOrigin(t)}
	protocols := rapid.SampledFrom([]registry.Protocol{registry.HTTP, registry.HTTP, registry.GRPC, registry.TCP, ""})
	for _, p := range rapid.SliceOfNDistinct(rapid.SampledFrom(somePorts), 0, 2, rapid.ID).Draw(t, "ports") {
		s.Ports = append(s.Ports, registry.Port{Number: p, Protocol: protocols.Draw(t, "protocol")})
	}
	slices.SortFunc(s.Ports, func(a, b registry.Port) int { return int(a.Number) - int(b.Number) })
	seen := map[string]bool{}
	for range rapid.IntRange(0, 4).Draw(t, "endpoints") {
		e := &registry.Endpoint{
			Address: drawAddress(t), Port: rapid.SampledFrom(somePorts).Draw(t, "port"), ServicePort: rapid.SampledFrom(somePorts).Draw(t, "service port"),
			Health: drawHealth(t), Meta: registry.LabelsOf(map[string]string{"version": rapid.SampledFrom(someSubsets).Draw(t, "version")}),
			Priority: rapid.SampledFrom([]uint32{0, 0, 7}).Draw(t, "priority"),
		}
		if rapid.Bool().Draw(t, "workload") {
			e.Workload = drawWorkload(t, s)
			e.Address = e.Workload.Host.Address
			if seen[e.Workload.Key().String()] {
				continue
			}
			seen[e.Workload.Key().String()] = true
		}
		s.Endpoints = append(s.Endpoints, e)
	}
	slices.SortStableFunc(s.Endpoints, func(a, b *registry.Endpoint) int {
		if c := a.Address.Compare(b.Address); c != 0 || a.Port != b.Port {
			return cmpOr(c, int(a.Port)-int(b.Port))
		}
		return cmpOr(strings.Compare(workloadName(a), workloadName(b)), int(a.ServicePort)-int(b.ServicePort))
	})
	return s
}

func cmpOr(a, b int) int {
	if a != 0 {
		return a
	}
	return b
}

func workloadName(e *registry.Endpoint) string {
	if e.Workload == nil {
		return ""
	}
	return e.Workload.Key().String()
}

func drawWorkload(t *rapid.T, s *registry.Service) *registry.Workload {
	w := &registry.Workload{Service: s.Name, Origin: drawOrigin(t), Instance: rapid.SampledFrom([]string{"", "i1", "i2"}).Draw(t, "instance")}
	w.Sidecar = rapid.IntRange(0, 2).Draw(t, "mode") == 0
	w.Isolate = rapid.IntRange(0, 3).Draw(t, "isolated") == 0
	if rapid.IntRange(0, 9).Draw(t, "foreign") == 0 {
		w.Service = rapid.SampledFrom(someNames).Draw(t, "identity")
	}
	h := rapid.IntRange(1, 3).Draw(t, "host")
	w.Host = registry.Host{Name: fmt.Sprintf("host%d", h), Address: netip.AddrFrom4([4]byte{10, 0, 0, byte(h)})}
	if rapid.IntRange(0, 9).Draw(t, "shared") == 0 {
		w.Host.Address = drawAddress(t)
	}
	if h == 3 {
		w.Host.MeshPort = 65535 // leaves room for one instance
	}
	local := netip.MustParseAddr("127.0.0.1")
	if rapid.IntRange(0, 3).Draw(t, "elsewhere") == 0 {
		local = drawAddress(t) // another of the host's addresses, or one that it only says it has
	}
	for _, p := range s.Ports {
		w.Ports = append(w.Ports, registry.WorkloadPort{Port: p, Local: netip.AddrPortFrom(local, p.Number)})
	}
	for i := range rapid.IntRange(0, 2).Draw(t, "upstreams") {
		w.Upstreams = append(w.Upstreams, registry.Upstream{
			Service: rapid.SampledFrom(someNames).Draw(t, "upstream"), Port: rapid.SampledFrom([]uint16{0, 0, 80, 81}).Draw(t, "upstream port"),
			Bind: netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(9000+i)), Origin: drawOrigin(t),
		})
	}
	if rapid.Bool().Draw(t, "capture") {
		w.Capture = drawCapture(t)
		for i := range w.Upstreams {
			if rapid.Bool().Draw(t, "by name") {
				w.Upstreams[i].Bind = netip.AddrPort{}
			}
		}
	}
	return w
}

func drawCapture(t *rapid.T) *registry.Capture {
	some := append([]registry.Name{{Namespace: "default", Name: "*"}, {Namespace: "shop", Name: "*"}, {Namespace: "*", Name: "*"}}, someNames...)
	c := &registry.Capture{
		Mode:     rapid.SampledFrom([]registry.CaptureMode{registry.Loopback, registry.Transparent}).Draw(t, "mode"),
		Services: rapid.SliceOfNDistinct(rapid.SampledFrom(some), 0, 2, rapid.ID).Draw(t, "patterns"),
		Origin:   drawOrigin(t),
	}
	slices.SortFunc(c.Services, registry.Name.Compare)
	return c
}

func drawRefs(t *rapid.T) []configs.ServiceRef {
	var out []configs.ServiceRef
	for _, n := range rapid.SliceOfNDistinct(rapid.SampledFrom(someNames), 1, 2, rapid.ID).Draw(t, "hosts") {
		out = append(out, configs.ServiceRef(n))
	}
	return out
}

func drawVirtualService(t *rapid.T, n registry.Name) *configs.VirtualService {
	vs := &configs.VirtualService{Block: configs.Block{Namespace: n.Namespace, Name: n.Name, Origin: drawOrigin(t)}, Hosts: drawRefs(t)}
	vs.Gateways = rapid.SampledFrom([][]string{{"mesh"}, {"mesh"}, {"mesh", "default/edge"}, {"default/edge", "shop/edge"}}).Draw(t, "gateways")
	vs.Domains = rapid.SampledFrom([][]string{nil, {"*"}, {"a.example.com"}, {"*.example.com", "b"}}).Draw(t, "domains")
	for range rapid.IntRange(0, 2).Draw(t, "rules") {
		h := &configs.HTTPRoute{Origin: drawOrigin(t)}
		if rapid.IntRange(0, 5).Draw(t, "redirect") == 0 {
			h.Redirect = &configs.Redirect{URI: "/x", Code: 301}
		} else {
			for range rapid.IntRange(1, 2).Draw(t, "destinations") {
				h.Route = append(h.Route, &configs.Destination{
					Origin: drawOrigin(t), Host: drawRefs(t)[0], Weight: 1,
					Subset: rapid.SampledFrom(append([]string{""}, someSubsets...)).Draw(t, "subset"),
					Port:   rapid.SampledFrom([]uint16{0, 0, 80}).Draw(t, "port"),
				})
			}
		}
		vs.HTTP = append(vs.HTTP, h)
	}
	return vs
}

func drawRule(t *rapid.T, n registry.Name) *configs.DestinationRule {
	d := &configs.DestinationRule{Block: configs.Block{Namespace: n.Namespace, Name: n.Name, Origin: drawOrigin(t)}, Host: drawRefs(t)[0]}
	for _, s := range rapid.SliceOfNDistinct(rapid.SampledFrom(someSubsets), 0, 3, rapid.ID).Draw(t, "subsets") {
		d.Subsets = append(d.Subsets, &configs.Subset{Name: s})
	}
	return relabelled(t, d)
}

func relabelled(t *rapid.T, d *configs.DestinationRule) *configs.DestinationRule {
	c := *d
	c.Subsets = nil
	for _, s := range d.Subsets {
		c.Subsets = append(c.Subsets, &configs.Subset{Name: s.Name, Labels: map[string]string{"version": rapid.SampledFrom(someSubsets).Draw(t, "label")}})
	}
	return &c
}

func drawGateway(t *rapid.T, n registry.Name) *configs.Gateway {
	g := &configs.Gateway{Block: configs.Block{Namespace: n.Namespace, Name: n.Name, Origin: drawOrigin(t)}}
	g.RunOn = rapid.SliceOfNDistinct(rapid.SampledFrom(append(someHosts, "host4")), 1, 2, rapid.ID).Draw(t, "run on")
	g.Servers = []*configs.GatewayServer{{
		Name: "http", Bind: netip.MustParseAddrPort("127.0.0.1:8080"), Protocol: "http", Origin: drawOrigin(t),
		Hosts: rapid.SampledFrom([][]string{{"*"}, {"*.example.com"}, {"a", "b"}}).Draw(t, "server hosts"),
	}}
	return g
}
