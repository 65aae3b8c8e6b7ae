package dns

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	"github.com/wattle-mesh/wattle/registry"
)

// roots lists what a set's name is asked for.
func (c *config) roots(s set) []question {
	if s.srv {
		return []question{{s.name, srvType}}
	}
	return c.hosts(s.name)
}

// hosts lists what is asked for to know a host's addresses.
func (c *config) hosts(name string) []question {
	if name == notAvailable {
		return nil
	}
	out := make([]question, len(c.types))
	for i, kind := range c.types {
		out[i] = question{name, kind}
	}
	return out
}

// set returns all services that are there.
func (st *state) set() []*registry.Service {
	out := make([]*registry.Service, 0, len(st.services))
	for _, s := range st.services {
		if s.built != nil {
			out = append(out, s.built)
		}
	}
	return out
}

// rebuild makes the service from what is known, and reports whether it differs from what it was.
func (s *service) rebuild(st *state, c *config, now time.Time) bool {
	b := &builder{service: s, state: st, config: c, now: now, at: map[netip.AddrPort]int{}}
	for _, set := range s.sets {
		b.add(set)
	}
	if b.pending {
		return false // until then it stays as it is
	}
	if b.failing && s.built != nil && (b.waiting || len(b.endpoints) == 0) {
		return false
	}
	s.notes = b.notes
	if !b.exists {
		changed := s.built != nil
		s.built = nil
		return changed
	}
	next := b.finish()
	if s.built != nil && same(s.built, next) {
		return false
	}
	s.built = next
	return true
}

// builder makes a service.
type builder struct {
	*service
	*state
	*config
	now time.Time

	pending bool // something was not asked yet
	failing bool // something could never be read
	waiting bool // and not for long
	exists  bool // some name is there

	endpoints []*registry.Endpoint // the service's port is not in them yet
	at        map[netip.AddrPort]int
	ports     []registry.Listener // what SRV records say
	notes     []registry.Diagnostic
}

// add adds the endpoints of one set.
func (b *builder) add(in set) {
	if !in.srv {
		for _, addr := range b.resolve(in.name, true) {
			b.endpoint(&registry.Endpoint{Address: addr, Port: in.port, Meta: in.meta}, in)
		}
		return
	}
	root := b.entries[question{in.name, srvType}]
	if b.hear(root); root.known == nil {
		b.exists = b.exists || root.absence == noData
		return
	}
	b.exists = true
	for _, t := range root.known.targets {
		if t.host == notAvailable {
			if len(root.known.targets) > 1 {
				b.note(registry.RecordIgnored, "an SRV record of "+in.name+` says that the service is not available, with "." for its target, but there are others`,
					"The others are used. Remove the one, or the others.")
			}
			continue
		}
		if t.port != 0 {
			b.ports = append(b.ports, registry.Listener{Port: t.port})
		}
		for _, addr := range b.resolve(t.host, false) {
			b.endpoint(&registry.Endpoint{Address: addr, Port: t.port, Meta: in.meta, Priority: uint32(t.priority), Weight: weight(t.weight)}, in)
		}
	}
}

// hear takes in how it stands with an entry.
func (b *builder) hear(e *entry) standing {
	at := e.standing()
	switch at {
	case pending:
		b.pending = true
	case failing:
		b.failing = true
		b.waiting = b.waiting || b.now.Sub(e.failed) < b.negativeHold
	}
	return at
}

// resolve returns the addresses that are known of a host. That one of its families cannot be read does not count if the
// other has addresses: some servers fail at AAAA.
func (b *builder) resolve(host string, root bool) []netip.Addr {
	var out []netip.Addr
	var unread []*entry
	for _, q := range b.hosts(host) {
		e := b.entries[q]
		switch e.standing() {
		case there:
			out = append(out, e.known.addresses...)
		case absent:
			b.exists = b.exists || root && e.absence == noData
		case failing:
			unread = append(unread, e)
			continue
		}
		b.hear(e)
	}
	b.exists = b.exists || root && len(out) > 0
	if len(out) == 0 {
		for _, e := range unread {
			b.hear(e)
		}
	}
	return out
}

// endpoint adds one endpoint, once. Of several at one place the one that is tried first counts, then the heavier one.
func (b *builder) endpoint(e *registry.Endpoint, in set) {
	place := netip.AddrPortFrom(e.Address, e.Port)
	i, twice := b.at[place]
	if !twice {
		b.at[place] = len(b.endpoints)
		b.endpoints = append(b.endpoints, e)
		return
	}
	was := b.endpoints[i]
	if was.Priority == e.Priority && was.Weight == e.Weight && was.Meta == e.Meta {
		return
	}
	b.note(registry.RecordIgnored, "records of "+in.name+" lead to "+place.String()+", where others lead, too, with another priority, weight or metadata",
		"Of several records, the one that is tried first is used, then the heavier one. Let one record lead to each place.")
	if c := cmp.Or(cmp.Compare(e.Priority, was.Priority), cmp.Compare(was.Weight, e.Weight)); c < 0 {
		b.endpoints[i] = e
	}
}

// weight is a record's weight. The registry's zero means 1, and so does a record's: RFC 2782 gives it a very small share
// beside others, which Wattle has no weight for.
func weight(w uint16) uint32 { return max(uint32(w), 1) }

func (b *builder) note(code, what, detail string) {
	d := registry.Diagnostic{Severity: registry.Warning, Code: code, Summary: "service " + b.Name.String() + ": " + what, Detail: detail, Origin: b.origin}
	if !slices.Contains(b.notes, d) {
		b.notes = append(b.notes, d)
	}
}

// finish gives the endpoints the port of the service that they serve.
func (b *builder) finish() *registry.Service {
	s := &registry.Service{Name: b.Name, Origin: b.origin, Endpoints: b.endpoints}
	if port := b.servicePort(); port != 0 {
		s.Ports = []registry.Port{{Number: port, Protocol: b.protocol}}
		for _, e := range s.Endpoints {
			e.ServicePort = port
		}
	}
	slices.SortFunc(s.Endpoints, func(a, b *registry.Endpoint) int {
		return cmp.Or(a.Address.Compare(b.Address), cmp.Compare(a.Port, b.Port))
	})
	return s
}

// servicePort is the port that callers name.
func (b *builder) servicePort() uint16 {
	switch {
	case b.port != 0:
		return b.port
	case len(b.ports) > 0:
		port, agreed := registry.NamedPort(b.ports)
		if !agreed {
			b.note(registry.RecordIgnored, "its SRV records have several ports, and the block does not say which one callers name",
				"The one that most have is used, of equals the lowest. Write port = 80, or what callers are to name, into the service block; endpoints keep their own.")
			b.service.notes = b.notes
		}
		return port
	case b.built != nil && len(b.built.Ports) > 0:
		return b.built.Ports[0].Number
	}
	return 0
}

// same reports whether two services say the same.
func same(a, b *registry.Service) bool {
	return slices.Equal(a.Ports, b.Ports) && slices.EqualFunc(a.Endpoints, b.Endpoints, func(a, b *registry.Endpoint) bool {
		return a.Address == b.Address && a.Port == b.Port && a.ServicePort == b.ServicePort && a.Priority == b.Priority &&
			a.Weight == b.Weight && a.Meta == b.Meta
	})
}
