package registry

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
)

// Tag is how a tag stands among an endpoint's labels, whatever the registry: the label Tag + its name, with the value
// "true".
const Tag = "tag."

// Standing says how a registry's word counts beside the others'. The zero value comes first.
type Standing struct {
	Priority uint32 // lower counts first where they disagree; of equal ones that which was added first
	Failover bool   // Priority is its endpoints' priority, too: those of a lower one are tried first
	Weight   uint32 // times the weight that it gives an endpoint; zero means 1
}

// Shape is what the operator changes of what a registry says, whatever its driver. The zero value changes nothing.
type Shape struct {
	Standing
	Namespaces   map[string]string // the registry's namespace to the mesh's; "*" for all others
	Rename       map[string]string // "name" or "namespace/name", as the registry says it, to the name in the mesh
	Picks        func(*Service, *Endpoint) bool
	PicksService func(*Service) bool // false: none of its endpoints is picked, whatever they are
	Locality     Locality            // of endpoints without one
	ProtocolFrom []string            // where the protocol of a port stands that has none: "port_name", "tag", "meta.KEY"
}

// Shaper gives one registry its shape. Its methods may be called from any goroutine.
type Shaper struct {
	shape Shape
	tell  func([]Diagnostic)

	mu  sync.Mutex
	own []Diagnostic // what the driver says
	add []Diagnostic // what is wrong with the shape of its services
}

// NewShaper returns a Shaper that tells what is wrong by report, which may be nil.
func NewShaper(shape Shape, report func([]Diagnostic)) *Shaper {
	if report == nil {
		report = func([]Diagnostic) {}
	}
	return &Shaper{shape: shape, tell: report}
}

// Report is the DriverOptions.Report of the driver whose Source is shaped.
func (s *Shaper) Report(ds []Diagnostic) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.own = slices.Clone(ds)
	s.tell(slices.Concat(s.own, s.add))
}

func (s *Shaper) report(ds []Diagnostic) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if slices.Equal(s.add, ds) {
		return
	}
	s.add = ds
	s.tell(slices.Concat(s.own, s.add))
}

// Source returns a Source that publishes what the given one publishes, in shape. A service whose originals kept their
// pointers keeps its own.
func (s *Shaper) Source(of Source) Source { return &shaped{Shaper: s, of: of} }

// shaped is a Source in shape. One Run at a time.
type shaped struct {
	*Shaper
	of     Source
	groups map[Name]*fitting // by the name in the mesh
}

// fitting is one service in shape.
type fitting struct {
	from   []*Service // in the order in which they were published
	fit    *Service   // nil: nothing of it is picked
	faults []Diagnostic
}

// standing is how the word of a Source counts.
func standing(s Source) Standing {
	if s, ok := s.(*shaped); ok {
		return s.shape.Standing
	}
	return Standing{}
}

// Run implements Source.
func (s *shaped) Run(ctx context.Context, publish func([]*Service)) error {
	return s.of.Run(ctx, func(services []*Service) {
		ds := s.fit(services)
		out := make([]*Service, 0, len(s.groups))
		for _, g := range s.groups {
			if g.fit != nil {
				out = append(out, g.fit)
			}
		}
		slices.SortFunc(out, func(a, b *Service) int { return a.Name.Compare(b.Name) })
		publish(out)
		s.report(ds)
	})
}

// fit brings the services into shape and returns what is wrong with that.
func (s *shaped) fit(services []*Service) []Diagnostic {
	was := s.groups
	s.groups = make(map[Name]*fitting, len(services))
	for _, x := range services {
		if x == nil {
			continue // a fault of the driver, which changes nothing else
		}
		name := s.shape.name(x.Name)
		g := s.groups[name]
		if g == nil {
			g = &fitting{}
			s.groups[name] = g
		}
		g.from = append(g.from, x)
	}
	var ds []Diagnostic
	for name, g := range s.groups {
		if old := was[name]; old != nil && slices.Equal(old.from, g.from) {
			s.groups[name] = old
			ds = append(ds, old.faults...)
			continue
		}
		f := fitter{shape: &s.shape, name: name}
		g.fit = f.join(g.from)
		g.faults = f.faults
		ds = append(ds, g.faults...)
	}
	slices.SortFunc(ds, func(a, b Diagnostic) int {
		return cmp.Or(cmp.Compare(a.Code, b.Code), cmp.Compare(a.Summary, b.Summary))
	})
	return ds[:min(len(ds), maxTold)]
}

