package mesh

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/agext/levenshtein"
	iradix "github.com/hashicorp/go-immutable-radix/v2"

	"github.com/wattle-mesh/wattle/configs"
	"github.com/wattle-mesh/wattle/registry"
)

// The codes of what can be wrong between policy and catalog. configs.Explain has their texts.
const (
	codeUnknownService       = "W2001" // of a route
	codeNoSuchPort           = "W2002"
	codeNotHTTP              = "W2003"
	codeUnknownSubset        = "W2004"
	codeSecondVirtualService = "W2005"
	codeSecondRule           = "W2006"
	codeUnknownHost          = "W2007" // of a virtual service or destination rule
	codeSameDomain           = "W2008"
	codeNotServed            = "W2009"
	codeUnknownRunOn         = "W2010"
	codeUnknownUpstream      = "W2011"
	codeNoSuchUpstreamPort   = "W2012"
	codeSameBind             = "W2013"
	codeForeignWorkload      = "W2014"
	codeSameAddress          = "W2015"
	codePortNotServed        = "W2016"
	codeNoMeshPort           = "W2017"
	codeEmptySubset          = "W2018"
	codeOtherProtocol        = "W2019"
	codeNoPlaintext          = "W2020"
	codeUnknownDefaults      = "W2021"
	codeNoShare              = "W2022"
	codeDefaultsProtocol     = "W2023"
	codeUnweighed            = "W2024"
	codeUnknownIdentity      = "W2025"
	codeUnknownCaptured      = "W2026"
	codeNoAddress            = "W2027"
	codeBindInSlice          = "W2028"
)

// note is a diagnostic of one thing. What is suggested for a name that nobody knows depends on all others, so it
// is added only when the list is made.
type note struct {
	configs.Diagnostic
	service registry.Name // that nobody knows
	host    string        // that nobody knows
}

func wrong(code, origin, summary, detail string) note {
	return note{Diagnostic: configs.NewDiagnostic(configs.Error, code, origin, summary, detail)}
}

func warn(code, origin, summary, detail string) note {
	return note{Diagnostic: configs.NewDiagnostic(configs.Warning, code, origin, summary, detail)}
}

// at says which part of its block a note is about: an attribute or label, and what is meant of it.
func (n note) at(block, name, value string) note {
	n.Diagnostic = n.At(configs.Part{Block: block, Name: name, Value: value})
	return n
}

// written is how the block b, if its author is brief, writes the name of a service.
func written(b configs.Block, n registry.Name) string {
	if n.Namespace == b.Namespace {
		return n.Name
	}
	return n.String()
}

// note keeps what is wrong with one thing, in the place of what was.
func (r *resolver) note(about string, notes []note) {
	switch was := r.notes.get(about); {
	case slices.Equal(was, notes):
	case len(notes) == 0:
		r.notes.drop(about)
	default:
		r.notes.put(about, notes)
	}
}

// diagnose makes the list of all notes.
func (r *resolver) diagnose(notes *iradix.Tree[[]note]) configs.Diagnostics {
	var out configs.Diagnostics
	it := notes.Root().Iterator()
	for _, all, ok := it.Next(); ok; _, all, ok = it.Next() {
		for _, n := range all {
			d := n.Diagnostic
			switch {
			case n.service != registry.Name{}:
				d.Detail = r.likeService(n.service) + d.Detail
			case n.host != "":
				d.Detail = r.likeHost(n.host) + d.Detail
			}
			out = append(out, d)
		}
	}
	return out.Sort()
}

// maxDistance bounds how far a suggestion may be from what was written.
const maxDistance = 3

// likeness finds the name nearest to one that nobody knows.
type likeness struct {
	want, best string
	distance   int
}

// try considers a name; of two that are equally near the smaller one wins.
func (l *likeness) try(name, show string) {
	if d := len(name) - len(l.want); d > maxDistance || -d > maxDistance {
		return
	}
	d := levenshtein.Distance(l.want, name, nil)
	if d > maxDistance || 2*d >= len(l.want) {
		return
	}
	if l.best == "" || d < l.distance || d == l.distance && show < l.best {
		l.best, l.distance = show, d
	}
}

