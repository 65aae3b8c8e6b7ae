package systemd

import (
	"context"
	"os/exec"
	"strings"
	"syscall"

	"github.com/coreos/go-systemd/v22/dbus"

	"github.com/wattle-mesh/wattle/adapters"
)

// lastLines is how much of a unit's journal is told when it has crashed.
const lastLines = "20"

// crashes tells of ends that systemd has followed by a start of its own since it was last looked. It begins to count anew
// when somebody starts the unit.
func (f *follower) crashes(p adapters.Proxy, unit string, now state) {
	was, known := f.restarts[unit]
	f.restarts[unit] = now.restarts
	if !known || f.o.Crashed == nil {
		return
	}
	for n := was; n < now.restarts; n++ {
		f.o.Crashed(adapters.Crash{Name: p.Name, Last: func(ctx context.Context) []string { return f.journal(ctx, unit) }})
	}
}

// journal returns the last lines of a unit. Its reader is in C only, so that journalctl is run, seldom.
func journal(ctx context.Context, unit string) []string {
	text, err := exec.CommandContext(ctx, "journalctl", "--quiet", "--no-pager", "--output=cat", "--lines="+lastLines, "--unit="+unit).Output()
	if err != nil {
		return []string{"its journal cannot be read: " + err.Error()}
	}
	return strings.Split(strings.TrimSpace(string(text)), "\n")
}

// Kill implements adapters.Killer.
func (a *Adapter) Kill(ctx context.Context, name string) error {
	conn, err := dbus.NewSystemConnectionContext(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	return conn.KillUnitWithTarget(ctx, unitName(name), dbus.Main, int32(syscall.SIGKILL))
}
