package main

import (
	"context"
	"log/slog"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/wattle-mesh/wattle/configs"
	"github.com/wattle-mesh/wattle/internal/pipeline"
	"github.com/wattle-mesh/wattle/internal/probe"
	"github.com/wattle-mesh/wattle/registry"
)

// maxChecked bounds how many endpoints are checked at once; the others have no word.
const maxChecked = 10_000

// checker runs the active checks of service_defaults: of the endpoints whose host has no agent. Its methods may be called
// from any goroutine; run by one.
type checker struct {
	log    *slog.Logger
	state  func() *pipeline.State
	agents func() registry.HealthMap
	nudge  func() // Health has another answer

	matched map[registry.Name]*match // of run alone
	running int                      // checked endpoints; likewise

	mu     sync.Mutex
	words  map[registry.WorkloadKey]registry.HealthWord
	of     registry.HealthMap // the agents' words that joined has
	joined registry.HealthMap // nil: to be made anew
}

// match is the checks of one service, and what they were made of.
type match struct {
	service *registry.Service
	checks  []*configs.Check
	running map[registry.WorkloadKey]*checked // by CheckKey
}

// checked is the checks of one endpoint.
type checked struct {
	probes []probe.Probe
	cancel context.CancelFunc
	done   sync.WaitGroup
}

func newChecker(log *slog.Logger, state func() *pipeline.State, agents func() registry.HealthMap, nudge func()) *checker {
	return &checker{log: log, state: state, agents: agents, nudge: nudge, matched: map[registry.Name]*match{}, words: map[registry.WorkloadKey]registry.HealthWord{}}
}

// Health returns what the agents and the checks say. Immutable.
func (c *checker) Health() registry.HealthMap {
	agents := c.agents()
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.words) == 0 {
		return agents
	}
	if c.joined == nil || reflect.ValueOf(c.of).UnsafePointer() != reflect.ValueOf(agents).UnsafePointer() {
		c.of, c.joined = agents, maps.Clone(agents)
		for k, word := range c.words {
			c.joined[k] = word
			c.joined[registry.CheckedKey(k.Service)] = registry.HealthWord{}
		}
	}
	return c.joined
}

// alive returns what the checks say of an endpoint, and whether they say anything.
func (c *checker) alive(n registry.Name, e *registry.Endpoint) (alive, known bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	word, known := c.words[registry.CheckKey(n, e)]
	return word.Health == registry.Healthy, known
}

// run checks what is in force until ctx is done.
func (c *checker) run(ctx context.Context) error {
	defer c.match(ctx, &configs.Policy{}, nil)
	for {
		s := c.state()
		if s.Policy != nil && s.Catalog != nil {
			c.match(ctx, s.Policy, s.Catalog)
		}
		select {
		case <-s.Step.Done():
		case <-ctx.Done():
			return nil
		}
	}
}

// match makes the running checks those of a policy and a catalog. Those of a service that is as it was go on untouched.
func (c *checker) match(ctx context.Context, p *configs.Policy, catalog *registry.Catalog) {
	seen := map[registry.Name]bool{}
	for _, d := range p.ServiceDefaults {
		n := registry.Name{Namespace: d.Namespace, Name: d.Name}
		s := catalog.Service(n)
		if len(d.Checks) == 0 || s == nil {
			continue
		}
		seen[n] = true
		m := c.matched[n]
		if m == nil {
			m = &match{running: map[registry.WorkloadKey]*checked{}}
			c.matched[n] = m
		}
		if m.service != s || !slices.Equal(m.checks, d.Checks) {
			m.service, m.checks = s, d.Checks
			c.follow(ctx, m, registry.Protocol(d.Protocol))
		}
	}
	for n, m := range c.matched {
		if !seen[n] {
			m.checks = nil
			c.follow(ctx, m, "")
			delete(c.matched, n)
		}
	}
}

// follow makes the running checks of a service those of its endpoints.
func (c *checker) follow(ctx context.Context, m *match, protocol registry.Protocol) {
	want := map[registry.WorkloadKey][]probe.Probe{}
	for _, e := range m.service.Endpoints {
		if ps := probesOf(m.service, e, protocol, m.checks); e.Workload == nil && len(ps) > 0 {
			k := registry.CheckKey(m.service.Name, e)
			want[k] = append(want[k], ps...)
		}
	}
	for k, run := range m.running {
		if !slices.Equal(run.probes, want[k]) {
			run.cancel()
			run.done.Wait()
			delete(m.running, k)
			c.running--
			c.say(k, nil)
		}
	}
	left := 0
	for k, probes := range want {
		switch {
		case m.running[k] != nil:
		case c.running >= maxChecked:
			left++
		default:
			m.running[k] = c.start(ctx, k, probes)
			c.running++
		}
	}
	if left > 0 {
		c.log.Warn("endpoints are not checked: too many are", "service", m.service.Name.String(), "endpoints", left, "most", maxChecked)
	}
}

// probesOf lists the checks of one endpoint: those for the port that it serves.
func probesOf(s *registry.Service, e *registry.Endpoint, protocol registry.Protocol, checks []*configs.Check) []probe.Probe {
	var out []probe.Probe
	for _, check := range checks {
		port := check.Port
		if port == 0 && len(s.Ports) > 0 {
			port = s.Ports[0].Number
		}
		i := slices.IndexFunc(s.Ports, func(p registry.Port) bool { return p.Number == port })
		if i < 0 || e.ServicePort != port {
			continue
		}
		if p := s.Ports[i].Protocol; p != "" {
			protocol = p
		}
		out = append(out, probe.Probe{
			Kind: check.Type, Address: netip.AddrPortFrom(e.Address, e.Port).String(), Path: check.Path, Protocol: string(protocol),
			Interval: time.Duration(check.Interval), Timeout: time.Duration(check.Timeout), Healthy: check.Healthy, Unhealthy: check.Unhealthy,
		})
	}
	return out
}

// start begins to check an endpoint. It is healthy if all of its checks say so.
func (c *checker) start(ctx context.Context, k registry.WorkloadKey, probes []probe.Probe) *checked {
	ctx, cancel := context.WithCancel(ctx)
	run := &checked{probes: probes, cancel: cancel}
	var mu sync.Mutex
	results := make([]probe.Health, len(probes))
	for i, p := range probes {
		run.done.Go(func() {
			p.Follow(ctx, func(h probe.Health) {
				mu.Lock()
				defer mu.Unlock()
				results[i] = h
				if word := together(results); word != nil && ctx.Err() == nil {
					c.log.Info("check", "service", k.Service.String(), "endpoint", k.Instance, "health", word.Health, "reason", word.Reason)
					c.say(k, word)
				}
			})
		})
	}
	return run
}

// together returns what the checks of an endpoint say, nil as long as one of those that do not fail has not ended.
func together(results []probe.Health) *registry.HealthWord {
	known := true
	for _, h := range results {
		if h.Known && !h.Healthy {
			return &registry.HealthWord{Health: registry.Unhealthy, Reason: h.Reason}
		}
		known = known && h.Known
	}
	if !known {
		return nil
	}
	return &registry.HealthWord{Health: registry.Healthy}
}

// say takes in what the checks say of an endpoint; nil: nothing.
func (c *checker) say(k registry.WorkloadKey, word *registry.HealthWord) {
	c.mu.Lock()
	if word == nil {
		delete(c.words, k)
	} else {
		c.words[k] = *word
	}
	c.joined = nil
	c.mu.Unlock()
	c.nudge()
}
