package dns

import (
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/gohcl"
	wire "github.com/miekg/dns"

	"github.com/wattle-mesh/wattle/registry"
)

// reader reads attributes and gathers what is wrong with them.
type reader struct {
	eval  *hcl.EvalContext
	diags hcl.Diagnostics
}

func (r *reader) fail(at hcl.Range, summary, detail string) {
	r.diags = append(r.diags, &hcl.Diagnostic{Severity: hcl.DiagError, Summary: summary, Detail: detail, Subject: &at})
}

// value evaluates an attribute. It reports false if there is none, or none that fits.
func value[T any](r *reader, a *hcl.Attribute, into *T) bool {
	if a == nil {
		return false
	}
	diags := gohcl.DecodeExpression(a.Expr, r.eval, into)
	r.diags = append(r.diags, diags...)
	return !diags.HasErrors()
}

func (r *reader) text(a *hcl.Attribute) string {
	var s string
	value(r, a, &s)
	return s
}

// duration reads an attribute like "30s", which may be left out.
func (r *reader) duration(a *hcl.Attribute, without, least, most time.Duration) time.Duration {
	var s string
	if !value(r, a, &s) {
		return without
	}
	d, err := time.ParseDuration(s)
	switch {
	case err != nil:
		r.fail(a.Expr.Range(), fmt.Sprintf("%s is no duration: %q", a.Name, s), `Write a number with a unit: "500ms", "30s", "1m".`)
	case d < least || d > most:
		r.fail(a.Expr.Range(), fmt.Sprintf("%s is out of range: %s", a.Name, s), fmt.Sprintf("Write a duration from %s to %s.", least, most))
	default:
		return d
	}
	return without
}

// number reads a whole number, which may be left out.
func (r *reader) number(a *hcl.Attribute, without, least, most int) int {
	var n int
	if !value(r, a, &n) {
		return without
	}
	if n < least || n > most {
		r.fail(a.Expr.Range(), fmt.Sprintf("%s is out of range: %d", a.Name, n), fmt.Sprintf("Write a number from %d to %d.", least, most))
		return without
	}
	return n
}

func (r *reader) family(a *hcl.Attribute) []uint16 {
	family := "both"
	value(r, a, &family)
	switch family {
	case "ipv4":
		return []uint16{wire.TypeA}
	case "ipv6":
		return []uint16{wire.TypeAAAA}
	case "both":
	default:
		r.fail(a.Expr.Range(), fmt.Sprintf("family is none of those that there are: %q", family), `Write "both", "ipv4" or "ipv6".`)
	}
	return []uint16{wire.TypeA, wire.TypeAAAA}
}

func (r *reader) protocol(a *hcl.Attribute) registry.Protocol {
	var s string
	if !value(r, a, &s) {
		return ""
	}
	p := registry.Protocol(s)
	if !p.IsHTTP() && p != registry.TCP {
		r.fail(a.Expr.Range(), fmt.Sprintf("%q is no protocol", s), `Write "http", "http2", "grpc" or "tcp".`)
	}
	return p
}

// maxResolvers bounds how many resolvers are asked, and so what one answer may cost.
const maxResolvers = 8

func (r *reader) resolvers(a *hcl.Attribute) []netip.AddrPort {
	var all []string
	if !value(r, a, &all) {
		return nil
	}
	if len(all) == 0 || len(all) > maxResolvers {
		r.fail(a.Expr.Range(), fmt.Sprintf("There are %d resolvers", len(all)), fmt.Sprintf("Write 1 to %d of them, or leave resolvers out to use those of %s.", maxResolvers, defaultResolvConf))
	}
	var out []netip.AddrPort
	for _, s := range all {
		p, err := resolver(s)
		switch {
		case err != nil:
			r.fail(a.Expr.Range(), fmt.Sprintf("%q is no resolver", s), `Write an IP address, with a port if it is not 53: "10.0.0.53", "10.0.0.53:8600", "[fd00::53]:8600". Names are not resolved here.`)
		case slices.Contains(out, p):
			r.fail(a.Expr.Range(), fmt.Sprintf("The resolver %s is there twice", p), "Remove one of them.")
		default:
			out = append(out, p)
		}
	}
	return out
}

// resolver reads an address, with or without a port.
func resolver(s string) (netip.AddrPort, error) {
	if a, err := netip.ParseAddr(s); err == nil {
		return netip.AddrPortFrom(a.Unmap(), 53), usable(a, 53)
	}
	p, err := netip.ParseAddrPort(s)
	if err != nil {
		return p, err
	}
	return netip.AddrPortFrom(p.Addr().Unmap(), p.Port()), usable(p.Addr(), p.Port())
}

func usable(a netip.Addr, port uint16) error {
	if a.IsUnspecified() || a.IsMulticast() || port == 0 {
		return fmt.Errorf("nothing can be sent to %s, port %d", a, port)
	}
	return nil
}

// aLabel is a DNS label in lower case (RFC 1123).
var aLabel = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

// label checks the name of a service or a namespace.
func (r *reader) label(s string, at hcl.Range) {
	if !aLabel.MatchString(s) {
		r.fail(at, fmt.Sprintf("%q is no name of a service or namespace", s), "Write lower-case letters, digits and hyphens, at most 63, with a letter or digit at both ends.")
	}
}

// aDomain is a name of the letters that host and SRV names have. That it is not too long is for the library to say.
var aDomain = regexp.MustCompile(`^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*\.?$`)

// domain reads a name to ask for. It is absolute, with or without the dot at its end.
func (r *reader) domain(a *hcl.Attribute) (string, bool) {
	var s string
	if !value(r, a, &s) {
		return "", false
	}
	at := a.Expr.Range()
	if _, err := netip.ParseAddr(strings.Trim(s, "[]")); err == nil {
		r.fail(at, fmt.Sprintf("%s is an address: %q", a.Name, s), "Addresses that do not change belong into a static registry or the policy.")
		return "", false
	}
	if _, ok := wire.IsDomainName(s); !ok || !aDomain.MatchString(s) || len(s) > 254 {
		r.fail(at, fmt.Sprintf("%s is no DNS name: %q", a.Name, s), "Write labels of letters, digits, hyphens and underscores with dots between them. The name is absolute: search domains are not applied.")
		return "", false
	}
	return wire.CanonicalName(s), true
}

func originOf(r hcl.Range) string {
	return fmt.Sprintf("%s:%d", r.Filename, r.Start.Line)
}
