// Package dns is the registry of names: SRV and address records, as Consul, Mesos-DNS, CoreDNS or any other DNS server
// has them, in; registry services out. Every record set is asked for again when its TTL has run out.
package dns

import (
	"context"
	"log/slog"

	"github.com/hashicorp/hcl/v2"

	"github.com/wattle-mesh/wattle/registry"
)

// Driver makes Sources of DNS names: registry "dns" "old" { service "db" { srv = "_db._tcp.example.com" } }.
func Driver() registry.Driver {
	return registry.Driver{Type: "dns", New: open, Reach: []string{"resolvers", "min_ttl", "max_ttl", "timeout", "negative_hold", "max_queries", "queries_per_second"}}
}

func open(b hcl.Body, o registry.DriverOptions) (registry.Source, hcl.Diagnostics) {
	c, diags := decode(b, o.Eval)
	if diags.HasErrors() {
		return nil, diags
	}
	if o.Report == nil {
		o.Report = func([]registry.Diagnostic) {}
	}
	return &Source{config: c, log: o.Log, report: o.Report, state: newState(c)}, diags
}

// Source keeps the names of a registry block resolved. What it knows outlives a Run: the next one begins with it, and
// asks for all of it anew.
type Source struct {
	*config
	log    *slog.Logger
	report func([]registry.Diagnostic)
	state  *state
}

// Run implements registry.Source. It fails when no name can be read at all; what is wrong with single names is
// reported, and their last answers are kept.
func (s *Source) Run(ctx context.Context, publish func([]*registry.Service)) error {
	resolvers, err := s.addresses()
	if err != nil {
		return err
	}
	asking, cancel := context.WithCancel(ctx)
	r := &run{Source: s, pool: newPool(resolvers, s.config), publish: publish, results: make(chan result, s.maxQueries)}
	err = r.loop(asking)
	cancel()
	r.asking.Wait()
	if ctx.Err() != nil {
		return nil // it was ended while it failed
	}
	return err
}
