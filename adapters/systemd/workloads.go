package systemd

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/wattle-mesh/wattle/adapters"
)

const (
	// workloadUnits is where drop-ins of workloads' units are. They are there when the host starts, before its agent is.
	workloadUnits = "/etc/systemd/system"
	workloadFile  = "60-wattle.conf"

	resolverUnit = "wattle-dns.service"
)

// companion is the template of the units that drain workloads before their units stop. The instance is the unit's name without
// its suffix.
const companion = "wattle-workload@"

func companionOf(unit string) string { return companion + unit }

// dropIn is what a workload's unit gets; empty: nothing.
func dropIn(u adapters.Unit) string {
	var needs, service []string
	if len(u.Proxies) > 0 {
		for _, p := range u.Proxies {
			needs = append(needs, "Wants="+unitName(p), "After="+unitName(p))
		}
		needs = append(needs, "Wants="+companionOf(u.Name))
	}
	for _, e := range u.Env {
		service = append(service, `Environment="`+strings.ReplaceAll(e, "%", "%%")+`"`)
	}
	if u.Resolv != "" {
		needs = append(needs, "Wants="+resolverUnit, "After="+resolverUnit)
		// The tmpfs hides systemd-resolved, whom nss-resolve would ask; the host's resolv.conf may be a link to a file in there.
		service = append(service, "TemporaryFileSystem=/run/systemd/resolve:ro,mode=0755",
			"BindReadOnlyPaths=-"+strings.ReplaceAll(u.Resolv, "%", "%%")+":/etc/resolv.conf", "InaccessiblePaths=-/run/nscd")
	}
	if len(needs)+len(service) == 0 {
		return ""
	}
	return "# The Wattle agent's, written anew when it changes: what this workload has of the mesh.\n[Unit]\n" + strings.Join(needs, "\n") +
		"\n\n[Service]\n" + strings.Join(append(service, ""), "\n")
}

// workloads makes the drop-ins of workloads' units those of the plan, and has systemd read them if that changed anything. A
// unit that runs has them when it starts next.
func (f *follower) workloads(ctx context.Context, plan adapters.Workloads) error {
	changed, want := false, map[string]bool{}
	var errs []error
	for _, u := range plan.Units {
		text := dropIn(u)
		if text == "" {
			continue
		}
		path := filepath.Join(f.etc, u.Name+".d", workloadFile)
		want[path] = true
		err := folder(filepath.Dir(path))
		if err == nil {
			var now bool
			if now, err = place(path, []byte(text)); now {
				changed = true
				f.o.Log.Info("a workload's unit gets a drop-in; it counts when the unit starts next", "unit", u.Name, "file", path)
			}
		}
		errs = append(errs, err)
	}
	have, err := filepath.Glob(filepath.Join(f.etc, "*.d", workloadFile))
	errs = append(errs, err)
	for _, path := range have {
		if !want[path] {
			changed = true
			errs = append(errs, withFolder(path))
		}
	}
	if changed {
		errs = append(errs, f.conn.ReloadContext(ctx))
	}
	for _, u := range plan.Units {
		if len(u.Proxies) > 0 {
			errs = append(errs, f.accompany(ctx, u.Name))
		}
	}
	return errors.Join(errs...)
}

// accompany starts the companion of a unit that was running before it had one, once in each run: who stops the companion by
// hand means to drain.
func (f *follower) accompany(ctx context.Context, unit string) error {
	now, err := f.units.State(ctx, unit)
	if err != nil || now.Load != "loaded" || now.Active != "active" || f.seen[unit] == now.Invocation {
		return err
	}
	beside, err := f.units.State(ctx, companionOf(unit))
	if err != nil {
		return err
	}
	f.seen[unit] = now.Invocation
	if rests(beside.Active) {
		// It fails if the unit is about to stop: "replace" would keep it from that.
		f.job(ctx, companionOf(unit), "start", func(ctx context.Context, name, _ string, result chan<- string) (int, error) {
			return f.conn.StartUnitContext(ctx, name, "fail", result)
		})
	}
	return nil
}

// DropIn returns when the drop-in of a workload's unit was written, if it has one.
func (a *Adapter) DropIn(unit string) (time.Time, bool) {
	info, err := os.Stat(filepath.Join(a.etc, unit+".d", workloadFile))
	if err != nil {
		return time.Time{}, false
	}
	return info.ModTime(), true
}

// resolver starts the resolver's unit if it is wanted, and stops it if it is not.
func (f *follower) resolver(ctx context.Context, wanted bool) error {
	units, err := f.conn.ListUnitsByPatternsContext(ctx, nil, []string{resolverUnit})
	if err != nil {
		return err
	}
	state := ""
	for _, u := range units {
		state = u.ActiveState
	}
	f.mu.Lock()
	busy := f.busy[resolverUnit]
	f.mu.Unlock()
	switch {
	case busy:
	case wanted && rests(state):
		f.job(ctx, resolverUnit, "start", f.conn.StartUnitContext)
	case !wanted && slices.Contains([]string{"active", "activating", "reloading"}, state):
		f.job(ctx, resolverUnit, "stop", f.conn.StopUnitContext)
	}
	return nil
}
