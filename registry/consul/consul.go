// Package consul is the registry of Consul's catalog: the health of every service, as a Consul agent tells it, in;
// registry services out. See README.md for what becomes of Consul's fields.
package consul

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"

	"github.com/hashicorp/hcl/v2"

	"github.com/wattle-mesh/wattle/registry"
)

// Driver makes Sources of Consul agents: registry "consul" "dc1" { address = "https://127.0.0.1:8501" }.
func Driver() registry.Driver {
	return registry.Driver{Type: "consul", New: open, Reach: []string{"address", "token_file", "wait", "stale", "max_stale", "tls"}}
}

func open(b hcl.Body, o registry.DriverOptions) (registry.Source, hcl.Diagnostics) {
	c, diags := decode(b, o)
	if diags.HasErrors() {
		return nil, diags
	}
	s := &Source{config: c, log: o.Log, report: o.Report}
	if s.report == nil {
		s.report = func([]registry.Diagnostic) {}
	}
	for _, dc := range orOwn(c.datacenters) {
		for _, ns := range orOwn(c.namespaces) {
			s.parts = append(s.parts, &part{datacenter: dc, namespace: ns})
		}
	}
	s.catalog = newCatalog(c, s.parts)
	return s, nil
}

// orOwn returns the names, or one empty name: the agent's own.
func orOwn(names []string) []string {
	if len(names) == 0 {
		return []string{""}
	}
	return names
}

// Source watches the services of one Consul: of each of its datacentres and namespaces that are configured, its
// parts. What it knows outlives a run, so that services which have not changed keep their pointers.
type Source struct {
	config  *config
	log     *slog.Logger
	report  func([]registry.Diagnostic)
	parts   []*part
	catalog *catalog
}

// Run implements registry.Source. It publishes when every part has been read once; from then on a part that cannot
// be read keeps its last services, and Run goes on as long as another part can be read.
func (s *Source) Run(ctx context.Context, publish func([]*registry.Service)) error {
	client, err := dial(s.config)
	if err != nil {
		return err
	}
	defer client.close()
	r := &run{Source: s, client: client, states: make([]state, len(s.parts))}
	g, running := registry.NewGroup(ctx)
	for i := range s.parts {
		g.Go(func() error { return r.keepReading(running, i) })
	}
	g.Go(func() error { return r.publish(running, publish) })
	err = g.Wait()
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// state is how a part of a run fares.
type state struct {
	synced bool // it was read as a whole in this run
	err    error
}

// run is one run of a Source.
type run struct {
	*Source
	client *client

	mu     sync.Mutex
	states []state // by part
}

// keepReading reads a part, again after a pause when it fails, until ctx is done or no part can be read.
func (r *run) keepReading(ctx context.Context, i int) error {
	pauses := r.config.pauses()
	for {
		reader := &reader{run: r, part: r.parts[i], index: i}
		err := reader.read(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if reader.settled() {
			pauses.Reset()
		}
		if err := r.fail(i, err); err != nil {
			return err
		}
		r.log.Debug("consul cannot be read in part", "part", r.parts[i].String(), "error", err)
		if err := sleep(ctx, pauses.NextBackOff()); err != nil {
			return err
		}
		r.set(i, state{})
	}
}

// fail notes that a part cannot be read. It returns why the whole cannot, unless another part can be, or may be.
func (r *run) fail(i int, err error) error {
	r.set(i, state{err: err})
	r.mu.Lock()
	defer r.mu.Unlock()
	var all []string
	for i, s := range r.states {
		if s.err == nil {
			return nil
		}
		all = append(all, fmt.Sprintf("%s: %v", r.parts[i], s.err))
	}
	return errors.New(strings.Join(all, "; "))
}

func (r *run) set(i int, s state) {
	r.mu.Lock()
	r.states[i] = s
	r.mu.Unlock()
	r.catalog.nudge()
}

// synced reports whether a part was read in this run.
func (r *run) synced() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.ContainsFunc(r.states, func(s state) bool { return s.synced })
}

// publish publishes the set whenever it has changed, and once when this run knows it.
func (r *run) publish(ctx context.Context, publish func([]*registry.Service)) error {
	var told []registry.Diagnostic
	var last []*registry.Service
	first := true
	r.catalog.nudge()
	for {
		select {
		case <-r.catalog.changed:
		case <-ctx.Done():
			return ctx.Err()
		}
		services, whole := r.catalog.set()
		if whole && r.synced() && (first || !slices.Equal(services, last)) {
			first, last = false, services
			publish(services)
		}
		if ds := r.diagnostics(); told == nil || !slices.Equal(ds, told) { // an earlier run may have left something
			told = append([]registry.Diagnostic{}, ds...)
			r.report(ds)
		}
	}
}

// maxTold bounds how many diagnostics are reported.
const maxTold = 100

// diagnostics lists the parts that cannot be read, then what is wrong with single services.
func (r *run) diagnostics() []registry.Diagnostic {
	var ds []registry.Diagnostic
	r.mu.Lock()
	for i, s := range r.states {
		if s.err != nil && len(r.states) > 1 { // the only part is the registry, for which Run returns the error
			ds = append(ds, registry.Diagnostic{Severity: registry.Error, Code: registry.SourceFailed, Origin: r.config.address,
				Summary: fmt.Sprintf("%s of registry %s cannot be read: %v", r.parts[i], r.config.name, s.err),
				Detail:  "What it said last stays in force, and it is asked again. Until it has answered once, nothing of the registry is used: give it a registry block of its own if the others must not wait for it."})
		}
	}
	r.mu.Unlock()
	ds = append(ds, r.catalog.diagnostics()...)
	if more := len(ds) - maxTold; more > 0 {
		ds = append(slices.Clip(ds[:maxTold]), registry.Diagnostic{Severity: registry.Error, Code: ds[maxTold].Code, Origin: r.config.address,
			Summary: fmt.Sprintf("%d more faults in what registry %s says", more, r.config.name)})
	}
	return ds
}
