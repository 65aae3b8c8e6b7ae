// Package pipeline is the loop that turns what changes (policy files, registries, health) into published
// resources: one goroutine owns the order, and what cannot be built whole is not published at all.
package pipeline

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/wattle-mesh/wattle/configs"
	"github.com/wattle-mesh/wattle/internal/mesh"
	"github.com/wattle-mesh/wattle/registry"
	"github.com/wattle-mesh/wattle/registry/static"
	"github.com/wattle-mesh/wattle/translator"
)

// The gap between two rounds is twice what the last one cost, within these bounds.
const (
	minGap = time.Millisecond
	maxGap = 50 * time.Millisecond
)

// Revisions numbers policies and keeps what must survive a restart.
type Revisions interface {
	// Revision returns the number of the policy with this content hash: the last one's if it is the same, else the next.
	Revision(hash string) (uint64, error)
	Allotment() (mesh.Allotment, error)
	SetAllotment(mesh.Allotment) error
}

// Registries is where catalogs come from; *registry.Aggregator is one.
type Registries interface {
	Sets() []registry.Set
	Ready() <-chan struct{} // closed when every source has published or had its time
}

// Options configure a Loop. All fields are required unless they say otherwise.
type Options struct {
	Log        *slog.Logger
	Dir        string          // the policy folder
	Config     configs.Options // how it is loaded
	Revisions  Revisions
	Registries Registries
	Health     func() registry.HealthMap             // nil: no agents report
	OnPolicy   func(*configs.Policy)                 // told of a policy before it is published; nil: nobody listens
	Publish    func(translator.Changes) (gen uint64) // applies changes; must not block
	// TrustDomain is what the CA was made for: a policy with another one is rejected. Empty: any.
	TrustDomain string
}

// Loop is the server's main loop. Its methods may be called from any goroutine.
type Loop struct {
	o      Options
	poke   chan struct{}
	folder atomic.Bool // the policy folder may have changed
	world  atomic.Bool // a registry or health may have changed

	state atomic.Pointer[State]
	ready chan struct{} // closed when a view has been published

	mu     sync.Mutex
	rounds map[uint64]string // generation -> what it brought, until its proxies have it
}

// State is what the loop last brought into force. Immutable.
type State struct {
	Ready       bool // a view has been published
	Revision    uint64
	Policy      *configs.Policy
	Catalog     *registry.Catalog
	View        *mesh.View
	Output      *translator.Output
	Diagnostics configs.Diagnostics // of the last attempt; errors mean that it was rejected
	Rejected    bool                // the folder holds a policy that is not in force
	Changed     time.Time
}

// New makes a Loop that does nothing until Run.
func New(o Options) *Loop {
	l := &Loop{o: o, poke: make(chan struct{}, 1), ready: make(chan struct{}), rounds: map[uint64]string{}}
	l.state.Store(&State{})
	return l
}

// State returns what is in force now.
func (l *Loop) State() *State { return l.state.Load() }

// Ready is closed when a policy is in force for the first time.
func (l *Loop) Ready() <-chan struct{} { return l.ready }

// Nudge says that a registry's services or a health may have changed.
func (l *Loop) Nudge() { l.wake(&l.world) }

func (l *Loop) wake(what *atomic.Bool) {
	what.Store(true)
	select {
	case l.poke <- struct{}{}:
	default:
	}
}

// Run loops until ctx is done. The loop waits for the registries, and then one of three things happens:
//  1. nothing is dirty: it waits for a poke, or the end;
//  2. something is dirty: it runs one round over everything that is, at once;
//  3. a round has just run: it lets the gap pass, so that what comes meanwhile is one round.
func (l *Loop) Run(ctx context.Context) error {
	watch, stop := context.WithCancel(ctx)
	watched := make(chan error, 1)
	go func() { watched <- configs.Watch(watch, l.o.Dir, func() { l.wake(&l.folder) }) }()
	defer func() { stop(); <-watched }()

	select {
	case <-l.o.Registries.Ready():
	case <-ctx.Done():
		return nil
	}
	r, err := newRound(l)
	if err != nil {
		return err
	}
	l.world.Store(true)
	for {
		began := time.Now()
		if folder, world := l.folder.Swap(false), l.world.Swap(false); folder || world {
			r.run(folder)
			select {
			case <-time.After(min(max(2*time.Since(began), minGap), maxGap)):
			case <-ctx.Done():
				return nil
			}
		}
		select {
		case <-l.poke:
		case err := <-watched:
			watched <- err
			return err
		case <-ctx.Done():
			return nil
		}
	}
}

// round is the loop goroutine's own state: what the stages last made.
type round struct {
	l       *Loop
	loader  *configs.Loader
	own     static.Memo     // the policy folder's services, pointers kept
	pending *configs.Policy // loads, but names what no registry knows: tried again when the world changes
	state   State
}

func newRound(l *Loop) (*round, error) {
	ports, err := l.o.Revisions.Allotment()
	if err != nil {
		return nil, fmt.Errorf("read the allotted mesh ports: %w", err)
	}
	return &round{l: l, loader: configs.NewLoader(l.o.Config), state: State{View: &mesh.View{Ports: ports}}}, nil
}

