package api

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/wattle-mesh/wattle/configs"
	"github.com/wattle-mesh/wattle/internal/store"
	"github.com/wattle-mesh/wattle/registry"
)

// errSuperseded is what a report gets whose stream is not the node's newest.
var errSuperseded = errors.New("a newer stream of this node reports")

// refusal is a registration that does not count, and why.
type refusal struct {
	namespace, service, instance string
	origin                       string // "h1:/etc/wattle/services.d/web.hcl:3"
	reason                       string
}

// registration is a workload that a node declared, well formed.
type registration struct {
	*configs.Service
	kept    store.Registration
	trusted bool // it was granted when the store got it, and no policy has been in force since
}

// said is what an agent reported last.
type said struct {
	peer          netip.Addr // where the connection came from
	claimed       netip.Addr // what the agent says; invalid: nothing
	meshPort      uint16
	registrations []registration // sorted by key, without repeats
	malformed     []refusal
	unknown       bool                  // the agent cannot read its declarations: the registrations are those of before
	problems      []registry.Diagnostic // what is wrong with them
	health        []store.Health        // sorted by key
	facts         map[string]string     // what the host is; not to be changed
	labels        registry.Labels       // made of facts
	ahead         time.Duration         // of its clock before the server's
	alarms        []Alarm               // sorted by name
}

// host is what is known of a node. Registrar.mu guards it.
type host struct {
	name    string
	grant   store.Grant
	drain   *store.Drain  // nil: it is not in maintenance
	stream  uint64        // the number of the newest stream of reports
	end     chan struct{} // ends it; nil: none is open
	left    time.Time     // when the last one ended, or the server started
	dead    bool          // its lease has run out, and nothing answers there
	said    said
	address netip.Addr    // verified; invalid: not yet
	block   *configs.Host // the registrations that count, as a host block; nil: none
	kept    store.Report  // what the store has, or is about to get
	refused []refusal
	changed chan struct{} // closed and replaced when refused changes
}

// restore takes over what the store has.
func (h *host) restore(kept store.Report) error {
	h.said = said{peer: kept.Address, claimed: kept.Address, meshPort: kept.MeshPort, health: kept.Health, facts: kept.Facts, labels: factLabels(kept.Facts)}
	h.address, h.kept = kept.Address, kept
	for _, k := range kept.Registrations {
		s := new(configs.Service)
		if err := json.Unmarshal(k.Body, s); err != nil {
			return err
		}
		h.said.registrations = append(h.said.registrations, registration{s, k, true})
	}
	return nil
}

// with returns next, with the registrations of before if it has none of its own. Those that were there before keep
// their service's pointer.
func (old said) with(next said) said {
	if next.unknown {
		next.registrations, next.malformed = old.registrations, old.malformed
		return next
	}
	i := 0
	for j := range next.registrations {
		n := &next.registrations[j]
		for i < len(old.registrations) && old.registrations[i].compare(*n) < 0 {
			i++
		}
		if i < len(old.registrations) && old.registrations[i].compare(*n) == 0 {
			was := old.registrations[i]
			n.trusted = was.trusted
			if equalKept(was.kept, n.kept) {
				n.Service = was.Service
			}
		}
	}
	return next
}

func (g registration) compare(o registration) int {
	return cmp.Or(strings.Compare(g.Namespace, o.Namespace), strings.Compare(g.Name, o.Name), strings.Compare(g.Instance, o.Instance))
}

// judge decides what of the report counts under the policy; nil: none is in force yet. It reports whether what the
// store should have changed.
func (h *host) judge(p *configs.Policy) bool {
	refused := slices.Clone(h.said.malformed)
	address, wrong := h.verify(p)
	if wrong == nil {
		h.address = address
	}
	next := &configs.Host{Name: h.name, Address: h.address, MeshPort: h.said.meshPort}
	if declared := declaration(p, h.name); declared != nil {
		next.MeshPort, next.Mode = declared.MeshPort, declared.Mode
		next.Region, next.Zone, next.Rack = declared.Region, declared.Zone, declared.Rack
	}
	for i := range h.said.registrations {
		g := &h.said.registrations[i]
		if p != nil {
			g.trusted = false
		}
		err := wrong
		if err == nil && !g.trusted && !h.grant.Service(g.Namespace, g.Name) && !declares(p, h.name, registry.Name{Namespace: g.Namespace, Name: g.Name}) {
			err = notGranted(h.name, g.Namespace, g.Name)
		}
		if err != nil {
			refused = append(refused, refusal{g.Namespace, g.Name, g.Instance, g.Origin, err.Error()})
			continue
		}
		next.Services = append(next.Services, g.Service)
	}
	h.settle(next, refused)
	was := h.kept
	h.kept = h.accepted()
	return !equalReports(was, h.kept)
}

// settle brings the decision into force. Equal blocks keep their pointer.
func (h *host) settle(next *configs.Host, refused []refusal) {
	switch {
	case len(next.Services) == 0:
		h.block = nil
	case h.block == nil || !equalHosts(h.block, next):
		h.block = next
	}
	if !slices.Equal(h.refused, refused) {
		h.refused = refused
		close(h.changed)
		h.changed = make(chan struct{})
	}
}