// name returns what a service is called in the mesh.
func (s *Shape) name(n Name) Name {
	out := n
	if to, ok := s.Namespaces[n.Namespace]; ok {
		out.Namespace = to
	} else if to, ok := s.Namespaces["*"]; ok {
		out.Namespace = to
	}
	if to, ok := s.Rename[n.String()]; ok {
		out.Name = to
	} else if to, ok := s.Rename[n.Name]; ok {
		out.Name = to
	}
	return out
}

// fitter makes one service.
type fitter struct {
	shape  *Shape
	name   Name
	faults []Diagnostic
}

// join makes one service of those that have its name in the mesh. It returns the only one itself if the shape does not
// touch it, and nil if nothing of them is picked.
func (f *fitter) join(from []*Service) *Service {
	var parts []*Service
	var names []Name // what the registry calls them
	for _, s := range from {
		if p := f.one(s); p != nil {
			parts, names = append(parts, p), append(names, s.Name)
		}
	}
	if len(parts) < 2 {
		if len(parts) == 0 {
			return nil
		}
		return parts[0]
	}
	out := &Service{Name: f.name, Origin: parts[0].Origin}
	known := map[identity]int{} // the index of its endpoint
	for i, p := range parts {
		for _, port := range p.Ports {
			f.addPort(out, port, names[i])
		}
		for _, e := range p.Endpoints {
			if k, there := known[e.identity()]; there {
				if badness(e.Health) < badness(out.Endpoints[k].Health) { // a dead registration must not stand before a live one
					out.Endpoints[k] = e
				}
				f.fault(EndpointConflict, fmt.Sprintf("two services of the registry become %s, and both have the endpoint %s", f.name, e),
					"The healthier one's word on it holds, of equals the first one's. Correct rename and namespaces in the registry's block, or the services.", p.Origin)
				continue
			}
			known[e.identity()] = len(out.Endpoints)
			out.Endpoints = append(out.Endpoints, e)
		}
	}
	slices.SortStableFunc(out.Endpoints, (*Endpoint).compare)
	return out
}

func (f *fitter) addPort(out *Service, p Port, of Name) {
	i, found := slices.BinarySearchFunc(out.Ports, p.Number, func(p Port, n uint16) int { return cmp.Compare(p.Number, n) })
	if !found {
		out.Ports = slices.Insert(out.Ports, i, p)
		return
	}
	known := &out.Ports[i]
	if differ(known.Protocol, p.Protocol) {
		f.fault(PortConflict, fmt.Sprintf("port %d of service %s is %s, but %s, which becomes the same service, says %s", p.Number, f.name, known.Protocol, of, p.Protocol),
			"The first one's word holds. Let them say the same, or rename one of them to another name.", out.Origin)
	}
	known.Name, known.Protocol = cmp.Or(known.Name, p.Name), cmp.Or(known.Protocol, p.Protocol)
}

func (f *fitter) fault(code, summary, detail, origin string) {
	f.faults = append(f.faults, Diagnostic{Severity: Warning, Code: code, Summary: summary, Detail: detail, Origin: origin})
}

// one brings one of the registry's services into shape; nil if nothing of it is picked.
func (f *fitter) one(s *Service) *Service {
	if f.shape.PicksService != nil && !f.shape.PicksService(s) {
		return nil
	}
	out := *s
	out.Name = f.name
	changed := s.Name != f.name
	workloads := map[*Workload]*Workload{}
	out.Endpoints = make([]*Endpoint, 0, len(s.Endpoints))
	for _, e := range s.Endpoints {
		if e == nil { // the Aggregator says so
			out.Endpoints = append(out.Endpoints, e)
			continue
		}
		if f.shape.Picks != nil && !f.shape.Picks(s, e) {
			changed = true
			continue
		}
		fit := f.endpoint(s, e, workloads)
		changed = changed || fit != e
		out.Endpoints = append(out.Endpoints, fit)
	}
	if len(out.Endpoints) == 0 && len(s.Endpoints) > 0 {
		return nil
	}
	out.Ports = f.protocols(s, out.Endpoints)
	if !changed && slices.Equal(out.Ports, s.Ports) {
		return s
	}
	return &out
}

