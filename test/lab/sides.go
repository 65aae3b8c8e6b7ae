package main

import (
	"context"
	"fmt"
	"os"
	"time"
)

// The load goes on all the time. Between two faults is a side, which lasts as long as world.side says: the one after a fault is
// the one before the next. A fault's window reaches from the beginning of the side before it to the end of the side after it,
// so that what fails between two faults counts for both.

// calm waits until no request of a second has failed: clients that were refused wait a moment before they connect again. A new
// side begins.
func (w *world) calm(ctx context.Context) error {
	if w.load == nil {
		return w.startLoad(ctx)
	}
	defer func() { w.since = time.Now() }()
	return until(ctx, settle, "no request fails", func() error {
		now := time.Now()
		o, err := w.load.between(now, now.Add(time.Second))
		if err == nil && (o.Failed > 0 || o.Sent == 0) {
			err = fmt.Errorf("%d of %d requests failed", o.Failed, o.Sent)
		}
		return err
	})
}

// wait lets the load go on.
func (w *world) wait(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// under does something under load, with a side before and after, and returns what became of the requests.
func (w *world) under(ctx context.Context, what func() error) (outcome, error) {
	if w.load == nil { // a fault that ended early left it so
		if err := w.startLoad(ctx); err != nil {
			return outcome{}, err
		}
	}
	if err := w.wait(ctx, time.Until(w.since.Add(w.side))); err != nil {
		return outcome{}, err
	}
	if err := what(); err != nil {
		return outcome{}, err
	}
	from := w.since
	w.since = time.Now()
	if err := w.wait(ctx, w.side); err != nil {
		return outcome{}, err
	}
	return w.load.between(from, time.Now())
}

// unharmed does something under load and requires that no request fails.
func (w *world) unharmed(ctx context.Context, name string, what func() error) error {
	o, err := w.under(ctx, what)
	if err != nil {
		return err
	}
	w.rows.Require(fmt.Sprintf("%s: failed of %d requests", name, o.Sent), float64(o.Failed), "requests", 0)
	w.tell(o)
	return nil
}

// tell prints some failures of an outcome.
func (w *world) tell(o outcome) {
	for _, f := range o.Failures {
		fmt.Fprintln(os.Stderr, "lab:   ", f)
	}
}

// startLoad sends the load from the caller from now on; a side begins.
func (w *world) startLoad(ctx context.Context) (err error) {
	if w.load, err = startTraffic(ctx, w.caller, targets); err != nil {
		return err
	}
	return w.calm(ctx)
}

// stopLoad stops it.
func (w *world) stopLoad() error {
	l := w.load
	if l == nil {
		return nil
	}
	w.load = nil
	return l.stop()
}
