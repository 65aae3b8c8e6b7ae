package mesh

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"github.com/wattle-mesh/wattle/configs"
	"github.com/wattle-mesh/wattle/registry"
)

// service returns a service of the catalog as its service_defaults leave it, or nil.
func (r *resolver) service(n registry.Name) *registry.Service {
	if s := r.amended.get(n.String()); s != nil {
		return s
	}
	return r.cat.Service(n)
}

// service returns what a service was; catalog is the catalog's word on it, which may be nil.
func (s *state) service(n registry.Name, catalog *registry.Service) *registry.Service {
	if x := lookup(s.amended, n.String()); x != nil {
		return x
	}
	return catalog
}

func blockOfDefaults(d *configs.ServiceDefaults) configs.Block { return d.Block }

// defaultsOf returns the service_defaults of service n, or nil.
func (r *resolver) defaultsOf(n registry.Name) *configs.ServiceDefaults {
	d, _ := find(r.pol.ServiceDefaults, n, blockOfDefaults)
	return d
}

// sharesOf returns the share of the calls to service n that each registry has; nil if nobody says that.
func (r *resolver) sharesOf(n registry.Name) map[string]uint32 {
	if d := r.defaultsOf(n); d != nil {
		return d.Registries
	}
	return nil
}

// identitiesOf lists the identities that mesh endpoints of service n may have, sorted.
func (r *resolver) identitiesOf(n registry.Name) []string {
	out := []string{r.identity(n)}
	if d := r.defaultsOf(n); d != nil {
		for _, also := range d.Identities {
			out = append(out, r.identity(registry.Name(also)))
		}
		slices.Sort(out)
	}
	return out
}

// admits reports whether endpoints of service n may have the identity of another one.
func (r *resolver) admits(n, other registry.Name) bool {
	d := r.defaultsOf(n)
	return d != nil && slices.Contains(d.Identities, configs.ServiceRef(other))
}

// healthAs returns the health of an endpoint of service n that is a workload of another service: the word of the
// workload's agent, which the catalog has with the workload's own endpoint, counts too.
func (r *resolver) healthAs(n registry.Name, e *registry.Endpoint, w *Workload) registry.Health {
	words := slices.Clone(e.Words)
	if s := r.cat.Service(w.Service); s != nil {
		i := slices.IndexFunc(s.Endpoints, func(own *registry.Endpoint) bool { return own.Workload != nil && own.Workload.Key() == w.Key() })
		if i >= 0 {
			for _, word := range s.Endpoints[i].Words {
				if word.Voice == registry.AgentVoice {
					words = append(words, word)
				}
			}
		}
	}
	health, _ := registry.HealthRule(r.defaultsOf(n).HealthyIf).Judge(words)
	return cmp.Or(health, registry.Healthy)
}

// amend keeps what the service_defaults of service n make of it, and returns that. s is the catalog's word, nil if the
// service is gone.
func (r *resolver) amend(s *registry.Service, n registry.Name) *registry.Service {
	d := r.defaultsOf(n)
	if d == nil || s == nil {
		if r.amended.get(n.String()) != nil {
			r.amended.drop(n.String())
		}
		r.note("defaults "+n.String(), unknownDefaults(d))
		return s
	}
	r.note("defaults "+n.String(), nil)
	out := *s
	out.Ports = slices.Clone(s.Ports)
	for i := range out.Ports {
		out.Ports[i].Protocol = cmp.Or(out.Ports[i].Protocol, registry.Protocol(d.Protocol))
	}
	out.Endpoints = make([]*registry.Endpoint, len(s.Endpoints))
	for i, e := range s.Endpoints {
		out.Endpoints[i] = amendEndpoint(e, d)
	}
	r.amended.put(n.String(), &out)
	return &out
}

// amendEndpoint returns e itself if the defaults change nothing.
func amendEndpoint(e *registry.Endpoint, d *configs.ServiceDefaults) *registry.Endpoint {
	health, reason := registry.HealthRule(d.HealthyIf).Judge(e.Words)
	if len(e.Words) == 0 {
		health, reason = e.Health, e.Reason
	}
	place := e.Locality
	if place == (registry.Locality{}) {
		place = registry.Locality{Region: d.Region, Zone: d.Zone, Rack: d.Rack}
	}
	meta := e.Meta.Or(d.Labels)
	if health == e.Health && reason == e.Reason && place == e.Locality && meta == e.Meta {
		return e
	}
	out := *e
	out.Health, out.Reason, out.Locality, out.Meta = health, reason, place, meta
	return &out
}

// shared reports whether an endpoint has a part of the calls. Without shares all have.
func shared(e *registry.Endpoint, shares map[string]uint32) bool {
	return shares == nil || slices.ContainsFunc(e.Sources, func(s string) bool { return shares[s] > 0 })
}

// wholeShare is what the weights of a cluster's endpoints come to when the calls are shared between registries: enough
// for shares to be exact to a thousandth with thousands of endpoints, and far from the 32 bits that Envoy has for the sum.
const wholeShare = 10_000_000

