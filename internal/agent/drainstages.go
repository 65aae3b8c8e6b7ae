package agent

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/wattle-mesh/wattle/internal/mesh/planpb"
)

func sortedWorkloads[T any](m map[workload]T) []workload {
	return slices.SortedFunc(maps.Keys(m), func(a, b workload) int { return strings.Compare(a.String(), b.String()) })
}

// advance takes each drain as far as it goes now, and returns when time alone, or Envoy, may take one further.
func (d *drains) advance(ctx context.Context, plan *planpb.HostPlan, said told) (wait time.Duration, any bool) {
	now := time.Now()
	places := map[workload]*planpb.Workload{}
	for _, w := range plan.GetWorkloads() {
		places[workloadOf(w)] = w
	}
	held, old := d.held.Now(), d.at.Now()
	next := make(map[workload]progress, len(held))
	sooner := func(t time.Duration) {
		if t = max(t, time.Millisecond); !any || t < wait {
			wait, any = t, true
		}
	}
	var ask []*planpb.Workload
	for w, x := range held {
		p := old[w]
		if p.number != x.number {
			p = progress{number: x.number}
		}
		place := places[w]
		if place == nil { // no proxy serves it; but what was kept of the plan may be about to be read
			if early := d.began.Add(offlineLimit).Sub(now); plan == nil && early > 0 {
				next[w] = p
				sooner(early)
				continue
			}
			p.stage = done
		}
		if p.stage == leaving {
			var left time.Duration
			if p, left = d.leave(p, w, x, said, now); p.stage == leaving {
				sooner(left)
			}
		}
		if p.stage == ending {
			ask = append(ask, place)
		}
		next[w] = p
	}
	d.publish(next) // Envoy turns away what comes from now on
	for w, left := range d.ask(ctx, ask, next) {
		if left > 0 {
			sooner(left)
		} else {
			p := next[w]
			p.stage, p.busy = done, 0
			next[w] = p
		}
	}
	d.publish(next)
	return wait, any
}

func (d *drains) publish(next map[workload]progress) {
	if now := maps.Clone(next); !maps.Equal(now, d.at.Now()) {
		d.at.Set(now)
	}
}

// leave decides whether callers have left, or are not waited for any more. Else it says for how long they are.
func (d *drains) leave(p progress, w workload, x drain, said told, now time.Time) (progress, time.Duration) {
	limit := leaveLimit
	if !said.online {
		limit = offlineLimit
	}
	switch waited := now.Sub(x.since); {
	case said.left[w] == x.number:
		p.stage = ending
	case waited >= limit && !said.online:
		p.stage, p.note = ending, "no server answers, so that callers were not told; their requests are turned away, and tried elsewhere"
	case waited >= limit:
		p.stage, p.note = ending, fmt.Sprintf("not all callers have acknowledged it within %s; their requests are turned away, and tried elsewhere", limit)
	default:
		return p, limit - waited
	}
	if p.note != "" {
		d.log.Warn("a workload drains", "workload", w.String(), "note", p.note)
	}
	return p, 0
}

// ask finds out what is under way to workloads, and notes it in at. It returns when to ask again; zero: nothing is any more.
func (d *drains) ask(ctx context.Context, all []*planpb.Workload, at map[workload]progress) map[workload]time.Duration {
	out := map[workload]time.Duration{}
	now := time.Now()
	byProxy := map[string][]*planpb.Workload{}
	for _, place := range all {
		w := workloadOf(place)
		p := d.polls[w]
		if p == nil || p.number != at[w].number {
			p = &poll{number: at[w].number, next: now, pause: askFirst}
			d.polls[w] = p
		}
		if now.Before(p.next) {
			out[w] = p.next.Sub(now)
			continue
		}
		proxy := proxyOf(place)
		byProxy[proxy] = append(byProxy[proxy], place)
	}
	for proxy, places := range byProxy {
		d.askOne(ctx, proxy, places, at, out)
	}
	maps.DeleteFunc(d.polls, func(w workload, _ *poll) bool { _, drains := at[w]; return !drains })
	return out
}

// askOne asks the Envoy of some workloads.
func (d *drains) askOne(ctx context.Context, proxy string, places []*planpb.Workload, at map[workload]progress, out map[workload]time.Duration) {
	var names []string
	for _, place := range places {
		for _, port := range place.GetPorts() {
			names = append(names, localName(place, port))
		}
	}
	began := time.Now()
	under, err := d.admin(proxy).Under(ctx, names)
	now := time.Now()
	for _, place := range places {
		w := workloadOf(place)
		p, n := d.polls[w], 0
		for _, port := range place.GetPorts() {
			n += under[localName(place, port)]
		}
		x := at[w]
		x.busy = n
		at[w] = x
		switch {
		case n > 0:
			p.zero = time.Time{}
		case p.zero.IsZero():
			p.zero, p.pause = now, askFirst
		case now.Sub(p.zero) >= quiet: // an Envoy that does not answer either has nothing under way
			if err != nil {
				d.log.Warn("the Envoy of a workload that drains does not answer; it is taken to have nothing under way", "workload", w.String(), "error", err)
			}
			out[w] = 0
			continue
		}
		p.next = now.Add(max(p.pause, 4*now.Sub(began)))
		p.pause = min(p.pause*11/10, askMost)
		out[w] = p.next.Sub(now)
	}
}

// localName is what the translator calls the way to a port of a workload, and Envoy its filter chain, cluster and stats.
func localName(w *planpb.Workload, p *planpb.Port) string {
	return fmt.Sprintf("in/%s:%d", workloadOf(w), p.GetNumber())
}

// turnedAway are the ways to workloads that are closed to new requests, by name. HTTP is answered that nobody has seen the
// request, by taking the cluster away; the connections of another protocol are not taken, by taking the filter chain away.
type turnedAway struct {
	clusters, chains map[string]bool
}

func (t turnedAway) equal(o turnedAway) bool {
	return maps.Equal(t.clusters, o.clusters) && maps.Equal(t.chains, o.chains)
}

// turnAway lists what is closed while workloads drain.
func turnAway(plan *planpb.HostPlan, at map[workload]progress) turnedAway {
	out := turnedAway{map[string]bool{}, map[string]bool{}}
	for _, w := range plan.GetWorkloads() {
		if p, drains := at[workloadOf(w)]; !drains || p.stage == leaving {
			continue
		}
		for _, port := range w.GetPorts() {
			switch port.GetProtocol() {
			case "http", "http2", "grpc":
				out.clusters[localName(w, port)] = true
			default:
				out.chains[localName(w, port)] = true
			}
		}
	}
	return out
}