func (l *likeness) sentence() string {
	if l.best == "" {
		return ""
	}
	return "Did you mean " + strconv.Quote(l.best) + "? "
}

// likeService suggests a service whose name is near n's; one of the same name elsewhere is nearest.
func (r *resolver) likeService(n registry.Name) string {
	l := likeness{want: n.Name}
	for s := range r.cat.All() {
		show := s.Name.Name
		if s.Namespace != n.Namespace {
			show = s.Name.String()
		}
		l.try(s.Name.Name, show)
	}
	return l.sentence()
}

// likeHost suggests a host that is declared or has workloads.
func (r *resolver) likeHost(host string) string {
	l := likeness{want: host}
	for _, h := range r.pol.Hosts {
		l.try(h.Name, h.Name)
	}
	it := r.onHost.done().Root().Iterator()
	for key, _, ok := it.Next(); ok; key, _, ok = it.Next() {
		l.try(string(key), string(key))
	}
	return l.sentence()
}

// short names a service as a person writes it in namespace.
func short(n registry.Name) string {
	if n.Namespace == defaultNamespace {
		return n.Name
	}
	return n.String()
}

func unknownService(d *configs.Destination, n registry.Name) note {
	x := wrong(codeUnknownService, d.Origin, fmt.Sprintf("no registry knows the service %q", short(n)),
		"Correct the route's host, or register the service. Until then requests that take this route are answered 503.").at("route", "host", short(n))
	x.service = n
	return x
}

// portsOf lists the ports of a service for a remedy.
func portsOf(s *registry.Service) string {
	if len(s.Ports) == 0 {
		return "It has no ports."
	}
	var all []string
	for _, p := range s.Ports {
		all = append(all, fmt.Sprintf("%d (%s)", p.Number, protocolOf(p)))
	}
	return "Its ports are " + strings.Join(all, ", ") + "."
}

func noPort(s *registry.Service, asked uint16) string {
	if asked == 0 {
		return fmt.Sprintf("it is not said which port of service %q is meant", short(s.Name))
	}
	return fmt.Sprintf("service %q has no port %d", short(s.Name), asked)
}

func noSuchPort(d *configs.Destination, s *registry.Service) note {
	return wrong(codeNoSuchPort, d.Origin, noPort(s, d.Port),
		portsOf(s)+" Name one of them as the route's port. Until then requests that take this route are answered 503.").atPort("route", "host", s.Name, d.Port)
}

// atPort is at for a port of a service: the attribute port, or where the service is named if the port is not said.
func (n note) atPort(block, service string, s registry.Name, port uint16) note {
	if port == 0 {
		return n.at(block, service, short(s))
	}
	return n.at(block, "port", strconv.Itoa(int(port)))
}

func notHTTP(d *configs.Destination, s *registry.Service, p registry.Port) note {
	return wrong(codeNotHTTP, d.Origin, fmt.Sprintf("port %d of service %q speaks %s, not HTTP", p.Number, short(s.Name), protocolOf(p)),
		"Route to another port, or declare the port's protocol as http, http2 or grpc where the service is registered. Until then requests that take this route are answered 503.").atPort("route", "host", s.Name, d.Port)
}

func unknownSubset(d *configs.Destination, n registry.Name, rule *configs.DestinationRule) note {
	remedy := fmt.Sprintf("No destination_rule has the host %q; write one with this subset.", short(n))
	if rule != nil {
		var names []string
		for _, s := range rule.Subsets {
			names = append(names, strconv.Quote(s.Name))
		}
		remedy = fmt.Sprintf("destination_rule %q declares the subsets: %s.", rule.Name, strings.Join(names, ", ")) // it may move
		if len(names) == 0 {
			remedy = fmt.Sprintf("destination_rule %q declares no subsets.", rule.Name)
		}
	}
	return wrong(codeUnknownSubset, d.Origin, fmt.Sprintf("service %q has no subset %q", short(n), d.Subset),
		remedy+" Until then requests that take this route are answered 503.").at("route", "subset", d.Subset)
}

