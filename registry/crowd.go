package registry

import (
	"fmt"
	"slices"
)

// Room returns which of too many sorted names are taken, at most so many: first those that are served, then those that a service
// can have, so that a flood of new or bad ones drives nothing out, and then by the alphabet.
func Room[N any](sorted []N, most int, served func(N) bool, name func(N) string) []N {
	if len(sorted) <= most {
		return sorted
	}
	rank := func(n N) int {
		switch {
		case served(n):
			return 0
		case isLabel(name(n)):
			return 1
		}
		return 2
	}
	var by [3][]N
	for _, n := range sorted {
		r := rank(n)
		by[r] = append(by[r], n)
	}
	return slices.Concat(by[0], by[1], by[2])[:most]
}

// bounded returns the part of a set that is taken, and says what is not: what is served already goes before what is new, and what
// has no fault before what has.
func (c checked) bounded(source string, published []*Service) ([]*Service, Diagnostic) {
	endpoints := 0
	for _, s := range published[:min(len(published), maxServices)] {
		endpoints += size(s)
	}
	if len(published) <= maxServices && endpoints <= maxEndpoints {
		return published, Diagnostic{}
	}
	served := make(map[Name]bool, len(c.clean))
	for _, s := range c.clean {
		served[s.Name] = true
	}
	services := 0
	endpoints = 0
	taken := make([]bool, len(published))
	for _, fits := range []func(*Service) bool{
		func(s *Service) bool { return s != nil && served[s.Name] },
		func(s *Service) bool { return inspect(source, s).faults() == 0 },
		func(*Service) bool { return true },
	} {
		for i, s := range published {
			if services < maxServices && !taken[i] && endpoints+size(s) <= maxEndpoints && fits(s) {
				taken[i] = true
				services++
				endpoints += size(s)
			}
		}
	}
	var out []*Service
	for i, s := range published {
		if taken[i] {
			out = append(out, s)
		}
	}
	return out, Diagnostic{Severity: Error, Code: tooMuch, Source: source,
		Summary: fmt.Sprintf("registry %s has %d services, of which %d are left out", source, len(published), len(published)-len(out)),
		Detail:  fmt.Sprintf("Of one registry at most %d services with %d endpoints in all are taken, first those that are served already.", maxServices, maxEndpoints)}
}

// size is how many endpoints of a service, which may be nil, count.
func size(s *Service) int {
	if s == nil {
		return 0
	}
	return min(len(s.Endpoints), maxServiceEndpoints)
}
