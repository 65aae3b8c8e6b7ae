package agent

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/wattle-mesh/wattle/internal/mesh/planpb"
	"github.com/wattle-mesh/wattle/internal/probe"
)

// workload names one of this host's workloads.
type workload struct {
	namespace, service, instance string
}

func workloadOf(w *planpb.Workload) workload {
	return workload{w.GetNamespace(), w.GetService(), w.GetInstance()}
}

func (w workload) String() string {
	return strings.TrimSuffix(w.namespace+"/"+w.service+"/"+w.instance, "/")
}

// health is what the checks of a workload say together. A workload counts as healthy when each of its checks has
// succeeded; one whose first check has not ended yet is not known. The reason is that of the first check that failed.
type health = probe.Health

// checks runs the health checks of the plan's workloads.
type checks struct {
	log *slog.Logger
	// held has an entry for every workload with checks. Immutable.
	held value[map[workload]health]

	mu      sync.Mutex
	results map[workload][]health // one for each check
}

// run follows the plan until ctx is done. A check that is the same in a new plan goes on as it was.
func (c *checks) run(ctx context.Context, plan *value[*planpb.HostPlan]) error {
	type task struct {
		probes []probe.Probe
		cancel context.CancelFunc
		done   *sync.WaitGroup
	}
	tasks := map[workload]task{}
	defer func() {
		for _, t := range tasks {
			t.cancel()
			t.done.Wait()
		}
	}()
	for {
		p, changed := plan.Load()
		want := map[workload][]probe.Probe{}
		for _, w := range p.GetWorkloads() {
			if ps := probes(w); len(ps) > 0 {
				want[workloadOf(w)] = ps
			}
		}
		for w, t := range tasks {
			if !slices.Equal(t.probes, want[w]) {
				t.cancel()
				t.done.Wait()
				delete(tasks, w)
			}
		}
		c.limit(want, func(w workload) bool { _, ok := tasks[w]; return ok })
		for w, ps := range want {
			if _, ok := tasks[w]; ok {
				continue
			}
			tctx, cancel := context.WithCancel(ctx)
			t := task{ps, cancel, new(sync.WaitGroup)}
			tasks[w] = t
			for i, p := range ps {
				t.done.Go(func() { p.Follow(tctx, func(h probe.Health) { c.set(w, i, h) }) })
			}
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil
		}
	}
}

// limit forgets what is not wanted any more, and begins anew what is not running.
func (c *checks) limit(want map[workload][]probe.Probe, running func(workload) bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	next := map[workload][]health{}
	for w, ps := range want {
		next[w] = make([]health, len(ps))
		if running(w) {
			next[w] = c.results[w]
		}
	}
	c.results = next
	c.publish()
}

// set takes in what one check says.
func (c *checks) set(w workload, i int, h health) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.results[w][i] = h
	if h.Healthy {
		c.log.Info("check succeeds", "workload", w.String())
	} else {
		c.log.Warn("check fails", "workload", w.String(), "reason", h.Reason)
	}
	c.publish()
}

// publish joins the results of each workload; c.mu is held.
func (c *checks) publish() {
	next := make(map[workload]health, len(c.results))
	for w, hs := range c.results {
		next[w] = together(hs)
	}
	if !maps.Equal(next, c.held.Now()) {
		c.held.Set(next)
	}
}

func together(hs []health) health {
	out := health{Known: true, Healthy: true}
	for _, h := range hs {
		if h.Known && !h.Healthy {
			return h
		}
		out.Known = out.Known && h.Known
	}
	if !out.Known {
		return health{}
	}
	return out
}
