package systemd

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-systemd/v22/dbus"

	"github.com/wattle-mesh/wattle/adapters"
	"github.com/wattle-mesh/wattle/internal/systemd"
	units "github.com/wattle-mesh/wattle/systemd"
)

// The template of an Envoy's unit.
const (
	prefix = "wattle-envoy@"
	suffix = ".service"
)

func unitName(proxy string) string { return prefix + proxy + suffix }

// needed are the units that an agent cannot do without, be it that no package installed them.
var needed = []string{prefix + suffix, companion + suffix, "wattle-proxies.slice", resolverUnit}

// follower is one connection to systemd, and the jobs that it has for us.
type follower struct {
	*Adapter
	conn *dbus.Conn
	jobs sync.WaitGroup

	mu   sync.Mutex
	busy map[string]bool // units with a job of ours

	// Used by match alone:
	seen     map[string]string             // the run of a workload's unit that was given its companion
	held     map[string]adapters.Resources // what was set, by unit
	restarts map[string]uint32             // that systemd made by itself, by unit
	late     map[string]time.Time          // when a unit may be replaced again that could not be
}

func newFollower(a *Adapter, conn *dbus.Conn) *follower {
	return &follower{
		Adapter: a, conn: conn, busy: map[string]bool{},
		seen: map[string]string{}, held: map[string]adapters.Resources{}, restarts: map[string]uint32{}, late: map[string]time.Time{},
	}
}

// follow matches the units to the plan until ctx is done or the connection fails.
func (a *Adapter) follow(ctx context.Context) error {
	conn, err := dbus.NewSystemConnectionContext(ctx)
	if err != nil {
		return err
	}
	f := newFollower(a, conn)
	ctx, cancel := context.WithCancel(ctx)
	defer f.jobs.Wait()
	defer conn.Close()
	defer cancel()
	if err := a.install(ctx, conn); err != nil {
		return err
	}
	failed := make(chan error, 1)
	f.jobs.Go(func() {
		failed <- systemd.Follow(ctx, a.poke, func(unit string) {
			if strings.HasPrefix(unit, prefix) || unit == resolverUnit {
				a.poke()
			}
		})
	})
	ticker := time.NewTicker(lookAgain)
	defer ticker.Stop()
	for {
		if err := f.match(ctx); err != nil {
			return err
		}
		select {
		case <-a.wake:
		case <-ticker.C:
		case err := <-failed:
			return err
		case <-ctx.Done():
			return nil
		}
	}
}

// match starts the units that the plan has and that do not run, and stops those that it does not have.
func (f *follower) match(ctx context.Context) error {
	f.Adapter.mu.Lock()
	plan, known, number := f.plan, f.known, f.given
	f.Adapter.mu.Unlock()
	if !known {
		return nil
	}
	if err := f.dropIns(ctx, plan); err != nil {
		return err
	}
	if w := plan.Workloads; w != nil {
		if err := errors.Join(f.workloads(ctx, *w), f.resolver(ctx, w.Resolver)); err != nil {
			f.o.Log.Error("what workloads need of systemd cannot all be had", "error", err)
		}
	}
	f.mu.Lock()
	busy := maps.Clone(f.busy) // a job that ends from now on may have changed what is listed
	f.mu.Unlock()
	units, err := f.conn.ListUnitsByPatternsContext(ctx, nil, []string{unitName("*")})
	if err != nil {
		return err
	}
	state := map[string]string{}
	for _, u := range units {
		state[u.Name] = u.ActiveState
	}
	for _, p := range plan.Proxies {
		if changed, err := f.prepareAgain(p, number); err != nil {
			f.o.Log.Error("write what a proxy starts from", "proxy", p.ID, "error", err)
		} else if changed {
			f.o.Log.Warn("what a proxy starts from was changed by another hand, it is written again", "proxy", p.ID)
		}
		unit := unitName(p.Name)
		now, err := f.look(ctx, unit)
		if err == nil {
			f.crashes(p, unit, now)
			err = f.bound(ctx, unit, p.Resources, now)
		}
		if err != nil {
			f.o.Log.Error("what a proxy may use cannot be set", "proxy", p.ID, "error", err)
		}
		if busy[unit] {
			continue
		}
		switch { // one that stops is started when it has stopped: systemd says so
		case rests(state[unit]):
			f.job(ctx, unit, "start", f.conn.StartUnitContext)
		case state[unit] == "active":
			if !f.renew(ctx, p, unit) {
				f.entitle(ctx, p.ID, unit, now)
			}
		}
	}
	for _, u := range units {
		name := strings.TrimSuffix(strings.TrimPrefix(u.Name, prefix), suffix)
		wanted := slices.ContainsFunc(plan.Proxies, func(p adapters.Proxy) bool { return p.Name == name })
		if !wanted && !busy[u.Name] && slices.Contains([]string{"active", "activating", "reloading"}, u.ActiveState) {
			f.o.Log.Info("a proxy is not wanted any more, it drains and stops", "proxy", name)
			f.job(ctx, u.Name, "stop", f.conn.StopUnitContext)
		}
	}
	return nil
}

type jobFunc func(ctx context.Context, unit, mode string, result chan<- string) (int, error)

// job has systemd do something with a unit and waits for the result elsewhere. A unit has one job of ours at a time.
func (f *follower) job(ctx context.Context, unit, what string, do jobFunc) {
	f.jobThen(ctx, unit, what, do, func(error) {})
}

// jobThen is job, and calls then with the result unless ctx was done before.
func (f *follower) jobThen(ctx context.Context, unit, what string, do jobFunc, then func(error)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.busy[unit] {
		return
	}
	f.busy[unit] = true
	f.jobs.Go(func() {
		err := await(ctx, unit, do)
		switch {
		case ctx.Err() != nil:
		case err != nil:
			f.o.Log.Error("systemd could not "+what+" a unit", "unit", unit, "error", err, "remedy", "journalctl -u "+unit)
		default:
			f.o.Log.Info("unit "+what, "unit", unit)
		}
		f.mu.Lock()
		delete(f.busy, unit)
		f.mu.Unlock()
		if ctx.Err() == nil {
			then(err)
		}
		if err == nil {
			f.poke() // what changed meanwhile was not acted upon
		}
	})
}

// await has systemd do something and returns how it went.
func await(ctx context.Context, unit string, do jobFunc) error {
	result := make(chan string, 1)
	if _, err := do(ctx, unit, "replace", result); err != nil {
		return err
	}
	select {
	case r := <-result:
		if r != "done" {
			return fmt.Errorf("the job ended with %q", r)
		}
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// install puts the units in place that systemd does not know, for as long as the host runs.
func (a *Adapter) install(ctx context.Context, conn *dbus.Conn) error {
	files, err := conn.ListUnitFilesByPatternsContext(ctx, nil, needed)
	if err != nil {
		return err
	}
	var missing []string
	for _, name := range needed {
		if !slices.ContainsFunc(files, func(f dbus.UnitFile) bool { return filepath.Base(f.Path) == name }) {
			missing = append(missing, name)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	for _, name := range missing {
		if err := placeUnit(a.runUnits(), name); err != nil {
			return err
		}
	}
	version, err := conn.GetManagerProperty("Version")
	if err != nil {
		return err
	}
	if err := placeNewer(a.runUnits(), missing, units.Version(version)); err != nil {
		return err
	}
	a.o.Log.Info("put units in place until the next start of the host", "units", missing, "folder", a.runUnits())
	return conn.ReloadContext(ctx)
}
