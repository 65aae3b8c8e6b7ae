package configs

import (
	"cmp"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"time"

	"github.com/zclconf/go-cty/cty"
)

// serviceFields is a service as it is written: with one port flat in it, or with several.
type serviceFields struct {
	Service
	port     uint16
	protocol string
	local    netip.AddrPort
	ports    map[string]ServicePort
}

var protocolKind = oneOf("http", "http2", "grpc", "tcp")

// portProtocolKind is a protocol, or that others know it.
var portProtocolKind = oneOf("http", "http2", "grpc", "tcp", unknownProtocol)

const unknownProtocol = "unknown"

const (
	protocolDoc = "What the application speaks: `http` is HTTP/1.1, `http2` and `grpc` are HTTP/2, `tcp` is anything else."
	localDoc    = "Where the application listens: an address and port, or a port of 127.0.0.1. Only for workloads."
)

var serviceBlock = through(newBlock(block[serviceFields]{
	doc: "In a host block, or in an agent's services folder, a service is a workload: one instance that runs there. Alone in the policy it is a service outside the mesh, known by its endpoint blocks.",
	labels: []label[serviceFields]{
		named("name", dnsName(), func(s *serviceFields) *string { return &s.Name }, "The service's name, as callers know it."),
	},
	attrs: []attr[serviceFields]{
		namespaceAttr(func(s *serviceFields) *Block { return &s.Block }),
		field("port", port(), func(s *serviceFields) *uint16 { return &s.port }, "The port that callers ask for. Either port or ports is given."),
		field("protocol", portProtocolKind, func(s *serviceFields) *string { return &s.protocol }, protocolDoc+" Outside the mesh `unknown` leaves it to other registries and service_defaults. For the one port.").orText("`\"http\"`"),
		field("local", localKind(), func(s *serviceFields) *netip.AddrPort { return &s.local }, localDoc+" For the one port.").orText("127.0.0.1 and the port"),
		field("ports", dict(portKind(), `number, or { number = 9080, protocol = "http", local = "127.0.0.1:9080" }`, textKey), func(s *serviceFields) *map[string]ServicePort { return &s.ports }, "Several ports by name, each with number, protocol and local as above. Where the key cannot be the port's name, `name` is: another one, or none if it is empty."),
		field("instance", anyName(), func(s *serviceFields) *string { return &s.Instance }, "Tells several instances of a service on one host apart. Only for workloads."),
		field("meta", dict(anyText(), "", textKey), func(s *serviceFields) *map[string]string { return &s.Meta }, "What subsets select on: `version`, ..."),
		field("weight", whole[uint32](1, 10_000), func(s *serviceFields) *uint32 { return &s.Weight }, "How much of the calls this instance gets, relative to the others. Only for workloads.").or(cty.NumberIntVal(1)),
		field("command", list(anyText(), 1), func(s *serviceFields) *[]string { return &s.Command }, "What `wattle dev` starts: program and arguments; a relative program is relative to the policy folder. Only for workloads."),
		field("env", dict(anyText(), "", textKey), func(s *serviceFields) *map[string]string { return &s.Env }, "Environment variables for command."),
		field("unit", unitName(), func(s *serviceFields) *string { return &s.Unit }, "The systemd unit that runs the workload. Its user may register the workload at the host's agent. Only for workloads."),
		field("mode", oneOf("host", "sidecar"), func(s *serviceFields) *string { return &s.Mode }, "Which Envoy serves the workload: `host`, the one of its host, or `sidecar`, one of its own. It may change at any time, and no request to the workload is lost. Its own calls may fail while it moves: connections that wait at its upstreams' addresses when the Envoy that it leaves closes them are reset, and where the Envoys run as different users, as under systemd, new ones are refused for some seconds, until the other Envoy has opened the addresses. Only for workloads.").orText("the host's mode"),
		field("isolate", boolean(), func(s *serviceFields) *bool { return &s.Isolate }, "Whether the limits, connection pools and ejections for the workload's calls are its own instead of those of all workloads that its Envoy serves. Only for workloads.").or(cty.False),
		field("ttl", duration(MinTTL, MaxTTL), func(s *serviceFields) *Duration { return &s.TTL }, "How long a heartbeat (`wattle service heartbeat`) counts; without a newer one the workload is unhealthy. Only for workloads that are registered at an agent.").orText("none are needed"),
		field("deregister_after", duration(MinTTL, MaxDeregisterAfter), func(s *serviceFields) *Duration { return &s.DeregisterAfter }, "How long the workload may be without a heartbeat until its registration goes. Not less than ttl, which it needs.").orText("it stays"),
	},
	blocks: []child[serviceFields]{
		many("check", checkBlock, func(s *serviceFields) *[]*Check { return &s.Checks }, "A health check that the host's agent runs. Only for workloads."),
		many("upstream", upstreamBlock, func(s *serviceFields) *[]*Upstream { return &s.Upstreams }, "A service that this workload calls. Only for workloads."),
		one("capture", captureBlock, func(s *serviceFields) **Capture { return &s.Capture }, "How calls of this workload by name reach its proxy. Only for workloads."),
		many("endpoint", endpointBlock, func(s *serviceFields) *[]*Endpoint { return &s.Endpoints }, "An endpoint outside the mesh. Not for workloads."),
	},
	origin: func(s *serviceFields) *string { return &s.Origin },
	finish: finishService,
}), func(s *serviceFields) *Service { return &s.Service })

