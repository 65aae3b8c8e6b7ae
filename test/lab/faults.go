package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
)

const (
	agentUnit  = "wattle-agent.service"
	serverUnit = "wattle-server.service"
	envoyUnit  = "wattle-envoy@host.service"
)

// fault is one way to break the mesh. When it ends, the mesh is whole again.
type fault struct {
	name string
	run  func(context.Context, *world) error
}

var faults = []fault{
	{"units", units},
	{"agents killed", agentsKilled},
	{"agents stopped", agentsStopped},
	{"server killed", serverKilled},
	{"server stopped, Envoy restarted", serverStopped},
	{"hosts restarted without a server", rebooted},
	{"agents dead, first calls", firstCalls},
	{"Envoy killed", envoyKilled},
	{"Envoys reloaded", envoysReloaded},
	{"reload that cannot succeed", reloadFails},
	{"another hot restart version", otherVersion},
	{"rights and resources", rights},
	{"policy that crashes Envoy", policyCrashes},
	{"policy that hangs Envoy", policyHangs},
	{"package installed again", upgraded},
	{"purged", purged},
}

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
	out, err := w.callee.run(ctx, "sh", "-c", "systemd-analyze verify --man=no /usr/lib/systemd/system/wattle* 2>&1")
	if err != nil {
		return err
	}
	w.rows.Require("systemd-analyze verify", float64(len(strings.Fields(out))), "complaints", 0)
	return nil
}

// sameEnvoys runs f and fails if one of the Envoys is another process after it.
func (w *world) sameEnvoys(ctx context.Context, f func() error) error {
	pids := func() (string, error) {
		a, errA := w.callee.mainPID(ctx, envoyUnit)
		b, errB := w.caller.mainPID(ctx, envoyUnit)
		return fmt.Sprint(a, b), errors.Join(errA, errB)
	}
	before, err := pids()
	if err != nil {
		return err
	}
	if err := f(); err != nil {
		return err
	}
	after, err := pids()
	if err == nil && before != after {
		err = fmt.Errorf("the Envoys' processes are %s, before they were %s", after, before)
	}
	return err
}

func agentsKilled(ctx context.Context, w *world) error {
	var longest time.Duration
	err := w.unharmed(ctx, "agents killed with -9", func() error {
		return w.sameEnvoys(ctx, func() error {
			for _, h := range []*host{w.callee, w.caller} {
				took, err := h.kill9(ctx, agentUnit)
				if err != nil {
					return err
				}
				longest = max(longest, took)
			}
			return nil
		})
	})
	w.rows.Require("agent back after it was killed", longest.Seconds(), "s", 1)
	return err
}

func agentsStopped(ctx context.Context, w *world) error {
	return w.unharmed(ctx, "agents stopped, and started", func() error {
		return w.sameEnvoys(ctx, func() error {
			for _, verb := range []string{"stop", "start"} {
				for _, h := range []*host{w.callee, w.caller} {
					if _, err := h.run(ctx, "systemctl", verb, agentUnit); err != nil {
						return err
					}
				}
				if err := w.wait(ctx, w.side); err != nil {
					return err
				}
			}
			return nil
		})
	})
}

func serverKilled(ctx context.Context, w *world) error {
	return w.unharmed(ctx, "server killed with -9", func() error {
		took, err := w.server.kill9(ctx, serverUnit)
		w.rows.Note("server back after it was killed", took.Seconds(), "s")
		return err
	})
}

// serverStopped restarts an Envoy while no server runs: its agent has all that it needs.
func serverStopped(ctx context.Context, w *world) error {
	if _, err := w.server.run(ctx, "systemctl", "stop", "wattle-server.socket", serverUnit); err != nil {
		return err
	}
	for _, h := range []*host{w.callee, w.caller} {
		if _, err := h.run(ctx, "systemctl", "restart", envoyUnit); err != nil {
			return err
		}
		took, err := h.starting(ctx, envoyUnit)
		if err != nil {
			return err
		}
		w.rows.Require("no server: Envoy of "+h.name+" ready", took.Seconds(), "s", 1)
	}
	if err := w.calm(ctx); err != nil {
		return err
	}
	err := w.unharmed(ctx, "no server runs", func() error { return nil })
	_, started := w.server.run(ctx, "systemctl", "start", "wattle-server.socket", serverUnit)
	return errors.Join(err, started)
}