// divide sets the weights of endpoints so that each registry's come to its share. A share is divided by weight among
// those of the registry's endpoints that are healthy, so that it does not shrink with them; an endpoint that is not
// gets a weight by the same measure, for when it is well again. A share sets aside how registries rank among each other
// (failover): the best endpoints of each are of one priority, those that a registry itself ranks lower come after them.
func divide(out []Endpoint, from []*registry.Endpoint, shares map[string]uint32) {
	type side struct{ healthy, all uint64 }
	sides := map[string]*side{}
	level(out, from, shares)
	for i, e := range from {
		for _, name := range e.Sources {
			if shares[name] == 0 {
				continue
			}
			s := sides[name]
			if s == nil {
				s = &side{}
				sides[name] = s
			}
			s.all += uint64(out[i].Weight)
			if out[i].Health == registry.Healthy && out[i].Priority == 0 {
				s.healthy += uint64(out[i].Weight)
			}
		}
	}
	total := uint64(0)
	for name := range sides {
		total += uint64(shares[name])
	}
	common := uint64(0)
	weights := make([]uint64, len(out))
	for i, e := range from {
		for _, name := range e.Sources {
			if s := sides[name]; s != nil {
				weights[i] += wholeShare * uint64(shares[name]) / total * uint64(out[i].Weight) / cmp.Or(s.healthy, s.all)
			}
		}
		weights[i] = min(max(weights[i], 1), wholeShare)
		common = divisor(common, weights[i])
	}
	for i := range out {
		out[i].Weight = uint32(weights[i] / common)
	}
}

// level makes the priorities of endpoints relative to the best ones of their registry, of those that have a share.
func level(out []Endpoint, from []*registry.Endpoint, shares map[string]uint32) {
	best := map[string]uint32{}
	for i, e := range from {
		for _, name := range e.Sources {
			if p, ok := best[name]; shares[name] > 0 && (!ok || out[i].Priority < p) {
				best[name] = out[i].Priority
			}
		}
	}
	for i, e := range from {
		own := out[i].Priority
		for _, name := range e.Sources {
			if p, ok := best[name]; ok {
				own = min(own, out[i].Priority-p)
			}
		}
		out[i].Priority = own
	}
}

// divisor returns the greatest common divisor; of 0 and b it is b.
func divisor(a, b uint64) uint64 {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}

// noteDefaults says what of the service_defaults of a service that is known has no effect.
func (r *resolver) noteDefaults(s *registry.Service) []note {
	d := r.defaultsOf(s.Name)
	if d == nil {
		return nil
	}
	var out []note
	for _, other := range d.Identities {
		if r.cat.Service(registry.Name(other)) == nil {
			out = append(out, unknownIdentity(d, s, other))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(d.Registries)) {
		if d.Registries[name] > 0 && !slices.ContainsFunc(s.Endpoints, func(e *registry.Endpoint) bool { return slices.Contains(e.Sources, name) }) {
			out = append(out, noShare(d, s, name))
		}
	}
	if rule := r.ruleOf(s.Name); d.Registries != nil && rule != nil && picksAtRandom(rule) {
		out = append(out, unweighed(d, s, rule))
	}
	for _, p := range s.Ports {
		if d.Protocol != "" && p.Protocol != registry.Protocol(d.Protocol) {
			out = append(out, defaultsProtocol(d, s, p))
			break
		}
	}
	return out
}

// picksAtRandom reports whether calls go to any endpoint, whatever its weight (Envoy's random load balancer).
func picksAtRandom(rule *configs.DestinationRule) bool {
	random := func(t configs.TrafficPolicy) bool { return t.LoadBalancer != nil && t.LoadBalancer.Simple == "random" }
	return random(rule.Traffic) || slices.ContainsFunc(rule.Subsets, func(s *configs.Subset) bool { return random(s.Traffic) })
}

func unweighed(d *configs.ServiceDefaults, s *registry.Service, rule *configs.DestinationRule) note {
	return warn(codeUnweighed, d.Origin, fmt.Sprintf("the calls to %q are not shared between registries: its load_balancer is random", short(s.Name)),
		fmt.Sprintf("It takes any endpoint, whatever its weight. Write another load_balancer in the destination_rule at %s, or remove registries.", rule.Origin)).at("service_defaults", "registries", "")
}

func unknownDefaults(d *configs.ServiceDefaults) []note {
	if d == nil {
		return nil
	}
	n := blockName(d.Block)
	x := warn(codeUnknownDefaults, d.Origin, fmt.Sprintf("service_defaults %q is for a service that no registry knows", short(n)),
		"It has no effect until the service is registered: register it, or correct the name.").at("service_defaults", "name", "")
	x.service = n
	return []note{x}
}

func unknownIdentity(d *configs.ServiceDefaults, s *registry.Service, other configs.ServiceRef) note {
	n := registry.Name(other)
	x := warn(codeUnknownIdentity, d.Origin, fmt.Sprintf("service %q, whose identity endpoints of %q may have, is not known to any registry", short(n), short(s.Name)),
		"Nothing has that identity. Register the service, or correct the name.").at("service_defaults", "identities", "")
	x.service = n
	return x
}

func noShare(d *configs.ServiceDefaults, s *registry.Service, name string) note {
	return warn(codeNoShare, d.Origin, fmt.Sprintf("registry %q, which has a share of the calls to %q, has no endpoint of it", name, short(s.Name)),
		"Its share goes to the others. Correct the registry's name, or register endpoints there.").at("service_defaults", "registries", name)
}

func defaultsProtocol(d *configs.ServiceDefaults, s *registry.Service, p registry.Port) note {
	return warn(codeDefaultsProtocol, d.Origin, fmt.Sprintf("service_defaults say %s for %q, but a registry says %s for port %d", d.Protocol, short(s.Name), p.Protocol, p.Number),
		"The registry's word holds. Remove the protocol here, or correct it where the service is registered.").at("service_defaults", "protocol", "")
}
