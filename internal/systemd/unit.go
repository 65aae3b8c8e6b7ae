package systemd

import (
	"context"
	"fmt"
	"time"

	"github.com/coreos/go-systemd/v22/dbus"
)

// Unit is how a unit is.
type Unit struct {
	Name    string
	Load    string // "loaded", "not-found", "masked"
	Active  string // "active", "inactive", "failed", "activating", ...
	Sub     string // "running", "dead", "auto-restart", ...
	File    string // "enabled", "disabled", "static", ...; empty: there is no file
	MainPID int    // 0: none
	Since   time.Time
}

// String says it as people do: "active (running)".
func (u Unit) String() string {
	if u.Load != "loaded" {
		return u.Load
	}
	return u.Active + " (" + u.Sub + ")"
}

// Look asks systemd how a unit is. One that it does not know is not-found.
func Look(ctx context.Context, name string) (Unit, error) {
	conn, err := dbus.NewSystemConnectionContext(ctx)
	if err != nil {
		return Unit{}, fmt.Errorf("systemd cannot be asked: %w", err)
	}
	defer conn.Close()
	all, err := conn.GetAllPropertiesContext(ctx, name)
	if err != nil {
		return Unit{}, fmt.Errorf("systemd: %s: %w", name, err)
	}
	text := func(key string) string { s, _ := all[key].(string); return s }
	u := Unit{Name: name, Load: text("LoadState"), Active: text("ActiveState"), Sub: text("SubState"), File: text("UnitFileState")}
	if pid, ok := all["MainPID"].(uint32); ok {
		u.MainPID = int(pid)
	}
	if at, ok := all["ActiveEnterTimestamp"].(uint64); ok && at > 0 {
		u.Since = time.UnixMicro(int64(at))
	}
	return u, nil
}

// Job is what systemd can be asked to do with a unit.
type Job string

// The jobs.
const (
	Start   Job = "start"
	Stop    Job = "stop"
	Restart Job = "restart"
	Reload  Job = "reload"
)

// Do has systemd do something with a unit, and waits for the end of it.
func Do(ctx context.Context, job Job, unit string) error {
	conn, err := dbus.NewSystemConnectionContext(ctx)
	if err != nil {
		return fmt.Errorf("systemd cannot be asked: %w", err)
	}
	defer conn.Close()
	do := map[Job]func(context.Context, string, string, chan<- string) (int, error){
		Start: conn.StartUnitContext, Stop: conn.StopUnitContext, Restart: conn.RestartUnitContext, Reload: conn.ReloadUnitContext,
	}[job]
	result := make(chan string, 1)
	if _, err := do(ctx, unit, "replace", result); err != nil {
		return fmt.Errorf("systemd: %s %s: %w", job, unit, err)
	}
	select {
	case r := <-result:
		if r != "done" {
			return fmt.Errorf("systemd: %s %s: the job ended with %q; journalctl -u %s says why", job, unit, r, unit)
		}
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Disable has a unit not start with the host any more.
func Disable(ctx context.Context, units ...string) error {
	conn, err := dbus.NewSystemConnectionContext(ctx)
	if err != nil {
		return fmt.Errorf("systemd cannot be asked: %w", err)
	}
	defer conn.Close()
	if _, err := conn.DisableUnitFilesContext(ctx, units, false); err != nil {
		return fmt.Errorf("systemd: disable: %w", err)
	}
	return conn.ReloadContext(ctx)
}

// Version returns systemd's own, "252.39-1~deb12u1".
func Version(ctx context.Context) (string, error) {
	conn, err := dbus.NewSystemConnectionContext(ctx)
	if err != nil {
		return "", fmt.Errorf("systemd cannot be asked: %w", err)
	}
	defer conn.Close()
	v, err := conn.GetManagerProperty("Version")
	if len(v) > 1 && v[0] == '"' {
		v = v[1 : len(v)-1]
	}
	return v, err
}
