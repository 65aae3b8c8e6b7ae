package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/wattle-mesh/wattle/test/table"
)

// effort says how long to measure.
type effort struct {
	changes int // in a burst
	rounds  int // of bursts, there and back
	repeats int // of what is measured alone
}

// driver is the process that has the others measured.
type driver struct {
	dir    string
	wattle string // the program
	effort effort
	short  bool
	out    table.Rows
	next   counter
}

// measure measures every row, or those of one group.
func measure(ctx context.Context, wattle string, short bool, only string) (err error) {
	d := &driver{wattle: wattle, short: short, effort: effort{changes: 50, rounds: 3, repeats: 5}}
	if short {
		d.effort = effort{changes: 15, rounds: 1, repeats: 3}
	}
	if d.dir, err = os.MkdirTemp("", "wattle-bench"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(d.dir)) }()
	for _, group := range []struct {
		name string
		run  func(context.Context) error
	}{
		{"fanout", d.fanout},
		{"server", d.process},
		{"route", d.route},
		{"merge", d.merge},
		{"hosts", d.hosts},
		{"registries", d.registries},
		{"consul", d.consul},
	} {
		if !strings.HasPrefix(group.name, only) {
			continue
		}
		began := time.Now()
		if err := group.run(ctx); err != nil {
			return fmt.Errorf("%s: %w", group.name, err)
		}
		fmt.Fprintf(os.Stderr, "bench: %s measured in %s\n", group.name, time.Since(began).Round(time.Second))
	}
	if err := d.out.Write(os.Stdout); err != nil {
		return err
	}
	return d.out.Save(".bench")
}

// fanout measures changes on their way to many proxies, and what the proxies cost. Bursts alternate there and back
// (ABCCBA), so that what drifts on the machine hits all sides alike.
func (d *driver) fanout(ctx context.Context) error {
	if err := issue(d.dir, proxies); err != nil {
		return err
	}
	narrow, err := open(ctx, d.dir, "server", layout{Proxies: proxies}, connect{N: proxies, Track: true})
	if err != nil {
		return err
	}
	wide, err := open(ctx, d.dir, "server", layout{Proxies: proxies, All: true}, connect{N: proxies})
	if err != nil {
		return err
	}
	bare, err := open(ctx, d.dir, "broadcaster", nil, connect{N: proxies, Bare: true})
	if err != nil {
		return err
	}
	if bare.message, err = narrow.record(&d.next); err != nil {
		return err
	}
	var ours, all, least, few series
	for range d.effort.rounds {
		for _, step := range []struct {
			of        *side
			service   int
			receivers int
			into      *series
		}{
			{narrow, hot, proxies, &ours}, {bare, hot, proxies, &least}, {wide, hot, proxies, &all}, {narrow, cold, users, &few},
			{narrow, cold, users, &few}, {wide, hot, proxies, &all}, {bare, hot, proxies, &least}, {narrow, hot, proxies, &ours},
		} {
			b, err := step.of.change(&d.next, step.service, step.receivers, d.effort.changes)
			if err != nil {
				return err
			}
			step.into.add(b)
		}
	}
	d.reportFanout(&ours, &all, &least, &few)
	d.reportMemory(narrow, wide, bare)
	if err := d.reconnect(narrow); err != nil {
		return err
	}
	return errors.Join(narrow.stop(), wide.stop(), bare.stop())
}

func (d *driver) reportFanout(ours, all, least, few *series) {
	floor, cpu := median(least.p99), median(least.cpu)
	d.out.Note("broadcaster: message to the last of 1000 clients, p99", milliseconds(floor), "ms")
	d.out.Require("endpoint change to the last of 1000 clients, p99", milliseconds(median(ours.p99)), "ms", 1.3*milliseconds(floor))
	d.out.Note("broadcaster: message to the last of 1000 clients, p50", milliseconds(median(least.p50)), "ms")
	d.out.Note("endpoint change to the last of 1000 clients, p50", milliseconds(median(ours.p50)), "ms")
	d.out.Note("broadcaster: CPU per client and message", microseconds(cpu), "us")
	d.out.Require("server CPU per proxy and push", microseconds(median(ours.cpu)), "us", 1.3*microseconds(cpu))
	d.out.Require("endpoint change to 20 of 1000 clients, p99", milliseconds(median(few.p99)), "ms", 5)
	d.out.Require("endpoint change with all 1000 services in scope, p99", milliseconds(median(all.p99)), "ms", 1.1*milliseconds(median(ours.p99)))
	d.out.Note("endpoint change with all 1000 services in scope, p50", milliseconds(median(all.p50)), "ms")
	d.out.Note("server CPU per proxy and push with all in scope", microseconds(median(all.cpu)), "us")
}

func (d *driver) reportMemory(narrow, wide, bare *side) {
	d.out.Note("broadcaster: memory per connected client", kilobytes(bare.memory), "KB")
	d.out.Require("server memory per connected proxy, mTLS", kilobytes(narrow.memory), "KB", min(64, 1.5*kilobytes(bare.memory)))
	d.out.Require("server memory per connected proxy, all 1000 services in scope", kilobytes(wide.memory), "KB",
		min(64, 1.5*kilobytes(bare.memory), 1.1*kilobytes(narrow.memory)))
	d.out.Note("first start: 1000 proxies connect and get 20 services each", narrow.first.Took.Seconds(), "s")
	d.out.Note("first start: 1000 proxies connect and get 1000 services each", wide.first.Took.Seconds(), "s")
}

// reconnect measures what it costs when all clients lose their connections and come back.
func (d *driver) reconnect(s *side) error {
	var took []time.Duration
	var sent []float64
	for range d.effort.repeats {
		t, err := ask[*traffic](s.clients, "reconnect", nil)
		if err != nil {
			return err
		}
		took, sent = append(took, t.Took), append(sent, float64(t.Bytes))
	}
	d.out.Require("1000 clients reconnect with unchanged state over mTLS", median(took).Seconds(), "s", 2)
	d.out.Require("resource bytes sent to them", slices.Max(sent), "bytes", 0)
	return nil
}
