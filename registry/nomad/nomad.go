// Package nomad is the registry of Nomad's native services: registrations, joined with the allocations and nodes that they
// are on and the deployments that roll them out, in; registry services out. See README.md for what becomes of Nomad's fields and states.
package nomad

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/hcl/v2"

	"github.com/wattle-mesh/wattle/registry"
)

// Driver makes Sources of Nomad agents: registry "nomad" "main" { address = "https://127.0.0.1:4646" }.
func Driver() registry.Driver {
	return registry.Driver{Type: "nomad", New: open, Reach: []string{"address", "token_file", "wait", "tls"}}
}

func open(b hcl.Body, o registry.DriverOptions) (registry.Source, hcl.Diagnostics) {
	c, diags := decode(b, o)
	if diags.HasErrors() {
		return nil, diags
	}
	s := &Source{config: c, log: o.Log, report: o.Report, table: newTable(c)}
	if s.report == nil {
		s.report = func([]registry.Diagnostic) {}
	}
	return s, nil
}

// Source watches the services of one Nomad region. What it knows outlives a run, so that services which have not changed
// keep their pointers, and a registration that vanished meanwhile is noticed.
type Source struct {
	config *config
	log    *slog.Logger
	report func([]registry.Diagnostic)
	table  *table
}

const (
	readers     = 8                // services that are read at once
	maxServices = 1 << 16          // that are read; Nomad lists any number
	defaultBeat = 10 * time.Second // between two heartbeats, and how long one may take
	defaultLap  = time.Minute
	grace       = 250 * time.Millisecond // for the events to say what a change of the list was about
	share       = 4                      // everything is read again after this many times the time that it took
)

// Run implements registry.Source. It reads nodes, allocations, deployments and services as a whole, publishes, and then follows what
// changes: blocking queries say that something has, the stream of events says which services, and if it does not, all
// are read.
func (s *Source) Run(ctx context.Context, publish func([]*registry.Service)) error {
	client, err := dial(s.config)
	if err != nil {
		return err
	}
	defer client.close()
	r := &run{Source: s, client: client, queue: newQueue(), lists: map[string]*list{}}
	g, running := registry.NewGroup(ctx)
	g.Go(func() error { return r.read(running, g) })
	g.Go(func() error { return r.publish(running, publish) })
	err = g.Wait()
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// run is one run of a Source.
type run struct {
	*Source
	client *client
	queue  *queue

	mu    sync.Mutex
	whole bool             // all was read once
	lists map[string]*list // by namespace, as configured
	heard uint64           // the highest index of an event; 0 while there is no stream
}

// list is which services a namespace has, and as of which index.
type list struct {
	names map[registry.Name]bool
	index uint64
}

// read reads all, then what changes, with the goroutines of g.
func (r *run) read(ctx context.Context, g *registry.Group) error {
	nodes, err := r.readNodes(ctx)
	if err != nil {
		return err
	}
	type indexes struct{ allocs, services uint64 }
	at := map[string]indexes{}
	for _, ns := range r.config.namespaces {
		var x indexes
		if x.allocs, err = r.readAllocs(ctx, ns); err != nil {
			return err
		}
		if x.services, err = r.readList(ctx, ns); err != nil {
			return err
		}
		at[ns] = x
	}
	// After the allocations, so that the deployment of each that is known is known.
	deployments, err := r.readDeployments(ctx)
	if err != nil {
		return err
	}
	for range readers {
		g.Go(func() error { return r.readQueued(ctx) })
	}
	if err := r.sweep(ctx); err != nil {
		return err
	}
	r.mu.Lock()
	r.whole = true
	r.mu.Unlock()
	r.table.nudge()
	g.Go(func() error { return r.followNodes(ctx, nodes) })
	g.Go(func() error { return r.followDeployments(ctx, deployments) })
	for ns, x := range at {
		g.Go(func() error { return r.followAllocs(ctx, ns, x.allocs) })
		g.Go(func() error { return r.followList(ctx, ns, x.services) })
		g.Go(func() error { return r.listen(ctx, ns) })
	}
	g.Go(func() error { return r.heartbeat(ctx) })
	return r.goRound(ctx)
}

// publish publishes the set whenever it has changed, and once when this run knows it.
func (r *run) publish(ctx context.Context, publish func([]*registry.Service)) error {
	var told []registry.Diagnostic
	var last []*registry.Service
	first := true
	tick := time.NewTicker(deadGrace / 3) // what is told of the dead depends on the time
	defer tick.Stop()
	for {
		select {
		case <-r.table.changed:
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
		r.mu.Lock()
		whole := r.whole
		r.mu.Unlock()
		if !whole {
			continue
		}
		if services := r.table.set(); first || !slices.Equal(services, last) {
			first, last = false, services
			publish(services)
		}
		if ds := r.table.diagnostics(); told == nil || !slices.Equal(ds, told) { // an earlier run may have left something
			told = append([]registry.Diagnostic{}, ds...)
			r.report(ds)
		}
	}
}

// maxTold bounds how many diagnostics are reported.
const maxTold = 100

// diagnostics lists what is wrong with services, sorted by name, then the registrations that have outlived their
// allocations.
func (t *table) diagnostics() []registry.Diagnostic {
	t.mu.Lock()
	defer t.mu.Unlock()
	var out []registry.Diagnostic
	if t.beyond > 0 {
		out = append(out, registry.Diagnostic{Severity: registry.Error, Code: registry.BadEntry, Origin: t.config.address,
			Summary: fmt.Sprintf("%d services are left out: there are more than %d", t.beyond, t.config.most),
			Detail:  "Those that are called already stay. See whether something registers without end, and remove what nobody needs."})
	}
	var names []registry.Name
	for n, f := range t.services {
		if len(f.faults) > 0 {
			names = append(names, n)
		}
	}
	slices.SortFunc(names, registry.Name.Compare)
	for _, n := range names {
		out = append(out, t.services[n].faults...)
	}
	var dead []string
	for id, since := range t.dead {
		if t.now().Sub(since) >= deadGrace {
			dead = append(dead, id)
		}
	}
	if len(dead) > 0 {
		slices.Sort(dead)
		out = append(out, registry.Diagnostic{Severity: registry.Warning, Code: registry.RegistrationDead, Origin: t.config.address,
			Summary: fmt.Sprintf("registrations %s are left out: their allocations have ended, or are not known", some(dead)),
			Detail:  "Nomad lists instances that are no more. Remove them with: nomad service delete SERVICE ID."})
	}
	if more := len(out) - maxTold; more > 0 {
		out = append(slices.Clip(out[:maxTold]), registry.Diagnostic{Severity: registry.Error, Code: out[maxTold].Code, Origin: t.config.address,
			Summary: fmt.Sprintf("%d more faults in what registry %s says", more, t.config.name)})
	}
	return out
}
