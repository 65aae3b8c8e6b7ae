package configs

import (
	"fmt"
	"net/netip"
	"regexp"
	"regexp/syntax"
	"strconv"
	"strings"

	"github.com/zclconf/go-cty/cty"
	"golang.org/x/net/http/httpguts"
)

var (
	labelName  = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)
	freeName   = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9._-]{0,126}[A-Za-z0-9])?$`)
	domainName = regexp.MustCompile(`^[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?)*$`)
)

// dnsName is a name that becomes a part of host names and identities: of services, namespaces, gateways, hosts.
func dnsName() kind[string] {
	return checked("name", "lower-case letters, digits, hyphens; at most 63", func(d *decoder, s string) bool {
		if labelName.MatchString(s) {
			return true
		}
		d.failName(s)
		return false
	})
}

func (d *decoder) failName(s string) {
	detail := "Use lower-case letters, digits and hyphens, at most 63, with a letter or digit at both ends."
	fixed := strings.Trim(regexp.MustCompile(`[^a-z0-9-]+`).ReplaceAllString(strings.ToLower(s), "-"), "-")
	if labelName.MatchString(fixed) {
		detail += fmt.Sprintf(" For example: %q.", fixed)
	}
	d.fail(codeName, fmt.Sprintf("%s cannot be %q", d.what(), short(s)), detail)
}

// anyName is a name that stays inside of the mesh: of routes, subsets, instances.
func anyName() kind[string] {
	return checked("name", "letters, digits, dots, hyphens, underscores; at most 128", func(d *decoder, s string) bool {
		if freeName.MatchString(s) {
			return true
		}
		d.fail(codeName, fmt.Sprintf("%s cannot be %q", d.what(), short(s)), "Use letters, digits, dots, hyphens and underscores, at most 128, with a letter or digit at both ends.")
		return false
	})
}

// serviceRef is a service: "reviews" in the block's namespace, "shop/reviews", or "reviews.shop.mesh".
func serviceRef() kind[ServiceRef] {
	return kind[ServiceRef]{"service", `"name", "namespace/name" or "name.namespace.mesh"`, func(d *decoder, v cty.Value) (ServiceRef, bool) {
		if v.Type() != cty.String || v.IsNull() {
			d.wrongType(v, "a string")
			return ServiceRef{}, false
		}
		s := v.AsString()
		ref, ok := d.parseService(s)
		if !ok {
			detail := `Write "name" for a service of this namespace, "namespace/name" for another's.`
			if name, namespace, dotted := strings.Cut(s, "."); dotted && labelName.MatchString(name) && labelName.MatchString(namespace) {
				detail += fmt.Sprintf(" Do you mean %q?", namespace+"/"+name)
			}
			d.fail(codeName, fmt.Sprintf("%s is no name of a service: %q", d.what(), short(s)), detail)
		}
		return ref, ok
	}}
}

// parseService resolves the name of a service.
func (d *decoder) parseService(s string) (ServiceRef, bool) {
	namespace, name, ok := strings.Cut(s, "/")
	if !ok {
		namespace, name = d.namespace, s
		if short, isMesh := strings.CutSuffix(s, "."+d.env.mesh.Domain); isMesh {
			name = short
			if n, ns, ok := strings.Cut(short, "."); ok {
				name, namespace = n, ns
			}
		}
	}
	return ServiceRef{namespace, name}, labelName.MatchString(name) && labelName.MatchString(namespace)
}

// domain is a Host header, "*" or "*.example.com".
func domain() kind[string] {
	return checked("domain", `"*", "*.example.com" or "www.example.com"`, func(d *decoder, s string) bool {
		if isDomain(s) {
			return true
		}
		d.failDomain(s)
		return false
	})
}

func isDomain(s string) bool {
	return s == "*" || len(s) <= 253 && domainName.MatchString(strings.TrimPrefix(s, "*."))
}

func (d *decoder) failDomain(s string) {
	detail := `Write a host name, "*" for all, or "*.example.com" for all below it; without scheme, port and path.`
	if lower := strings.ToLower(s); isDomain(lower) {
		detail = fmt.Sprintf("Domains are compared in lower case: write %q.", lower)
	}
	d.fail(codeDomain, fmt.Sprintf("%s is no domain: %q", d.what(), short(s)), detail)
}

// address is an IP address of one machine.
func address() kind[netip.Addr] {
	return kind[netip.Addr]{"address", "an IP address", func(d *decoder, v cty.Value) (netip.Addr, bool) {
		if v.Type() != cty.String || v.IsNull() {
			d.wrongType(v, "a string")
			return netip.Addr{}, false
		}
		a, err := netip.ParseAddr(v.AsString())
		if err != nil || a.IsUnspecified() || a.IsMulticast() {
			d.fail(codeAddress, fmt.Sprintf("%s is no address of a machine: %q", d.what(), short(v.AsString())), `Write an IP address: "10.0.0.1" or "fd00::1". Names are not resolved here.`)
			return netip.Addr{}, false
		}
		return a.Unmap(), true
	}}
}

