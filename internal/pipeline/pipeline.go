// Package pipeline is the loop that turns what changes (policy files, registries, health) into published
// resources: one goroutine owns the order, and what cannot be built whole is not published at all.
package pipeline

import (
	"context"
	"fmt"
	"log/slog"
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

// moveGap is how often it is looked whether workloads that move may take their next step.
const moveGap = 50 * time.Millisecond

// Revisions numbers policies and keeps what must survive a restart.
type Revisions interface {
	// Revision returns the number of the policy with this content hash: the last one's if it is the same, else the next.
	Revision(hash string) (uint64, error)
	Allotted() (mesh.Allotted, error)
	SetAllotted(mesh.Allotted) error
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
	Health     func() registry.HealthMap // nil: no agents report
	Facts      func() *static.Facts      // likewise
	// Moved lists the workloads of the view in force that may take the next step of their moves from proxy to proxy. It is
	// asked after what it sees was published. nil: none ever may.
	Moved    func(*mesh.View) []registry.WorkloadKey
	OnPolicy func(*configs.Policy)                 // told of a policy before it is published; nil: nobody listens
	Publish  func(translator.Changes) (gen uint64) // applies changes; must not block
	// TrustDomain is what the CA was made for: a policy with another one is rejected. Empty: any.
	TrustDomain string
	// Pace is the least time between two changes of one service's endpoints that registries and agents give rise to. Zero:
	// each counts at once.
	Pace time.Duration
}

// Loop is the server's main loop. Its methods may be called from any goroutine.
type Loop struct {
	o      Options
	poke   chan struct{}
	folder atomic.Bool // the policy folder may have changed
	world  atomic.Bool // a registry or health may have changed
	accept chan chan struct{}
	ask    chan chan struct{} // Alive

	state atomic.Pointer[State]
	ready chan struct{} // closed when a view has been published

	mu     sync.Mutex
	rounds map[uint64]news // by generation, until its proxies have it
}

// news is what a round brought, for the log.
type news struct {
	what     string
	revision bool // a new revision is worth a line even if it touches no proxy
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
	Ages        registry.Ages // of the endpoints of View's Amended services
	Step        *Step         // what led here
}

// New makes a Loop that does nothing until Run.
func New(o Options) *Loop {
	l := &Loop{o: o, poke: make(chan struct{}, 1), accept: make(chan chan struct{}), ask: make(chan chan struct{}), ready: make(chan struct{}), rounds: map[uint64]news{}}
	l.state.Store(&State{Step: newStep()})
	return l
}

// State returns what is in force now.
func (l *Loop) State() *State { return l.state.Load() }

// Ready is closed when a policy is in force for the first time.
func (l *Loop) Ready() <-chan struct{} { return l.ready }

// Nudge says that a registry's services or a health may have changed.
func (l *Loop) Nudge() { l.wake(&l.world) }

// Accept has the policy folder read again, and lets it lack files whose blocks are in force. When it returns without an
// error, the state says what came of it.
func (l *Loop) Accept(ctx context.Context) error {
	done := make(chan struct{})
	select {
	case l.accept <- done:
	case <-ctx.Done():
		return ctx.Err()
	}
	<-done
	return nil
}

// Alive returns nil once the loop has answered: a loop that hangs never does.
func (l *Loop) Alive(ctx context.Context) error {
	done := make(chan struct{})
	select {
	case l.ask <- done:
		<-done
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

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
//  3. a round has just run: it lets the gap pass, so that what comes meanwhile is one round. What the pacer held back in
//     it makes the world dirty again when it may change.
func (l *Loop) Run(ctx context.Context) error {
	watch, stop := context.WithCancel(ctx)
	watched := make(chan error, 1)
	go func() { watched <- configs.Watch(watch, l.o.Dir, func() { l.wake(&l.folder) }) }()
	defer func() { stop(); <-watched }()

	for waiting := true; waiting; {
		select {
		case <-l.o.Registries.Ready():
			waiting = false
		case done := <-l.ask:
			close(done)
		case <-ctx.Done():
			return nil
		}
	}
	r, err := newRound(l)
	if err != nil {
		return err
	}
	l.world.Store(true)
	var held, moving <-chan time.Time // nil while nothing is held back, and nothing moves
	for {
		began := time.Now()
		if folder, world := l.folder.Swap(false), l.world.Swap(false); folder || world {
			r.run(folder, world)
			if held = nil; !r.pacer.due.IsZero() {
				held = time.After(time.Until(r.pacer.due))
			}
			if moving = nil; r.moves() {
				moving = time.After(moveGap)
			}
			select {
			case <-time.After(min(max(2*time.Since(began), minGap), maxGap)):
			case <-ctx.Done():
				return nil
			}
		}
		select {
		case <-l.poke:
		case done := <-l.accept:
			r.loader.AllowRemovals()
			r.run(true, false)
			close(done)
		case done := <-l.ask:
			close(done)
		case <-held:
			l.world.Store(true)
		case <-moving:
			if moving = time.After(moveGap); len(r.moved()) > 0 {
				l.world.Store(true)
			}
		case err := <-watched:
			watched <- err
			return err
		case <-ctx.Done():
			return nil
		}
	}
}

// publish hands changes over and remembers what they are, for Converged.
func (l *Loop) publish(c translator.Changes, n news) {
	if c.Empty() {
		l.say(n, 0, 0, 0)
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.rounds[l.o.Publish(c)] = n
}

// Converged says that all proxies which generation gen touches have answered it.
func (l *Loop) Converged(gen uint64, proxies, nacked int, took time.Duration) {
	l.mu.Lock()
	n, ok := l.rounds[gen]
	delete(l.rounds, gen)
	l.mu.Unlock()
	if ok {
		l.say(n, proxies, nacked, took)
	}
}

// say logs a change: one line.
func (l *Loop) say(n news, proxies, nacked int, took time.Duration) {
	switch {
	case nacked > 0:
		l.o.Log.Error(fmt.Sprintf("%s: %s updated in %s, %s refused it: see wattle proxy status",
			n.what, count(proxies, "proxy", "proxies"), took.Round(100*time.Microsecond), count(nacked, "proxy", "proxies")))
	case proxies > 0:
		l.o.Log.Info(fmt.Sprintf("%s: %s updated in %s", n.what, count(proxies, "proxy", "proxies"), took.Round(100*time.Microsecond)))
	case n.revision:
		l.o.Log.Info(n.what + ": no connected proxy is touched")
	}
}

func count(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}
