package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"
)

// units has systemd judge the units.
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
	out, err := w.callee.run(ctx, "sh", "-c", "systemd-analyze verify --man=no $(find /usr/lib/systemd/system -maxdepth 1 -type f -name 'wattle*') 2>&1")
	if err != nil {
		return err
	}
	w.rows.Require("systemd-analyze verify", float64(len(strings.Fields(out))), "complaints", 0)
	return nil
}
