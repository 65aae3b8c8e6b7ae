package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"time"
)

// cuts is how many times the power of some machines is cut.
const cuts = 6

// powerCuts cuts the power of machines at random moments while they write: policy at the server, registrations, certificates
// and states at the hosts. All must come back by themselves, with what was there before or what came last.
func powerCuts(ctx context.Context, w *world) error {
	if err := w.stopLoad(); err != nil {
		return err
	}
	who := [][]*host{{w.server}, {w.callee}, {w.caller}, {w.server, w.callee, w.caller}}
	seed := uint64(time.Now().UnixNano())
	r := rand.New(rand.NewPCG(seed, 0))
	broken, longest := 0, time.Duration(0)
	for i := range cuts {
		some := who[i%len(who)]
		took, err := w.cutPower(ctx, some, time.Duration(500+r.IntN(2000))*time.Millisecond)
		if ctx.Err() != nil {
			return err
		}
		if err != nil {
			broken++
			fmt.Printf("lab:    power cut %d of %s, seed %d: %v\n", i, names(some), seed, err)
		}
		longest = max(longest, took)
	}
	w.rows.Require(fmt.Sprintf("power cuts at random moments: not whole after, of %d", cuts), float64(broken), "cuts", 0)
	w.rows.Require("power cuts: longest from up again until the mesh serves", longest.Seconds(), "s", 10)
	return w.startLoad(ctx)
}

func names(hosts []*host) string {
	var out []string
	for _, h := range hosts {
		out = append(out, h.name)
	}
	return strings.Join(out, ", ")
}

// cutPower cuts the power of some machines after a while, turns them on, and returns how long it took from then until calls
// were answered. It returns no error when all are what they were, and follow the server's policy.
func (w *world) cutPower(ctx context.Context, some []*host, after time.Duration) (time.Duration, error) {
	busy, stop := context.WithCancel(ctx)
	var wg sync.WaitGroup
	for _, f := range []func(int){
		func(i int) { _ = w.server.policy(busy, -i-1) },
		func(i int) { _, _ = w.callee.run(busy, "sh", "-c", register(i)) },
		func(i int) { _, _ = w.caller.run(busy, "sh", "-c", register(i)) },
	} {
		wg.Go(func() {
			for i := 0; busy.Err() == nil; i++ {
				f(i)
			}
		})
	}
	err := w.wait(ctx, after)
	for _, h := range some {
		err = errors.Join(err, h.lose())
	}
	stop()
	wg.Wait()
	for _, h := range some {
		err = errors.Join(err, h.cut(ctx))
	}
	for _, h := range some {
		err = errors.Join(err, h.start(ctx))
	}
	if err != nil {
		return 0, err
	}
	began := time.Now()
	err = w.answered(ctx)
	took := time.Since(began)
	if err == nil {
		err = w.change(ctx)
	}
	return took, err
}

// register is a command that changes what an agent has to remember. Which services a host may register, its grant says.
func register(i int) string {
	return fmt.Sprintf("wattle service register -name echo -instance churn -port 9990 -meta n=%d; wattle service deregister echo/churn", i)
}
