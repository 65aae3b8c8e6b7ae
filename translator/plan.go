package translator

import (
	"slices"
	"strings"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/wattle-mesh/wattle/configs"
	"github.com/wattle-mesh/wattle/internal/mesh"
	"github.com/wattle-mesh/wattle/internal/mesh/planpb"
)

// plan translates what a host must run and hold: its workloads, and those of its proxies that have something to do.
func plan(host *mesh.Proxy, all []*mesh.Proxy, settings *configs.Mesh) (*Resource, error) {
	m := &planpb.HostPlan{Host: host.Host, TrustDomain: settings.TrustDomain, Draining: host.Draining}
	if e := host.Envoy; e != nil {
		m.Envoy = &planpb.Envoy{Version: e.Version, Path: e.Path}
	}
	for _, w := range workloads(all) {
		m.Workloads = append(m.Workloads, planWorkload(w, settings.Domain))
	}
	for _, px := range all {
		if ids := identities(px); len(ids) > 0 {
			m.Proxies = append(m.Proxies, &planpb.Proxy{Id: px.ID, Identities: ids, LowPorts: lowPorts(px), OpenPorts: openPorts(px), Resources: planResources(px.Resources)})
		}
	}
	return encode(Key{Type: HostPlan, Name: host.Host, Variant: host.ID}, m, "")
}

func planResources(r *configs.ProxyResources) *planpb.Resources {
	if r == nil {
		return nil
	}
	return &planpb.Resources{MemoryHigh: r.MemoryHigh, CpuWeight: r.CPUWeight, TasksMax: r.TasksMax}
}

// workloads lists those of a host's proxies, sorted by key. One that moves from one proxy to another is there once.
func workloads(all []*mesh.Proxy) []*mesh.Workload {
	var out []*mesh.Workload
	for _, px := range all {
		out = append(out, px.Workloads...)
	}
	slices.SortFunc(out, func(a, b *mesh.Workload) int { return a.Key().Compare(b.Key()) })
	return slices.Compact(out)
}

// firstFree is the first port that every user may listen on.
const firstFree = 1024

// lowPorts reports whether a proxy listens on a port for which it needs the right. Calls by name need one sooner or later;
// the right is not to come and go with services.
func lowPorts(px *mesh.Proxy) bool {
	low := func(port uint16) bool { return port > 0 && port < firstFree }
	if px.Gateway != nil && slices.ContainsFunc(px.Gateway.Servers, func(s *mesh.Server) bool { return low(s.Bind.Port()) }) {
		return true
	}
	return slices.ContainsFunc(px.Workloads, func(w *mesh.Workload) bool {
		return low(w.PortAt(px.Name())) || w.Scope.Capture != nil || slices.ContainsFunc(w.Scope.Upstreams, func(u *mesh.ScopeUpstream) bool { return low(u.Bind.Port()) })
	})
}

// openPorts lists, sorted, the ports of a gateway.
func openPorts(px *mesh.Proxy) []uint32 {
	if px.Gateway == nil {
		return nil
	}
	var out []uint32
	for _, s := range px.Gateway.Servers {
		out = append(out, uint32(s.Bind.Port()))
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// identities lists, sorted, those that a proxy speaks for.
func identities(px *mesh.Proxy) []string {
	var out []string
	for _, w := range px.Workloads {
		out = append(out, w.Identity)
	}
	if px.Gateway != nil {
		out = append(out, px.Gateway.Identity)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func planWorkload(w *mesh.Workload, domain string) *planpb.Workload {
	m := &planpb.Workload{
		Namespace: w.Service.Namespace, Service: w.Service.Name, Instance: w.Instance,
		Identity: w.Identity, MeshPort: uint32(w.MeshPort), Unit: w.Unit, Proxy: w.Proxy,
	}
	for _, p := range w.Ports {
		m.Ports = append(m.Ports, &planpb.Port{Number: uint32(p.Number), Protocol: string(p.Protocol), Local: p.Local.String()})
	}
	if w.Scope != nil {
		for _, u := range w.Scope.Upstreams {
			m.Upstreams = append(m.Upstreams, planUpstream(u))
		}
	}
	m.Capture = planCapture(w, domain)
	for _, c := range w.Checks {
		m.Checks = append(m.Checks, &planpb.Check{
			Type: c.Type, Port: uint32(c.Port), Path: c.Path,
			Interval: durationpb.New(c.Interval), Timeout: durationpb.New(c.Timeout),
			HealthyThreshold: c.Healthy, UnhealthyThreshold: c.Unhealthy,
		})
	}
	return m
}

func planUpstream(u *mesh.ScopeUpstream) *planpb.Upstream {
	m := &planpb.Upstream{Namespace: u.Service.Namespace, Service: u.Service.Name, Port: uint32(u.Port), Bind: u.Bind.String()}
	if u.Socket != "" {
		m.Bind = "unix:" + u.Socket
	}
	return m
}

// planCapture says how calls of a workload by name reach its proxy, nil without capture.
func planCapture(w *mesh.Workload, domain string) *planpb.Capture {
	if w.Capture == nil || w.Scope.Capture == nil {
		return nil
	}
	c := w.Scope.Capture
	m := &planpb.Capture{
		Mode: string(c.Mode), Slice: c.Slice.String(), RedirectPort: uint32(c.RedirectPort), User: w.Capture.User, Domain: domain,
		Names: make([]*planpb.Name, 0, len(c.Surface.Services)),
	}
	for _, s := range c.Surface.Services {
		m.Names = append(m.Names, &planpb.Name{Name: s.Service.Name + "." + s.Service.Namespace, Address: s.In(c.Slice).String()})
	}
	slices.SortFunc(m.Names, func(a, b *planpb.Name) int { return strings.Compare(a.Name, b.Name) })
	for _, a := range w.Capture.ExcludeAddresses {
		m.ExcludeAddresses = append(m.ExcludeAddresses, a.String())
	}
	for _, p := range w.Capture.ExcludePorts {
		m.ExcludePorts = append(m.ExcludePorts, uint32(p))
	}
	return m
}
