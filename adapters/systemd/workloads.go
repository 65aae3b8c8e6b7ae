package systemd

import (
	"context"
	"errors"
	"fmt"
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

// dropIn is what a workload's unit gets; empty: nothing.
func dropIn(u adapters.Unit) string {
	if u.Resolv == "" {
		return ""
	}
	// The tmpfs hides systemd-resolved, whom nss-resolve would ask; the host's resolv.conf may be a link to a file in there.
	return fmt.Sprintf(`# The Wattle agent's, written anew when it changes: how this workload finds names of the mesh.
[Unit]
Wants=%[1]s
After=%[1]s

[Service]
TemporaryFileSystem=/run/systemd/resolve:ro,mode=0755
BindReadOnlyPaths=-%[2]s:/etc/resolv.conf
InaccessiblePaths=-/run/nscd
`, resolverUnit, strings.ReplaceAll(u.Resolv, "%", "%%"))
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
	return errors.Join(errs...)
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
	case wanted && slices.Contains([]string{"", "inactive", "failed"}, state):
		f.job(ctx, resolverUnit, "start", f.conn.StartUnitContext)
	case !wanted && slices.Contains([]string{"active", "activating", "reloading"}, state):
		f.job(ctx, resolverUnit, "stop", f.conn.StopUnitContext)
	}
	return nil
}
