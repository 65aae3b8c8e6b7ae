package configs

import (
	"fmt"
	"net/netip"

	"github.com/zclconf/go-cty/cty"
)

var gatewayBlock = newBlock(block[Gateway]{
	doc: "A gateway is an Envoy of its own, on each of the hosts it runs on, that lets requests into the mesh. Which requests go where is said by virtual services that attach to it.",
	labels: []label[Gateway]{
		named("name", dnsName(), func(g *Gateway) *string { return &g.Name }, "Its name; one of a kind in its namespace, and a part of its identity."),
	},
	attrs: []attr[Gateway]{
		namespaceAttr(func(g *Gateway) *Block { return &g.Block }),
		runOnAttr().must(),
	},
	blocks: []child[Gateway]{
		many("server", gatewayServerBlock, func(g *Gateway) *[]*GatewayServer { return &g.Servers }, "An address that it listens at.").must(),
		one("proxy", proxyBlock, func(g *Gateway) **ProxyResources { return &g.Proxy }, "What each of its Envoys may use."),
	},
	origin: func(g *Gateway) *string { return &g.Origin },
	finish: func(d *decoder, g *Gateway) {
		d.setNamespace(&g.Block)
		d.unique("gateway", g.Namespace, g.Name)
		names := map[string]place{}
		for i, s := range g.Servers {
			f := d.frame.child("server", i)
			p := d.src.place(f.head.rng, d.frame)
			if first, twice := names[s.Name]; twice && s.Name != "" {
				d.out.report(duplicate("server", s.Name, first, p))
			}
			names[s.Name] = p
			if !s.Bind.IsValid() {
				continue
			}
			for _, host := range g.RunOn {
				d.out.binds = append(d.out.binds, hostBind{host, taken{s.Bind, s.Bind.Port(), fmt.Sprintf("server %q of gateway %q", s.Name, g.Name), d.at(f, "port")}})
			}
		}
	},
})

// runOnAttr remembers the hosts' names for the check that they exist.
func runOnAttr() attr[Gateway] {
	k := list(hostName(), 1)
	a := field("run_on", k, func(g *Gateway) *[]string { return &g.RunOn }, "The hosts that it runs on.")
	a.set = func(d *decoder, g *Gateway, v cty.Value) {
		names, ok := k.parse(d, v)
		if !ok {
			return
		}
		seen := map[string]bool{}
		for i, name := range names {
			d.inside(cty.NumberIntVal(int64(i)), func() {
				if seen[name] {
					d.fail(codeDuplicate, fmt.Sprintf("host %q is given twice in run_on", name), "Remove one of them.")
					return
				}
				seen[name] = true
				d.out.hostRefs = append(d.out.hostRefs, nameRef{name, d.here()})
				g.RunOn = append(g.RunOn, name)
			})
		}
	}
	return a
}

// serverFields is a gateway's server as it is written.
type serverFields struct {
	GatewayServer
	bind netip.Addr
	port uint16
}

var gatewayServerBlock = through(newBlock(block[serverFields]{
	doc: "An address that a gateway listens at.",
	labels: []label[serverFields]{
		named("name", anyName(), func(s *serverFields) *string { return &s.Name }, "Its name; one of a kind in the gateway."),
	},
	attrs: []attr[serverFields]{
		field("bind", anyAddress(), func(s *serverFields) *netip.Addr { return &s.bind }, "The address.").or(cty.StringVal("0.0.0.0")),
		field("port", port(), func(s *serverFields) *uint16 { return &s.port }, "The port.").must(),
		field("protocol", oneOf("http"), func(s *serverFields) *string { return &s.Protocol }, "What clients speak: HTTP/1.1, and HTTP/2 with prior knowledge.").or(cty.StringVal("http")),
		field("hosts", list(domain(), 1), func(s *serverFields) *[]string { return &s.Hosts }, "The domains that it answers to.").or(cty.TupleVal([]cty.Value{cty.StringVal("*")})),
	},
	origin: func(s *serverFields) *string { return &s.Origin },
}), func(s *serverFields) *GatewayServer {
	if s.bind.IsValid() && s.port != 0 {
		s.Bind = netip.AddrPortFrom(s.bind, s.port)
	}
	return &s.GatewayServer
})