// run brings a new policy into force if there is one and it is good; else the world's changes with the policy
// that is in force.
func (r *round) run(folder bool) {
	began := time.Now()
	if folder {
		r.load()
	}
	if r.pending != nil {
		// The first policy is taken as it is: there is nothing older to keep.
		next, diags := r.build(r.pending)
		if next != nil && (r.state.Policy == nil || !r.news(diags).HasErrors()) {
			r.pending = nil
			r.commit(next, diags, began)
			return
		}
		r.reject(diags)
	}
	if r.state.Policy == nil {
		return
	}
	next, diags := r.build(r.state.Policy)
	if next == nil {
		r.reject(diags)
		return
	}
	r.commit(next, diags, began)
}

// load reads the folder. A policy that differs from the one in force becomes pending.
func (r *round) load() {
	policy, diags := r.loader.Load(r.l.o.Dir)
	switch {
	case diags.HasErrors():
		r.pending = nil
		r.reject(diags)
	case r.l.o.TrustDomain != "" && policy.Mesh.TrustDomain != r.l.o.TrustDomain:
		r.pending = nil
		r.reject(configs.Diagnostics{foreign(policy.Mesh, r.l.o.TrustDomain)})
	case Same(policy, r.state.Policy):
		r.pending = nil
		r.state.Rejected, r.state.Diagnostics = false, nil
	default:
		r.pending = policy
	}
}

// build takes a policy through the stages. It gives nil if the last of them fails.
func (r *round) build(policy *configs.Policy) (*State, configs.Diagnostics) {
	next := r.state
	next.Policy = policy
	sets := append([]registry.Set{{Name: policySet, Services: r.own.Services(policy)}}, r.l.o.Registries.Sets()...)
	next.Catalog = registry.Merge(r.state.Catalog, sets, r.health())
	var diags configs.Diagnostics
	next.View, diags = mesh.Resolve(r.state.View, next.Catalog, policy)
	out, err := translator.Translate(r.state.Output, next.View)
	if err != nil {
		return nil, append(diags, untranslatable(err))
	}
	next.Output = out
	return &next, diags
}

// news leaves out of what is wrong with a pending policy what is wrong with the one in force, too: a service that
// vanished must not keep other changes out.
func (r *round) news(diags configs.Diagnostics) configs.Diagnostics {
	if !diags.HasErrors() {
		return nil
	}
	_, old := r.build(r.state.Policy)
	return slices.DeleteFunc(slices.Clone(diags), func(d configs.Diagnostic) bool {
		return slices.ContainsFunc(old, func(o configs.Diagnostic) bool { return o.Code == d.Code && o.Summary == d.Summary })
	})
}

func (r *round) health() registry.HealthMap {
	if r.l.o.Health == nil {
		return nil
	}
	return r.l.o.Health()
}

// reject keeps what is in force and says why the folder's policy is not.
func (r *round) reject(diags configs.Diagnostics) {
	r.l.o.Log.Error("policy rejected, the last good one stays in force", "revision", r.state.Revision, "errors", diags.Error())
	r.state.Diagnostics, r.state.Rejected = r.loader.Locate(diags), true
	s := r.state
	r.l.state.Store(&s)
}

// commit brings next into force and publishes what it changes.
func (r *round) commit(next *State, diags configs.Diagnostics, began time.Time) {
	fresh := next.Policy != r.state.Policy
	what := "catalog: " + list(next.Catalog.Changed)
	if fresh {
		next.Revision = r.number(next.Policy)
		what = fmt.Sprintf("revision %d: %s", next.Revision, describe(r.state.Policy, next.Policy))
		next.Rejected = false
	}
	if !next.Rejected {
		next.Diagnostics = r.loader.Locate(warnings(diags))
	}
	if !maps.Equal(next.View.Ports, r.state.View.Ports) {
		if err := r.l.o.Revisions.SetAllotment(next.View.Ports); err != nil {
			r.l.o.Log.Error("keep the allotted mesh ports", "error", err)
		}
	}
	first := !r.state.Ready
	next.Ready, next.Changed = true, began
	r.state = *next
	r.l.state.Store(next)
	if fresh && r.l.o.OnPolicy != nil {
		r.l.o.OnPolicy(next.Policy)
	}
	r.l.publish(next.Output.Changes, what, fresh)
	if first {
		close(r.l.ready)
	}
}

// number gives a policy its revision: the number it had if it was in force when the server stopped.
func (r *round) number(p *configs.Policy) uint64 {
	sum, err := hash(p)
	if err == nil {
		var n uint64
		if n, err = r.l.o.Revisions.Revision(sum); err == nil {
			return n
		}
	}
	r.l.o.Log.Error("number the revision", "error", err)
	return r.state.Revision + 1
}

// publish hands changes over and remembers what they are, for Converged.
func (l *Loop) publish(c translator.Changes, what string, always bool) {
	if c.Empty() {
		if always {
			l.o.Log.Info(what + ": nothing to update")
		}
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.rounds[l.o.Publish(c)] = what
}

// Converged says that all proxies which generation gen touches have answered it.
func (l *Loop) Converged(gen uint64, proxies, nacked int, took time.Duration) {
	l.mu.Lock()
	what, ok := l.rounds[gen]
	delete(l.rounds, gen)
	l.mu.Unlock()
	if !ok || proxies == 0 {
		return
	}
	msg := fmt.Sprintf("%s: %s updated in %s", what, count(proxies, "proxy", "proxies"), took.Round(100*time.Microsecond))
	if nacked > 0 {
		l.o.Log.Error(fmt.Sprintf("%s, %s refused it: see wattle proxy status", msg, count(nacked, "proxy", "proxies")))
		return
	}
	l.o.Log.Info(msg)
}

func count(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}
