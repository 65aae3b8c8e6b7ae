package systemd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-systemd/v22/dbus"

	"github.com/wattle-mesh/wattle/adapters"
)

// clearAgain is how soon it is looked again whether what was stopped has ended.
const clearAgain = 100 * time.Millisecond

// Dismiss stops the companions of workloads' units: with them the agent's word that the workloads have drained is waited for.
// Those whose unit starts again meanwhile come back with it.
func (a *Adapter) Dismiss(ctx context.Context) error {
	conn, err := dbus.NewSystemConnectionContext(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	all, err := conn.ListUnitsByPatternsContext(ctx, nil, []string{companion + "*"})
	if err != nil {
		return err
	}
	errs := make([]error, len(all))
	var jobs sync.WaitGroup
	for i, u := range all {
		if !rests(u.ActiveState) {
			jobs.Go(func() {
				if err := await(ctx, u.Name, conn.StopUnitContext); err != nil {
					errs[i] = fmt.Errorf("stop %s: %w; journalctl -u %[1]s says why", u.Name, err)
				}
			})
		}
	}
	jobs.Wait()
	return errors.Join(errs...)
}

// slicesOfOurs hold what proxies use; the second is the first's parent, by its name.
var slicesOfOurs = []string{"wattle-proxies.slice", "wattle.slice"}

// rests reports whether nothing of a unit in this state runs; empty: systemd does not know it.
func rests(state string) bool { return state == "" || state == "inactive" || state == "failed" }

// Clear ends all that Adapters have this host run, and removes what they wrote for systemd: proxies and the resolver stop, the
// proxies after they have drained; drop-ins and the files of units go. No Adapter may run meanwhile. It returns which units of
// workloads run with what they had of a drop-in, until they are restarted.
func (a *Adapter) Clear(ctx context.Context) (changed []string, err error) {
	asks := context.WithoutCancel(ctx) // to the end: what has not ended then is to be named
	conn, err := dbus.NewSystemConnectionContext(asks)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	f := newFollower(a, conn)
	defer f.jobs.Wait()
	had, err := filepath.Glob(filepath.Join(a.etc, "*.d", workloadFile))
	if err != nil {
		return nil, err
	}
	for _, path := range had {
		unit := strings.TrimSuffix(filepath.Base(filepath.Dir(path)), ".d")
		if now, err := a.units.State(ctx, unit); err == nil && now.Runs() {
			changed = append(changed, unit)
		}
	}
	if err := a.Apply(ctx, adapters.Plan{Workloads: &adapters.Workloads{}}); err != nil {
		return changed, err
	}
	for {
		if err := f.match(ctx); err != nil && ctx.Err() == nil {
			return changed, err
		}
		f.jobs.Wait()
		left, err := f.working(ctx)
		if err != nil {
			return changed, err
		}
		if len(left) == 0 {
			break
		}
		select {
		case <-time.After(clearAgain):
		case <-ctx.Done():
			return changed, fmt.Errorf("%s have not ended: %w; systemctl status says how they are", strings.Join(left, ", "), context.Cause(ctx))
		}
	}
	for _, slice := range slicesOfOurs { // empty by now; systemd keeps them
		all, err := conn.ListUnitsByPatternsContext(asks, nil, []string{slice})
		if err == nil && len(all) > 0 && !rests(all[0].ActiveState) {
			err = await(ctx, slice, conn.StopUnitContext)
		}
		if err != nil {
			return changed, fmt.Errorf("stop %s: %w", slice, err)
		}
	}
	return changed, errors.Join(f.leftovers(), a.uninstall(), conn.ReloadContext(asks))
}

// working lists our units that have not ended. Those that failed are forgotten.
func (f *follower) working(ctx context.Context) ([]string, error) {
	asks := context.WithoutCancel(ctx)
	all, err := f.conn.ListUnitsByPatternsContext(asks, nil, []string{unitName("*"), companion + "*", resolverUnit})
	if err != nil {
		return nil, err
	}
	var out []string
	for _, u := range all {
		switch {
		case !rests(u.ActiveState):
			out = append(out, u.Name)
			if strings.HasPrefix(u.Name, companion) {
				f.job(ctx, u.Name, "stop", f.conn.StopUnitContext)
			}
		case u.ActiveState == "failed":
			if err := f.conn.ResetFailedUnitContext(asks, u.Name); err != nil {
				return nil, err
			}
		}
	}
	return out, nil
}

// leftovers says which drop-ins could not be removed.
func (f *follower) leftovers() error {
	left, err := filepath.Glob(filepath.Join(f.etc, "*.d", workloadFile))
	if err == nil && len(left) > 0 {
		err = fmt.Errorf("%s could not be removed", strings.Join(left, ", "))
	}
	return err
}

// uninstall removes the units that install put in place.
func (a *Adapter) uninstall() error {
	var errs []error
	for _, name := range needed {
		path := filepath.Join(a.runUnits(), name)
		if _, err := os.Lstat(path); err == nil {
			errs = append(errs, os.Remove(path), os.RemoveAll(path+".d"))
		}
	}
	return errors.Join(slices.DeleteFunc(errs, func(err error) bool { return err == nil })...)
}
