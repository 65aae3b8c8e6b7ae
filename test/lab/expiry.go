package main

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// leavesExpire has all servers be down for longer than certificates of workloads live: as docs/install.md says, nothing happens
// until they run out, new connections are refused then, and when a server is back all is well without a person.
func leavesExpire(ctx context.Context, w *world) error {
	const life = time.Minute
	if err := w.workloadLife(ctx, life); err != nil {
		return err
	}
	if err := w.calm(ctx); err != nil {
		return err
	}
	began := time.Now()
	if err := w.endServer(ctx); err != nil {
		return err
	}
	if err := w.wait(ctx, time.Until(began.Add(life/2))); err != nil { // renewed last at a third of their life
		return err
	}
	o, err := w.load.between(w.since, time.Now())
	if err != nil {
		return err
	}
	w.tell(o)
	w.rows.Require(fmt.Sprintf("no server for half a certificate's life: failed of %d requests", o.Sent), float64(o.Failed), "requests", 0)
	if err := w.wait(ctx, time.Until(began.Add(life+5*time.Second))); err != nil {
		return err
	}
	const call = "exec 3<>/dev/tcp/127.0.0.1/9082; echo one >&3; timeout 5 cat <&3 | grep -q one"
	answered := 0.0
	if _, err := w.caller.run(ctx, "bash", "-c", call); err == nil {
		answered = 1
	}
	w.rows.Require("certificates have run out: new connections that are answered", answered, "connections", 0)
	quiet := 0.0
	if _, err := w.caller.run(ctx, "sh", "-c", "journalctl -u wattle-agent --since=-90s | grep -q 'ERR.* workload certificate cannot be had'"); err != nil {
		quiet = 1
	}
	w.rows.Require("certificates run out: hosts that do not say so by half of their life", quiet, "hosts", 0)
	if err := w.startServer(ctx); err != nil {
		return err
	}
	back := time.Now()
	if err := until(ctx, 2*time.Minute, "connections are answered again", func() error { _, err := w.caller.run(ctx, "bash", "-c", call); return err }); err != nil {
		return err
	}
	w.rows.Require("certificates have run out: all is well after the server is back, by itself", time.Since(back).Seconds(), "s", 60)
	return errors.Join(w.workloadLife(ctx, 24*time.Hour), w.calm(ctx))
}

// workloadLife says how long certificates live, and has the hosts get new ones.
func (w *world) workloadLife(ctx context.Context, d time.Duration) error {
	const set = "sed -i '/^workload_life/d' /etc/wattle/server.hcl; echo 'workload_life = \"%s\"' >>/etc/wattle/server.hcl; systemctl restart %s"
	if _, err := w.server.run(ctx, "sh", "-c", fmt.Sprintf(set, d, serverUnit)); err != nil {
		return err
	}
	return w.freshCertificates(ctx)
}

// freshCertificates has the hosts get new certificates of their workloads, and waits until they have.
func (w *world) freshCertificates(ctx context.Context) error {
	for _, h := range []*host{w.callee, w.caller} {
		const fresh = "rm /var/lib/wattle/agent/certs/* && systemctl restart " + agentUnit
		if _, err := h.run(ctx, "sh", "-c", fresh); err != nil {
			return err
		}
		err := until(ctx, time.Minute, "it has new certificates", func() error {
			_, err := h.run(ctx, "sh", "-c", "ls /var/lib/wattle/agent/certs | grep -q svc")
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}