// keyName stands for the name of a port that is its key.
const keyName = "\x00"

// portKind is one entry of ports.
func portKind() kind[ServicePort] {
	number := port()
	return kind[ServicePort]{"port", "", func(d *decoder, v cty.Value) (ServicePort, bool) {
		p := ServicePort{Name: keyName, Protocol: "http"}
		if v.IsNull() || !(v.Type().IsObjectType() || v.Type().IsMapType()) {
			n, ok := number.parse(d, v)
			p.Number = n
			return p, ok
		}
		good := true
		for it := v.ElementIterator(); it.Next(); {
			key, e := it.Element()
			d.inside(key, func() {
				var ok bool
				switch name := key.AsString(); name {
				case "number":
					p.Number, ok = number.parse(d, e)
				case "protocol":
					p.Protocol, ok = portProtocolKind.parse(d, e)
				case "name":
					p.Name, ok = anyText().parse(d, e)
				case "local":
					p.Local, ok = localKind().parse(d, e)
				default:
					d.fail(codeUnknownAttr, fmt.Sprintf("unknown attribute %q", name), "A port has number, protocol, local and name."+didYouMean(name, []string{"number", "protocol", "local", "name"}))
				}
				good = good && ok
			})
		}
		if good && p.Number == 0 {
			d.fail(codeMissingAttr, d.what()+" without number", "Say which port callers ask for: { number = 9080 }.")
			good = false
		}
		return p, good
	}}
}

// localKind is where an application listens.
func localKind() kind[netip.AddrPort] {
	number := port()
	return kind[netip.AddrPort]{"address and port, or port", "", func(d *decoder, v cty.Value) (netip.AddrPort, bool) {
		if v.Type() == cty.Number && !v.IsNull() {
			n, ok := number.parse(d, v)
			return netip.AddrPortFrom(localhost, n), ok
		}
		if v.Type() != cty.String || v.IsNull() {
			d.wrongType(v, "a string")
			return netip.AddrPort{}, false
		}
		return d.addrPort(v.AsString())
	}}
}

var localhost = netip.AddrFrom4([4]byte{127, 0, 0, 1})

// The bounds of ttl and deregister_after.
const (
	MinTTL             = time.Second
	MaxTTL             = 24 * time.Hour
	MaxDeregisterAfter = 30 * 24 * time.Hour
)

// UnitName is what the name of a systemd service unit looks like.
var UnitName = regexp.MustCompile(`^[A-Za-z0-9:_.\\@-]{1,247}\.service$`) //nolint:gochecknoglobals // constant

func unitName() kind[string] {
	return checked("string", "a service unit: \"web.service\"", func(d *decoder, s string) bool {
		if !UnitName.MatchString(s) {
			d.fail(codeName, fmt.Sprintf("%q is no name of a service unit", short(s)), "Write its whole name: \"web.service\", \"web@1.service\".")
			return false
		}
		return true
	})
}

