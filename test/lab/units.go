package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// doctors has wattle doctor look at hosts that are well, and at one whose agent is stopped.
func (w *world) doctors(ctx context.Context) error {
	sick := 0
	for _, h := range []*host{w.callee, w.caller} {
		if out, err := h.run(ctx, "wattle", "doctor"); err != nil {
			sick++
			fmt.Fprintln(os.Stderr, "lab:   ", err, "\n"+out)
		}
	}
	w.rows.Require("wattle doctor: hosts that it says are not well, and are", float64(sick), "hosts", 0)
	if _, err := w.caller.run(ctx, "systemctl", "stop", "wattle-agent.socket", agentUnit); err != nil {
		return err
	}
	missed := 0.0
	out, err := w.caller.run(ctx, "sh", "-c", "wattle doctor -json || echo exit $?")
	if err != nil || !strings.HasSuffix(out, "exit 1") || !strings.Contains(out, "systemctl enable --now wattle.target wattle-agent") {
		missed = 1
		fmt.Fprintln(os.Stderr, "lab:   ", out, err)
	}
	w.rows.Require("wattle doctor: faults that it does not see", missed, "faults", 0)
	_, err = w.caller.run(ctx, "systemctl", "start", "wattle-agent.socket", agentUnit)
	return err
}

// reloaded has the server read its file again by systemctl reload: it is the same process after that, and says how it is.
func (w *world) reloaded(ctx context.Context) error {
	before, err := w.server.mainPID(ctx, serverUnit)
	if err != nil {
		return err
	}
	if _, err := w.server.run(ctx, "systemctl", "reload", serverUnit); err != nil {
		return err
	}
	err = until(ctx, settle, "the server has read its file again", func() error {
		_, err := w.server.run(ctx, "sh", "-ec", "journalctl -u wattle-server | grep -q 'file was read again'; systemctl is-active -q wattle-server")
		return err
	})
	if err != nil {
		return err
	}
	after, err := w.server.mainPID(ctx, serverUnit)
	if err != nil || after != before {
		return fmt.Errorf("the server is another process after a reload: %d, %w", after, err)
	}
	return w.server.statusText(ctx, serverUnit, "serves revision")
}

// statusText waits until a unit says that of itself.
func (h *host) statusText(ctx context.Context, unit, want string) error {
	return until(ctx, settle, unit+" says "+want, func() error {
		got, err := h.property(ctx, unit, "StatusText")
		if err == nil && !strings.Contains(got, want) {
			err = errors.New(got)
		}
		return err
	})
}

// units has systemd judge the units, and wattle doctor the hosts.
func units(ctx context.Context, w *world) error {
	for _, u := range []struct {
		host   *host
		unit   string
		target float64
	}{{w.server, serverUnit, 1.2}, {w.callee, agentUnit, 3.0}, {w.callee, envoyUnit, 1.8}} {
		out, err := u.host.run(ctx, "systemd-analyze", "security", "--no-pager", u.unit)
		if err != nil {
			return err
		}
		_, after, _ := strings.Cut(out, "Overall exposure level for "+u.unit+": ")
		level, err := strconv.ParseFloat(strings.Fields(after + " ?")[0], 64)
		if err != nil {
			return fmt.Errorf("what systemd-analyze says of %s: %w", u.unit, err)
		}
		w.rows.Require("systemd-analyze security "+u.unit, level, "points", u.target)
	}
	out, err := w.callee.run(ctx, "sh", "-c", "systemd-analyze verify --man=no $(find /usr/lib/systemd/system -maxdepth 1 -type f -name 'wattle*' | sed 's/wattle-workload@/&echo/') 2>&1") // of a unit that there is
	if err != nil {
		return err
	}
	w.rows.Require("systemd-analyze verify", float64(len(strings.Fields(out))), "complaints", 0)
	return errors.Join(w.reloaded(ctx), w.doctors(ctx))
}
