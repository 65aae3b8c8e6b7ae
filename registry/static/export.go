package static

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2/hclwrite"
	"github.com/zclconf/go-cty/cty"

	"github.com/wattle-mesh/wattle/registry"
)

// ExportOptions say what of a catalog is exported. The zero value takes all.
type ExportOptions struct {
	Namespace string // only services of it
	Registry  string // only endpoints that it names, and of the others' workloads no more than where they listen
}

// File is a file of a folder that the driver reads.
type File struct {
	Path string // "shop/reviews.hcl": a service, or "h1.host.hcl": a host and its workloads; with slashes
	Text []byte // formatted
}

// Export writes services as files: a registry of these says the same. left tells what cannot be said in files.
func Export(services []*registry.Service, o ExportOptions) (files []File, left []string) {
	x := exporter{o: o, hosts: map[string]*exportedHost{}}
	for _, s := range slices.SortedFunc(slices.Values(services), func(a, b *registry.Service) int { return a.Name.Compare(b.Name) }) {
		if o.Namespace == "" || o.Namespace == s.Namespace {
			x.service(s)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(x.hosts)) {
		x.host(x.hosts[name])
	}
	slices.SortFunc(x.files, func(a, b File) int { return cmp.Compare(a.Path, b.Path) })
	return x.files, x.left
}

type exporter struct {
	o     ExportOptions
	hosts map[string]*exportedHost
	files []File
	left  []string
}

// exportedHost is a host with the endpoints of its workloads, in the order of the services.
type exportedHost struct {
	registry.Host
	workloads [][]*registry.Endpoint // of one workload each
}

func (x *exporter) leave(format string, args ...any) {
	x.left = append(x.left, fmt.Sprintf(format, args...))
}

// The registries of which others know no more than where workloads listen.
var declaring = []string{"policy", "mesh"}

// declares reports whether an endpoint is exported as the workload that it is.
func (x *exporter) declares(e *registry.Endpoint) bool {
	return e.Workload != nil && (x.o.Registry == "" || len(e.Sources) < 2 || slices.Contains(declaring, x.o.Registry))
}

func (x *exporter) service(s *registry.Service) {
	if x.o.Registry != "" && !slices.Contains(s.Sources, x.o.Registry) {
		return
	}
	var outside []*registry.Endpoint
	var own []registry.Port // what the workloads say of the ports
	byWorkload := map[registry.WorkloadKey][]*registry.Endpoint{}
	for _, e := range s.Endpoints {
		switch {
		case x.o.Registry != "" && !slices.Contains(e.Sources, x.o.Registry):
		case x.declares(e):
			byWorkload[e.Workload.Key()] = append(byWorkload[e.Workload.Key()], e)
		case !slices.ContainsFunc(s.Ports, func(p registry.Port) bool { return p.Number == e.ServicePort }):
			x.leave("endpoint %s of service %s: it is for port %d, which the service does not have", e, s.Name, e.ServicePort)
		default:
			outside = append(outside, e)
		}
	}
	for _, key := range slices.SortedFunc(maps.Keys(byWorkload), registry.WorkloadKey.Compare) {
		w := byWorkload[key][0].Workload
		if len(w.Ports) == 0 {
			x.leave("workload %s: it has no port", key)
			continue
		}
		if !captures(w) {
			x.leave("workload %s: its agent knows the unit whose calls are captured; it calls nothing by name", key)
			plain := *w
			plain.Capture, plain.Upstreams = nil, slices.DeleteFunc(slices.Clone(w.Upstreams), func(u registry.Upstream) bool { return !u.Bound() })
			byWorkload[key] = withWorkload(byWorkload[key], &plain)
		}
		for _, p := range w.Ports {
			if !slices.Contains(own, p.Port) {
				own = append(own, p.Port)
			}
		}
		h := x.hosts[key.Host]
		if h == nil {
			h = &exportedHost{Host: w.Host}
			x.hosts[key.Host] = h
		}
		h.workloads = append(h.workloads, byWorkload[key])
	}
	slices.SortFunc(own, func(a, b registry.Port) int { return cmp.Compare(a.Number, b.Number) })
	switch {
	case len(s.Ports) == 0:
		x.leave("service %s: it has no port", s.Name)
	case len(outside) > 0 || !slices.Equal(own, s.Ports):
		x.outside(s, outside)
	}
}

// withWorkload returns copies of endpoints that are of another workload.
func withWorkload(all []*registry.Endpoint, w *registry.Workload) []*registry.Endpoint {
	out := make([]*registry.Endpoint, len(all))
	for i, e := range all {
		c := *e
		c.Workload = w
		out[i] = &c
	}
	return out
}

// outside writes a service block that stands alone.
func (x *exporter) outside(s *registry.Service, endpoints []*registry.Endpoint) {
	f := hclwrite.NewEmptyFile()
	b := f.Body().AppendNewBlock("service", []string{s.Name.Name}).Body()
	setNamespace(b, s.Namespace)
	setPorts(b, s.Ports, nil)
	level := levels(endpoints)
	for _, e := range endpoints {
		x.spelled(s.Name, e)
		b.AppendNewline()
		at := b.AppendNewBlock("endpoint", nil).Body()
		setText(at, "address", e.Address.String())
		if e.Port != e.ServicePort {
			setNumber(at, "port", uint64(e.Port))
		}
		if len(s.Ports) > 1 {
			setNumber(at, "port_for", uint64(e.ServicePort))
		}
		setMeta(at, e.Meta.Map())
		if e.Weight > 1 {
			setNumber(at, "weight", uint64(e.Weight))
		}
		if p := level(e.Priority); p > 0 {
			setNumber(at, "priority", uint64(p))
		}
		setLocality(at, e.Locality)
		setText(at, "health", string(e.Health))
		setText(at, "reason", e.Reason)
	}
	x.add(s.Namespace+"/"+s.Name.Name+".hcl", f)
}

// spelled notes texts that HCL spells otherwise: it knows Unicode's normal form C alone.
func (x *exporter) spelled(what fmt.Stringer, e *registry.Endpoint) {
	all := []string{e.Reason, e.Locality.Region, e.Locality.Zone, e.Locality.Rack}
	for k, v := range e.Meta.All() {
		all = append(all, k, v)
	}
	if slices.ContainsFunc(all, func(s string) bool { return cty.StringVal(s).AsString() != s }) {
		x.leave("endpoint %s of %s: some of its labels or texts are spelled in Unicode's normal form C", e, what)
	}
}

// levels makes priorities small enough for files: as they are, or if a failover's are among them counted from 0.
func levels(endpoints []*registry.Endpoint) func(uint32) uint32 {
	var all []uint32
	for _, e := range endpoints {
		all = append(all, e.Priority)
	}
	slices.Sort(all)
	if all = slices.Compact(all); len(all) == 0 || all[len(all)-1] <= 65535 {
		return func(p uint32) uint32 { return p }
	}
	return func(p uint32) uint32 { return uint32(slices.Index(all, p)) }
}

// host writes a host block.
func (x *exporter) host(h *exportedHost) {
	f := hclwrite.NewEmptyFile()
	b := f.Body().AppendNewBlock("host", []string{h.Name}).Body()
	setText(b, "address", h.Address.String())
	if h.MeshPort != 0 {
		setNumber(b, "mesh_port", uint64(h.MeshPort))
	}
	setLocality(b, h.Locality)
	for _, endpoints := range h.workloads {
		b.AppendNewline()
		x.workload(b, h, endpoints)
	}
	x.add(h.Name+".host.hcl", f)
}

// maxWorkloadWeight is what the language takes.
const maxWorkloadWeight = 10_000

func (x *exporter) workload(to *hclwrite.Body, h *exportedHost, endpoints []*registry.Endpoint) {
	first := endpoints[0]
	w := first.Workload
	if w.Host != h.Host {
		x.leave("workload %s: other workloads say that its host is elsewhere", w.Key())
	}
	for _, e := range endpoints {
		x.spelled(w.Service, e)
		switch {
		case e.Meta != first.Meta, e.Weight != first.Weight:
			x.leave("port %d of workload %s: its labels or weight are others than port %d's", e.ServicePort, w.Key(), first.ServicePort)
		case e.Locality != w.Host.Locality:
			x.leave("port %d of workload %s: it is elsewhere than its host", e.ServicePort, w.Key())
		case e.Weight > maxWorkloadWeight:
			x.leave("workload %s: its weight is above %d", w.Key(), maxWorkloadWeight)
		case e.Priority > 0:
			x.leave("port %d of workload %s: its priority", e.ServicePort, w.Key())
		case slices.ContainsFunc(e.Words, func(word registry.Word) bool {
			return word.Voice == registry.RegistryVoice && word.Health != registry.Healthy
		}):
			x.leave("port %d of workload %s: what registries say of its health", e.ServicePort, w.Key())
		}
	}
	b := to.AppendNewBlock("service", []string{w.Service.Name}).Body()
	setNamespace(b, w.Service.Namespace)
	ports, local := make([]registry.Port, len(w.Ports)), map[uint16]netip.AddrPort{}
	for i, p := range w.Ports {
		ports[i], local[p.Number] = p.Port, p.Local
	}
	setPorts(b, ports, local)
	setText(b, "instance", w.Instance)
	setText(b, "unit", w.Unit)
	if w.Sidecar {
		setText(b, "mode", sidecar)
	}
	if w.Isolate {
		b.SetAttributeValue("isolate", cty.True)
	}
	setMeta(b, first.Meta.Map())
	if first.Weight > 1 {
		setNumber(b, "weight", uint64(min(first.Weight, maxWorkloadWeight)))
	}
	for _, c := range w.Checks {
		b.AppendNewline()
		setCheck(b.AppendNewBlock("check", []string{c.Type}).Body(), c)
	}
	for _, u := range w.Upstreams {
		b.AppendNewline()
		name := u.Service.Name
		if u.Service.Namespace != w.Service.Namespace {
			name = u.Service.String()
		}
		at := b.AppendNewBlock("upstream", []string{name}).Body()
		if u.Port != 0 {
			setNumber(at, "port", uint64(u.Port))
		}
		switch {
		case u.Bind.IsValid():
			setText(at, "bind", u.Bind.String())
		case u.Socket != "":
			setText(at, "bind", "unix:"+u.Socket)
		}
	}
	if w.Capture != nil {
		b.AppendNewline()
		setCapture(b.AppendNewBlock("capture", []string{string(w.Capture.Mode)}).Body(), w.Capture)
	}
}

// captures reports whether a workload's capture can be said in files: without a unit it must be known whose calls are redirected.
func captures(w *registry.Workload) bool {
	return w.Capture == nil || w.Capture.Mode != registry.Transparent || w.Capture.User != "" || w.Unit != ""
}

func (x *exporter) add(path string, f *hclwrite.File) {
	text := hclwrite.Format(f.Bytes())
	x.files = append(x.files, File{path, append([]byte(strings.TrimRight(string(text), " \t\n")), '\n')})
}
