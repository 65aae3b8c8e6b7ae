package agent

import (
	"context"
	"maps"
	"net/http"
	"time"

	"github.com/wattle-mesh/wattle/configs"
	"github.com/wattle-mesh/wattle/internal/api"
)

// status says how far a workload's drain is.
func (d *drains) status(w workload, x drain) *api.DrainStatus {
	out := &api.DrainStatus{ServiceRef: api.ServiceRef{Namespace: w.namespace, Name: w.service, Instance: w.instance}, State: api.DrainLeaving, Reason: x.reason}
	p := d.at.Now()[w]
	if p.number != x.number {
		return out
	}
	out.State, out.Detail, out.Busy = [...]string{leaving: api.DrainLeaving, ending: api.DrainEnding, done: api.DrainDone}[p.stage], p.note, p.busy
	return out
}

// set drains a workload until it is taken back, or takes that back. It reports whether that changes anything.
func (d *drains) set(who client, w workload, reason string, on bool) (changed bool, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if old := d.own[w]; on == (old != nil) {
		return false, nil
	}
	next := maps.Clone(d.own)
	delete(next, w)
	if on {
		next[w] = &ownDrain{Namespace: w.namespace, Service: w.service, Instance: w.instance, UID: who.uid, Since: time.Now().UTC().Truncate(time.Second), Reason: reason}
	}
	if err := d.save(next); err != nil {
		return false, err
	}
	d.own = next
	d.poke()
	return true, nil
}

// forget ends what somebody asked for of a workload that is no more.
func (d *drains) forget(w workload) {
	if _, err := d.set(client{}, w, "", false); err != nil {
		d.log.Error("keep the drains on disk", "error", err)
	}
}

// stop drains the workloads of a unit for as long as this run of it lasts; an empty run ends that.
func (d *drains) stop(unit, run string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if run == "" {
		delete(d.stops, unit)
	} else {
		d.stops[unit] = run
	}
	d.poke()
}

// await waits until all workloads that of lists have drained, at most so long, and says how far they are.
func (d *drains) await(ctx context.Context, of func() []workload, limit time.Duration) []api.DrainStatus {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	for {
		held, changed := d.held.Load()
		_, moved := d.at.Load()
		out, left := []api.DrainStatus{}, 0
		for _, w := range of() {
			s := *d.status(w, held[w])
			if s.State != api.DrainDone {
				left++
			}
			out = append(out, s)
		}
		if left == 0 {
			return out
		}
		select {
		case <-changed:
		case <-moved:
		case <-timer.C:
			return out
		case <-ctx.Done():
			return out
		}
	}
}

// there reports whether a workload is registered here or in the plan, and which unit runs it.
func (d *desk) there(key workload) (unit string, owner *uint32, ok bool) {
	plan := d.drains.plan.Now()
	d.mu.Lock()
	defer d.mu.Unlock()
	e := d.find(key)
	for _, w := range plan.GetWorkloads() {
		ok = ok || workloadOf(w) == key
	}
	if e != nil && !e.file {
		owner = &e.UID
	}
	return boundUnits(plan, d.bound.Now())[key], owner, ok || e != nil
}

// drain drains a workload, or takes that back: the request's method says which.
func (d *desk) drain(who client, key workload, r *http.Request) (any, error) {
	unit, owner, ok := d.there(key)
	switch {
	case !ok:
		return nil, unknown(key)
	case d.trusted(who.uid) || owner != nil && *owner == who.uid:
	case unit == "":
		return nil, deny(http.StatusForbidden, api.CodeUser, "do it as root, or as who registered it", "uid %d may not drain %s", who.uid, key)
	default:
		if err := d.mayDeclare(r.Context(), who, unit); err != nil {
			return nil, err
		}
	}
	req, err := api.ParseDrainRequest(r)
	if err != nil {
		return nil, err
	}
	on := r.Method == http.MethodPut
	changed, err := d.drains.set(who, key, req.Reason, on)
	if err != nil || !on {
		return api.DrainAnswer{Workloads: []api.DrainStatus{}, Changed: changed}, err
	}
	all := d.drains.await(r.Context(), func() []workload { return []workload{key} }, time.Duration(req.Wait))
	return api.DrainAnswer{Workloads: all, Changed: changed}, nil
}

// drainUnit drains the workloads of a unit that is being stopped, or takes that back.
func (d *desk) drainUnit(who client, r *http.Request) (any, error) {
	unit := r.PathValue("unit")
	if !configs.UnitName.MatchString(unit) {
		return nil, &api.Error{Status: http.StatusBadRequest, Code: api.CodeMalformed, Message: "there is no such service unit", Remedy: "write its whole name, \"web.service\""}
	}
	if d.units == nil {
		return nil, deny(http.StatusForbidden, api.CodeUnit, "drain the workloads by name", "this agent has no systemd to ask of units")
	}
	if err := d.mayDeclare(r.Context(), who, unit); err != nil {
		return nil, err
	}
	req, err := api.ParseDrainRequest(r)
	if err != nil {
		return nil, err
	}
	if r.Method != http.MethodPut {
		d.drains.stop(unit, "")
		return api.DrainAnswer{Workloads: []api.DrainStatus{}, Changed: true}, nil
	}
	ctx, cancel := context.WithTimeout(r.Context(), unitLimit)
	defer cancel()
	now, err := d.units.State(ctx, unit)
	if err != nil {
		return nil, deny(http.StatusServiceUnavailable, api.CodeUnit, "see systemctl status "+unit, "%v", err)
	}
	if !now.Runs() { // nothing is left to be finished
		return api.DrainAnswer{Workloads: []api.DrainStatus{}, Note: unit + " is " + now.String()}, nil
	}
	d.drains.stop(unit, now.Invocation)
	all := d.drains.await(r.Context(), func() []workload {
		if s, known := d.drains.states.Now().state(unit); known && s.Invocation == now.Invocation && !s.Runs() {
			return nil // it has ended meanwhile
		}
		var of []workload
		bound := boundUnits(d.drains.plan.Now(), d.bound.Now())
		for _, w := range sortedWorkloads(bound) {
			if bound[w] == unit {
				of = append(of, w)
			}
		}
		return of
	}, time.Duration(req.Wait))
	return api.DrainAnswer{Workloads: all, Changed: true}, nil
}
