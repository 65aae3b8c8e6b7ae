package launch

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/wattle-mesh/wattle/internal/admin"
	"github.com/wattle-mesh/wattle/internal/systemd"
)

// The files of an Envoy's own run folder.
const (
	AdminSocket = "admin.sock"
	restartPath = "hot-restart" // Envoys speak to their successors here
	baseFile    = "base-id"     // tells the Envoys of this unit from others
	stateFile   = "running.json"
	lockFile    = "reload.lock"
)

const lookAgain = 10 * time.Millisecond

// Unit is one proxy as its unit sees it.
type Unit struct {
	Dir string // of the spec and the bootstrap: /run/wattle/host
	Run string // the unit's own folder: /run/wattle-envoy/host
	Say func(format string, args ...any)
	// Self is the path of this program, and Announcer and Successor are the arguments with which it runs Announce and Next.
	Self                 string
	Announcer, Successor []string
}

// running is which Envoy serves.
type running struct {
	Epoch uint32 `json:"epoch"`
	PID   int    `json:"pid"`
	Old   int    `json:"old_pid,omitempty"` // the one it replaced, which may drain yet
}

func (u Unit) path(name string) string { return filepath.Join(u.Run, name) }

// args are the arguments of an Envoy of this unit.
func (u Unit) args(spec Spec, more ...string) []string {
	args := spec.Args(filepath.Join(u.Dir, BootstrapFile))
	args = append(args, "--socket-path", u.path(restartPath), "--socket-mode", "0600", "--parent-shutdown-time-s", seconds(spec.Shutdown))
	return append(args, more...)
}

// Start becomes the first Envoy of the unit: it returns only if it cannot.
func (u Unit) Start(ctx context.Context) error {
	spec, err := Read(u.Dir)
	if err != nil {
		return err
	}
	for _, name := range []string{AdminSocket, baseFile, stateFile} {
		if err := remove(u.path(name)); err != nil {
			return err
		}
	}
	if err := u.keep(running{PID: os.Getpid()}); err != nil {
		return err
	}
	if _, err := u.apart(ctx, u.Announcer); err != nil {
		return err
	}
	return become(spec, u.args(spec, "--use-dynamic-base-id", "--base-id-path", u.path(baseFile)))
}

// apart starts this program with these arguments as a process whose parent is init, not this one, and returns its id.
func (u Unit) apart(ctx context.Context, args []string) (pid int, err error) {
	between := exec.CommandContext(ctx, "/bin/sh", append([]string{"-c", `"$@" >&2 & echo $!`, "sh", u.Self}, args...)...)
	between.Stderr = os.Stderr
	out, err := between.Output()
	if err == nil {
		pid, err = strconv.Atoi(strings.TrimSpace(string(out)))
	}
	if err != nil {
		return 0, fmt.Errorf("start %s: %w", args[:2], err)
	}
	return pid, nil
}

// become turns this process into an Envoy: it returns only if it cannot.
func become(spec Spec, args []string) error {
	err := syscall.Exec(spec.Envoy, append([]string{spec.Envoy}, args...), os.Environ())
	return fmt.Errorf("%s: %w", spec.Envoy, err)
}

// Announce tells systemd that the unit is ready once its first Envoy serves.
func (u Unit) Announce(ctx context.Context) error {
	now, err := u.running()
	if err != nil {
		return err
	}
	server, err := u.live(ctx, now.Epoch, now.PID)
	if err != nil {
		return err
	}
	return systemd.Notify(systemd.Ready, status(server))
}

func status(s admin.Server) string {
	return systemd.Status("Envoy %s serves, epoch %d", s.Release(), s.Options.Epoch)
}

// live waits until the Envoy of an epoch serves, or its process has ended.
func (u Unit) live(ctx context.Context, epoch uint32, pid int) (admin.Server, error) {
	client := admin.New(u.path(AdminSocket))
	for {
		server, err := client.Server(ctx)
		if err == nil && server.Options.Epoch == epoch && server.State == admin.Live {
			return server, nil
		}
		if ended(pid) {
			return server, errors.New("it has ended, see its log")
		}
		select {
		case <-time.After(lookAgain):
		case <-ctx.Done():
			if err == nil {
				err = fmt.Errorf("it is %s, of epoch %d", server.State, server.Options.Epoch)
			}
			return server, fmt.Errorf("%w: %w", context.Cause(ctx), err)
		}
	}
}

// ended reports whether a process is no more, or a zombie. It asks by a pidfd: /proc hides much from a unit.
func ended(pid int) bool {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return errors.Is(err, unix.ESRCH)
	}
	defer unix.Close(fd)
	n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
	return err == nil && n == 1
}

// quiet is how long nothing may be under way until an Envoy that drains has drained: who is connected has had the time to
// learn of it.
const quiet = 2 * time.Second

// Drain has everybody who is connected leave: it returns when they have, or all are idle, or the spec's Drain is over.
func (u Unit) Drain(ctx context.Context) error {
	spec, err := Read(u.Dir)
	if err != nil {
		return err
	}
	client := admin.New(u.path(AdminSocket))
	if err := client.Drain(ctx); err != nil {
		u.Say("the Envoy cannot be asked to drain: %v", err)
		return nil // it has ended, and nobody is connected
	}
	ctx, cancel := context.WithTimeout(ctx, spec.Drain)
	defer cancel()
	busy := time.Now()
	for {
		connected, err := client.Connections(ctx)
		if err != nil || connected == 0 {
			return nil
		}
		active, err := client.Active(ctx)
		switch {
		case err != nil || active > 0:
			busy = time.Now()
		case time.Since(busy) > quiet:
			return nil
		}
		select {
		case <-time.After(lookAgain):
		case <-ctx.Done():
			u.Say("%d requests and connections are under way after %s", active, spec.Drain)
			return nil
		}
	}
}

func (u Unit) running() (now running, err error) {
	text, err := os.ReadFile(u.path(stateFile))
	if err == nil {
		err = json.Unmarshal(text, &now)
	}
	return now, err
}

func (u Unit) keep(now running) error {
	text, err := json.Marshal(now)
	if err != nil {
		return err
	}
	tmp := u.path(stateFile + ".tmp")
	if err := os.WriteFile(tmp, text, 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, u.path(stateFile))
}
