// Package systemd runs a host's Envoys as units of systemd, wattle-envoy@NAME.service: it writes what they start from, and
// starts and stops units over D-Bus. The units are systemd's own: they outlive this process, and one that ends is started
// again without it.
package systemd

import (
	"context"
	"fmt"
	"log/slog"
	"os/user"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"

	"github.com/wattle-mesh/wattle/adapters"
	"github.com/wattle-mesh/wattle/internal/launch"
	"github.com/wattle-mesh/wattle/internal/systemd"
)

const (
	group = "wattle-proxy" // that all proxies run with: systemd/sysusers.d
	// EnvoyFolder holds the folders of the units' own, with the Envoys' admin sockets (RuntimeDirectory of the unit).
	EnvoyFolder = "/run/wattle-envoy"
	lookAgain   = 10 * time.Second // what was changed by hand and systemd does not tell of is noticed so soon
)

// Options configure an Adapter. All fields are required unless they say otherwise.
type Options struct {
	Log         *slog.Logger
	Envoy       string               // path of the binary
	Dir         string               // the run folder: DIR/NAME holds what a proxy starts from
	Concurrency uint32               // worker threads of each Envoy; zero: 2, or as many as there are processors if fewer
	LogLevel    string               // Envoy's; empty: warning
	Crashed     func(adapters.Crash) // told of an Envoy that has ended by itself; must not block; nil: nobody is
	Drain       time.Duration        // how long an Envoy that goes waits for those who are connected; one that was replaced ends after half as long again
}

// Adapter keeps the units of the last plan running. Its methods may be called from different goroutines.
type Adapter struct {
	o     Options
	group int
	units systemd.Units
	wake  chan struct{}
	run   string // systemd's own run folder: /run/systemd
	// rights returns the effective capabilities of a process.
	rights func(pid uint32) (uint64, error)
	// etc is the folder of the drop-ins of workloads' units.
	etc string
	// journal returns the last lines that a unit wrote.
	journal func(ctx context.Context, unit string) []string

	envoys string // the folder of the units' own folders: EnvoyFolder

	writing sync.Mutex // held while files are written: what an older plan says must not replace what a newer one does; before mu

	mu    sync.Mutex
	given uint64 // plans
	bin   binaries
	wrote map[string]string // the Envoy that a proxy's spec names
	plan  adapters.Plan
	known bool // a plan was given: until then nothing is stopped
}

// New makes an Adapter that does nothing until Run.
func New(o Options) (*Adapter, error) {
	if o.Concurrency == 0 {
		o.Concurrency = min(2, uint32(runtime.NumCPU()))
	}
	if o.LogLevel == "" {
		o.LogLevel = "warning"
	}
	g, err := user.LookupGroup(group)
	if err != nil {
		return nil, fmt.Errorf("%w; the packages make the group, elsewhere run groupadd --system %s", err, group)
	}
	gid, err := strconv.Atoi(g.Gid)
	if err != nil {
		return nil, fmt.Errorf("group %s: %w", group, err)
	}
	return &Adapter{o: o, group: gid, wake: make(chan struct{}, 1), etc: workloadUnits, run: "/run/systemd", rights: effective, journal: journal, envoys: EnvoyFolder, bin: newBinaries(), wrote: map[string]string{}}, nil
}

// Group is the group that the proxies run with.
func (a *Adapter) Group() int { return a.group }

// Owner returns the uid that the Envoy of a proxy runs as.
func (a *Adapter) Owner(ctx context.Context, name string) (uint32, error) {
	return a.units.Owner(ctx, unitName(name))
}

// Apply writes what the Envoys start from and has Run start and stop what differs.
func (a *Adapter) Apply(_ context.Context, p adapters.Plan) error {
	a.writing.Lock()
	defer a.writing.Unlock()
	for _, x := range p.Proxies {
		if _, err := a.prepare(x); err != nil {
			return fmt.Errorf("proxy %s: %w", x.ID, err)
		}
	}
	a.mu.Lock()
	a.plan, a.known = p, true
	a.given++
	a.mu.Unlock()
	a.poke()
	return nil
}

// prepareAgain is prepare, unless there is a newer plan than that of this number.
func (a *Adapter) prepareAgain(p adapters.Proxy, number uint64) (changed bool, err error) {
	a.writing.Lock()
	defer a.writing.Unlock()
	a.mu.Lock()
	newest := a.given
	a.mu.Unlock()
	if newest != number {
		return false, nil
	}
	return a.prepare(p)
}

// prepare writes what the Envoy of p starts from, for its group to read, and reports whether something differed that this
// adapter had written.
func (a *Adapter) prepare(p adapters.Proxy) (changed bool, err error) {
	a.mu.Lock()
	envoy := a.binary(p)
	other := a.wrote[p.Name] != envoy
	a.wrote[p.Name] = envoy
	a.mu.Unlock()
	dir := filepath.Join(a.o.Dir, p.Name)
	if err := launch.Folder(dir, a.group); err != nil {
		return false, err
	}
	boot, err := launch.Place(filepath.Join(dir, launch.BootstrapFile), p.Bootstrap)
	if err != nil {
		return false, err
	}
	spec, err := launch.Spec{
		Name: p.Name, Envoy: envoy, Concurrency: a.o.Concurrency, LogLevel: a.o.LogLevel, Drain: a.o.Drain, Shutdown: a.o.Drain * 3 / 2,
	}.Write(dir)
	return boot || spec && !other, err
}

// poke has Run look again.
func (a *Adapter) poke() {
	select {
	case a.wake <- struct{}{}:
	default:
	}
}

// Run starts and stops units as plans come and when systemd says that one has changed, until ctx is done. It returns nil
// then. While systemd cannot be reached, what runs runs on.
func (a *Adapter) Run(ctx context.Context) error {
	pause := backoff.NewExponentialBackOff()
	pause.MaxInterval = lookAgain
	for {
		began := time.Now()
		err := a.follow(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if time.Since(began) > lookAgain {
			pause.Reset()
		}
		wait := pause.NextBackOff()
		a.o.Log.Error("systemd", "error", err, "again_in", wait.Round(time.Millisecond))
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return nil
		}
	}
}
