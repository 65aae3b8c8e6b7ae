package main

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"time"

	"github.com/wattle-mesh/wattle/adapters/process"
)

const (
	// departLimit is how long a process may go on that is not wanted any more: as long as an Envoy may, which has to hear of
	// it first and to end.
	departLimit = process.DepartureLimit + 5*time.Second
	// lookAgain is how often a process that departs is asked whether it is idle.
	lookAgain = 100 * time.Millisecond
)

// departure is the time between a process's being wanted and its being told to end.
type departure struct {
	until  time.Time // at the latest
	cancel context.CancelFunc
	done   chan struct{} // closed when it is over or was stopped
	over   bool          // to be read after done
}

// depart has k go on until it is idle or its time is up. After a stop the time is what was left of it.
func (p *procs) depart(k *keeper) {
	d := &departure{until: time.Now().Add(p.limit), done: make(chan struct{})}
	if k.leaving != nil {
		d.until = k.leaving.until
	} else {
		p.out.Printf(k.Name, "is not in the policy any more, it goes on until nobody uses it")
	}
	ctx, cancel := context.WithDeadline(context.Background(), d.until)
	d.cancel, k.leaving = cancel, d
	idle := k.Idle // Set may give k another one
	p.keepers.Go(func() {
		defer close(d.done)
		defer cancel()
		why := await(ctx, idle)
		if d.over = !errors.Is(why, context.Canceled); d.over {
			k.cancel(why)
		}
	})
}

// await returns why a departure is over: nobody uses the process, or its time is up. If ctx is cancelled before, it
// returns what ctx says.
func await(ctx context.Context, idle func(context.Context) bool) error {
	tick := time.NewTicker(lookAgain)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			if idle(ctx) {
				return errors.New("nobody used it any more")
			}
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.DeadlineExceeded) {
				return errors.New("its time was up while it was in use")
			}
			return ctx.Err()
		}
	}
}

// stop ends the looking after, if there is any, and reports whether it came too late.
func (d *departure) stop() (over bool) {
	if d == nil {
		return false
	}
	d.cancel()
	<-d.done
	return d.over
}

// stay has k go on as w, for which it is the right process.
func (p *procs) stay(k *keeper, w proc) {
	if k.leaving != nil {
		p.out.Printf(k.Name, "is in the policy again, it goes on")
		k.leaving = nil
	}
	k.Listens, k.Idle = w.Listens, w.Idle
}

// meets reports whether p and o want the same address to listen at.
func (p proc) meets(o proc) bool {
	return slices.ContainsFunc(p.Listens, func(a netip.AddrPort) bool {
		return slices.ContainsFunc(o.Listens, func(b netip.AddrPort) bool { return meet(a, b) })
	})
}

func meet(a, b netip.AddrPort) bool {
	return a.Port() == b.Port() && (a.Addr() == b.Addr() || a.Addr().IsUnspecified() || b.Addr().IsUnspecified())
}
