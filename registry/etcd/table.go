package etcd

import (
	"cmp"
	"hash/maphash"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/wattle-mesh/wattle/registry"
)

const (
	maxInstances = 1 << 18 // that are kept of one registry
	maxName      = 253     // bytes of an instance's name
)

// table turns keys and values into services. A change costs the service it belongs to. Not for concurrent use.
type table struct {
	prefix string
	most   int // instances
	seed   maphash.Seed

	groups map[registry.Name]*group
	dirty  map[registry.Name]bool // groups that have changed since services was called
	sorted []*registry.Service
	size   int    // instances
	round  uint32 // the number of the last full read
	faults faults
}

// group is the instances of one service.
type group struct {
	members map[string]*member
	service *registry.Service // as published last
}

// member is one instance.
type member struct {
	key       string
	created   int64  // the revision that registered it
	sum       uint64 // of its value
	round     uint32 // the full read that saw it last
	ports     []instancePort
	endpoints []*registry.Endpoint // one for each of ports
}

func newTable(prefix string) *table {
	return &table{
		prefix: prefix, most: maxInstances, seed: maphash.MakeSeed(),
		groups: map[registry.Name]*group{}, dirty: map[registry.Name]bool{}, faults: newFaults(),
	}
}

// split takes a key apart: PREFIX NAMESPACE/SERVICE/INSTANCE.
func (t *table) split(key string) (name registry.Name, instance string, ok bool) {
	rest, ok := strings.CutPrefix(key, t.prefix)
	parts := strings.Split(rest, "/")
	if !ok || len(parts) != 3 || slices.Contains(parts, "") || len(parts[2]) > maxName || !utf8.ValidString(key) {
		return registry.Name{}, "", false
	}
	return registry.Name{Namespace: parts[0], Name: parts[1]}, parts[2], true
}

// begin starts a full read: put is called for all that is there, then sweep.
func (t *table) begin() { t.round++ }

// sweep removes what the full read has not shown.
func (t *table) sweep() {
	for name, g := range t.groups {
		for instance, m := range g.members {
			if m.round != t.round {
				t.drop(name, instance)
			}
		}
	}
	t.faults.sweep(t.round)
}

// put takes in one key and its value. created is the revision in which the key came to be.
func (t *table) put(key, value []byte, created int64) {
	k := string(key)
	name, instance, ok := t.split(k)
	if !ok {
		t.faults.set(k, t.round, strayKey(k, t.prefix))
		return
	}
	sum := maphash.Bytes(t.seed, value)
	known := t.member(name, instance)
	if known != nil {
		known.round = t.round
		if known.sum == sum && known.created == created {
			t.faults.touch(k, t.round)
			return
		}
	}
	v, ignored, err := decode(value)
	switch {
	case err != nil:
		t.drop(name, instance)
		t.faults.set(k, t.round, badValue(k, err))
		return
	case known == nil && t.size >= t.most:
		t.faults.set(k, t.round, tooMany(k, t.most))
		return
	case len(ignored) > 0:
		t.faults.set(k, t.round, unknownFields(k, ignored))
	default:
		t.faults.clear(k)
	}
	t.keep(name, instance, &member{key: k, created: created, sum: sum, round: t.round, ports: v.Ports, endpoints: v.endpoints()})
}

// remove takes in that a key is gone.
func (t *table) remove(key []byte) {
	k := string(key)
	t.faults.clear(k)
	if name, instance, ok := t.split(k); ok {
		t.drop(name, instance)
	}
}

func (t *table) member(name registry.Name, instance string) *member {
	if g := t.groups[name]; g != nil {
		return g.members[instance]
	}
	return nil
}

func (t *table) keep(name registry.Name, instance string, m *member) {
	g := t.groups[name]
	if g == nil {
		g = &group{members: map[string]*member{}}
		t.groups[name] = g
	}
	if g.members[instance] == nil {
		t.size++
	}
	g.members[instance] = m
	t.dirty[name] = true
}

func (t *table) drop(name registry.Name, instance string) {
	if t.member(name, instance) == nil {
		return
	}
	delete(t.groups[name].members, instance)
	t.size--
	t.dirty[name] = true
}

// endpoints makes one endpoint for each port.
func (i *instance) endpoints() []*registry.Endpoint {
	out := make([]*registry.Endpoint, len(i.Ports))
	for n, p := range i.Ports {
		out[n] = &registry.Endpoint{
			Address: i.Address, Port: p.Target, ServicePort: p.Number, Meta: registry.LabelsOf(i.Meta), Weight: i.Weight,
			Locality: i.Locality, Health: i.Health, Reason: i.Reason,
		}
	}
	return out
}