func equalHosts(a, b *configs.Host) bool {
	return a.Address == b.Address && a.MeshPort == b.MeshPort && a.Mode == b.Mode && a.Region == b.Region && a.Zone == b.Zone && a.Rack == b.Rack &&
		slices.Equal(a.Services, b.Services)
}

// verify returns where the host is reached: the operator's word, else where its connection comes from. What the
// agent claims must be one of the two.
func (h *host) verify(p *configs.Policy) (netip.Addr, error) {
	var operator netip.Addr
	if d := declaration(p, h.name); d != nil {
		operator = d.Address
	}
	claimed := cmp.Or(h.said.claimed, h.said.peer)
	switch {
	case p == nil && claimed.IsValid() && claimed == h.address: // it was verified when the store got it
		return claimed, nil
	case claimed != h.said.peer && claimed != operator || !claimed.IsValid():
		return netip.Addr{}, fmt.Errorf("node %s says that its address is %s, but it connects from %s; a host block in the policy may declare the address", h.name, claimed, h.said.peer)
	}
	return cmp.Or(operator, h.said.peer), nil
}

// accepted is what the store should have of the host.
func (h *host) accepted() store.Report {
	out := store.Report{Node: h.name, Address: h.address, MeshPort: h.said.meshPort, Health: h.said.health, Facts: h.said.facts}
	for _, g := range h.said.registrations {
		if h.block != nil && slices.Contains(h.block.Services, g.Service) {
			out.Registrations = append(out.Registrations, g.kept)
		}
	}
	return out
}

func equalReports(a, b store.Report) bool {
	return a.Address == b.Address && a.MeshPort == b.MeshPort && slices.Equal(a.Health, b.Health) && maps.Equal(a.Facts, b.Facts) &&
		slices.EqualFunc(a.Registrations, b.Registrations, equalKept)
}

func equalKept(a, b store.Registration) bool {
	return a.Namespace == b.Namespace && a.Service == b.Service && a.Instance == b.Instance && a.Origin == b.Origin && bytes.Equal(a.Body, b.Body)
}

// registered reports whether a registration of the service counts.
func (h *host) registered(name registry.Name) bool {
	return h.block != nil && slices.ContainsFunc(h.block.Services, func(s *configs.Service) bool {
		return s.Namespace == name.Namespace && s.Name == name.Name
	})
}

func (h *host) key(w store.Health) registry.WorkloadKey {
	return registry.WorkloadKey{Host: h.name, Service: registry.Name{Namespace: w.Namespace, Name: w.Service}, Instance: w.Instance}
}

func (h *host) dropHealth(m registry.HealthMap) {
	for _, w := range h.said.health {
		delete(m, h.key(w))
	}
	delete(m, registry.HostKey(h.name))
}

func (h *host) putHealth(m registry.HealthMap) {
	for _, w := range h.said.health {
		word := registry.HealthWord{Health: registry.Healthy, Reason: w.Reason}
		switch {
		case h.dead:
			word = registry.HealthWord{Health: registry.Unhealthy, Reason: h.death()}
		case !w.Healthy:
			word.Health = registry.Unhealthy
		case h.drain != nil:
			word = registry.HealthWord{Health: registry.Draining, Reason: h.maintenance()}
		case w.Drain != 0:
			word.Health = registry.Draining
		}
		m[h.key(w)] = word
	}
	if h.drain != nil {
		m[registry.HostKey(h.name)] = registry.HealthWord{Health: registry.Draining, Reason: h.maintenance()}
	}
}

// maintenance says why the host's workloads take no new requests.
func (h *host) maintenance() string {
	text := "host " + h.name + " is in maintenance"
	if h.drain.Reason != "" {
		text += ": " + h.drain.Reason
	}
	return text
}

// declaration returns the policy's host block of that name, or nil.
func declaration(p *configs.Policy, name string) *configs.Host {
	if p == nil {
		return nil
	}
	i, ok := slices.BinarySearchFunc(p.Hosts, name, func(h *configs.Host, n string) int { return strings.Compare(h.Name, n) })
	if !ok {
		return nil
	}
	return p.Hosts[i]
}

// declares reports whether the policy places a workload of the service on the node.
func declares(p *configs.Policy, node string, service registry.Name) bool {
	h := declaration(p, node)
	return h != nil && slices.ContainsFunc(h.Services, func(s *configs.Service) bool {
		return s.Namespace == service.Namespace && s.Name == service.Name
	})
}

// runsGateway reports whether the policy has the gateway run on the node.
func runsGateway(p *configs.Policy, node string, gateway registry.Name) bool {
	return p != nil && slices.ContainsFunc(p.Gateways, func(g *configs.Gateway) bool {
		return g.Namespace == gateway.Namespace && g.Name == gateway.Name && slices.Contains(g.RunOn, node)
	})
}
