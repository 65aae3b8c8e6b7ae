// Package process runs Envoys as processes of this machine, without systemd: for wattle dev, for tests, and for
// hosts whose operator has nothing better. An Envoy is started in a session of its own and outlives the agent;
// the next agent finds it by its command line and adopts it.
package process

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/wattle-mesh/wattle/adapters"
	"github.com/wattle-mesh/wattle/internal/launch"
)

// Options configure an Adapter. All fields are required unless they say otherwise.
type Options struct {
	Log   *slog.Logger
	Envoy string // path of the binary; see FindEnvoy
	// Dir is the run folder: DIR/NAME holds a proxy's bootstrap and sockets. No two running Adapters share one.
	Dir         string
	Concurrency uint32               // worker threads of each Envoy; zero: 2, or as many as there are processors if fewer
	LogLevel    string               // Envoy's; empty: warning
	Output      *os.File             // what Envoys write, after this process's death too; nil: DIR/NAME/envoy.log
	Drain       time.Duration        // how long an Envoy that goes waits for those who are connected; zero: 20 s
	Crashed     func(adapters.Crash) // told of an Envoy that has ended by itself; must not block; nil: nobody is
	Stop        bool                 // Run ends the Envoys when its context is done; else they live on
}

// Adapter keeps the Envoys of the last plan running. Its methods may be called from different goroutines.
type Adapter struct {
	o    Options
	wake chan struct{}

	mu    sync.Mutex
	plan  adapters.Plan
	known bool // a plan was given: until then nothing is ended
}

// New makes an Adapter that does nothing until Run.
func New(o Options) *Adapter {
	if o.Concurrency == 0 {
		o.Concurrency = min(2, uint32(runtime.NumCPU()))
	}
	if o.Drain == 0 {
		o.Drain = drainTime
	}
	if o.LogLevel == "" {
		o.LogLevel = "warning"
	}
	return &Adapter{o: o, wake: make(chan struct{}, 1)}
}

// Apply writes the bootstraps and has Run start and end what differs.
func (a *Adapter) Apply(_ context.Context, p adapters.Plan) error {
	for _, x := range p.Proxies {
		if err := a.prepare(x); err != nil {
			return fmt.Errorf("proxy %s: %w", x.ID, err)
		}
	}
	a.mu.Lock()
	a.plan, a.known = p, true
	a.mu.Unlock()
	a.poke()
	return nil
}

// prepare writes what the Envoy of p starts from.
func (a *Adapter) prepare(p adapters.Proxy) error {
	if err := os.MkdirAll(a.folder(p.Name), 0o700); err != nil {
		return err
	}
	path := a.bootstrap(p.Name)
	if old, err := os.ReadFile(path); err == nil && slices.Equal(old, p.Bootstrap) {
		return nil
	}
	tmp := path + ".tmp"
	if err := os.WriteFile(tmp, p.Bootstrap, 0o600); err != nil {
		return errors.Join(err, os.Remove(tmp)) // half of it is of no use
	}
	return os.Rename(tmp, path)
}

func (a *Adapter) folder(name string) string { return filepath.Join(a.o.Dir, name) }
func (a *Adapter) bootstrap(name string) string {
	return filepath.Join(a.o.Dir, name, launch.BootstrapFile)
}

// Run starts, adopts, restarts and ends Envoys as plans come, until ctx is done. One that left the plan ends when its
// last connection has, or has had its time; the others do not wait for that.
func (a *Adapter) Run(ctx context.Context) error {
	keepers := map[string]*keeper{}
	defer func() {
		for _, k := range keepers {
			<-k.done // each sees ctx by itself, so all end at once
		}
	}()
	for {
		select {
		case <-a.wake:
		case <-ctx.Done():
			return nil
		}
		a.mu.Lock()
		plan, known := a.plan, a.known
		a.mu.Unlock()
		if known {
			a.match(ctx, keepers, plan)
		}
	}
}

// poke has Run look again.
func (a *Adapter) poke() {
	select {
	case a.wake <- struct{}{}:
	default:
	}
}

// match makes keepers those of the plan, and of the Envoys that the plan does not have any more.
func (a *Adapter) match(ctx context.Context, keepers map[string]*keeper, plan adapters.Plan) {
	for name, k := range keepers {
		if k.ended() {
			delete(keepers, name)
		}
	}
	want := map[string]bool{}
	for _, p := range plan.Proxies {
		want[p.Name] = true
		if k := keepers[p.Name]; k != nil {
			k.want(true)
		} else {
			keepers[p.Name] = a.keep(ctx, p.Name, true)
		}
	}
	for name, k := range keepers {
		if !want[name] {
			k.want(false)
		}
	}
	strays, err := a.running()
	if err != nil {
		a.o.Log.Error("look for Envoys of an earlier agent", "error", err)
	}
	for name := range strays {
		if keepers[name] == nil {
			keepers[name] = a.keep(ctx, name, false)
		}
	}
}