func secondVirtualService(n registry.Name, first, second *configs.VirtualService) note {
	return wrong(codeSecondVirtualService, second.Origin, fmt.Sprintf("two virtual services route the requests to service %q", short(n)),
		fmt.Sprintf("virtual_service %q (%s) comes first by name and counts; put the rules together in one block, in the order in which they shall be tried.", first.Name, first.Origin)).at("virtual_service", "hosts", written(second.Block, n))
}

func secondRule(n registry.Name, first, second *configs.DestinationRule) note {
	return wrong(codeSecondRule, second.Origin, fmt.Sprintf("two destination rules are for service %q", short(n)),
		fmt.Sprintf("destination_rule %q (%s) comes first by name and counts; put them together in one block.", first.Name, first.Origin)).at("destination_rule", "host", "")
}

func unknownHost(b configs.Block, kind, attr string, n registry.Name) note {
	x := warn(codeUnknownHost, b.Origin, fmt.Sprintf("%s %q is for the service %q, which no registry knows", kind, b.Name, short(n)),
		"It has no effect until the service is registered: register it, or correct the name.").at(kind, attr, written(b, n))
	x.service = n
	return x
}

func sameDomain(domain string, first, second *configs.VirtualService) note {
	return wrong(codeSameDomain, second.Origin, fmt.Sprintf("two virtual services answer to %q at one gateway", domain),
		fmt.Sprintf("virtual_service %q (%s) comes first by name and has it; give each domain to one of them.", first.Name, first.Origin)).at("virtual_service", "hosts", domain)
}

func notServed(vs *configs.VirtualService, g *configs.Gateway) note {
	return warn(codeNotServed, vs.Origin, fmt.Sprintf("no server of gateway %q (%s) answers to a host of virtual_service %q", g.Name, g.Origin, vs.Name),
		"Add one of its hosts to a server of the gateway, or correct it.").at("virtual_service", "hosts", "")
}

func unknownHostToRunOn(g *configs.Gateway, host string) note {
	x := warn(codeUnknownRunOn, g.Origin, fmt.Sprintf("gateway %q is to run on host %q, which is not declared and has no workloads", g.Name, host),
		"It runs there once an agent of that name has joined. Declare the host, or correct the name.").at("gateway", "run_on", host)
	x.host = host
	return x
}

func unknownUpstream(w *Workload, u registry.Upstream) note {
	x := warn(codeUnknownUpstream, u.Origin, fmt.Sprintf("%q has the upstream %q, which no registry knows", short(w.Service), short(u.Service)),
		"Register the service, or correct the name. Until then calls are answered 503.").at("upstream", "service", "")
	x.service = u.Service
	return x
}

func noSuchUpstreamPort(u registry.Upstream, s *registry.Service) note {
	return warn(codeNoSuchUpstreamPort, u.Origin, noPort(s, u.Port),
		portsOf(s)+" Name one of them as the upstream's port. Until then calls are answered 503.").atPort("upstream", "service", s.Name, u.Port)
}

func sameBind(host string, first, second claim) note {
	at := first.socket
	if at == "" {
		at = first.bind.String()
	}
	return warn(codeSameBind, second.origin, fmt.Sprintf("%s and %s want to listen at %s on host %s", first.who, second.who, at, host),
		fmt.Sprintf("Give one of them another address; the other one is declared at %s.", first.origin)).at(second.block, second.attr, "")
}

