package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
)

// The drain time of the reloads' fault, so that each need not wait long for the drain of the one before.
const shortDrain = 2 * time.Second

// envoysReloaded replaces both Envoys again and again.
func envoysReloaded(ctx context.Context, w *world) error {
	const times, first = 20, 3 // after the first ones memory has the size that it should keep
	for _, h := range []*host{w.callee, w.caller} {
		if err := h.drainShortly(ctx); err != nil {
			return err
		}
	}
	var before, after int
	var ends endings
	err := w.unharmed(ctx, fmt.Sprintf("both Envoys reloaded %d times", times), func() (err error) {
		ends, err = w.caller.lasting(ctx, map[string]string{"stream": "127.0.0.1:9083", "tcp": "127.0.0.1:9082"}, func() error {
			if err := w.reload(ctx, first); err != nil {
				return err
			}
			if before, err = w.memory(ctx); err != nil {
				return err
			}
			if err := w.reload(ctx, times-first); err != nil {
				return err
			}
			after, err = w.memory(ctx)
			return err
		})
		return err
	})
	if err != nil {
		return err
	}
	ends.report(w, "those reloads", shortDrain)
	w.rows.Require(fmt.Sprintf("those reloads: memory of the Envoys, after %d against after %d", times, first), 100*float64(after-before)/float64(before), "% more", 10)
	for _, h := range []*host{w.callee, w.caller} {
		shm, err := h.count(ctx, "ls /dev/shm")
		if err != nil {
			return err
		}
		w.rows.Require("after that, shared memory segments on "+h.name, float64(shm), "files", 1)
		// A main process and a manager of user sessions may be there, helpers of ours may not.
		left, err := h.count(ctx, "pgrep -f '[w]attle envoy'")
		if err != nil {
			return err
		}
		w.rows.Require("after that, helpers of units on "+h.name, float64(left), "processes", 0)
	}
	return nil
}

// drainShortly sets a host's drain time to shortDrain.
func (h *host) drainShortly(ctx context.Context) error {
	set := fmt.Sprintf("grep -q ^drain_time /etc/wattle/agent.hcl || { echo 'drain_time = %q' >>/etc/wattle/agent.hcl; systemctl restart %s; }", shortDrain, agentUnit)
	if _, err := h.run(ctx, "sh", "-c", set); err != nil {
		return err
	}
	return until(ctx, settle, "the drain time is set", func() error {
		_, err := h.run(ctx, "grep", "-q", strconv.Itoa(int(shortDrain)), "/run/wattle/host/launch.json")
		return err
	})
}

// reload replaces both Envoys some times; each waits for the drain of the one before.
func (w *world) reload(ctx context.Context, times int) error {
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
}

// memory returns what the Envoys of both hosts use, in KiB, once those that were replaced have ended.
func (w *world) memory(ctx context.Context) (sum int, err error) {
	for _, h := range []*host{w.callee, w.caller} {
		err := until(ctx, time.Minute, "the Envoys that were replaced have ended", func() error {
			n, err := h.count(ctx, "pgrep envoy")
			if err == nil && n != 1 {
				err = fmt.Errorf("%d Envoys run", n)
			}
			return err
		})
		if err != nil {
			return 0, err
		}
		pid, err := h.mainPID(ctx, envoyUnit)
		if err != nil {
			return 0, err
		}
		text, err := h.run(ctx, "ps", "-o", "rss=", "-p", strconv.Itoa(pid))
		if err != nil {
			return 0, err
		}
		n, err := strconv.Atoi(strings.TrimSpace(text))
		if err != nil {
			return 0, err
		}
		sum += n
	}
	return sum, nil
}

// count returns how many lines a command writes.
func (h *host) count(ctx context.Context, command string) (int, error) {
	text, err := h.run(ctx, "sh", "-c", command+" | wc -l")
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(text)
}

// envoysReplaced gives both hosts another Envoy and goes over to it by a reload.
func envoysReplaced(ctx context.Context, w *world) error {
	envoy, err := filepath.EvalSymlinks(".bin/envoy")
	if err != nil {
		return err
	}
	return w.unharmed(ctx, "Envoys upgraded to another binary by reload", func() error {
		for _, h := range []*host{w.callee, w.caller} {
			if err := h.install(envoy, "/usr/bin/envoy"); err != nil {
				return err
			}
			// What follows a program in its file is not loaded.
			const is = "echo another >>/usr/bin/envoy && systemctl reload " + envoyUnit + " && cmp /usr/bin/envoy /proc/$(systemctl show -P MainPID " + envoyUnit + ")/exe"
			if _, err := h.run(ctx, "sh", "-c", is); err != nil {
				return err
			}
		}
		return nil
	})
}

// reloadFails has a reload start what never serves: an Envoy that ends, and one that hangs.
func reloadFails(ctx context.Context, w *world) error {
	for _, c := range []struct {
		what, then string
		limit      time.Duration
	}{{"ends", "exit 1", 5 * time.Second}, {"hangs", "exec sleep 1000", 35 * time.Second}} {
		if err := w.reloadTo(ctx, w.callee, c.what, c.then, c.limit); err != nil {
			return err
		}
	}
	return nil
}

func (w *world) reloadTo(ctx context.Context, h *host, what, then string, limit time.Duration) error {
	if _, err := h.run(ctx, "mv", "/usr/bin/envoy", "/usr/bin/envoy.good"); err != nil {
		return err
	}
	faulty := "#!/bin/sh\n[ \"$1\" != --hot-restart-version ] || exec /usr/bin/envoy.good \"$@\"\n" + then + "\n"
	if err := h.write("/usr/bin/envoy", faulty, 0o755); err != nil {
		return err
	}
	var took time.Duration
	err := w.unharmed(ctx, "reload to an Envoy that "+what, func() error {
		return w.sameEnvoys(ctx, func() error {
			began := time.Now()
			if _, err := h.run(ctx, "systemctl", "reload", envoyUnit); err == nil {
				return errors.New("the reload succeeded")
			}
			took = time.Since(began)
			_, err := h.run(ctx, "systemctl", "is-active", envoyUnit)
			return err
		})
	})
	w.rows.Require("reload to an Envoy that "+what+": it is said that it failed", took.Seconds(), "s", limit.Seconds())
	_, back := h.run(ctx, "mv", "/usr/bin/envoy.good", "/usr/bin/envoy")
	if err := errors.Join(err, back); err != nil {
		return err
	}
	_, err = h.run(ctx, "systemctl", "reload", envoyUnit)
	return err
}
