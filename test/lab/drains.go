package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"
)

// What of a drain is waited for may take as long as what is under way: streams of the load end soon.
const (
	appName       = "echo.service"
	companionUnit = "wattle-workload@echo.service"
	echoFile      = "/etc/wattle/services.d/echo.hcl"
)

// second has the third host serve what the callee serves, too, while do is done.
func (w *world) second(ctx context.Context, do func(*third) error) error {
	h, err := w.another(ctx)
	if err != nil {
		return err
	}
	text, err := w.callee.run(ctx, "cat", echoFile)
	if err == nil {
		err = h.write(echoFile, text+"\n", 0o644)
	}
	if err == nil {
		err = w.serves(ctx, h.host, true)
	}
	if err == nil {
		err = w.calm(ctx)
	}
	if err == nil {
		err = do(h)
	}
	_, gone := h.run(ctx, "rm", "-f", echoFile)
	return errors.Join(err, gone, w.serves(ctx, w.callee, true), w.serves(ctx, h.host, false), w.calm(ctx))
}

// serves waits until a host answers calls of the caller, or answers none of many.
func (w *world) serves(ctx context.Context, h *host, wanted bool) error {
	const calls = "for i in $(seq 40); do curl -sS --fail --max-time 2 http://127.0.0.1:9081/ || exit 1; done"
	return until(ctx, settle, fmt.Sprintf("%s answers calls: %v", h.name, wanted), func() error {
		out, err := w.caller.run(ctx, "sh", "-c", calls)
		if err == nil && strings.Contains(out, `"host":"`+h.name+`"`) != wanted {
			err = errors.New("it is not so yet")
		}
		return err
	})
}

// companioned waits until the callee's application has what drains it beside it.
func (w *world) companioned(ctx context.Context) error {
	return until(ctx, settle, companionUnit+" is active", func() error {
		state, err := w.callee.property(ctx, companionUnit, "ActiveState")
		if err == nil && state != "active" {
			err = errors.New("it is " + state)
		}
		return err
	})
}

// hostDrained takes the callee into maintenance, and while nobody calls it has its application end and start.
func hostDrained(ctx context.Context, w *world) error {
	return w.second(ctx, func(*third) error {
		var took time.Duration
		err := w.unharmed(ctx, "host drained, application killed there, host undrained", func() error {
			began := time.Now()
			if _, err := w.server.run(ctx, "wattle", "host", "drain", "h1", "-wait", "-reason", "new kernel"); err != nil {
				return err
			}
			took = time.Since(began)
			if _, err := w.callee.run(ctx, "systemctl", "kill", "--signal=KILL", appName); err != nil {
				return err
			}
			if err := w.wait(ctx, w.side); err != nil {
				return err
			}
			if _, err := w.callee.run(ctx, "systemctl", "start", appName); err != nil {
				return err
			}
			if _, err := w.server.run(ctx, "wattle", "host", "undrain", "h1"); err != nil {
				return err
			}
			return w.serves(ctx, w.callee, true)
		})
		w.rows.Note("host drained: after", took.Seconds(), "s")
		return err
	})
}

