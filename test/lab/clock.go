package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"
)

// wrong is how wrong a clock is: certificates are made, and hosts go by them, with that difference.
const wrong = 5 * time.Minute

// clocksWrong has the server's clock be wrong, and then the hosts', each way, while hosts get new certificates. The machines of the
// lab have one clock: a program that is built for this goes by another. Envoys go by the right one.
func clocksWrong(ctx context.Context, w *world) error {
	const name = "WATTLE_TEST_CLOCK"
	program := filepath.Join(w.dir, "wattle-clock")
	if err := compile(ctx, program, "./cmd/wattle", "-trimpath", "-ldflags", "-X main.clockFrom="+name); err != nil {
		return err
	}
	hosts := []*host{w.callee, w.caller}
	for _, h := range append([]*host{w.server}, hosts...) {
		if err := h.install(program, "/opt/wattle-clock"); err != nil {
			return err
		}
	}
	set := func(h *host, unit, args string, off time.Duration) error {
		dir := "/run/systemd/system/" + unit + ".d"
		if off == 0 {
			_, err := h.run(ctx, "sh", "-ec", "rm -r "+dir+"; systemctl daemon-reload; systemctl restart "+unit)
			return err
		}
		text := fmt.Sprintf("[Service]\nEnvironment=%s=%s\nExecStart=\nExecStart=/opt/wattle-clock %s\n", name, off, args)
		if _, err := h.run(ctx, "mkdir", "-p", dir); err != nil {
			return err
		}
		if err := h.feed(ctx, text, "sh", "-c", "cat >"+dir+"/clock.conf"); err != nil {
			return err
		}
		_, err := h.run(ctx, "sh", "-ec", "systemctl daemon-reload; systemctl restart "+unit)
		return err
	}
	server := func(off time.Duration) error {
		return set(w.server, serverUnit, "server -config /etc/wattle/server.hcl", off)
	}
	agent := func(h *host, off time.Duration) error {
		return set(h, agentUnit, "agent -config /etc/wattle/agent.hcl -adapter systemd", off)
	}
	for _, c := range []struct {
		what      string
		begin     func() error
		end       func() error
		callee    string // what is said of each
		callerSay string
	}{
		{"the server's clock 5 min ahead", func() error { return server(wrong) }, nil, "behind", "behind"},
		{"the server's clock 5 min behind", func() error { return server(-wrong) }, func() error { return server(0) }, "ahead of", "ahead of"},
		{"a host's clock 5 min ahead, another's behind", func() error { return errors.Join(agent(w.callee, wrong), agent(w.caller, -wrong)) },
			func() error { return errors.Join(agent(w.callee, 0), agent(w.caller, 0)) }, "ahead of", "behind"},
	} {
		err := w.unharmed(ctx, c.what+", new certificates", func() error {
			return w.sameEnvoys(ctx, func() error {
				if err := errors.Join(c.begin(), w.freshCertificates(ctx)); err != nil {
					return err
				}
				w.alarm(ctx, c.what, "ALARM clock.*"+w.callee.name+".*clock is [45]m[0-9]*s "+c.callee)
				w.alarm(ctx, c.what, "ALARM clock.*"+w.caller.name+".*clock is [45]m[0-9]*s "+c.callerSay)
				return w.change(ctx)
			})
		})
		if c.end != nil {
			err = errors.Join(err, c.end())
		}
		if err != nil {
			return fmt.Errorf("%s: %w", c.what, err)
		}
	}
	return errors.Join(w.freshCertificates(ctx), w.change(ctx), w.calm(ctx))
}
