package dns

import (
	"net/netip"
	"strings"

	wire "github.com/miekg/dns"
)

// ttl is how long an answer may be kept, in seconds: names follow the mesh.
const ttl = 5

// zone answers questions of one view.
type zone struct {
	View
	suffix string                // ".mesh."
	hosts  map[string]netip.Addr // by full name: "reviews.default.mesh."
	nodes  map[string]bool       // names that have names below them, and the domain itself
}

func newZone(v View) *zone {
	z := &zone{View: v, suffix: "." + v.Domain + ".", hosts: map[string]netip.Addr{}, nodes: map[string]bool{v.Domain + ".": true}}
	for name, at := range v.Names {
		name = strings.ToLower(name)
		z.hosts[name+z.suffix] = at
		if short, ok := strings.CutSuffix(name, "."+v.Namespace); ok && v.Namespace != "" {
			// What has a namespace's name and is no service of ours stays that namespace.
			z.hosts[short+z.suffix] = at
		}
	}
	for name := range z.hosts {
		for i, end := wire.NextLabel(name, 0); !end && name[i:] != v.Domain+"."; i, end = wire.NextLabel(name, i) {
			z.nodes[name[i:]] = true
		}
	}
	return z
}

// owns reports whether a name is the mesh's: it is never asked elsewhere. A single label is, if it is a short name.
func (z *zone) owns(name string) bool {
	if strings.HasSuffix(name, z.suffix) || name == z.Domain+"." {
		return true
	}
	_, short := z.short(name)
	return short
}

func (z *zone) short(name string) (netip.Addr, bool) {
	if z.Namespace == "" || wire.CountLabel(name) != 1 {
		return netip.Addr{}, false
	}
	at, ok := z.hosts[name+z.Namespace+z.suffix]
	return at, ok
}

// answer answers a question about a name that the zone owns.
func (z *zone) answer(m *wire.Msg) *wire.Msg {
	q := m.Question[0]
	name := wire.CanonicalName(q.Name)
	r := new(wire.Msg)
	r.SetReply(m)
	r.Authoritative, r.RecursionAvailable = true, z.Forward
	at, ok := z.hosts[name]
	if !ok {
		at, ok = z.short(name)
	}
	switch {
	case !ok && !z.nodes[name]:
		r.Rcode = wire.RcodeNameError
	case ok && at.Is4() && (q.Qtype == wire.TypeA || q.Qtype == wire.TypeANY):
		r.Answer = []wire.RR{&wire.A{Hdr: header(q.Name, wire.TypeA), A: at.AsSlice()}}
	case ok && at.Is6() && (q.Qtype == wire.TypeAAAA || q.Qtype == wire.TypeANY):
		r.Answer = []wire.RR{&wire.AAAA{Hdr: header(q.Name, wire.TypeAAAA), AAAA: at.AsSlice()}}
	case q.Qtype == wire.TypeSOA && name == z.Domain+".":
		r.Answer = []wire.RR{z.soa()}
	}
	if len(r.Answer) == 0 { // RFC 2308: how long that there is nothing may be kept
		r.Ns = []wire.RR{z.soa()}
	}
	return r
}

func (z *zone) soa() wire.RR {
	domain := z.Domain + "."
	return &wire.SOA{Hdr: header(domain, wire.TypeSOA), Ns: "ns." + domain, Mbox: "hostmaster." + domain, Serial: 1, Refresh: 3600, Retry: 600, Expire: 86400, Minttl: ttl}
}

func header(name string, kind uint16) wire.RR_Header {
	return wire.RR_Header{Name: name, Rrtype: kind, Class: wire.ClassINET, Ttl: ttl}
}