// endpoint returns e itself if there is nothing to change.
func (f *fitter) endpoint(s *Service, e *Endpoint, workloads map[*Workload]*Workload) *Endpoint {
	locate := e.Locality == (Locality{}) && f.shape.Locality != (Locality{})
	rename := e.Workload != nil && e.Workload.Service == s.Name && s.Name != f.name
	if !locate && !rename {
		return e
	}
	out := *e
	if locate {
		out.Locality = f.shape.Locality
	}
	if rename {
		w := workloads[e.Workload]
		if w == nil {
			w = new(Workload)
			*w = *e.Workload
			w.Service = f.name
			workloads[e.Workload] = w
		}
		out.Workload = w
	}
	return &out
}

// protocols returns the ports with the protocols that the endpoints say, where the registry says none.
func (f *fitter) protocols(s *Service, endpoints []*Endpoint) []Port {
	if len(f.shape.ProtocolFrom) == 0 || !slices.ContainsFunc(s.Ports, func(p Port) bool { return p.Protocol == "" }) {
		return s.Ports
	}
	out := slices.Clone(s.Ports)
	for i := range out {
		if p := &out[i]; p.Protocol == "" {
			p.Protocol = f.protocol(*p, endpoints)
		}
	}
	return out
}

// protocol returns what a port speaks by the first place that says it; empty if none does.
func (f *fitter) protocol(p Port, endpoints []*Endpoint) Protocol {
	for _, place := range f.shape.ProtocolFrom {
		var said []Protocol
		var strange []string
		hear := func(word string, must bool) {
			if got, ok := protocolNamed(word); ok {
				said = append(said, got)
			} else if must && word != "" {
				strange = append(strange, word)
			}
		}
		if place == "port_name" {
			first, _, _ := strings.Cut(p.Name, "-")
			hear(first, false)
		}
		for _, e := range endpoints {
			if e == nil || e.ServicePort != p.Number {
				continue
			}
			if key, ok := strings.CutPrefix(place, "meta."); ok {
				hear(e.Meta.Get(key), true)
				continue
			}
			for _, tag := range e.Tags() {
				if place == "tag" {
					hear(tag, false)
				}
			}
		}
		f.tellProtocols(p, place, said, strange)
		if len(said) > 0 {
			return slices.Min(said)
		}
	}
	return ""
}

func (f *fitter) tellProtocols(p Port, place string, said []Protocol, strange []string) {
	if len(strange) > 0 {
		slices.Sort(strange)
		f.fault(OddProtocol, fmt.Sprintf("%s of port %d of service %s is %q, which is no protocol", place, p.Number, f.name, clipped(strange[0])),
			"Write http, http2, grpc or tcp there.", "")
	}
	all := slices.Compact(slices.Sorted(slices.Values(said)))
	if len(all) > 1 {
		f.fault(PortConflict, fmt.Sprintf("by %s port %d of service %s is both %s and %s", place, p.Number, f.name, all[0], all[1]),
			fmt.Sprintf("It is taken for %s. Let all instances say the same.", all[0]), "")
	}
}

// clipped makes a registry's text short enough for a message.
func clipped(s string) string {
	const most = 60
	if len(s) > most {
		s = s[:most] + "..."
	}
	return strings.ToValidUTF8(s, "\uFFFD")
}

// protocolNamed returns the protocol of a name, in any case.
func protocolNamed(s string) (Protocol, bool) {
	p := Protocol(strings.ToLower(s))
	if p == "h2c" {
		p = HTTP2
	}
	return p, p.IsHTTP() || p == TCP
}

// Tags returns the endpoint's tags, sorted.
func (e *Endpoint) Tags() []string {
	var out []string
	for k, v := range e.Meta.All() {
		if name, ok := strings.CutPrefix(k, Tag); ok && v == "true" {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}