// appSteered stops, starts and restarts the callee's application as its operator does, who may know nothing of the mesh.
func appSteered(ctx context.Context, w *world) error {
	return w.second(ctx, func(*third) error {
		for _, verbs := range [][]string{{"stop", "start"}, {"restart"}} {
			if err := w.companioned(ctx); err != nil {
				return err
			}
			var took time.Duration
			err := w.unharmed(ctx, "application: systemctl "+strings.Join(verbs, ", systemctl "), func() error {
				for i, verb := range verbs {
					began := time.Now()
					if _, err := w.callee.run(ctx, "systemctl", verb, appName); err != nil {
						return err
					}
					if i == 0 {
						took = time.Since(began)
					}
				}
				return w.serves(ctx, w.callee, true)
			})
			w.rows.Note("application: systemctl "+verbs[0]+" took", took.Seconds(), "s")
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// appFails kills the callee's application, which systemd does not start again.
func appFails(ctx context.Context, w *world) error {
	return w.second(ctx, func(*third) error {
		var before, after time.Time // it was killed between them
		o, err := w.under(ctx, func() error {
			before = time.Now()
			if _, err := w.callee.run(ctx, "systemctl", "kill", "--signal=KILL", appName); err != nil {
				return err
			}
			after = time.Now()
			if err := w.wait(ctx, w.side); err != nil {
				return err
			}
			if _, err := w.callee.run(ctx, "sh", "-c", "systemctl reset-failed "+appName+" && systemctl start "+appName); err != nil {
				return err
			}
			return w.serves(ctx, w.callee, true)
		})
		if err != nil {
			return err
		}
		// What was delivered was due before: the longest of the load's requests lasts less than that.
		const longest = time.Second
		other := 0
		for _, due := range o.Times {
			if due.Before(before.Add(-longest)) || due.After(after.Add(lookAgain)) {
				other++
			}
		}
		w.tell(o)
		w.rows.Require(fmt.Sprintf("application killed with -9: failed that were not delivered to it, of %d requests", o.Sent), float64(other), "requests", 0)
		w.rows.Note("application killed with -9: failed that were", float64(o.Failed-other), "requests")
		return nil
	})
}

// residue lists what an agent leaves on a host if it does not clean up; the package's own is no part of it.
const residue = `
ls -A /var/lib/wattle/agent 2>/dev/null
find /run/wattle /run/wattle-envoy -mindepth 1 2>/dev/null
find /etc/systemd/system /run/systemd/system /run/systemd/system.control \( -name '60-wattle.conf' -o -name 'wattle-*' \) 2>/dev/null
systemctl list-units --plain --no-legend 'wattle*'
nft list table inet wattle 2>/dev/null
pgrep -a 'wattle|envoy'`

// hostLeaves takes the third host out of the mesh, purges it, and lets it in again.
func hostLeaves(ctx context.Context, w *world) error {
	return w.second(ctx, func(h *third) error {
		if err := h.load.stop(); err != nil { // its own calls end with its membership
			return err
		}
		h.load = nil
		err := w.unharmed(ctx, "host that serves leaves the mesh", func() error {
			_, err := h.run(ctx, "wattle", "agent", "leave")
			return err
		})
		if err != nil {
			return err
		}
		left, err := h.run(ctx, "sh", "-c", residue+" || true")
		if err != nil {
			return err
		}
		lines := strings.Fields(strings.ReplaceAll(left, " ", "_"))
		for _, line := range lines {
			fmt.Fprintln(os.Stderr, "lab:    left:", line)
		}
		w.rows.Require("host left: of agent and Envoys there is yet", float64(len(lines)), "things", 0)
		if out, err := w.server.run(ctx, "wattle", "host", "list"); err != nil || strings.Contains(out, h.name+" ") {
			return fmt.Errorf("the server knows it yet: %s, %w", out, err)
		}
		if _, err := h.run(ctx, "sh", "-c", "cp -r /etc/wattle /root/etc-wattle && dpkg --purge wattle && systemctl daemon-reload"); err != nil {
			return err
		}
		after, err := h.everything(ctx)
		if err != nil {
			return err
		}
		n := 0
		for _, line := range difference(h.before, after) {
			if !strings.Contains(line, "echo") { // the application's own
				n++
				fmt.Fprintln(os.Stderr, "lab:    left:", line)
			}
		}
		w.rows.Require("host left, package purged: there is yet", float64(n), "things", 0)
		return w.unharmed(ctx, "host that left joins again", func() error {
			if err := w.installPackage(ctx, h.host); err != nil {
				return err
			}
			if _, err := h.run(ctx, "sh", "-c", "cp /root/etc-wattle/services.d/*.hcl /etc/wattle/services.d/"); err != nil {
				return err
			}
			if err := w.join(ctx, h.host, "'default/*'"); err != nil {
				return err
			}
			if err := h.answered(ctx); err != nil {
				return err
			}
			h.load, err = startTraffic(ctx, h.host, otherTargets)
			return errors.Join(err, w.serves(ctx, h.host, true))
		})
	})
}
