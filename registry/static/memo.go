// Package static is the registry of files: the host and service blocks of a policy, or of a watched folder of
// their own, in; registry services out.
package static

import (
	"cmp"
	"slices"
	"strings"

	"github.com/wattle-mesh/wattle/configs"
	"github.com/wattle-mesh/wattle/registry"
)

// Services returns the services that the policy's host and service blocks declare, sorted by name.
func Services(p *configs.Policy) []*registry.Service {
	var m Memo
	return m.Services(p)
}

// Memo turns one policy after the other into services. A service whose blocks kept their pointers keeps its own,
// and costs no more than the comparison of pointers. The zero value is ready. Not for concurrent use.
type Memo struct {
	Facts *Facts // labels of the endpoints on hosts; to be set before Services

	facts    *Facts // of the last call
	hosts    []*configs.Host
	outside  []*configs.Service
	groups   map[registry.Name]*group
	services []*registry.Service
}

// group is the blocks that declare one service: one outside hosts, then one for each instance, by host.
type group struct {
	blocks  []block
	service *registry.Service
	clash   *configs.Diagnostic // what the blocks disagree about
}

// block is one service block and what it came to.
type block struct {
	source
	endpoints []*registry.Endpoint
}

// source is all that a block's endpoints are made from.
type source struct {
	host  registry.Host   // the zero host: outside the mesh
	facts registry.Labels // of the host
	mode  string          // of the host's workloads that say none
	*configs.Service
}

// Services returns the services that the policy's host and service blocks declare, sorted by name. The slice is
// the previous one if nothing changed.
func (m *Memo) Services(p *configs.Policy) []*registry.Service {
	c := m.compare(p)
	if len(c.names) == 0 {
		return m.services
	}
	if m.groups == nil {
		m.groups = map[registry.Name]*group{}
	}
	slices.SortFunc(c.names, registry.Name.Compare)
	c.names = slices.Compact(c.names)
	var changed []*registry.Service // what stands for the changed names now; nil: nothing
	names := c.names[:0]
	for _, name := range c.names {
		was := m.groups[name]
		now := c.rebuild(name, was, p)
		if now == was {
			continue
		}
		names = append(names, name)
		if now == nil {
			delete(m.groups, name)
			changed = append(changed, nil)
			continue
		}
		m.groups[name] = now
		changed = append(changed, now.service)
	}
	m.services = splice(m.services, names, changed)
	return m.services
}

// Diagnostics lists what the blocks of the last policy disagree about, in the order of the services.
func (m *Memo) Diagnostics() configs.Diagnostics {
	var ds configs.Diagnostics
	for _, s := range m.services {
		if g := m.groups[s.Name]; g.clash != nil {
			ds = append(ds, *g.clash)
		}
	}
	return ds
}

// changes is what differs between two policies.
type changes struct {
	names   []registry.Name            // the services that the blocks which differ declare
	hosts   map[string]bool            // the hosts that differ
	inside  map[registry.Name][]source // the blocks in these hosts now
	outside map[registry.Name]bool     // the services outside hosts that differ
}

// compare finds out what differs from the policy before, and remembers p as the last one.
func (m *Memo) compare(p *configs.Policy) *changes {
	c := &changes{hosts: map[string]bool{}, inside: map[registry.Name][]source{}, outside: map[registry.Name]bool{}}
	byName := func(a, b *configs.Host) int { return strings.Compare(a.Name, b.Name) }
	take := func(h *configs.Host, now bool) {
		c.hosts[h.Name] = true
		where, facts := hostOf(h), m.Facts.of(h.Name)
		for _, s := range h.Services {
			name := nameOf(s)
			c.names = append(c.names, name)
			if now {
				c.inside[name] = append(c.inside[name], source{where, facts, h.Mode, s})
			}
		}
	}
	diff(m.hosts, p.Hosts, byName, take)
	if m.facts != m.Facts {
		for _, h := range p.Hosts {
			if !c.hosts[h.Name] && m.facts.of(h.Name) != m.Facts.of(h.Name) {
				take(h, true)
			}
		}
		m.facts = m.Facts
	}
	diff(m.outside, p.Services, compareServices, func(s *configs.Service, _ bool) {
		c.names = append(c.names, nameOf(s))
		c.outside[nameOf(s)] = true
	})
	m.hosts, m.outside = p.Hosts, p.Services
	return c
}

// rebuild makes the group of a service whose blocks may have changed. It returns was if they have not, and nil if
// there are none.
func (c *changes) rebuild(name registry.Name, was *group, p *configs.Policy) *group {
	now := &group{}
	var old []block
	if was != nil {
		old = was.blocks
	}
	for _, b := range old {
		if changed := c.hosts[b.host.Name] || b.host.Name == "" && c.outside[name]; !changed {
			now.blocks = append(now.blocks, b)
		}
	}
	if c.outside[name] {
		i, _ := slices.BinarySearchFunc(p.Services, name, func(s *configs.Service, n registry.Name) int { return nameOf(s).Compare(n) })
		for ; i < len(p.Services) && nameOf(p.Services[i]) == name; i++ {
			now.add(source{Service: p.Services[i]}, old)
		}
	}
	for _, s := range c.inside[name] {
		now.add(s, old)
	}
	if len(now.blocks) == 0 {
		return nil
	}
	slices.SortStableFunc(now.blocks, func(a, b block) int { return cmp.Compare(a.host.Name, b.host.Name) })
	if slices.EqualFunc(now.blocks, old, func(a, b block) bool { return a.source == b.source }) {
		return was
	}
	now.build(name)
	return now
}

// add adds a block, with the endpoints that it had before if it is among the old ones.
func (g *group) add(s source, old []block) {
	b := block{source: s}
	if i := slices.IndexFunc(old, func(o block) bool { return o.source == s }); i >= 0 {
		b.endpoints = old[i].endpoints
	}
	g.blocks = append(g.blocks, b)
}

func nameOf(s *configs.Service) registry.Name {
	return registry.Name{Namespace: s.Namespace, Name: s.Name}
}

func compareServices(a, b *configs.Service) int { return nameOf(a).Compare(nameOf(b)) }

// diff calls changed for everything that differs by pointer between two sorted slices: with false for what was,
// then with true for what is.
func diff[T any](old, now []*T, compare func(a, b *T) int, changed func(t *T, now bool)) {
	i, j := 0, 0
	for i < len(old) || j < len(now) {
		c := 0
		switch {
		case i == len(old):
			c = 1
		case j == len(now):
			c = -1
		case old[i] == now[j]:
			i, j = i+1, j+1
			continue
		default:
			c = compare(old[i], now[j])
		}
		if c <= 0 {
			changed(old[i], false)
			i++
		}
		if c >= 0 {
			changed(now[j], true)
			j++
		}
	}
}

// splice returns the sorted services with what stands for the sorted names now.
func splice(services []*registry.Service, names []registry.Name, now []*registry.Service) []*registry.Service {
	if len(names) == 0 {
		return services
	}
	out := make([]*registry.Service, 0, len(services)+len(names))
	for k, name := range names {
		i, found := slices.BinarySearchFunc(services, name, func(s *registry.Service, n registry.Name) int { return s.Name.Compare(n) })
		out = append(out, services[:i]...)
		if found {
			i++
		}
		services = services[i:]
		if now[k] != nil {
			out = append(out, now[k])
		}
	}
	return append(out, services...)
}