// finishLease checks what is said of heartbeats.
func finishLease(d *decoder, s *serviceFields) {
	for _, name := range []string{"ttl", "deregister_after"} {
		if _, _, ok := d.frame.reader.attr(name); ok && (d.host != nil || d.env.folder != servicesFolder) {
			d.report(d.at(d.frame, name), Error, codeNotHere, name+" belongs to what is registered at an agent", "Nobody sends heartbeats for a service of the policy. Remove it, or register the workload from its host.")
			return
		}
	}
	if s.DeregisterAfter != 0 && s.DeregisterAfter < max(s.TTL, Duration(MinTTL)) || s.DeregisterAfter != 0 && s.TTL == 0 {
		d.report(d.at(d.frame, "deregister_after"), Error, codeRange, "deregister_after without a ttl that is as short", "It counts from the last heartbeat: give a ttl, and deregister_after at least that.")
	}
}

func finishService(d *decoder, s *serviceFields) {
	d.setNamespace(&s.Block)
	finishLease(d, s)
	workload := d.host != nil || d.env.folder == servicesFolder && len(s.Endpoints) == 0
	finishPorts(d, s, workload)
	if workload {
		finishWorkload(d, s)
		return
	}
	d.unique("service", s.Namespace, s.Name)
	for _, name := range []string{"instance", "local", "weight", "command", "env", "unit", "mode", "isolate"} {
		if _, _, ok := d.frame.reader.attr(name); ok {
			d.report(d.at(d.frame, name), Error, codeNotHere, name+" belongs to a workload", "A service that stands alone is outside the mesh. Remove it, or move the service into a host block if it is a workload.")
		}
	}
	for _, name := range []string{"check", "upstream", "capture"} {
		if f := d.frame.child(name, 0); f != d.frame {
			d.failFrame(f, codeNotHere, name+" belongs to a workload", "A service that stands alone is outside the mesh. Remove it, or move the service into a host block if it is a workload.")
		}
	}
	if len(s.Endpoints) == 0 && d.env.folder == policyFolder {
		d.report(d.src.place(d.frame.head.rng, nil), Warning, codeNoEndpoint, fmt.Sprintf("service %q has no endpoint", s.Name), "A service that stands alone is outside the mesh. Add endpoint blocks, or move it into a host block if it is a workload.")
	}
	for i, e := range s.Endpoints {
		f := d.frame.child("endpoint", i)
		switch {
		case len(s.Ports) == 0:
		case e.PortFor == 0 && len(s.Ports) > 1:
			d.failFrame(f, codeMissingAttr, "endpoint without port_for", "The service has several ports: say which of them it serves.")
		case e.PortFor == 0:
			e.PortFor = s.Ports[0].Number
		default:
			d.knownPort(s, e.PortFor, d.at(f, "port_for"))
		}
		if e.Port == 0 {
			e.Port = e.PortFor
		}
	}
}

// finishPorts makes Ports of what was written.
func finishPorts(d *decoder, s *serviceFields, workload bool) {
	if d.exactlyOne("service "+quoted([]string{s.Name}), "port", "ports") && s.port != 0 {
		s.Ports = []ServicePort{{Number: s.port, Protocol: cmp.Or(s.protocol, "http"), Local: s.local}}
	}
	if len(s.ports) > 0 {
		for _, name := range []string{"protocol", "local"} {
			if _, _, ok := d.frame.reader.attr(name); ok {
				d.report(d.at(d.frame, name), Error, codeNotHere, name+" beside ports", "Write it into the port that it is for: ports = { http = { number = 9080, "+name+" = ... } }.")
			}
		}
	}
	for name, p := range s.ports {
		if p.Name == keyName {
			p.Name = name
		}
		s.Ports = append(s.Ports, p)
	}
	slices.SortFunc(s.Ports, func(a, b ServicePort) int {
		return cmp.Or(cmp.Compare(a.Number, b.Number), cmp.Compare(a.Name, b.Name))
	})
	for i := range s.Ports {
		p := &s.Ports[i]
		if i > 0 && s.Ports[i-1].Number == p.Number {
			d.report(d.at(d.frame, "ports"), Error, codeDuplicate, fmt.Sprintf("port %d is given twice", p.Number), fmt.Sprintf("It is %q and %q: remove one, or correct its number.", s.Ports[i-1].Name, p.Name))
		}
		if p.Protocol == unknownProtocol {
			p.Protocol = ""
			if workload {
				d.failFrame(d.frame, codeNotHere, fmt.Sprintf("port %d of a workload with the protocol %q", p.Number, unknownProtocol), "Its own host knows what it speaks: write http, http2, grpc or tcp.")
			}
		}
		if workload && !p.Local.IsValid() {
			p.Local = netip.AddrPortFrom(localhost, p.Number)
		}
	}
	if _, _, ok := d.frame.reader.attr("ports"); ok && s.ports != nil && len(s.ports) == 0 {
		d.report(d.at(d.frame, "ports"), Error, codeEmpty, "ports is empty", "Give the service at least one port.")
	}
}