// rebooted turns both hosts off and on while no server runs: one in good order, one as a power cut does.
func rebooted(ctx context.Context, w *world) error {
	if _, err := w.server.run(ctx, "systemctl", "stop", "wattle-server.socket", serverUnit); err != nil {
		return err
	}
	if err := w.load.stop(); err != nil {
		return err
	}
	w.load = nil
	if err := w.callee.poweroff(ctx); err != nil {
		return err
	}
	w.caller.cut()
	for _, h := range []*host{w.callee, w.caller} {
		if err := h.start(ctx); err != nil {
			return err
		}
	}
	began := time.Now()
	if err := w.answered(ctx); err != nil {
		return err
	}
	w.rows.Require("no server: the hosts serve after they were up again", time.Since(began).Seconds(), "s", 10)
	for _, h := range []*host{w.callee, w.caller} {
		took, err := h.starting(ctx, envoyUnit)
		if err != nil {
			return err
		}
		w.rows.Require("no server: Envoy of "+h.name+" ready from disk", took.Seconds(), "s", 1)
	}
	var err error
	if w.load, err = startTraffic(ctx, w.caller, targets); err != nil {
		return err
	}
	if err := w.calm(ctx); err != nil {
		return err
	}
	return w.unharmed(ctx, "server back after the hosts", func() error {
		_, err := w.server.run(ctx, "systemctl", "start", "wattle-server.socket", serverUnit)
		return err
	})
}

// firstCalls has a workload that never called call while its host's agent is dead, and the other one's too.
func firstCalls(ctx context.Context, w *world) error {
	const late = "service \"late\" {\n  port = 9998\n  upstream \"echo\" {\n    port = 8080\n    bind = \"127.0.0.1:9091\"\n  }\n}\n"
	if err := w.caller.write("/etc/wattle/services.d/late.hcl", late, 0o644); err != nil {
		return err
	}
	// The agent may have to find a server first that was away for long.
	err := until(ctx, time.Minute, "the late caller's listener and certificate are there", func() error {
		const dump = "curl -sS --unix-socket /run/wattle-envoy/host/admin.sock 'http://envoy/config_dump?resource=dynamic_active_secrets'"
		_, err := w.caller.run(ctx, "sh", "-c", "ss -ltn | grep -q 127.0.0.1:9091 && "+dump+" | grep -q out:.*/svc/late")
		return err
	})
	if err != nil {
		return err
	}
	for _, h := range []*host{w.callee, w.caller} {
		if _, err := h.run(ctx, "systemctl", "stop", agentUnit, "wattle-agent.socket"); err != nil {
			return err
		}
	}
	out, err := w.caller.run(ctx, "curl", "-sS", "--fail", "--max-time", "5", "http://127.0.0.1:9091/")
	failed := 0.0
	if err != nil || !strings.Contains(out, "/svc/late") {
		failed = 1
		fmt.Fprintln(os.Stderr, "lab:   ", out, err)
	}
	w.rows.Require("agents dead: first call of a workload, as itself: failed", failed, "requests", 0)
	for _, h := range []*host{w.callee, w.caller} {
		if _, err := h.run(ctx, "systemctl", "start", "wattle-agent.socket", agentUnit); err != nil {
			return err
		}
	}
	return nil
}

// envoyKilled may lose what is in flight, no more.
func envoyKilled(ctx context.Context, w *world) error {
	var took time.Duration
	var killed, ready time.Time
	o, err := w.under(ctx, func() (err error) {
		killed = time.Now()
		took, err = w.callee.kill9(ctx, envoyUnit)
		ready = time.Now()
		return err
	})
	if err != nil {
		return err
	}
	w.rows.Require("Envoy ready after it was killed", float64(took.Milliseconds()), "ms", 500)
	outside := 0
	for _, t := range o.Times {
		if t.Before(killed.Add(-time.Second)) || t.After(ready) {
			outside++
		}
	}
	w.rows.Require("Envoy killed: failed once it was ready", float64(outside), "requests", 0)
	w.rows.Note(fmt.Sprintf("Envoy killed: failed of %d requests", o.Sent), float64(o.Failed), "requests")
	return nil
}

// envoysReloaded replaces both Envoys again and again.
func envoysReloaded(ctx context.Context, w *world) error {
	const times = 20
	for _, h := range []*host{w.callee, w.caller} { // each reload waits for the drain of the one before
		if _, err := h.run(ctx, "sh", "-c", "echo 'drain_time = \"2s\"' >>/etc/wattle/agent.hcl && systemctl restart "+agentUnit); err != nil {
			return err
		}
		err := until(ctx, settle, "the drain time is 2 s", func() error {
			_, err := h.run(ctx, "grep", "-q", strconv.Itoa(int(2*time.Second)), "/run/wattle/host/launch.json")
			return err
		})
		if err != nil {
			return err
		}
	}
	err := w.unharmed(ctx, fmt.Sprintf("both Envoys reloaded %d times", times), func() error {
		g, ctx := errgroup.WithContext(ctx)
		for _, h := range []*host{w.callee, w.caller} {
			g.Go(func() error {
				for range times {
					if _, err := h.run(ctx, "systemctl", "reload", envoyUnit); err != nil {
						return err
					}
				}
				return nil
			})
		}
		return g.Wait()
	})
	if err != nil {
		return err
	}
	for _, h := range []*host{w.callee, w.caller} {
		var n int
		err := until(ctx, time.Minute, "the Envoys that were replaced have ended", func() error {
			out, err := h.run(ctx, "pgrep", "-c", "envoy")
			if err == nil {
				n, err = strconv.Atoi(out)
			}
			if err == nil && n != 1 {
				err = fmt.Errorf("%d Envoys run", n)
			}
			return err
		})
		if err != nil {
			return err
		}
		shm, err := h.run(ctx, "sh", "-c", "ls /dev/shm | wc -l")
		if err != nil {
			return err
		}
		left, err := strconv.Atoi(shm)
		if err != nil {
			return err
		}
		w.rows.Require("after that, shared memory segments on "+h.name, float64(left), "files", 1)
	}
	return nil
}

