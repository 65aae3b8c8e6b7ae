package main

import (
	"context"
	"errors"
	"fmt"
	"time"
)

func serverKilled(ctx context.Context, w *world) error {
	return w.unharmed(ctx, "server killed with -9", func() error {
		took, err := w.server.kill9(ctx, serverUnit)
		w.rows.Note("server back after it was killed", took.Seconds(), "s")
		return err
	})
}

// serverAway kills the server for long: it stays away during all faults until serverBack, which concern hosts only. Nothing
// else says what the mesh is, so all registries are away, too.
func serverAway(ctx context.Context, w *world) error {
	return w.unharmed(ctx, "server killed with -9, and stays away", func() error { return w.endServer(ctx) })
}

// endServer kills the server, and nobody starts it again.
func (w *world) endServer(ctx context.Context) error {
	w.away = time.Now()
	_, err := w.server.run(ctx, "sh", "-c", "systemctl stop wattle-server.socket; systemctl kill -s KILL "+serverUnit+"; systemctl stop wattle-server.socket "+serverUnit+"; systemctl stop "+namesUnit+" || :")
	return err
}

func (w *world) startServer(ctx context.Context) error {
	w.away = time.Time{}
	_, err := w.server.run(ctx, "sh", "-c", "systemctl start "+namesUnit+" || :; systemctl start wattle-server.socket "+serverUnit)
	return err
}

// serverBack starts the server after ten minutes. (With shorter sides than those of the lab, earlier.)
func serverBack(ctx context.Context, w *world) error {
	if w.away.IsZero() {
		if err := w.endServer(ctx); err != nil {
			return err
		}
	}
	if err := w.wait(ctx, time.Until(w.away.Add(20*w.side))); err != nil {
		return err
	}
	away := time.Since(w.away)
	var took time.Duration
	err := w.unharmed(ctx, fmt.Sprintf("server back after %s", away.Round(time.Second)), func() error {
		began := time.Now()
		if err := w.startServer(ctx); err != nil {
			return err
		}
		err := w.change(ctx)
		took = time.Since(began)
		return err
	})
	w.rows.Note("server back: a change of policy is in force on a host, after its start", took.Seconds(), "s")
	return err
}

// change changes the policy and waits until that is in force at the caller.
func (w *world) change(ctx context.Context) error {
	w.changes++
	if err := w.server.policy(ctx, w.changes); err != nil {
		return err
	}
	return w.changed(ctx, time.Minute)
}

// policy puts a policy in place by which requests for one path are refused. It is on the disk when policy returns.
func (h *host) policy(ctx context.Context, n int) error {
	if err := h.prepare(ctx, n); err != nil {
		return err
	}
	return h.publish(ctx)
}

// prepare writes such a policy where the server does not look.
func (h *host) prepare(ctx context.Context, n int) error {
	const text = `virtual_service "echo" {
  hosts = ["echo"]
  http "change" {
    match { uri = { exact = "/change-%d" } }
    fault {
      abort { http_status = 418 }
    }
    route { host = "echo" }
  }
  http "all" {
    route { host = "echo" }
  }
}
`
	if err := h.write("/etc/wattle/policy/.change", fmt.Sprintf(text, n), 0o644); err != nil {
		return err
	}
	_, err := h.run(ctx, "sync", "/etc/wattle/policy/.change")
	return err
}

// publish puts a policy that was prepared in its place.
func (h *host) publish(ctx context.Context) error {
	_, err := h.run(ctx, "sh", "-c", "cd /etc/wattle/policy && mv .change change.hcl && sync .")
	return err
}

// changed waits until the caller's Envoy does what the last policy says.
func (w *world) changed(ctx context.Context, limit time.Duration) error {
	return until(ctx, limit, "the policy is in force at the caller", func() error {
		got, err := w.caller.run(ctx, "curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", "--max-time", "2", fmt.Sprintf("http://127.0.0.1:9081/change-%d", w.changes))
		if err == nil && got != "418" {
			err = errors.New("the answer is " + got)
		}
		return err
	})
}

// envoysRestarted starts both Envoys again: while no server runs, their agents have all that they need.
func envoysRestarted(ctx context.Context, w *world) error {
	for _, h := range []*host{w.callee, w.caller} {
		if _, err := h.run(ctx, "systemctl", "restart", envoyUnit); err != nil {
			return err
		}
		took, err := h.starting(ctx, envoyUnit)
		if err != nil {
			return err
		}
		w.rows.Require("no server: Envoy of "+h.name+" restarted, ready", took.Seconds(), "s", 1)
	}
	if err := w.calm(ctx); err != nil {
		return err
	}
	return w.unharmed(ctx, "no server: Envoys restarted, after that", func() error { return nil })
}

// rebooted turns both hosts off and on while no server runs: one in good order, one as a power cut does.
func rebooted(ctx context.Context, w *world) error {
	if err := w.stopLoad(); err != nil {
		return err
	}
	if err := w.callee.poweroff(ctx); err != nil {
		return err
	}
	if err := w.caller.cut(ctx); err != nil {
		return err
	}
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
	if err := w.startLoad(ctx); err != nil {
		return err
	}
	return w.unharmed(ctx, "no server: hosts rebooted, after that", func() error { return nil })
}
