package configs

import (
	"cmp"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"

	"github.com/zclconf/go-cty/cty"
)

// The modes of capture.
const (
	CaptureLoopback    = "loopback"
	CaptureTransparent = "transparent"
)

// Any stands in the pattern of services for all namespaces, or for all services of one.
const Any = "*"

var captureBlock = newBlock(block[Capture]{
	doc: "How calls of the workload by the services' names reach its proxy. Without the block it calls its upstreams where they are bound, and nothing else.",
	labels: []label[Capture]{
		named("mode", oneOf(CaptureLoopback, CaptureTransparent), func(c *Capture) *string { return &c.Mode }, "`loopback`: names of services, as `reviews.mesh`, lead to addresses of the host that are this workload's alone, where its proxy listens. `transparent`: besides, what the workload sends anywhere else is redirected to its proxy."),
	},
	attrs: []attr[Capture]{
		servicesAttr(),
		field("user", userName(), func(c *Capture) *string { return &c.User }, "Whose connections are redirected: the name or number of a user. Only with `transparent`.").orText("those of the workload's unit"),
		field("exclude_addresses", list(prefix(), 1), func(c *Capture) *[]netip.Prefix { return &c.ExcludeAddresses }, "What is not redirected: connections to these addresses. Only with `transparent`."),
		field("exclude_ports", list(port(), 1), func(c *Capture) *[]uint16 { return &c.ExcludePorts }, "What is not redirected: connections to these ports, of any address. Only with `transparent`."),
	},
	origin: func(c *Capture) *string { return &c.Origin },
	finish: func(d *decoder, c *Capture) {
		if c.Services == nil {
			c.Services = []ServiceRef{{d.namespace, Any}}
		}
		slices.SortFunc(c.ExcludeAddresses, comparePrefixes)
		slices.Sort(c.ExcludePorts)
		c.ExcludeAddresses, c.ExcludePorts = slices.Compact(c.ExcludeAddresses), slices.Compact(c.ExcludePorts)
		if c.Mode == CaptureTransparent {
			return
		}
		for _, name := range []string{"user", "exclude_addresses", "exclude_ports"} {
			if given(d.frame, name) {
				d.report(d.at(d.frame, name), Error, codeNotHere, name+` without capture "transparent"`, "Nothing is redirected without it: remove the attribute, or write capture \"transparent\".")
			}
		}
	},
})

func comparePrefixes(a, b netip.Prefix) int {
	return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
}

// servicesAttr is the patterns of services, sorted, each once.
func servicesAttr() attr[Capture] {
	k := list(servicePattern(), 0)
	a := field("services", k, func(c *Capture) *[]ServiceRef { return &c.Services }, "Which services it may call by name. `reviews` is one of its own namespace, `shop/reviews` one of another, `shop/*` are all of a namespace, and `*/*` all there are. Upstreams without bind come on top.")
	a.set = func(d *decoder, c *Capture, v cty.Value) {
		refs, _ := k.parse(d, v)
		c.Services = []ServiceRef{}
		for _, ref := range refs {
			if ref != (ServiceRef{}) { // else it was reported
				c.Services = append(c.Services, ref)
			}
		}
		slices.SortFunc(c.Services, func(a, b ServiceRef) int { return strings.Compare(a.String(), b.String()) })
		c.Services = slices.Compact(c.Services)
	}
	return a.orText("all of the workload's namespace")
}

// servicePattern is a service, or all of a namespace, or all.
func servicePattern() kind[ServiceRef] {
	one := serviceRef()
	return kind[ServiceRef]{"service", `"name", "namespace/name", "namespace/*" or "*/*"`, func(d *decoder, v cty.Value) (ServiceRef, bool) {
		if v.Type() != cty.String || v.IsNull() {
			return one.parse(d, v)
		}
		namespace, name, ok := strings.Cut(v.AsString(), "/")
		if !ok {
			namespace, name = d.namespace, v.AsString()
		}
		switch {
		case name != Any && namespace != Any:
			return one.parse(d, v)
		case name != Any || namespace != Any && !labelName.MatchString(namespace):
			d.fail(codePattern, fmt.Sprintf("%s is no pattern of services: %q", d.what(), short(v.AsString())), `Write "name", "namespace/name", "namespace/*" for all of a namespace, or "*/*" for all.`)
			return ServiceRef{}, false
		}
		return ServiceRef{namespace, name}, true
	}}
}

// UserName is what the name or number of a user looks like.
var UserName = regexp.MustCompile(`^([a-z_][a-z0-9_-]{0,31}|[0-9]{1,9})$`) //nolint:gochecknoglobals // constant

func userName() kind[string] {
	return checked("string", `a user's name or number: "web", "1000"`, func(d *decoder, s string) bool {
		switch {
		case !UserName.MatchString(s):
			d.fail(codeName, fmt.Sprintf("%q is no name of a user", short(s)), "Write the name or the number of a user of the host: \"web\", \"1000\".")
		case s == "root" || strings.Trim(s, "0") == "":
			d.fail(codeName, "root's connections cannot be redirected", "The host itself calls as root, its agent too. Run the workload as a user of its own.")
		default:
			return true
		}
		return false
	})
}

// prefix is a range of addresses, or one.
func prefix() kind[netip.Prefix] {
	return kind[netip.Prefix]{"address range", `"10.0.0.0/8" or "fd00::1"`, func(d *decoder, v cty.Value) (netip.Prefix, bool) {
		if v.Type() != cty.String || v.IsNull() {
			d.wrongType(v, "a string")
			return netip.Prefix{}, false
		}
		if p, err := netip.ParsePrefix(v.AsString()); err == nil && !p.Addr().Is4In6() {
			return p.Masked(), true
		}
		if a, err := netip.ParseAddr(v.AsString()); err == nil && a.Zone() == "" {
			a = a.Unmap()
			return netip.PrefixFrom(a, a.BitLen()), true
		}
		d.fail(codeAddress, fmt.Sprintf("%s is no range of addresses: %q", d.what(), short(v.AsString())), `Write a range as "10.0.0.0/8", or an address as "10.0.0.1".`)
		return netip.Prefix{}, false
	}}
}

// given reports whether an attribute stands in a block.
func given(f *frame, attr string) bool {
	_, _, ok := f.reader.attr(attr)
	return ok
}

// finishCapture checks what is said of how a workload calls by name.
func finishCapture(d *decoder, s *serviceFields) {
	f := d.frame.child("capture", 0)
	if c := s.Capture; c != nil && c.Mode == CaptureTransparent && c.User == "" && s.Unit == "" && d.clean() {
		d.failFrame(f, codeMissingAttr, `capture "transparent" without a user, in a service without a unit`,
			"It must be known whose connections are redirected: give the service its unit, or the capture block a user.")
	}
	if s.Capture != nil {
		return
	}
	for i := range s.Upstreams {
		f := d.frame.child("upstream", i)
		if !given(f, "bind") && !slices.Contains(f.meant, "bind") {
			d.failFrame(f, codeMissingAttr, f.head.String()+" without bind",
				"Give it the attribute bind: where the workload finds the service. Or give the workload a capture block: then it finds it by name.")
		}
	}
}
