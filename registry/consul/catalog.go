package consul

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"sync"

	"github.com/wattle-mesh/wattle/registry"
)

// catalog joins what the parts say. It outlives runs.
type catalog struct {
	config  *config
	parts   []*part
	changed chan struct{} // has an element if there may be something new

	mu       sync.Mutex
	offers   []map[string]*offer // by part, then service; nil: the part has not been read yet
	troubles []map[string]error  // by part, then service: why it cannot be read
	beyond   []int               // by part: services that are not read because there are too many
	services map[registry.Name]*registry.Service
	faults   map[registry.Name][]registry.Diagnostic
	sorted   []*registry.Service // replaced, not changed; nil: to be made anew
}

func newCatalog(c *config, parts []*part) *catalog {
	out := &catalog{
		config: c, parts: parts, changed: make(chan struct{}, 1), offers: make([]map[string]*offer, len(parts)),
		troubles: make([]map[string]error, len(parts)), beyond: make([]int, len(parts)), services: map[registry.Name]*registry.Service{}, faults: map[registry.Name][]registry.Diagnostic{},
	}
	for i := range parts {
		out.troubles[i] = map[string]error{}
	}
	return out
}

func (c *catalog) nudge() {
	select {
	case c.changed <- struct{}{}:
	default:
	}
}

// set returns the services, sorted, and whether every part has been read.
func (c *catalog) set() (services []*registry.Service, whole bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.sorted == nil {
		c.sorted = slices.SortedFunc(maps.Values(c.services), func(a, b *registry.Service) int { return a.Name.Compare(b.Name) })
	}
	return c.sorted, !slices.ContainsFunc(c.offers, func(m map[string]*offer) bool { return m == nil })
}

// replace puts what was read of a part as a whole in the place of what was known of it.
func (c *catalog) replace(i int, offers map[string]*offer) {
	c.mu.Lock()
	defer c.mu.Unlock()
	old := c.offers[i]
	c.offers[i] = offers
	clear(c.troubles[i])
	for name := range offers {
		c.build(i, name)
	}
	for name := range old {
		if offers[name] == nil {
			c.build(i, name)
		}
	}
	c.nudge()
}

// put takes in what a part says about a service; nil: nothing.
func (c *catalog) put(i int, name string, o *offer) {
	c.tell(context.Background(), i, name, o)
}

// tell is put by one whose word counts until ctx is done.
func (c *catalog) tell(ctx context.Context, i int, name string, o *offer) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if ctx.Err() != nil {
		return
	}
	if o == nil {
		delete(c.offers[i], name)
	} else {
		c.offers[i][name] = o
	}
	c.build(i, name)
	c.nudge()
}

// drop removes a service of a part.
func (c *catalog) drop(i int, name string) {
	c.unreadable(i, name, nil)
	c.put(i, name, nil)
}

// unreadable notes why a service cannot be read, nil: it can be. What it said last stays.
func (c *catalog) unreadable(i int, name string, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err == nil {
		if _, was := c.troubles[i][name]; !was {
			return
		}
		delete(c.troubles[i], name)
	} else {
		c.troubles[i][name] = err
	}
	c.nudge()
}

// troubled returns the services of a part that could not be read last.
func (c *catalog) troubled(i int) []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Collect(maps.Keys(c.troubles[i]))
}

// exceed notes how many services of a part are not read because there are too many.
func (c *catalog) exceed(i, n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.beyond[i] != n {
		c.beyond[i] = n
		c.nudge()
	}
}

// offered returns which services of a part have something that can be called.
func (c *catalog) offered(i int) func(name string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := map[string]bool{}
	for name, o := range c.offers[i] {
		if !o.illegible {
			now[name] = true
		}
	}
	return func(name string) bool { return now[name] }
}

// on returns the services of a part that have instances on one of the nodes.
func (c *catalog) on(i int, nodes map[string]bool) []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []string
	for name, o := range c.offers[i] {
		if slices.ContainsFunc(o.nodes, func(n string) bool { return nodes[n] }) {
			out = append(out, name)
		}
	}
	return out
}

// older returns the services of a part that were read before one of the checks changed.
func (c *catalog) older(i int, checks []check) []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []string
	nodes := map[string]uint64{}
	for _, k := range checks {
		switch o := c.offers[i][k.ServiceName]; {
		case k.ServiceName == "":
			nodes[k.Node] = max(nodes[k.Node], k.ModifyIndex)
		case o == nil || !o.illegible && o.index < k.ModifyIndex:
			out = append(out, k.ServiceName)
		}
	}
	for name, o := range c.offers[i] {
		if slices.ContainsFunc(o.nodes, func(n string) bool { return o.index < nodes[n] }) {
			out = append(out, name)
		}
	}
	return out
}

// explains reports whether a service of a part is known to have changed at that index.
func (c *catalog) explains(i int, index uint64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, o := range c.offers[i] {
		if index > 1 && (o.index == index || o.modified == index) {
			return true
		}
	}
	return false
}

