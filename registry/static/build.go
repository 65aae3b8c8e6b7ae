package static

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/wattle-mesh/wattle/configs"
	"github.com/wattle-mesh/wattle/registry"
)

// build makes the group's service from its blocks.
func (g *group) build(name registry.Name) {
	s := &registry.Service{Name: name, Origin: g.blocks[0].Origin}
	for i := range g.blocks {
		b := &g.blocks[i]
		g.addPorts(s, b)
		if b.endpoints == nil {
			b.endpoints = b.source.build()
		}
		s.Endpoints = append(s.Endpoints, b.endpoints...)
	}
	slices.SortStableFunc(s.Endpoints, compareEndpoints)
	g.service = s
}

func compareEndpoints(a, b *registry.Endpoint) int {
	if c := cmp.Or(a.Address.Compare(b.Address), cmp.Compare(a.Port, b.Port)); c != 0 || a.Workload == nil || b.Workload == nil {
		return c
	}
	return a.Workload.Key().Compare(b.Workload.Key())
}

// addPorts adds the ports that no block before b has.
func (g *group) addPorts(s *registry.Service, b *block) {
	for _, p := range b.Ports {
		i, found := slices.BinarySearchFunc(s.Ports, p.Number, func(p registry.Port, n uint16) int { return cmp.Compare(p.Number, n) })
		if !found {
			s.Ports = slices.Insert(s.Ports, i, portOf(p))
			continue
		}
		known := &s.Ports[i]
		known.Protocol = cmp.Or(known.Protocol, registry.Protocol(p.Protocol))
		if p.Protocol != "" && known.Protocol != registry.Protocol(p.Protocol) && g.clash == nil {
			d := configs.NewDiagnostic(configs.Warning, registry.PortConflict, b.Origin,
				fmt.Sprintf("port %d of service %s is %s here, but %s at %s", p.Number, s.Name, p.Protocol, known.Protocol, s.Origin),
				"The first block's word holds. Let all blocks of the service give the port the same protocol.")
			g.clash = &d
		}
	}
}

// sidecar is the mode of a workload with an Envoy of its own.
const sidecar = "sidecar"

// build makes the endpoints of one block.
func (s source) build() []*registry.Endpoint {
	if s.host.Name == "" {
		return s.outside()
	}
	w := &registry.Workload{
		Host:     s.host,
		Service:  nameOf(s.Service),
		Instance: s.Instance,
		Unit:     s.Unit,
		Sidecar:  cmp.Or(s.Mode, s.mode) == sidecar,
		Isolate:  s.Isolate,
		Origin:   s.Origin,
	}
	endpoints, meta := make([]*registry.Endpoint, 0, len(s.Ports)), registry.LabelsOf(s.Meta)
	if s.facts != "" {
		meta = registry.LabelsOf(s.Meta).Or(s.facts.Map())
	}
	for _, p := range s.Ports {
		w.Ports = append(w.Ports, registry.WorkloadPort{Port: portOf(p), Local: p.Local})
		endpoints = append(endpoints, &registry.Endpoint{
			Address: s.host.Address, Port: p.Number, ServicePort: p.Number, Meta: meta, Weight: s.Weight,
			Locality: s.host.Locality, Workload: w,
		})
	}
	for _, u := range s.Upstreams {
		w.Upstreams = append(w.Upstreams, registry.Upstream{
			Service: registry.Name(u.Service), Port: u.Port, Bind: u.Bind, Socket: u.Socket, Origin: u.Origin,
		})
	}
	w.Capture = captureOf(s.Capture)
	for _, c := range s.Checks {
		w.Checks = append(w.Checks, registry.Check{
			Type: c.Type, Port: c.Port, Path: c.Path, Interval: time.Duration(c.Interval), Timeout: time.Duration(c.Timeout),
			Healthy: c.Healthy, Unhealthy: c.Unhealthy,
		})
	}
	return endpoints
}

// outside makes the endpoints of a block that stands alone. Their labels are the service's and their own.
func (s source) outside() []*registry.Endpoint {
	endpoints, shared := make([]*registry.Endpoint, 0, len(s.Endpoints)), registry.LabelsOf(s.Meta)
	for _, e := range s.Endpoints {
		meta := shared
		if len(e.Meta) > 0 {
			meta = registry.LabelsOf(e.Meta).Or(s.Meta)
		}
		serves := e.PortFor
		if serves == 0 && len(s.Ports) > 0 {
			serves = s.Ports[0].Number
		}
		endpoints = append(endpoints, &registry.Endpoint{
			Address: e.Address, Port: cmp.Or(e.Port, serves), ServicePort: serves, Meta: meta, Weight: e.Weight, Priority: e.Priority,
			Locality: registry.Locality{Region: e.Region, Zone: e.Zone, Rack: e.Rack}, Health: registry.Health(e.Health), Reason: e.Reason,
		})
	}
	return endpoints
}

func captureOf(c *configs.Capture) *registry.Capture {
	if c == nil {
		return nil
	}
	out := &registry.Capture{
		Mode: registry.CaptureMode(c.Mode), User: c.User, ExcludeAddresses: c.ExcludeAddresses, ExcludePorts: c.ExcludePorts, Origin: c.Origin,
	}
	for _, ref := range c.Services {
		out.Services = append(out.Services, registry.Name(ref))
	}
	return out
}

func portOf(p configs.ServicePort) registry.Port {
	return registry.Port{Number: p.Number, Name: p.Name, Protocol: registry.Protocol(p.Protocol)}
}

// Facts are labels of hosts, by the hosts' names. What is registered has the last word on a label. Immutable; compared by
// pointer; nil has none.
type Facts struct{ Of map[string]registry.Labels }

func (f *Facts) of(host string) registry.Labels {
	if f == nil {
		return ""
	}
	return f.Of[host]
}

func hostOf(h *configs.Host) registry.Host {
	return registry.Host{
		Name: h.Name, Address: h.Address, MeshPort: h.MeshPort,
		Locality: registry.Locality{Region: h.Region, Zone: h.Zone, Rack: h.Rack},
	}
}
