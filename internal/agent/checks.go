package agent

import (
	"context"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/wattle-mesh/wattle/internal/mesh/planpb"
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
// succeeded; one whose first check has not ended yet is not known.
type health struct {
	known   bool
	healthy bool
	reason  string // of the first check that failed
}

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
		probes []probe
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
		want := map[workload][]probe{}
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
				t.done.Go(func() { c.follow(tctx, w, i, p) })
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
func (c *checks) limit(want map[workload][]probe, running func(workload) bool) {
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

// follow runs one check at its interval until ctx is done.
func (c *checks) follow(ctx context.Context, w workload, i int, p probe) {
	s := state{healthyAfter: p.healthy, unhealthyAfter: p.unhealthy}
	for {
		err := p.try(ctx)
		if ctx.Err() != nil {
			return
		}
		if s.add(err) {
			c.set(w, i, s.health)
		}
		if !sleep(ctx, time.Duration(float64(p.interval)*(0.95+0.1*rand.Float64()))) {
			return
		}
	}
}

// set takes in what one check says.
func (c *checks) set(w workload, i int, h health) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.results[w][i] = h
	if h.healthy {
		c.log.Info("check succeeds", "workload", w.String())
	} else {
		c.log.Warn("check fails", "workload", w.String(), "reason", h.reason)
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
	out := health{known: true, healthy: true}
	for _, h := range hs {
		if h.known && !h.healthy {
			return h
		}
		out.known = out.known && h.known
	}
	if !out.known {
		return health{}
	}
	return out
}

// state turns the results of one check into its health. The first result decides at once; after that it takes as
// many in a row as the check says.
type state struct {
	health                       health
	run                          uint32 // results in a row that contradict health
	healthyAfter, unhealthyAfter uint32
}

// add takes in one result and reports whether the health has changed.
func (s *state) add(err error) bool {
	success := err == nil
	if s.health.known && s.health.healthy == success {
		s.run = 0
		return false
	}
	s.run++
	need := s.unhealthyAfter
	if success {
		need = s.healthyAfter
	}
	if s.health.known && s.run < need {
		return false
	}
	s.run = 0
	s.health = health{known: true, healthy: success}
	if err != nil {
		s.health.reason = err.Error()
	}
	return true
}