// anyAddress is an IP address to listen at, where "0.0.0.0" and "::" mean all.
func anyAddress() kind[netip.Addr] {
	return kind[netip.Addr]{"address", `an IP address; "0.0.0.0" for all`, func(d *decoder, v cty.Value) (netip.Addr, bool) {
		if v.Type() == cty.String && !v.IsNull() {
			if a, err := netip.ParseAddr(v.AsString()); err == nil && a.IsUnspecified() {
				return a, true
			}
		}
		return address().parse(d, v)
	}}
}

// addrPort parses "address:port".
func (d *decoder) addrPort(s string) (netip.AddrPort, bool) {
	a, err := netip.ParseAddrPort(s)
	if err != nil || a.Port() == 0 {
		d.fail(codeAddress, fmt.Sprintf("%s is no address with a port: %q", d.what(), short(s)), `Write an IP address and a port: "127.0.0.1:9081" or "[::1]:9081".`)
		return netip.AddrPort{}, false
	}
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()), true
}

// loopback checks that an address is reached from this machine only.
func (d *decoder) loopback(a netip.Addr, why string) bool {
	if a.IsLoopback() {
		return true
	}
	d.fail(codeLoopback, fmt.Sprintf("%s is not a loopback address: %s", d.what(), a), why)
	return false
}

// port is a TCP port.
func port() kind[uint16] { return whole[uint16](1, 65535) }

// urlPath is the path of a request.
func urlPath(hint string) kind[string] {
	return checked("path", hint, func(d *decoder, s string) bool {
		if strings.HasPrefix(s, "/") && !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r == 0x7f }) {
			return true
		}
		d.fail(codePath, fmt.Sprintf("%s is no path: %q", d.what(), short(s)), "Write a path that begins with a slash and has no spaces.")
		return false
	})
}

// authority is a Host header with an optional port.
func authority() kind[string] {
	return checked("domain", `"www.example.com" or "www.example.com:8443"`, func(d *decoder, s string) bool {
		host, port, ok := strings.Cut(s, ":")
		if n, err := strconv.Atoi(port); ok && (err != nil || n < 1 || n > 65535) || !domainName.MatchString(host) {
			d.fail(codeDomain, fmt.Sprintf("%s is no host: %q", d.what(), short(s)), "Write a host name, and a port after a colon if there is one.")
			return false
		}
		return true
	})
}

// headerKey checks the name of a header and returns it in lower case.
func headerKey(d *decoder, s string) (string, bool) {
	if !httpguts.ValidHeaderFieldName(s) {
		detail := "Use letters, digits and hyphens."
		if strings.HasPrefix(s, ":") {
			detail = "Match the path with uri and the method with method; the host is what the virtual service's hosts are for."
		}
		d.fail(codeHeader, fmt.Sprintf("no name of a header: %q", short(s)), detail)
		return "", false
	}
	return strings.ToLower(s), true
}

// textKey accepts any key that is not empty.
func textKey(d *decoder, s string) (string, bool) {
	if s == "" {
		d.fail(codeEmpty, "a key of "+d.attr+" is empty", "Give it a name.")
	}
	return s, s != ""
}

// headerName is the name of a header.
func headerName() kind[string] {
	k := checked("header", "", func(*decoder, string) bool { return true })
	inner := k.parse
	k.parse = func(d *decoder, v cty.Value) (string, bool) {
		s, ok := inner(d, v)
		if !ok {
			return "", false
		}
		return headerKey(d, s)
	}
	return k
}

// cookieName is the name of a cookie.
func cookieName() kind[string] {
	return checked("name", "", func(d *decoder, s string) bool {
		if !httpguts.ValidHeaderFieldName(s) {
			d.fail(codeName, fmt.Sprintf("%s cannot be %q", d.what(), short(s)), "Use letters, digits and hyphens.")
			return false
		}
		return true
	})
}

// checkRegex reports whether s is an RE2 expression.
func (d *decoder) checkRegex(s string) bool {
	if s == "" {
		d.fail(codeEmpty, d.what()+" is empty", "It would match only the empty text: use exact = \"\".")
		return false
	}
	if _, err := syntax.Parse(s, syntax.Perl); err != nil {
		d.fail(codeRegex, fmt.Sprintf("%s is no regular expression", d.what()), fmt.Sprintf("%s. Write it in RE2, which has no look-around and no back references, and matches the whole value.", strings.TrimPrefix(err.Error(), "error parsing regexp: ")))
		return false
	}
	return true
}
