package launch

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/wattle-mesh/wattle/internal/admin"
	"github.com/wattle-mesh/wattle/internal/systemd"
)

// liveLimit is how long an Envoy that is to replace another may take until it serves.
const liveLimit = 30 * time.Second

// endLimit is how long an Envoy that has drained may take to end.
const endLimit = 5 * time.Second

var hotPattern = regexp.MustCompile(`(?m)^[0-9]+\.[0-9]+$`)

var errTooLong = errors.New("it does not end")

// Reload replaces the unit's Envoy by one of today's binary and bootstrap, without losing a request: the new one takes the
// listening sockets over, is the unit's main process once it serves, and the old one drains and ends. When that cannot be,
// the old one serves on and the error says why. A reload waits for the end of the drain of the one before. A binary whose
// hot restart version differs cannot take anything over: the Envoy that runs drains and ends, and systemd starts the new one,
// as the unit says (Restart=always).
func (u Unit) Reload(ctx context.Context) error {
	lock, err := u.lock()
	if err != nil {
		return err
	}
	defer lock.Close()
	spec, err := Read(u.Dir)
	if err != nil {
		return err
	}
	now, err := u.running()
	if err != nil {
		return fmt.Errorf("it is not known which Envoy runs: %w", err)
	}
	is, will, err := u.versions(ctx, spec.Envoy, now)
	if err != nil {
		return err
	}
	if now.Old != 0 && !ended(now.Old) {
		u.Say("wait for the Envoy that drains yet, process %d", now.Old)
		if err := waitEnd(ctx, now.Old); err != nil {
			return err
		}
	}
	if is != will {
		u.Say("%s cannot take over from the Envoy that runs (hot restart version %s, not %s): that drains and ends, then the new one starts", spec.Envoy, will, is)
		return u.relieve(ctx, spec, now)
	}
	next := now.Epoch + 1
	pid, err := u.apart(ctx, append(u.Successor, strconv.FormatUint(uint64(next), 10)))
	if err != nil {
		return err
	}
	limited, cancel := context.WithTimeoutCause(ctx, liveLimit, fmt.Errorf("it does not serve after %s", liveLimit))
	defer cancel()
	server, err := u.live(limited, next, pid)
	if err != nil {
		return errors.Join(fmt.Errorf("the new Envoy: %w; the old one, process %d, serves on", err, now.PID), u.abandon(ctx, pid))
	}
	if err := u.keep(running{Epoch: next, PID: pid, Old: now.PID}); err != nil {
		return err
	}
	return systemd.Notify(systemd.Ready, systemd.MainPID(pid), status(server))
}

// Next becomes the Envoy of an epoch that takes over from the one before: it returns only if it cannot. Envoy ends with the
// process that started it, so it starts only when that is init.
func (u Unit) Next(ctx context.Context, epoch uint32) error {
	spec, err := Read(u.Dir)
	if err != nil {
		return err
	}
	base, err := os.ReadFile(u.path(baseFile))
	if err != nil {
		return err
	}
	for os.Getppid() != 1 {
		select {
		case <-time.After(lookAgain):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return become(spec, u.args(spec, "--base-id", strings.TrimSpace(string(base)), "--restart-epoch", strconv.FormatUint(uint64(epoch), 10)))
}

// abandon ends an Envoy that was not to be.
func (u Unit) abandon(ctx context.Context, pid int) error {
	if err := unix.Kill(pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
		return err
	}
	return waitEnd(ctx, pid)
}

// versions returns the hot restart versions of the Envoy that runs and of a binary.
func (u Unit) versions(ctx context.Context, envoy string, now running) (is, will string, err error) {
	if ended(now.PID) {
		return "", "", fmt.Errorf("process %d has ended; systemctl restart starts another", now.PID)
	}
	// Its file may be another by now, or gone; and the kernel shows that of a process with more rights than this one to nobody.
	// An Envoy whose successor failed has no admin interface any more.
	if is, err = admin.New(u.path(AdminSocket)).HotRestartVersion(ctx); err != nil {
		is, err = HotVersion(ctx, filepath.Join("/proc", strconv.Itoa(now.PID), "exe"))
	}
	if err == nil {
		will, err = HotVersion(ctx, envoy)
	}
	return is, will, err
}

// relieve has the Envoy that runs drain and end, if the new binary takes the bootstrap at all.
func (u Unit) relieve(ctx context.Context, spec Spec, now running) error {
	out, err := exec.CommandContext(ctx, spec.Envoy, "--mode", "validate", ConfigFlag, filepath.Join(u.Dir, BootstrapFile)).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s does not take the bootstrap: %w: %s; the old one, process %d, serves on", spec.Envoy, err, strings.TrimSpace(string(out)), now.PID)
	}
	if err := u.Drain(ctx); err != nil {
		return err
	}
	if err := unix.Kill(now.PID, unix.SIGTERM); err != nil && !errors.Is(err, unix.ESRCH) {
		return err
	}
	limited, cancel := context.WithTimeoutCause(ctx, endLimit, errTooLong)
	defer cancel()
	if err := waitEnd(limited, now.PID); !errors.Is(err, errTooLong) {
		return err
	}
	return u.abandon(ctx, now.PID)
}

// HotVersion asks a binary which others it can take over from.
func HotVersion(ctx context.Context, envoy string) (string, error) {
	out, err := exec.CommandContext(ctx, envoy, "--hot-restart-version").CombinedOutput() // Envoy says it on stderr
	version := hotPattern.Find(out)
	if err == nil && version == nil {
		err = errors.New("it says none")
	}
	if err != nil {
		return "", fmt.Errorf("%s --hot-restart-version: %w: %s", envoy, err, bytes.TrimSpace(out))
	}
	return string(version), nil
}

// waitEnd waits until a process has ended.
func waitEnd(ctx context.Context, pid int) error {
	for !ended(pid) {
		select {
		case <-time.After(lookAgain):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// lock keeps other reloads of the unit out until it is closed.
func (u Unit) lock() (*os.File, error) {
	f, err := os.OpenFile(u.path(lockFile), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("another reload is under way: %w", err), f.Close())
	}
	return f, nil
}
