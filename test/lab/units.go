package main

import (
	"context"
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
	return w.doctors(ctx)
}