// diagnostics lists what is wrong with parts, then with services, sorted by name.
func (c *catalog) diagnostics() []registry.Diagnostic {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []registry.Diagnostic
	for i, n := range c.beyond {
		if n > 0 {
			out = append(out, registry.Diagnostic{Severity: registry.Error, Code: registry.BadEntry, Origin: c.config.address,
				Summary: fmt.Sprintf("%d services of %s are left out: it has more than %d", n, c.parts[i], c.config.most),
				Detail:  "Those that are called already stay. See whether something registers without end, and remove what nobody needs."})
		}
	}
	for _, name := range slices.SortedFunc(maps.Keys(c.faults), registry.Name.Compare) {
		if out = append(out, c.faults[name]...); len(out) > 2*maxTold {
			break
		}
	}
	for i, troubles := range c.troubles {
		for _, name := range slices.Sorted(maps.Keys(troubles)) {
			out = append(out, registry.Diagnostic{Severity: registry.Error, Code: registry.SourceFailed, Origin: c.origin(c.parts[i], name),
				Summary: fmt.Sprintf("service %s of %s cannot be read: %v", name, c.parts[i], troubles[name]),
				Detail:  "What was said of it last stays in force, and it is asked again."})
		}
	}
	return out
}

// origin is where a person can look at a service.
func (c *catalog) origin(p *part, name string) string {
	q := url.Values{}
	if p.datacenter != "" {
		q.Set("dc", p.datacenter)
	}
	if p.namespace != "" {
		q.Set("ns", p.namespace)
	}
	s := strings.TrimSuffix(c.config.address, "/") + serviceQuestion(url.PathEscape(name)).path
	if len(q) > 0 {
		s += "?" + q.Encode()
	}
	return s
}

// build makes a service from what the parts of one namespace say. One that comes out as it was keeps its pointer.
// c.mu is held.
func (c *catalog) build(i int, name string) {
	key := registry.Name{Namespace: cmp.Or(c.parts[i].namespace, "default"), Name: name}
	var offers []*offer
	origin := ""
	for j, p := range c.parts {
		if o := c.offers[j][name]; o != nil && p.namespace == c.parts[i].namespace {
			offers = append(offers, o)
			origin = cmp.Or(origin, c.origin(p, name))
		}
	}
	now, faults := c.config.join(key, offers)
	was := c.services[key]
	delete(c.faults, key)
	for k := range faults {
		faults[k].Origin = origin
	}
	if len(faults) > 0 {
		c.faults[key] = faults
	}
	switch {
	case now == nil && was == nil:
		return
	case now == nil:
		delete(c.services, key)
	default:
		if now.Origin = origin; same(was, now) {
			return
		}
		c.services[key] = now
	}
	c.sorted = nil
}

// join makes a service of its offers, nil if there are none.
func (c *config) join(key registry.Name, offers []*offer) (*registry.Service, []registry.Diagnostic) {
	var faults []registry.Diagnostic
	listeners := map[string][]registry.Listener{} // by the port's name
	illegible := false
	for _, o := range offers {
		illegible = illegible || o.illegible
		for _, f := range o.faults {
			f.Summary = fmt.Sprintf("service %s: %s", key.Name, f.Summary)
			faults = append(faults, f)
		}
		for _, in := range o.instances {
			for _, p := range in.ports {
				listeners[p.name] = append(listeners[p.name], registry.Listener{Port: p.number, Index: in.created})
			}
		}
	}
	if len(listeners) == 0 && !illegible {
		return nil, faults
	}
	s := &registry.Service{Name: key}
	serves := map[string]uint16{} // by the port's name
	for _, name := range slices.Sorted(maps.Keys(listeners)) {
		n, agreed := c.servicePort(key.Name, name, listeners[name])
		if !agreed {
			faults = append(faults, registry.Diagnostic{Severity: registry.Warning, Code: registry.PortsDiffer,
				Summary: fmt.Sprintf("the instances of service %s listen on different ports; callers name the one that most have, %d", key.Name, n),
				Detail:  fmt.Sprintf("Say which port callers name: service_ports = { %q = %d }.", portKey(key.Name, name), n)})
		}
		serves[name] = n
		s.Ports = append(s.Ports, registry.Port{Number: n, Name: name})
	}
	slices.SortStableFunc(s.Ports, func(a, b registry.Port) int { return cmp.Compare(a.Number, b.Number) })
	var claims []registry.Claim
	for _, o := range offers {
		for _, in := range o.instances {
			for _, p := range in.ports {
				e := in.endpoint
				e.Port, e.ServicePort = p.number, serves[p.name]
				claims = append(claims, registry.Claim{Endpoint: &e, By: in.name(), Index: in.created})
			}
		}
	}
	endpoints, doubles := registry.Settle(key, claims)
	s.Endpoints = endpoints
	return s, append(faults, doubles...)
}

func portKey(service, port string) string {
	if port == "" {
		return service
	}
	return service + "/" + port
}

// servicePort returns the port that callers name: the configured one, or what the instances come to.
func (c *config) servicePort(service, port string, all []registry.Listener) (n uint16, agreed bool) {
	if n, ok := c.ports[portKey(service, port)]; ok {
		return n, true
	}
	return registry.NamedPort(all)
}

// same reports whether two services are equal.
func same(a, b *registry.Service) bool {
	return a != nil && a.Origin == b.Origin && slices.Equal(a.Ports, b.Ports) && slices.EqualFunc(a.Endpoints, b.Endpoints, func(a, b *registry.Endpoint) bool {
		return a.Address == b.Address && a.Port == b.Port && a.ServicePort == b.ServicePort && a.Weight == b.Weight &&
			a.Locality == b.Locality && a.Health == b.Health && a.Reason == b.Reason && a.Meta == b.Meta
	})
}
