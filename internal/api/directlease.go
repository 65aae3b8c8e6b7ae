package api

import (
	"slices"
	"time"

	"github.com/wattle-mesh/wattle/configs"
	"github.com/wattle-mesh/wattle/internal/store"
	"github.com/wattle-mesh/wattle/registry"
)

// lease looks who is late, and ends what was silent for too long. It returns when time alone changes something again.
func (r *Registrar) lease(now time.Time) (next time.Time, any bool, err error) {
	r.writing.Lock()
	defer r.writing.Unlock()
	r.mu.Lock()
	defer r.mu.Unlock()
	var gone []store.Endpoint
	var ended []ServiceRef
	moved := false
	sooner := func(at time.Time) {
		if !any || at.Before(next) {
			next, any = at, true
		}
	}
	for ref, d := range r.direct {
		if d.TTL == 0 {
			continue
		}
		if after := time.Duration(d.DeregisterAfter); after > 0 {
			if now.Sub(d.heard) >= after {
				gone = append(gone, d.kept)
				ended = append(ended, ref)
			} else {
				sooner(d.heard.Add(after))
			}
		}
		due := d.heard.Add(time.Duration(d.TTL))
		if late := !due.After(now); late != d.late {
			d.late, moved = late, true
		}
		if !d.late {
			sooner(due)
		}
	}
	if len(gone) > 0 {
		// What the store keeps a server that starts again would bring back, so it stays here, too, until that is done.
		if err = r.o.Store.DeleteEndpoints(gone); err != nil {
			ended = nil
		}
	}
	for _, ref := range ended {
		r.o.Log.Warn("a service that was silent is deregistered", "service", ref.String(), "after", time.Duration(r.direct[ref].DeregisterAfter))
		delete(r.direct, ref)
		moved = true
	}
	if moved {
		r.rebuild()
	}
	return next, any, err
}

// overlay is a service some of whose endpoints are late.
type overlay struct {
	base, out *registry.Service
	late      string // which
}

// dim returns the services with the endpoints that are late as unhealthy. What has not changed keeps its pointer. The
// caller holds r.mu.
func (r *Registrar) dim(base []*registry.Service) []*registry.Service {
	late := map[registry.Name][]*direct{}
	for _, d := range r.sortedDirect() {
		if d.late && d.host == "" {
			name := registry.Name{Namespace: d.Namespace, Name: d.Name}
			late[name] = append(late[name], d)
		}
	}
	if len(late) == 0 {
		r.overlays = nil
		return base
	}
	out, overlays := slices.Clone(base), map[registry.Name]overlay{}
	for name, all := range late {
		i, ok := slices.BinarySearchFunc(base, name, func(s *registry.Service, n registry.Name) int { return s.Name.Compare(n) })
		if !ok {
			continue
		}
		o := overlay{base: base[i]}
		for _, d := range all {
			o.late += d.Instance + "/" + time.Duration(d.TTL).String() + " "
		}
		if was := r.overlays[name]; was.base == o.base && was.late == o.late {
			o = was
		} else {
			o.out = dimmed(base[i], all)
		}
		out[i], overlays[name] = o.out, o
	}
	r.overlays = overlays
	return out
}

// dimmed returns a service with the endpoints of those that are late as unhealthy.
func dimmed(s *registry.Service, late []*direct) *registry.Service {
	out := *s
	out.Endpoints = slices.Clone(s.Endpoints)
	for i, e := range out.Endpoints {
		for _, d := range late {
			if e.Workload == nil && d.has(&configs.Endpoint{Address: e.Address, Port: e.Port}) {
				c := *e
				c.Health, c.Reason = registry.Unhealthy, d.silent(time.Duration(d.TTL))
				out.Endpoints[i] = &c
			}
		}
	}
	return &out
}
