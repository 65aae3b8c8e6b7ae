package agent

import (
	"cmp"
	"context"
	"log/slog"
	"maps"
	"slices"
	"time"

	"github.com/wattle-mesh/wattle/internal/mesh/planpb"
	"github.com/wattle-mesh/wattle/internal/systemd"
)

// unitStates is what systemd says of the units that run workloads. Immutable. nil: it has not answered yet.
type unitStates struct {
	of map[string]systemd.State // nil: it cannot be asked
}

// boundUnits returns which unit runs which workload: what is registered on the host itself, else what the plan says.
func boundUnits(plan *planpb.HostPlan, registered map[workload]string) map[workload]string {
	out := map[workload]string{}
	for _, w := range plan.GetWorkloads() {
		if unit := cmp.Or(registered[workloadOf(w)], w.GetUnit()); unit != "" {
			out[workloadOf(w)] = unit
		}
	}
	for w, unit := range registered {
		out[w] = unit
	}
	return out
}

// units follows the states of the units that run workloads.
type units struct {
	log        *slog.Logger
	systemd    Units // nil: there is none
	plan       *value[*planpb.HostPlan]
	registered *value[map[workload]string]
	names      value[[]string] // of the units, sorted
	held       value[*unitStates]
}

// run follows until ctx is done. While systemd cannot be asked, nothing is known of any unit, and nothing follows of that.
func (u *units) run(ctx context.Context) error {
	if u.systemd == nil {
		u.held.Set(new(unitStates))
		<-ctx.Done()
		return nil
	}
	listed := make(chan struct{})
	go func() { defer close(listed); u.list(ctx) }()
	defer func() { <-listed }()
	pause := newPause()
	said := map[string]systemd.State{}
	for {
		if list, changed := u.names.Load(); len(list) == 0 { // systemd need not even be there
			u.held.Set(new(unitStates))
			select {
			case <-changed:
			case <-ctx.Done():
				return nil
			}
			continue
		}
		began := time.Now()
		err := u.systemd.Watch(ctx, u.names.Load, func(now map[string]systemd.State) {
			u.tell(said, now)
			said = now
			u.held.Set(&unitStates{now})
		})
		if ctx.Err() != nil {
			return nil
		}
		u.held.Set(new(unitStates))
		if time.Since(began) > maxRetry {
			pause.Reset()
		}
		wait := pause.NextBackOff()
		u.log.Error("the states of units are not known", "error", err, "again_in", wait.Round(time.Millisecond))
		if !sleep(ctx, wait) {
			return nil
		}
	}
}

// list keeps names up to date until ctx is done.
func (u *units) list(ctx context.Context) {
	for {
		plan, planned := u.plan.Load()
		registered, moved := u.registered.Load()
		if now := slices.Compact(slices.Sorted(maps.Values(boundUnits(plan, registered)))); !slices.Equal(now, u.names.Now()) {
			u.names.Set(now)
		}
		select {
		case <-planned:
		case <-moved:
		case <-ctx.Done():
			return
		}
	}
}

// tell logs what a person should know of units.
func (u *units) tell(was, now map[string]systemd.State) {
	for _, unit := range slices.Sorted(maps.Keys(now)) {
		s, before := now[unit], was[unit]
		switch {
		case s.Load != "loaded" && s.Load != before.Load:
			u.log.Warn("systemd cannot run the unit of a workload, which counts as unhealthy", "unit", unit, "state", s.String(), "remedy", "systemctl status "+unit)
		case s.Socket != "" && s.Socket != before.Socket:
			u.log.Warn("a workload's unit is started by a socket, and counts as healthy while that listens: to keep requests away, stop the socket first",
				"unit", unit, "socket", s.Socket)
		}
	}
}

// state returns how a unit is, and whether that is known.
func (s *unitStates) state(unit string) (now systemd.State, known bool) {
	if s != nil {
		now, known = s.of[unit]
	}
	return now, known
}

// sick says why a unit's workload can take no requests; empty: nothing is known against it.
func (s *unitStates) sick(unit string) string {
	if s == nil || unit == "" {
		return ""
	}
	now, known := s.of[unit]
	if !known || now.Runs() || now.Socket != "" && now.Load == "loaded" {
		return ""
	}
	return "its unit " + unit + " is " + now.String()
}
