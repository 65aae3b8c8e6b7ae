package systemd

import (
	"context"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/activation"
	"github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sys/unix"
)

// What systemd is told (sd_notify).
const (
	Ready     = daemon.SdNotifyReady
	Stopping  = daemon.SdNotifyStopping
	Reloading = daemon.SdNotifyReloading
)

// Status is the line that systemctl status shows.
func Status(format string, args ...any) string { return "STATUS=" + fmt.Sprintf(format, args...) }

// MainPID makes another process the unit's main one.
func MainPID(pid int) string { return fmt.Sprintf("MAINPID=%d", pid) }

// BeginReload begins a reload; Ready ends it. systemd wants to know since when, by a clock that nobody sets.
func BeginReload() []string {
	var now unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &now) // there is one
	return []string{Reloading, fmt.Sprintf("MONOTONIC_USEC=%d", now.Nano()/1000)}
}

// IsUnit reports whether this process is the one of a unit that tells systemd how it is.
func IsUnit() bool { return os.Getenv("NOTIFY_SOCKET") != "" }

// Notify tells systemd. A process that is no unit's tells nobody.
func Notify(lines ...string) error {
	_, err := daemon.SdNotify(false, strings.Join(lines, "\n"))
	return err
}

// Watch feeds systemd's watchdog, if the unit has one, until ctx is done: each time after alive has returned without an
// error, which it does only if the work goes on. Who hangs is ended and started again.
func Watch(ctx context.Context, alive func(context.Context) error) error {
	period, err := daemon.SdWatchdogEnabled(false)
	if err != nil || period == 0 {
		return err
	}
	ticker := time.NewTicker(period / 4)
	defer ticker.Stop()
	for {
		if alive(ctx) == nil {
			if err := Notify(daemon.SdNotifyWatchdog); err != nil {
				return err
			}
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// Sockets are the listeners that systemd opened for this process.
type Sockets struct{ open []net.Listener }

// Activated takes the sockets that came with this process. It is called once.
func Activated() (*Sockets, error) {
	all, err := activation.Listeners()
	if err != nil {
		return nil, fmt.Errorf("the sockets that systemd passed: %w", err)
	}
	s := new(Sockets)
	for _, l := range all {
		if l != nil { // a socket of another kind
			s.open = append(s.open, l)
		}
	}
	return s, nil
}

// Take returns the listener on an address ("127.0.0.1:7500", "/run/wattle/agent.sock"), or nil if systemd has not opened it.
func (s *Sockets) Take(address string) net.Listener {
	for i, l := range s.open {
		if l != nil && l.Addr().String() == address {
			s.open[i] = nil
			return l
		}
	}
	return nil
}

// Left returns the addresses that nobody took, and closes these listeners.
func (s *Sockets) Left() []string {
	var out []string
	for _, l := range s.open {
		if l != nil {
			out = append(out, l.Addr().String())
			_ = l.Close()
		}
	}
	s.open = nil
	return out
}
