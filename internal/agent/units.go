package agent

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/wattle-mesh/wattle/configs"
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
		before := oddities(unit, was[unit])
		if _, known := was[unit]; !known {
			before = nil
		}
		for _, o := range oddities(unit, now[unit]) {
			if !slices.Contains(before, o) {
				u.log.Warn("a workload's unit is not as it should be", "unit", unit, "fault", o.what, "remedy", o.remedy)
			}
		}
	}
}

// codeUnit is of workloads' units that cannot be drained or judged as they should be.
const codeUnit = "W5021"

// oddity is what is wrong with a unit.
type oddity struct{ what, remedy string }

// oddities lists what keeps a unit's workloads from being drained, or from being judged by its state.
func oddities(unit string, s systemd.State) (out []oddity) {
	add := func(what, remedy string) { out = append(out, oddity{what, remedy}) }
	switch {
	case systemd.Template(unit):
		add(unit+" is a template without an instance, which never runs: its workloads count as unhealthy", fmt.Sprintf("Write which one it is: unit = %q.", strings.Replace(unit, "@.", "@NAME.", 1)))
	case s.Load == "not-found":
		add("systemd knows no unit "+unit+": its workloads count as unhealthy", "Is it written right? One of a user's own systemd (systemctl --user) cannot be followed: leave unit out, and declare a check.")
	case s.Load != "loaded":
		add(fmt.Sprintf("systemd cannot run %s (%s): its workloads count as unhealthy", unit, s.Load), "systemctl status "+unit+" says why.")
	}
	if s.Socket != "" {
		add(fmt.Sprintf("%s is started by %s, and counts as healthy while that listens", unit, s.Socket), "To keep requests away stop the socket first, or drain it by name: wattle service drain.")
	}
	if s.KillMode == "none" {
		add("a stop of "+unit+" ends no process (KillMode=none): the application may go on when its workloads have drained", "Leave KillMode out, or say KillMode=mixed.")
	}
	if s.Drains {
		add(unit+" runs wattle service drain when it is stopped, which its companion does before", "Leave that ExecStop out.")
	}
	return out
}

// diagnostics is what the server is told of units.
func (s *unitStates) diagnostics() (out configs.Diagnostics) {
	if s == nil {
		return nil
	}
	for _, unit := range slices.Sorted(maps.Keys(s.of)) {
		for _, o := range oddities(unit, s.of[unit]) {
			out = append(out, configs.NewDiagnostic(configs.Warning, codeUnit, "the host's agent", o.what, o.remedy))
		}
	}
	return out
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