// services returns all services, sorted, and whether they differ from those that it returned last. The slice is the
// caller's to read, not to change.
func (t *table) services() (all []*registry.Service, changed bool) {
	names := slices.SortedFunc(maps.Keys(t.dirty), registry.Name.Compare)
	clear(t.dirty)
	now := make([]*registry.Service, 0, len(names)) // what stands for names; nil: nothing
	moved := names[:0]
	for _, name := range names {
		g := t.groups[name]
		was := g.service
		s, complaints := g.build(name, t.prefix+name.String()+"/")
		t.faults.complain(name, complaints)
		if s == nil {
			delete(t.groups, name)
		}
		if s == was || same(s, was) {
			continue
		}
		g.service = s
		moved, now = append(moved, name), append(now, s)
	}
	if len(moved) == 0 {
		return t.sorted, false
	}
	t.sorted = splice(t.sorted, moved, now)
	return t.sorted, true
}

// same reports whether two services are equal.
func same(a, b *registry.Service) bool {
	return a != nil && b != nil && slices.Equal(a.Ports, b.Ports) && a.Origin == b.Origin &&
		slices.EqualFunc(a.Endpoints, b.Endpoints, func(a, b *registry.Endpoint) bool { return a == b || reflect.DeepEqual(a, b) })
}

// splice returns the sorted services with what stands for the sorted names now.
func splice(all []*registry.Service, names []registry.Name, now []*registry.Service) []*registry.Service {
	out := make([]*registry.Service, 0, len(all)+len(names))
	for k, name := range names {
		i, found := slices.BinarySearchFunc(all, name, func(s *registry.Service, n registry.Name) int { return s.Name.Compare(n) })
		out = append(out, all[:i]...)
		if found {
			i++
		}
		all = all[i:]
		if now[k] != nil {
			out = append(out, now[k])
		}
	}
	return append(out, all...)
}

// build makes the group's service, and says what its instances disagree about. It is nil if there are none.
func (g *group) build(name registry.Name, origin string) (*registry.Service, []registry.Diagnostic) {
	if len(g.members) == 0 {
		return nil, nil
	}
	members := slices.SortedFunc(maps.Values(g.members), func(a, b *member) int { return strings.Compare(a.key, b.key) })
	ports, complaints := unite(name, members)
	endpoints, doubles := gather(members)
	return &registry.Service{Name: name, Ports: ports, Endpoints: endpoints, Origin: origin}, append(complaints, doubles...)
}

// unite returns the ports of all instances. The first instance, by key, that says a port's protocol is right.
func unite(name registry.Name, members []*member) ([]registry.Port, []registry.Diagnostic) {
	var ports []registry.Port
	var complaints []registry.Diagnostic
	said := map[uint16]string{} // by port: the key that says its protocol
	for _, m := range members {
		for _, p := range m.ports {
			i, found := slices.BinarySearchFunc(ports, p.Number, func(p registry.Port, n uint16) int { return cmp.Compare(p.Number, n) })
			if !found {
				ports = slices.Insert(ports, i, registry.Port{Number: p.Number})
			}
			known := &ports[i]
			known.Name = cmp.Or(known.Name, p.Name)
			switch {
			case p.Protocol == "" || p.Protocol == known.Protocol:
			case known.Protocol == "":
				known.Protocol, said[p.Number] = p.Protocol, m.key
			case len(complaints) < maxComplaints:
				complaints = append(complaints, twoProtocols(name, p.Port, m.key, *known, said[p.Number]))
			}
		}
	}
	return ports, complaints
}

// gather returns the endpoints of all instances, sorted. Of several at one place the one that was registered last is
// taken: the others are mostly of an earlier life of it, whose leases have not run out.
func gather(members []*member) ([]*registry.Endpoint, []registry.Diagnostic) {
	type place struct {
		at      netip.AddrPort
		serving uint16
	}
	type owned struct {
		*registry.Endpoint
		by *member
	}
	var complaints []registry.Diagnostic
	first := make(map[place]int, len(members))
	all := make([]owned, 0, len(members))
	for _, m := range members {
		for _, e := range m.endpoints {
			p := place{netip.AddrPortFrom(e.Address, e.Port), e.ServicePort}
			i, taken := first[p]
			if !taken {
				first[p] = len(all)
				all = append(all, owned{e, m})
				continue
			}
			out := m
			if m.created > all[i].by.created {
				out, all[i] = all[i].by, owned{e, m}
			}
			if len(complaints) < maxComplaints {
				complaints = append(complaints, twoAtOnePlace(out.key, all[i].by.key, e))
			}
		}
	}
	slices.SortFunc(all, func(a, b owned) int {
		return cmp.Or(a.Address.Compare(b.Address), cmp.Compare(a.Port, b.Port), cmp.Compare(a.ServicePort, b.ServicePort))
	})
	out := make([]*registry.Endpoint, len(all))
	for i, o := range all {
		out[i] = o.Endpoint
	}
	return out, complaints
}