// reloadFails has a reload start what never serves.
func reloadFails(ctx context.Context, w *world) error {
	h := w.callee
	if _, err := h.run(ctx, "mv", "/usr/bin/envoy", "/usr/bin/envoy.good"); err != nil {
		return err
	}
	const faulty = "#!/bin/sh\n[ \"$1\" != --hot-restart-version ] || exec /usr/bin/envoy.good \"$@\"\nexit 1\n"
	if err := h.write("/usr/bin/envoy", faulty, 0o755); err != nil {
		return err
	}
	err := w.unharmed(ctx, "reload to an Envoy that ends", func() error {
		return w.sameEnvoys(ctx, func() error {
			if _, err := h.run(ctx, "systemctl", "reload", envoyUnit); err == nil {
				return errors.New("the reload succeeded")
			}
			_, err := h.run(ctx, "systemctl", "is-active", envoyUnit)
			return err
		})
	})
	_, back := h.run(ctx, "mv", "/usr/bin/envoy.good", "/usr/bin/envoy")
	if err := errors.Join(err, back); err != nil {
		return err
	}
	_, err = h.run(ctx, "systemctl", "reload", envoyUnit)
	return err
}

// upgraded installs the package over itself, as an upgrade does.
func upgraded(ctx context.Context, w *world) error {
	return w.unharmed(ctx, "package upgraded everywhere", func() error {
		return w.sameEnvoys(ctx, func() error {
			for _, h := range w.hosts {
				if err := w.installPackage(ctx, h); err != nil {
					return err
				}
			}
			return w.answered(ctx)
		})
	})
}

// purged removes the package from a host of its own, where nothing of it may remain.
func purged(ctx context.Context, w *world) error {
	h, err := w.add(ctx, "h3")
	if err != nil {
		return err
	}
	if err := h.start(ctx); err != nil {
		return err
	}
	const everything = `
find / -xdev \( -path /proc -o -path /sys -o -path /root -o -path /tmp -o -path /var/log -o -path /var/lib/dpkg -o -path /var/cache -o -path /var/lib/systemd -o -path /usr/bin/envoy \) -prune -o -print | sort
find /run /dev/shm -name '*wattle*' -o -name '*envoy*' | sort
getent passwd; getent group; systemctl list-units --all --plain --no-legend 'wattle*'; nft list ruleset; ps -eo args= | grep -E 'wattle|envoy' | grep -v grep`
	look := func() (string, error) { return h.run(ctx, "sh", "-c", everything+" || true") }
	before, err := look()
	if err != nil {
		return err
	}
	const service = "service \"other\" {\n  port = 9997\n  upstream \"echo\" {\n    port = 8080\n    bind = \"127.0.0.1:9081\"\n  }\n}\n"
	err = w.bring(h)
	if err == nil {
		err = errors.Join(w.installPackage(ctx, h), h.write("/etc/wattle/services.d/c.hcl", service, 0o644))
	}
	if err == nil {
		err = w.join(ctx, h, "default/other")
	}
	if err == nil {
		err = until(ctx, settle, "its Envoy runs", func() error { _, err := h.run(ctx, "systemctl", "is-active", envoyUnit); return err })
	}
	if err == nil {
		_, err = h.run(ctx, "dpkg", "--purge", "wattle")
	}
	if err != nil {
		return err
	}
	after, err := look()
	if err != nil {
		return err
	}
	left := difference(strings.Split(before, "\n"), strings.Split(after, "\n"))
	for _, line := range left {
		fmt.Fprintln(os.Stderr, "lab:    left:", line)
	}
	w.rows.Require("left of the package after a purge", float64(len(left)), "things", 0)
	h.cut()
	return nil
}

// difference returns the lines of b that a does not have.
func difference(a, b []string) []string {
	known := map[string]bool{}
	for _, line := range a {
		known[line] = true
	}
	var out []string
	for _, line := range b {
		if !known[line] {
			out = append(out, line)
		}
	}
	return out
}