func (d *decoder) knownPort(s *serviceFields, n uint16, at place) {
	if !slices.ContainsFunc(s.Ports, func(p ServicePort) bool { return p.Number == n }) {
		d.report(at, Error, codeNoPort, fmt.Sprintf("service %q has no port %d", s.Name, n), fmt.Sprintf("Write one of its ports: %s.", portNumbers(s.Ports)))
	}
}

func portNumbers(ports []ServicePort) string {
	out := ""
	for i, p := range ports {
		if i > 0 {
			out += ", "
		}
		out += fmt.Sprint(p.Number)
	}
	return out
}

// finishWorkload claims what the workload takes on its host.
func finishWorkload(d *decoder, s *serviceFields) {
	for i := range s.Endpoints {
		d.failFrame(d.frame.child("endpoint", i), codeNotHere, "endpoint in a workload", "A workload is its own endpoint. Remove the block, or move it to a service that stands alone, outside the mesh.")
	}
	scope := d.host
	if scope == nil { // a folder of services is one host
		scope = &d.out.folder
	}
	ref := ServiceRef{s.Namespace, s.Name}
	key := ref.String() + "/" + s.Instance
	at := d.src.place(d.frame.head.rng, d.frame.parent)
	if scope.workloads == nil {
		scope.workloads = map[string]place{}
	}
	if first, twice := scope.workloads[key]; twice {
		d.out.report(workloadTwice(key, first, at))
	} else {
		scope.workloads[key] = at
	}
	if _, _, ok := d.frame.reader.attr("env"); ok && len(s.Command) == 0 {
		d.report(d.at(d.frame, "env"), Error, codeNotHere, "env without command", "It is for what command starts. Add command, or remove it.")
	}
	for _, p := range s.Ports {
		place := d.at(d.frame, "port")
		for _, name := range []string{"ports", "local"} {
			if _, _, ok := d.frame.reader.attr(name); ok {
				place = d.at(d.frame, name)
			}
		}
		scope.taken = append(scope.taken, taken{p.Local, p.Local.Port(), fmt.Sprintf("service %q", s.Name), place})
	}
	for i, c := range s.Checks {
		switch {
		case len(s.Ports) == 0:
		case c.Port == 0:
			c.Port = s.Ports[0].Number
		default:
			d.knownPort(s, c.Port, d.at(d.frame.child("check", i), "port"))
		}
	}
	finishCapture(d, s)
	for i, u := range s.Upstreams {
		place := d.at(d.frame.child("upstream", i), "bind")
		what := fmt.Sprintf("upstream %q of service %q", u.Service.Name, s.Name)
		switch {
		case u.Bind.IsValid():
			scope.taken = append(scope.taken, taken{u.Bind, u.Bind.Port(), what, place})
		case u.Socket != "":
			d.claimSocket(scope, u.Socket, what, place)
		}
	}
}

func workloadTwice(key string, first, at place) Diagnostic {
	return at.diagnostic(Error, codeWorkloadTwice, "workload given twice on one host", fmt.Sprintf("The first is at %s. Tell them apart: instance = \"a\", instance = \"b\".", first.origin()))
}

func (d *decoder) claimSocket(scope *hostScope, path, what string, at place) {
	if scope.sockets == nil {
		scope.sockets = map[string]place{}
	}
	if first, twice := scope.sockets[path]; twice {
		d.out.report(socketTaken(path, what, first, at))
		return
	}
	scope.sockets[path] = at
}

func socketTaken(path, what string, first, at place) Diagnostic {
	return at.diagnostic(Error, codeAddressTaken, fmt.Sprintf("%s wants the socket %s, which is taken", what, path), fmt.Sprintf("The upstream at %s has it on the same host. Give one of them another path.", first.origin()))
}
