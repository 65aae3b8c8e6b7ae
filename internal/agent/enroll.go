package agent

import (
	"context"
	"maps"
	"time"

	"github.com/wattle-mesh/wattle/configs"
	"github.com/wattle-mesh/wattle/internal/api"
)

// enroll takes registrations in, all or none. One that is the same as before changes nothing, and counts as a heartbeat.
func (d *desk) enroll(ctx context.Context, who client, all []*configs.Service, run api.Run) ([]api.ServiceAnswer, error) {
	for _, s := range all {
		if err := d.mayEnroll(ctx, who, s); err != nil {
			return nil, api.Of(s, all, err)
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	now := time.Now()
	was, next := d.own, maps.Clone(d.own)
	var changed []*entry
	var first []api.ServiceRef // that no run renews
	refused := map[workload]api.ServiceAnswer{}
	for _, s := range all {
		e := (&entry{Service: s, UID: who.uid, Trusted: d.trusted(who.uid), Run: run.ID, Registered: now.UTC().Truncate(time.Second)}).finish()
		if err := d.mayChange(who, e.key()); err != nil {
			return nil, api.Of(s, all, err)
		}
		old := was[e.key()]
		if old != nil {
			e.UID, e.Registered = old.UID, old.Registered // whose it is stays, also when root changes it
			e.finish()
		}
		if answer, ended := d.ended.Refuse(s, now); ended && run.Renew && old == nil {
			refused[e.key()] = answer
			continue
		}
		if !run.Renew {
			first = append(first, api.ServiceRef{Namespace: s.Namespace, Name: s.Name, Instance: s.Instance})
		}
		if run.Renew && old != nil && old.Run != run.ID || old.same(e) && (run.ID == "" || run.ID == old.Run) {
			continue // a later run, or somebody's hand, has it now; or nothing is new
		}
		next[e.key()] = e
		changed = append(changed, e)
	}
	if len(changed) > 0 {
		d.own = next
		err := d.admit(who, was, all, changed)
		if err == nil {
			err = d.save(next)
		}
		if err != nil {
			d.own = was
			return nil, err
		}
	}
	if err := d.dismiss(d.ended.Without(first...)); err != nil {
		d.log.Error("what is registered anew counts as deregistered once it is gone", "error", err)
	}
	out := make([]api.ServiceAnswer, 0, len(all))
	for _, s := range all {
		key := workload{s.Namespace, s.Name, s.Instance}
		if answer, ok := refused[key]; ok {
			out = append(out, answer)
			continue
		}
		e, old := next[key], was[key]
		news := e != old && !old.same(e)
		if news {
			d.log.Info("workload registered", "workload", key.String(), "uid", who.uid, "new", old == nil)
		}
		if e.Run == "" || e.Run == run.ID || !run.Renew {
			d.beat(key, now) // of a later run the life of an earlier one says nothing
		}
		out = append(out, api.ServiceAnswer{ServiceStatus: d.status(e), Changed: news})
	}
	return out, nil
}

// same reports whether two registrations say the same; the first may be nil.
func (e *entry) same(o *entry) bool {
	return e != nil && e.barred == "" && string(e.wire.GetBody()) == string(o.wire.GetBody()) && sameLease(e.Service, o.Service) && e.Service.Origin == o.Service.Origin
}

// mayEnroll says why a service cannot be registered by a user, whatever else is registered.
func (d *desk) mayEnroll(ctx context.Context, who client, s *configs.Service) error {
	err := d.mayDeclare(ctx, who, s.Unit)
	if err == nil && !d.trusted(who.uid) {
		err = d.grants.check(who.uid, s.Unit, s)
	}
	if err == nil {
		err = d.fits(who, s)
	}
	return err
}

// admit says for which of the registrations that are new or changed there is no place among all that are now. The caller holds
// d.mu.
func (d *desk) admit(who client, was map[workload]*entry, all []*configs.Service, changed []*entry) error {
	for _, e := range changed {
		if err := d.room(who, e, was[e.key()] == nil); err != nil {
			return api.Of(e.Service, all, err)
		}
	}
	return nil
}