func foreignWorkload(s *registry.Service, e *registry.Endpoint, w *registry.Workload) note {
	also := ""
	if e.Workload == nil && w.Service != s.Name {
		also = fmt.Sprintf(" If its identity will do, add %q to identities of service_defaults %q.", short(w.Service), short(s.Name))
	}
	return warn(codeForeignWorkload, s.Origin, fmt.Sprintf("endpoint %s of service %q is the workload %s, which has another identity or port", e, short(s.Name), w.Key()),
		fmt.Sprintf("The endpoint is left out: calling it in plaintext would go round the workload's identity. Remove it from its registry (%s), or register the workload as this service.%s", strings.Join(e.Sources, ", "), also)).at("service", "", "")
}

func otherProtocol(s *registry.Service, port registry.Port, w *Workload, own registry.Port) note {
	return warn(codeOtherProtocol, cmp.Or(w.Origin, s.Origin), fmt.Sprintf("workload %s speaks %s at port %d, but the service %q speaks %s there", w.Key(), protocolOf(own), own.Number, short(s.Name), protocolOf(port)),
		"The workload is left out: nobody could understand it. Declare the same protocol for the port wherever the service is registered.").at("service", "", "")
}

func noPlaintext(s *registry.Service) note {
	return warn(codeNoPlaintext, s.Origin, fmt.Sprintf("nobody calls the endpoints of service %q that are outside the mesh", short(s.Name)),
		"They are called in plaintext, and the mesh block says plaintext = false. Run the service as a workload of a host, or remove plaintext = false.").at("service", "", "")
}

func sameAddress(s *registry.Service, first, second *placed) note {
	return warn(codeSameAddress, s.Origin, fmt.Sprintf("two endpoints of service %q are reached at %s", short(s.Name), netip.AddrPortFrom(first.Address, first.Port)),
		fmt.Sprintf("A proxy keeps one endpoint of an address and port: %s is kept, %s is left out. Two hosts with one address, a registry that lists an endpoint twice, or workloads of several services on one host of which service_defaults lend the identity are the usual cause: correct the address, remove the repeated endpoint, or move a workload to another host.", first.who(), second.who())).at("service", "", "")
}

// emptySubset is only a warning, because endpoints come and go.
func emptySubset(s *registry.Service, x *configs.Subset) note {
	detail := ""
	for _, label := range slices.Sorted(maps.Keys(x.Labels)) {
		if have := valuesOf(s, label); !slices.Contains(have, x.Labels[label]) {
			detail = fmt.Sprintf("None of them has %s = %q in its metadata; there is %s. ", label, x.Labels[label], someOf(have))
			break
		}
	}
	return warn(codeEmptySubset, x.Origin, fmt.Sprintf("no endpoint of service %q is in the subset %q", short(s.Name), x.Name),
		detail+"Correct the labels, or the metadata of the endpoints. Until one has all labels, requests to the subset are answered 503.").at("subset", "labels", "")
}

// valuesOf lists what the endpoints of a service have in their metadata for a label, sorted.
func valuesOf(s *registry.Service, label string) []string {
	var out []string
	for _, e := range s.Endpoints {
		if v, ok := e.Meta.Lookup(label); ok {
			out = append(out, v)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// someOf writes the first few of some values.
func someOf(values []string) string {
	const most = 5
	if len(values) == 0 {
		return "no value for it at all"
	}
	var out []string
	for _, v := range values[:min(len(values), most)] {
		out = append(out, strconv.Quote(v))
	}
	if len(values) > most {
		out = append(out, "...")
	}
	return strings.Join(out, ", ")
}

// who names an endpoint by its workload, or by the registries that know it.
func (p *placed) who() string {
	if p.Workload != (registry.WorkloadKey{}) {
		return "the workload " + p.Workload.String()
	}
	return fmt.Sprintf("the endpoint %s outside the mesh (%s)", p.from, strings.Join(p.from.Sources, ", "))
}

func portNotServed(s *registry.Service, e *registry.Endpoint) note {
	return warn(codePortNotServed, s.Origin, fmt.Sprintf("endpoint %s is for port %d of service %q, which it does not have", e, e.ServicePort, short(s.Name)),
		portsOf(s)+" The endpoint is left out. Correct its port, or add the port to the service, where it is registered.").at("service", "", "")
}
