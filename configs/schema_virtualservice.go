package configs

import (
	"fmt"
	"slices"
	"strings"

	"github.com/zclconf/go-cty/cty"
)

var virtualServiceBlock = newBlock(block[VirtualService]{
	doc: "A virtual service says how requests are routed: those that workloads send to a service, and those that arrive at gateways for a domain.",
	labels: []label[VirtualService]{
		named("name", anyName(), func(v *VirtualService) *string { return &v.Name }, "Its name; one of a kind in its namespace."),
	},
	attrs: []attr[VirtualService]{
		namespaceAttr(func(v *VirtualService) *Block { return &v.Block }),
		hostsAttr().must(),
		gatewaysAttr().or(cty.TupleVal([]cty.Value{cty.StringVal(meshGateway)})),
	},
	blocks: []child[VirtualService]{
		many("http", httpRouteBlock, func(v *VirtualService) *[]*HTTPRoute { return &v.HTTP }, "A rule for HTTP requests. The first one that matches is used.").must(),
	},
	origin: func(v *VirtualService) *string { return &v.Origin },
	finish: finishVirtualService,
})

// meshGateway stands for all workloads in the gateways attribute.
const meshGateway = "mesh"

// namespaceAttr is the namespace of a block; it comes first in each table, because names that follow resolve in it.
func namespaceAttr[T any](at func(*T) *Block) attr[T] {
	a := field("namespace", dnsName(), func(t *T) *string { return &at(t).Namespace }, "The namespace that it belongs to, and in which the short names in it resolve.")
	set := a.set
	a.set = func(d *decoder, t *T, v cty.Value) {
		set(d, t, v)
		if ns := at(t).Namespace; ns != "" {
			d.namespace = ns
		}
	}
	return a.orText("the folder's namespace, else `\"default\"`")
}

// hostsAttr splits hosts into services and domains.
func hostsAttr() attr[VirtualService] {
	k := kind[[]string]{"list of services and domains", `"reviews", "shop/reviews", "reviews.mesh"; "*", "www.example.com"`, list(text(), 1).parse}
	a := field("hosts", k, func(v *VirtualService) *[]string { return &v.Domains }, "What the rules hold for. A name without a dot, or one that ends in the mesh's domain, is a service. Other names, and `*`, are domains: they are compared with the Host header at gateways.")
	a.set = func(d *decoder, v *VirtualService, val cty.Value) {
		entries, _ := k.parse(d, val)
		for i, s := range entries {
			if s != "" { // else it was reported
				d.inside(cty.NumberIntVal(int64(i)), func() { d.hostEntry(v, s) })
			}
		}
	}
	return a
}

func (d *decoder) hostEntry(v *VirtualService, s string) {
	isService := !strings.ContainsAny(s, ".*") || strings.Contains(s, "/") || strings.HasSuffix(s, "."+d.env.mesh.Domain)
	if !isService {
		if !isDomain(s) {
			d.failDomain(s)
			return
		}
		if slices.Contains(v.Domains, s) {
			d.fail(codeDuplicate, fmt.Sprintf("%q is given twice in hosts", s), "Remove one of them.")
			return
		}
		v.Domains = append(v.Domains, s)
		return
	}
	ref, ok := serviceRef().parse(d, cty.StringVal(s))
	if !ok {
		return
	}
	if slices.Contains(v.Hosts, ref) {
		d.fail(codeDuplicate, fmt.Sprintf("service %s is given twice in hosts", ref), "Remove one of them.")
		return
	}
	v.Hosts = append(v.Hosts, ref)
}

// gatewaysAttr resolves the names of gateways.
func gatewaysAttr() attr[VirtualService] {
	k := kind[string]{"gateway", `"mesh", "name" or "namespace/name"`, text().parse}
	a := field("gateways", list(k, 1), func(v *VirtualService) *[]string { return &v.Gateways }, "Where the rules are used: at gateways, and with `\"mesh\"` at all workloads.")
	a.set = func(d *decoder, v *VirtualService, val cty.Value) {
		entries, _ := list(k, 1).parse(d, val)
		for i, s := range entries {
			if s != "" {
				d.inside(cty.NumberIntVal(int64(i)), func() { d.gatewayEntry(v, s) })
			}
		}
	}
	return a
}

func (d *decoder) gatewayEntry(v *VirtualService, s string) {
	if s == meshGateway {
		v.Gateways = append(v.Gateways, s)
		return
	}
	namespace, name, ok := strings.Cut(s, "/")
	if !ok {
		namespace, name = d.namespace, s
	}
	if !labelName.MatchString(name) || !labelName.MatchString(namespace) {
		d.failName(s)
		return
	}
	full := namespace + "/" + name
	d.out.gatewayRefs = append(d.out.gatewayRefs, nameRef{full, d.here()})
	v.Gateways = append(v.Gateways, full)
}

func finishVirtualService(d *decoder, v *VirtualService) {
	d.setNamespace(&v.Block)
	d.unique("virtual_service", v.Namespace, v.Name)
	mesh := slices.Contains(v.Gateways, meshGateway)
	switch {
	case !d.clean():
	case !mesh && len(v.Hosts) > 0:
		d.report(d.at(d.frame, "hosts"), Error, codeAttach, fmt.Sprintf("service %s in a virtual service that attaches only to gateways", v.Hosts[0]),
			`Gateways serve domains: write a domain or "*" in hosts, or add "mesh" to gateways to steer the service's callers.`)
	case mesh && len(v.Gateways) == 1 && len(v.Domains) > 0:
		d.report(d.at(d.frame, "hosts"), Error, codeAttach, fmt.Sprintf("domain %q in a virtual service that attaches to no gateway", v.Domains[0]),
			`Domains arrive at gateways: name the gateway in gateways. A service is written "name" or "namespace/name".`)
	}
	names := map[string]place{}
	for i, r := range v.HTTP {
		f := d.frame.child("http", i)
		p := d.src.place(f.head.rng, d.frame)
		if first, twice := names[r.Name]; twice && r.Name != "" {
			d.out.report(duplicate("rule", r.Name, first, p))
		}
		names[r.Name] = p
		if i > 0 && len(v.HTTP[i-1].Match) == 0 && d.clean() {
			d.report(p, Warning, codeNeverReached, fmt.Sprintf("rule %q is never reached", r.Name), fmt.Sprintf("The rule %q before it has no match block and takes every request. Move this one before it, or give that one a match block.", v.HTTP[i-1].Name))
			break
		}
	}
}
