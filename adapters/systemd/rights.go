package systemd

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/wattle-mesh/wattle/adapters"
)

// lowPorts lets a unit listen on ports below 1024. Its process has that right only if it was started with it.
const (
	lowPortsFile = "50-wattle-low-ports.conf"
	lowPortsText = "# The agent's: this proxy listens on a port below 1024.\n[Service]\nAmbientCapabilities=CAP_NET_BIND_SERVICE\nCapabilityBoundingSet=CAP_NET_BIND_SERVICE\n"
	lowPortsBit  = 1 << unix.CAP_NET_BIND_SERVICE
)

// again is how long a unit is left alone that could not be replaced.
const again = time.Minute

// dropIns makes the drop-ins of all units those of the plan, and has systemd read them if that changed anything.
func (f *follower) dropIns(ctx context.Context, plan adapters.Plan) error {
	changed := false
	low, bounded := map[string]bool{}, map[string]adapters.Resources{}
	for _, p := range plan.Proxies {
		bounded[unitName(p.Name)] = p.Resources
		if !p.LowPorts {
			continue
		}
		low[unitName(p.Name)] = true
		path := filepath.Join(f.runUnits(), unitName(p.Name)+".d", lowPortsFile)
		err := folder(filepath.Dir(path))
		if err == nil {
			var now bool
			now, err = place(path, []byte(lowPortsText))
			changed = changed || now
		}
		if err != nil {
			return fmt.Errorf("let %s listen below port 1024: %w", p.ID, err)
		}
	}
	stale, err := filepath.Glob(filepath.Join(f.runUnits(), unitName("*")+".d", lowPortsFile))
	if err != nil {
		return err
	}
	for _, path := range stale {
		if !low[strings.TrimSuffix(filepath.Base(filepath.Dir(path)), ".d")] {
			changed = true
			if err := withFolder(path); err != nil {
				return err
			}
		}
	}
	freed, err := f.free(bounded)
	if err != nil {
		return err
	}
	if changed || freed {
		return f.conn.ReloadContext(ctx)
	}
	return nil
}

// withFolder removes a file, and its folder if nothing else is in it.
func withFolder(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Remove(filepath.Dir(path)); err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENOTEMPTY) {
		return err
	}
	return nil
}

// entitle has an Envoy replaced that was started with other rights than its unit says: a reload starts the next one with
// them, and loses no request.
func (f *follower) entitle(ctx context.Context, proxy, unit string, now state) {
	if now.pid == 0 || time.Now().Before(f.late[unit]) {
		return
	}
	has, err := f.rights(now.pid)
	if err != nil || (has^now.ambient)&lowPortsBit == 0 {
		return // it may just have ended: systemd says so
	}
	what := "it may listen on ports below 1024 from now on"
	if has&lowPortsBit != 0 {
		what = "it needs no port below 1024 any more"
	}
	f.o.Log.Info("a proxy is replaced by hot restart to change its rights", "proxy", proxy, "why", what)
	f.late[unit] = time.Now().Add(again)
	f.job(ctx, unit, "reload", f.conn.ReloadUnitContext)
}

// effective returns the effective capabilities of a process.
func effective(pid uint32) (uint64, error) {
	path := fmt.Sprintf("/proc/%d/status", pid)
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	_, rest, ok := strings.Cut(string(text), "\nCapEff:\t")
	if !ok {
		return 0, fmt.Errorf("%s says nothing of capabilities", path)
	}
	word, _, _ := strings.Cut(rest, "\n")
	return strconv.ParseUint(word, 16, 64)
}
