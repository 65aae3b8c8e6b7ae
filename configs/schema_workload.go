package configs

import (
	"fmt"
	"net/netip"
	"path"
	"strings"
	"time"

	"github.com/zclconf/go-cty/cty"
)

var checkBlock = newBlock(block[Check]{
	doc: "A health check: of a workload, which its host's agent runs at the local address, or in service_defaults, which the server runs. An instance whose check fails gets no calls.",
	labels: []label[Check]{
		named("type", oneOf("http", "tcp"), func(c *Check) *string { return &c.Type }, "`http` asks for a path and wants a status from 200 to 399; `tcp` opens a connection."),
	},
	attrs: []attr[Check]{
		field("port", port(), func(c *Check) *uint16 { return &c.Port }, "The service's port that is checked, at its local address.").orText("the service's first"),
		field("path", urlPath(""), func(c *Check) *string { return &c.Path }, "The path, for `http`.").orText("`\"/\"`"),
		field("interval", duration(100*time.Millisecond, day), func(c *Check) *Duration { return &c.Interval }, "How often.").or(cty.StringVal("5s")),
		field("timeout", duration(time.Millisecond, day), func(c *Check) *Duration { return &c.Timeout }, "How long it may take.").or(cty.StringVal("2s")),
		field("healthy_threshold", whole[uint32](1, 1000), func(c *Check) *uint32 { return &c.Healthy }, "Successes in a row until it is healthy again.").or(cty.NumberIntVal(1)),
		field("unhealthy_threshold", whole[uint32](1, 1000), func(c *Check) *uint32 { return &c.Unhealthy }, "Failures in a row until it is unhealthy.").or(cty.NumberIntVal(2)),
	},
	origin: func(c *Check) *string { return &c.Origin },
	finish: func(d *decoder, c *Check) {
		switch _, _, ok := d.frame.reader.attr("path"); {
		case c.Type == "tcp" && ok:
			d.report(d.at(d.frame, "path"), Error, codeNotHere, "path in a tcp check", "Write check \"http\" to ask for a path.")
		case c.Type == "http" && !ok:
			c.Path = "/"
		}
	},
})

var upstreamBlock = newBlock(block[Upstream]{
	doc: "A service that the workload calls, and where it finds it: at an address of its own machine, where the host's Envoy listens for it, or with capture by its name.",
	labels: []label[Upstream]{
		named("service", serviceRef(), func(u *Upstream) *ServiceRef { return &u.Service }, "The service."),
	},
	attrs: []attr[Upstream]{
		field("port", port(), func(u *Upstream) *uint16 { return &u.Port }, "The service's port.").orText("its only one"),
		bindAttr().orText("only with capture: it is found by its name"),
	},
	origin: func(u *Upstream) *string { return &u.Origin },
})

// bindAttr is a loopback address or a unix socket.
func bindAttr() attr[Upstream] {
	k := kind[string]{"address and port, or socket", `"127.0.0.1:9081", "[::1]:9081" or "unix:/run/x.sock"`, text().parse}
	a := field("bind", k, func(u *Upstream) *string { return &u.Socket }, "Where the workload finds the service. Calls there carry the workload's identity, so it must be a loopback address or a socket.")
	a.set = func(d *decoder, u *Upstream, v cty.Value) {
		s, ok := k.parse(d, v)
		if !ok {
			return
		}
		if p, isSocket := strings.CutPrefix(s, "unix:"); isSocket {
			u.Socket, _ = d.socketPath(p)
			return
		}
		if bind, ok := d.addrPort(s); ok && d.loopback(bind.Addr(), "Whoever reaches it calls with the workload's identity. Use an address of 127.0.0.0/8, [::1] or a socket.") {
			u.Bind = bind
		}
	}
	return a
}

// maxSocketPath is what Linux allows, with the zero at the end.
const maxSocketPath = 107

func (d *decoder) socketPath(p string) (string, bool) {
	if !path.IsAbs(p) || len(p) > maxSocketPath {
		d.fail(codeAddress, fmt.Sprintf("%s is no path of a socket: %q", d.what(), short(p)), fmt.Sprintf("Write an absolute path of at most %d bytes: \"unix:/run/x.sock\".", maxSocketPath))
		return "", false
	}
	return path.Clean(p), true
}

var endpointBlock = newBlock(block[Endpoint]{
	doc: "An endpoint outside the mesh. It is called in plaintext, unless the mesh block forbids that.",
	attrs: []attr[Endpoint]{
		field("address", address(), func(e *Endpoint) *netip.Addr { return &e.Address }, "Its address.").must(),
		field("port", port(), func(e *Endpoint) *uint16 { return &e.Port }, "Where it listens.").orText("the service's port"),
		field("port_for", port(), func(e *Endpoint) *uint16 { return &e.PortFor }, "Which of the service's ports it serves.").orText("the service's only one"),
		field("meta", dict(anyText(), "", textKey), func(e *Endpoint) *map[string]string { return &e.Meta }, "What subsets select on: `version`, ..."),
		field("weight", whole[uint32](1, 1_000_000), func(e *Endpoint) *uint32 { return &e.Weight }, "How much of the calls it gets, relative to the others.").or(cty.NumberIntVal(1)),
		field("priority", whole[uint32](0, 65535), func(e *Endpoint) *uint32 { return &e.Priority }, "Lower is called first; the others while there are too few healthy ones before them.").or(cty.NumberIntVal(0)),
		field("region", anyText(), func(e *Endpoint) *string { return &e.Region }, "Where it runs, as of a host."),
		field("zone", anyText(), func(e *Endpoint) *string { return &e.Zone }, "The part of the region."),
		field("rack", anyText(), func(e *Endpoint) *string { return &e.Rack }, "The part of the zone."),
		field("health", oneOf("healthy", "unhealthy", "draining"), func(e *Endpoint) *string { return &e.Health }, "What is known of its health: `draining` gets no new requests.").orText("nothing is known, and it is called"),
		field("reason", anyText(), func(e *Endpoint) *string { return &e.Reason }, "Why its health is so, for people."),
	},
	origin: func(e *Endpoint) *string { return &e.Origin },
})
