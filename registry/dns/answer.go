package dns

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	wire "github.com/miekg/dns"
)

// maxChain is how many CNAME records lead from a name to its records at most, in one answer or over several.
const maxChain = 8

// question is one set of records that is asked for. The name is canonical.
type question struct {
	name string
	kind uint16
}

func (q question) String() string { return wire.TypeToString[q.kind] + " " + q.name }

// absence says that there are no such records.
type absence string

// The two ways of there being nothing (RFC 2308). The empty absence: there is something.
const (
	noName absence = "there is no such name"
	noData absence = "the name has no such records"
)

// target is what an SRV record says. The host is canonical, "." if the service is decidedly not available (RFC 2782).
type target struct {
	host     string
	port     uint16
	priority uint16
	weight   uint16
}

// answer is what the resolvers say to a question: targets, or addresses, or that there are none.
type answer struct {
	targets   []target     // sorted, without repeats
	addresses []netip.Addr // likewise
	absence   absence
	ttl       time.Duration // of what is there or of there being nothing
	extra     map[question][]extraRecord
	objection string // which resolver says that there is nothing
}

// extraRecord is an address that came along with SRV records.
type extraRecord struct {
	address netip.Addr
	ttl     time.Duration
}

func (a answer) equal(b answer) bool {
	return slices.Equal(a.targets, b.targets) && slices.Equal(a.addresses, b.addresses)
}

// read reads the message that answers q. The name that next gives, if any, is where an alias leads of which the
// message does not say what is there.
func read(q question, m *wire.Msg) (a answer, next string, err error) {
	name, ttl, err := follow(q, m)
	if err != nil {
		return a, "", err
	}
	a.ttl = ttl
	for _, rr := range m.Answer {
		if rr.Header().Rrtype == q.kind && rr.Header().Class == wire.ClassINET && wire.CanonicalName(rr.Header().Name) == name {
			a.add(rr)
		}
	}
	slices.SortFunc(a.targets, compareTargets)
	a.targets = slices.Compact(a.targets)
	slices.SortFunc(a.addresses, netip.Addr.Compare)
	a.addresses = slices.Compact(a.addresses)
	if len(a.targets)+len(a.addresses) > 0 {
		a.extra = extras(a.targets, m.Extra)
		return a, "", nil
	}
	soa, referral := authority(m)
	switch {
	case m.Rcode == wire.RcodeNameError:
		a.absence = noName
	case name != q.name && soa == nil:
		return a, name, nil
	case referral:
		return a, "", errors.New("it refers to other servers: it is no resolver, or does not recurse for us")
	default:
		a.absence = noData
	}
	if soa == nil {
		a.ttl = 0
		return a, "", nil
	}
	a.ttl = min(a.ttl, ttlOf(soa), time.Duration(soa.Minttl)*time.Second) // RFC 2308 5
	return a, "", nil
}

func compareTargets(a, b target) int {
	return cmp.Or(cmp.Compare(a.priority, b.priority), cmp.Compare(a.host, b.host), cmp.Compare(a.port, b.port), cmp.Compare(a.weight, b.weight))
}

// forever is more than any TTL.
const forever = time.Duration(1<<63 - 1)

// follow returns where the aliases in the message lead from the question's name, and their lowest TTL.
func follow(q question, m *wire.Msg) (string, time.Duration, error) {
	aliases := map[string]*wire.CNAME{}
	for _, rr := range m.Answer {
		if c, ok := rr.(*wire.CNAME); ok {
			aliases[wire.CanonicalName(c.Hdr.Name)] = c
		}
	}
	name, ttl := q.name, forever
	for range maxChain + 1 {
		c := aliases[name]
		if c == nil {
			return name, ttl, nil
		}
		name, ttl = wire.CanonicalName(c.Target), min(ttl, ttlOf(c))
	}
	return "", 0, errChain
}

var errChain = fmt.Errorf("more than %d aliases (CNAME) lead from it, or they lead in a circle", maxChain)

func (a *answer) add(rr wire.RR) {
	switch rr := rr.(type) {
	case *wire.SRV:
		a.targets = append(a.targets, target{wire.CanonicalName(rr.Target), rr.Port, rr.Priority, rr.Weight})
	case *wire.A, *wire.AAAA:
		a.addresses = append(a.addresses, addressOf(rr))
	}
	a.ttl = min(a.ttl, ttlOf(rr))
}

// addressOf returns the address that a record has; the zero address if it has none.
func addressOf(rr wire.RR) netip.Addr {
	var raw []byte
	switch rr := rr.(type) {
	case *wire.A:
		raw = rr.A
	case *wire.AAAA:
		raw = rr.AAAA
	}
	addr, _ := netip.AddrFromSlice(raw)
	if rr.Header().Rrtype == wire.TypeA {
		addr = addr.Unmap()
	}
	return addr
}

func ttlOf(rr wire.RR) time.Duration {
	ttl := rr.Header().Ttl
	if ttl > 1<<31-1 { // RFC 2181 8
		return 0
	}
	return time.Duration(ttl) * time.Second
}

// authority returns the SOA record that an answer without records is to have, and whether it is none but a referral.
func authority(m *wire.Msg) (soa *wire.SOA, referral bool) {
	for _, rr := range m.Ns {
		switch rr := rr.(type) {
		case *wire.SOA:
			return rr, false
		case *wire.NS:
			referral = true
		}
	}
	return nil, referral && !m.Authoritative
}

// extras returns the addresses of the targets that came along. A server leaves out a set of records as a whole, or says
// that the message is cut off (RFC 2181 9).
func extras(targets []target, extra []wire.RR) map[question][]extraRecord {
	if len(targets) == 0 {
		return nil
	}
	hosts := map[string]bool{}
	for _, t := range targets {
		hosts[t.host] = true
	}
	out := map[question][]extraRecord{}
	for _, rr := range extra {
		q := question{wire.CanonicalName(rr.Header().Name), rr.Header().Rrtype}
		if addr := addressOf(rr); addr.IsValid() && hosts[q.name] {
			out[q] = append(out[q], extraRecord{addr, ttlOf(rr)})
		}
	}
	return out
}

// gather makes the records that came along an answer.
func gather(records []extraRecord) answer {
	a := answer{ttl: forever}
	for _, r := range records {
		a.addresses = append(a.addresses, r.address)
		a.ttl = min(a.ttl, r.ttl)
	}
	slices.SortFunc(a.addresses, netip.Addr.Compare)
	a.addresses = slices.Compact(a.addresses)
	return a
}
