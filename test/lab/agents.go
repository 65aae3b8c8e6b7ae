package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"
)

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
			all := func(verb string) error {
				for _, h := range []*host{w.callee, w.caller} {
					if _, err := h.run(ctx, "systemctl", verb, agentUnit); err != nil {
						return err
					}
				}
				return nil
			}
			if err := all("stop"); err != nil {
				return err
			}
			if err := w.wait(ctx, w.side); err != nil {
				return err
			}
			return all("start")
		})
	})
}

// firstCalls has a workload that never called call while its host's agent is dead, and the other one's too.
func firstCalls(ctx context.Context, w *world) error {
	const late = "service \"late\" {\n  port = 9998\n  upstream \"echo\" {\n    port = 8080\n    bind = \"127.0.0.1:9091\"\n  }\n}\n"
	if err := w.caller.write("/etc/wattle/services.d/late.hcl", late, 0o644); err != nil {
		return err
	}
	// The agent may have to find a server first that was away for long.
	err := until(ctx, time.Minute, "the late caller's listener is there, and Envoy was told of its certificate", func() error {
		const dump = "curl -sS --unix-socket /run/wattle-envoy/host/admin.sock 'http://envoy/config_dump?resource=dynamic_active_clusters'"
		_, err := w.caller.run(ctx, "sh", "-c", "ss -ltn | grep -q 127.0.0.1:9091 && "+dump+" | grep -q out:.*/svc/late")
		return err
	})
	if err != nil {
		return err
	}
	if err := w.wait(ctx, w.side); err != nil {
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
