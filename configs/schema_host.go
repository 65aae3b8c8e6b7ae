package configs

import (
	"fmt"
	"net/netip"
	"regexp"

	"github.com/zclconf/go-cty/cty"
)

// The ports of a host for mesh traffic: where they begin unless its mesh_port says otherwise, and how many there are.
const (
	FirstMeshPort = 7443
	MeshPorts     = 32
)

var hostPattern = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*$`)

// hostName is the name of a machine, which may have dots.
func hostName() kind[string] {
	return checked("host", "lower-case letters, digits, hyphens, dots", func(d *decoder, s string) bool {
		if len(s) <= 128 && hostPattern.MatchString(s) {
			return true
		}
		d.failName(s)
		return false
	})
}

var hostBlock = newBlock(block[Host]{
	doc: "A host is a machine with an agent. The services in it are the workloads that run there, and the grant that lets the host hold their identities.",
	labels: []label[Host]{
		named("name", hostName(), func(h *Host) *string { return &h.Name }, "Its name, as its agent says it when it joins; one of a kind in the mesh."),
	},
	attrs: []attr[Host]{
		field("address", address(), func(h *Host) *netip.Addr { return &h.Address }, "Where other hosts reach it.").must(),
		field("mesh_port", whole[uint16](1, 65536-MeshPorts), func(h *Host) *uint16 { return &h.MeshPort }, fmt.Sprintf("The first of the %d ports for mesh traffic.", MeshPorts)).or(cty.NumberIntVal(FirstMeshPort)),
		field("mode", oneOf("host", "sidecar"), func(h *Host) *string { return &h.Mode }, "How the workloads of this host are served that say no mode themselves, those that its agent registers too.").orText("`\"host\"`"),
		field("region", text(), func(h *Host) *string { return &h.Region }, "Where it stands; callers see it as the locality of its endpoints."),
		field("zone", text(), func(h *Host) *string { return &h.Zone }, "The part of the region."),
		field("rack", text(), func(h *Host) *string { return &h.Rack }, "The part of the zone."),
	},
	blocks: []child[Host]{
		many("service", serviceBlock, func(h *Host) *[]*Service { return &h.Services }, "A workload: one instance of a service that runs here."),
		one("proxy", proxyBlock, func(h *Host) **ProxyResources { return &h.Proxy }, "What the host's own Envoy may use."),
		one("envoy", envoyBlock, func(h *Host) **Envoy { return &h.Envoy }, "Which Envoy runs here, in the place of the mesh's."),
	},
	origin: func(h *Host) *string { return &h.Origin },
	begin: func(d *decoder, h *Host) {
		d.host = &hostScope{name: h.Name, workloads: map[string]place{}}
		if h.Address.IsValid() && h.MeshPort != 0 {
			at := d.at(d.frame, "mesh_port")
			if at.line == d.frame.head.rng.Start.Line {
				at = d.at(d.frame, "address")
			}
			d.host.taken = append(d.host.taken, taken{netip.AddrPortFrom(h.Address, h.MeshPort), h.MeshPort + MeshPorts - 1, fmt.Sprintf("host %q, whose mesh ports begin there,", h.Name), at})
		}
	},
	finish: func(d *decoder, h *Host) {
		d.unique("host", "", h.Name)
		reportTaken(d.out, d.host.taken, 0)
		d.out.hosts = append(d.out.hosts, d.host)
		d.host = nil
	},
})

// hostScope is what is taken on one host.
type hostScope struct {
	name      string
	workloads map[string]place // by service and instance
	taken     []taken
	sockets   map[string]place
}

// taken is an address that something listens at, with a range of ports.
type taken struct {
	addr  netip.AddrPort
	last  uint16
	what  string
	place place
}

// overlaps reports whether two things cannot both listen on one host.
func (a taken) overlaps(b taken) bool {
	x, y := a.addr.Addr(), b.addr.Addr()
	return a.addr.Port() <= b.last && b.addr.Port() <= a.last && (x == y || x.IsUnspecified() || y.IsUnspecified())
}

// reportTaken reports those in list, from the index from on, that meet an earlier one.
func reportTaken(out *decoded, list []taken, from int) {
	byPort := map[uint16][]int{}
	for i, t := range list {
		met := -1
		for port := int(t.addr.Port()); port <= int(t.last) && met < 0; port++ {
			for _, j := range byPort[uint16(port)] {
				if list[j].overlaps(t) {
					met = j
					break
				}
			}
		}
		if met >= 0 && i < from {
			continue
		}
		if met >= 0 {
			out.report(t.place.diagnostic(Error, codeAddressTaken, fmt.Sprintf("%s wants %s, which is taken", t.what, t.addr),
				fmt.Sprintf("%s at %s has it on the same host. Give one of them another address or port.", list[met].what, list[met].place.origin())))
			continue
		}
		for port := int(t.addr.Port()); port <= int(t.last); port++ {
			byPort[uint16(port)] = append(byPort[uint16(port)], i)
		}
	}
}
