package registry

import (
	"cmp"
	"slices"
	"time"
)

// lay makes served anew: what the source says, with what is held.
func (k *keeper) lay() {
	var over []*Service
	for name, l := range k.ledgers {
		l.dirty = l.dirty && l.held > 0
		if l.held == 0 {
			l.overlay = nil
			k.close(name, l)
			continue
		}
		var said *Service
		if i, ok := slices.BinarySearchFunc(k.said, name, func(s *Service, n Name) int { return s.Name.Compare(n) }); ok {
			said = k.said[i]
		}
		if l.dirty || l.overlay == nil || l.over != said {
			l.overlay, l.over, l.dirty = l.lay(said), said, false
		}
		over = append(over, l.overlay)
	}
	if len(over) == 0 {
		k.served = k.said
		return
	}
	slices.SortFunc(over, func(a, b *Service) int { return a.Name.Compare(b.Name) })
	k.served = make([]*Service, 0, len(k.said)+len(over))
	for _, s := range k.said {
		for len(over) > 0 && over[0].Name.Compare(s.Name) < 0 {
			k.served, over = append(k.served, over[0]), over[1:]
		}
		if len(over) > 0 && over[0].Name == s.Name {
			s, over = over[0], over[1:]
		}
		k.served = append(k.served, s)
	}
	k.served = append(k.served, over...)
}

// lay makes the service as it is served: what the source says of it, nil if nothing, and the endpoints that are held.
func (l *ledger) lay(said *Service) *Service {
	var out Service
	var last *Service // the newest that had one of them
	var at time.Time
	for _, a := range l.gone {
		if a.held && (last == nil || a.at.After(at)) {
			last, at = a.service, a.at
		}
	}
	if out = *last; said != nil {
		out = *said
	}
	out.Ports, out.Endpoints = slices.Clone(out.Ports), nil
	if said != nil {
		out.Endpoints = slices.Clone(said.Endpoints)
	}
	for _, a := range l.gone {
		if !a.held {
			continue
		}
		out.Endpoints = append(out.Endpoints, a.endpoint)
		for _, p := range a.service.Ports {
			if p.Number == a.endpoint.ServicePort && !slices.ContainsFunc(out.Ports, func(o Port) bool { return o.Number == p.Number }) {
				out.Ports = append(out.Ports, p)
			}
		}
	}
	slices.SortFunc(out.Ports, func(a, b Port) int { return cmp.Compare(a.Number, b.Number) })
	slices.SortFunc(out.Endpoints, (*Endpoint).compare)
	if said == nil && slices.Equal(out.Ports, last.Ports) && slices.Equal(out.Endpoints, last.Endpoints) {
		return last
	}
	return &out
}
