package main

import (
	"context"
	"fmt"
	"time"
)

// envoyKilled may lose what is in flight, no more.
func envoyKilled(ctx context.Context, w *world) error {
	return w.killEnvoy(ctx, w.callee, "callee's Envoy")
}

// bigEnvoyKilled kills one that knows many clusters, of a host that nobody but itself depends on.
func bigEnvoyKilled(ctx context.Context, w *world) error {
	other, err := w.another(ctx)
	if err != nil {
		return err
	}
	if err := w.callMany(ctx); err != nil {
		return err
	}
	if err := w.calm(ctx); err != nil {
		return err
	}
	from := w.since
	if err := w.killEnvoy(ctx, w.caller, fmt.Sprintf("caller's Envoy of %d clusters", many)); err != nil {
		return err
	}
	o, err := other.load.between(from, time.Now())
	if err != nil {
		return err
	}
	w.tell(o)
	w.rows.Require(fmt.Sprintf("that: of another host failed, of %d requests", o.Sent), float64(o.Failed), "requests", 0)
	return nil
}

func (w *world) killEnvoy(ctx context.Context, h *host, what string) error {
	var took time.Duration
	var killed, ready time.Time
	o, err := w.under(ctx, func() (err error) {
		killed = time.Now()
		took, err = h.kill9(ctx, envoyUnit)
		ready = time.Now()
		return err
	})
	if err != nil {
		return err
	}
	w.rows.Require(what+" killed with -9: ready again", float64(took.Milliseconds()), "ms", 500)
	outside := 0
	for _, t := range o.Times {
		if t.Before(killed.Add(-time.Second)) || t.After(ready) {
			outside++
		}
	}
	w.tell(o)
	w.rows.Require(what+" killed: failed before, or once it was ready", float64(outside), "requests", 0)
	w.rows.Note(fmt.Sprintf("%s killed: failed of %d requests", what, o.Sent), float64(o.Failed), "requests")
	return nil
}
