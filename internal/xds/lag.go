package xds

import (
	"slices"

	"github.com/wattle-mesh/wattle/translator"
)

// Lagging says, sorted, which proxies that have one of these resources in scope have yet to acknowledge what it is now, and
// which of them are not connected, so that they cannot be told.
func (s *Server) Lagging(t translator.Type, names []string) (lagging, away []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.proxies {
		switch concerned, holds := s.has(p, t, names); {
		case !concerned || holds:
		case p.stream == nil:
			away = append(away, p.id)
		default:
			lagging = append(lagging, p.id)
		}
	}
	slices.Sort(lagging)
	slices.Sort(away)
	return lagging, away
}

// has reports whether a proxy has any of the resources in scope, and whether its client has acknowledged all of those as they
// are now.
func (s *Server) has(p *proxy, t translator.Type, names []string) (concerned, holds bool) {
	holds = true
	for _, name := range names {
		e := s.lookup(p.set, t, name)
		if e == nil {
			continue
		}
		concerned = true
		if p.stream == nil {
			return true, false
		}
		b := &p.stream.subs[t]
		holds = holds && b.on && b.settled && b.has.has(e) && b.acked >= e.gen
	}
	return concerned, holds
}
