package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// has waits until a property of a unit of the callee has a value.
func (w *world) has(ctx context.Context, unit, name, want string) error {
	return until(ctx, settle, unit+" has "+name+"="+want, func() error {
		got, err := w.callee.property(ctx, unit, name)
		if err == nil && got != want {
			err = fmt.Errorf("it is %q", got)
		}
		return err
	})
}

// capabilities returns those of the main process of a unit of the callee.
func (w *world) capabilities(ctx context.Context, unit string) (uint64, error) {
	pid, err := w.callee.mainPID(ctx, unit)
	if err != nil {
		return 0, err
	}
	out, err := w.callee.run(ctx, "sed", "-n", `s/^CapEff:\t//p`, fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	return strconv.ParseUint(out, 16, 64)
}

// rights gives a gateway a port below 1024 and bounds for what it uses, and takes both away.
func rights(ctx context.Context, w *world) error {
	if err := w.gateway(port(8000)); err != nil {
		return err
	}
	if err := until(ctx, settle, "the gateway answers", func() error { return w.reached(ctx, 8000) }); err != nil {
		return err
	}
	since, err := w.callee.property(ctx, gatewayUnit, "InactiveExitTimestampMonotonic")
	if err != nil {
		return err
	}
	tasks, err := w.callee.property(ctx, gatewayUnit, "TasksMax")
	if err != nil {
		return err
	}
	err = w.unharmed(ctx, "a gateway gets a port below 1024, and bounds: through other Envoys", func() error {
		return w.sameEnvoys(ctx, func() error {
			return errors.Join(w.lowPort(ctx), w.bounds(ctx, tasks))
		})
	})
	if err != nil {
		return err
	}
	now, err := w.callee.property(ctx, gatewayUnit, "InactiveExitTimestampMonotonic")
	if err != nil {
		return err
	}
	restarts := 0.0
	if now != since {
		restarts = 1
	}
	w.rows.Require("the gateway was stopped to get a right", restarts, "times", 0)
	if err := w.newer(ctx); err != nil {
		return err
	}
	if err := w.gateway(""); err != nil {
		return err
	}
	return w.gone(ctx, gatewayUnit)
}

// lowPort moves the gateway to port 80 and back.
func (w *world) lowPort(ctx context.Context) error {
	if err := w.gateway(port(8000) + port(80)); err != nil {
		return err
	}
	began := time.Now()
	if err := until(ctx, time.Minute, "the gateway answers on port 80", func() error { return w.reached(ctx, 80) }); err != nil {
		return err
	}
	w.rows.Note("a gateway serves on port 80", time.Since(began).Seconds(), "s")
	if got, err := w.capabilities(ctx, gatewayUnit); err != nil || got != 1<<10 {
		return fmt.Errorf("its capabilities are %x, not CAP_NET_BIND_SERVICE alone: %w", got, err)
	}
	if err := w.gateway(port(8000)); err != nil {
		return err
	}
	return until(ctx, 3*time.Minute, "the gateway has no right any more", func() error {
		got, err := w.capabilities(ctx, gatewayUnit)
		if err == nil && got != 0 {
			err = fmt.Errorf("%x", got)
		}
		return err
	})
}

// bounds sets what the gateway may use, by the policy and by hand.
func (w *world) bounds(ctx context.Context, tasks string) error {
	const some = "  proxy {\n    memory_high = \"300MB\"\n    cpu_weight  = 50\n    tasks_max   = 100\n  }\n"
	if err := w.gateway(port(8000) + some); err != nil {
		return err
	}
	for name, want := range map[string]string{"MemoryHigh": strconv.Itoa(300 << 20), "CPUWeight": "50", "TasksMax": "100"} {
		if err := w.has(ctx, gatewayUnit, name, want); err != nil {
			return err
		}
	}
	group, err := w.callee.property(ctx, gatewayUnit, "ControlGroup")
	if err != nil {
		return err
	}
	kernel, err := w.callee.run(ctx, "sh", "-c", "cat /sys/fs/cgroup/pids"+group+"/pids.max /sys/fs/cgroup"+group+"/pids.max 2>/dev/null || :")
	if err != nil {
		return err
	}
	if kernel != "" && kernel != "100" {
		return fmt.Errorf("the kernel lets it have %s tasks", kernel)
	}
	if _, err := w.callee.run(ctx, "systemctl", "set-property", "--runtime", gatewayUnit, "TasksMax=77"); err != nil {
		return err
	}
	if err := w.has(ctx, gatewayUnit, "TasksMax", "100"); err != nil {
		return err
	}
	if err := w.gateway(port(8000)); err != nil {
		return err
	}
	return errors.Join(w.has(ctx, gatewayUnit, "MemoryHigh", "infinity"), w.has(ctx, gatewayUnit, "CPUWeight", "[not set]"), w.has(ctx, gatewayUnit, "TasksMax", tasks))
}

// newer looks whether the units have the settings of this systemd, and none of a newer one.
func (w *world) newer(ctx context.Context) error {
	first, err := w.callee.run(ctx, "sh", "-c", "systemctl --version | sed -n '1s/^systemd \\([0-9]*\\).*/\\1/p'")
	if err != nil {
		return err
	}
	version, err := strconv.Atoi(first)
	if err != nil {
		return err
	}
	for _, unit := range []string{agentUnit, envoyUnit} {
		paths, err := w.callee.property(ctx, unit, "DropInPaths")
		if err != nil {
			return err
		}
		for _, since := range []int{250, 254} {
			if has := strings.Contains(paths, fmt.Sprintf("50-systemd-%d.conf", since)); has != (version >= since) && (since == 250 || unit == agentUnit) {
				return fmt.Errorf("systemd %d, but %s has the drop-ins %q", version, unit, paths)
			}
		}
	}
	return nil
}

// otherVersion reloads to a binary that cannot take over: the Envoy that runs drains and ends, and the other one starts.
func otherVersion(ctx context.Context, w *world) error {
	h := w.callee
	if _, err := h.run(ctx, "mv", "/usr/bin/envoy", "/usr/bin/envoy.good"); err != nil {
		return err
	}
	const other = "#!/bin/sh\n[ \"$1\" != --hot-restart-version ] || exec echo 12.104\nexec /usr/bin/envoy.good \"$@\"\n"
	if err := h.write("/usr/bin/envoy", other, 0o755); err != nil {
		return err
	}
	old, err := h.mainPID(ctx, envoyUnit)
	if err != nil {
		return err
	}
	var began, ready time.Time
	o, err := w.under(ctx, func() error {
		began = time.Now()
		if _, err := h.run(ctx, "systemctl", "reload", envoyUnit); err != nil {
			return err
		}
		err := until(ctx, settle, "the other Envoy serves", func() error {
			pid, err := h.mainPID(ctx, envoyUnit)
			if err == nil && pid == old {
				err = errors.New("the old one is there yet")
			}
			if err == nil {
				_, err = h.run(ctx, "systemctl", "is-active", envoyUnit)
			}
			return err
		})
		ready = time.Now()
		return err
	})
	if err != nil {
		return err
	}
	w.rows.Note("another hot restart version: from reload until the other Envoy serves", ready.Sub(began).Seconds(), "s")
	outside := 0
	for _, t := range o.Times {
		if t.Before(began) || t.After(ready) {
			outside++
		}
	}
	w.rows.Require("another hot restart version: failed once it was ready", float64(outside), "requests", 0)
	w.rows.Note(fmt.Sprintf("another hot restart version: failed of %d requests", o.Sent), float64(o.Failed), "requests")
	if _, err := h.run(ctx, "mv", "/usr/bin/envoy.good", "/usr/bin/envoy"); err != nil {
		return err
	}
	if _, err := h.run(ctx, "systemctl", "reload", envoyUnit); err != nil {
		return err
	}
	return w.calm(ctx)
}
