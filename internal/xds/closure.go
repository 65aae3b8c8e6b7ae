package xds

import (
	"cmp"
	"slices"

	"github.com/wattle-mesh/wattle/translator"
)

// closure is what a scope and everything it includes lists and is published, at one moment. Immutable. All
// proxies that list the scope share it, so that a proxy costs the same whatever it has in scope.
type closure struct {
	of   *scope
	keys [translator.NumTypes][]*entry // sorted by seq, without repeats
}

func (c *closure) empty() bool {
	for _, k := range c.keys {
		if len(k) > 0 {
			return false
		}
	}
	return true
}

func (c *closure) has(e *entry) bool {
	_, ok := slices.BinarySearchFunc(c.keys[e.key.Type], e, bySeq)
	return ok
}

func bySeq(a, b *entry) int { return cmp.Compare(a.seq, b.seq) }

// closureOf makes the closure of s; the one it has if nothing differs.
func (t *table) closureOf(s *scope) *closure {
	t.visit++
	now := &closure{of: s}
	t.collect(s, now)
	same := s.closure != nil
	for i := range now.keys {
		slices.SortFunc(now.keys[i], bySeq)
		if s.closure != nil && slices.Equal(s.closure.keys[i], now.keys[i]) {
			now.keys[i] = s.closure.keys[i]
			continue
		}
		now.keys[i] = slices.Clip(now.keys[i])
		same = false
	}
	if same {
		return s.closure
	}
	return now
}

func (t *table) collect(s *scope, into *closure) {
	if s.seen == t.visit {
		return
	}
	s.seen = t.visit
	for _, e := range s.keys {
		if e.seen != t.visit && e.res != nil {
			e.seen = t.visit
			into.keys[e.key.Type] = append(into.keys[e.key.Type], e)
		}
	}
	for _, u := range s.uses {
		t.collect(u, into)
	}
}

// set is a union of closures: what a proxy has in scope, or what a stream's client holds. Immutable.
type set struct {
	parts []*closure
}

var emptySet = &set{}

func (s *set) has(e *entry) bool {
	for _, c := range s.parts {
		if c.has(e) {
			return true
		}
	}
	return false
}

func (s *set) equal(parts []*closure) bool { return slices.Equal(s.parts, parts) }

// maxParts bounds how many closures a union keeps before it becomes one.
const maxParts = 16

// union returns what is in a or b.
func union(a, b *set) *set {
	if a == b || len(b.parts) == 0 {
		return a
	}
	if len(a.parts) == 0 {
		return b
	}
	parts := slices.Clone(b.parts)
	for _, c := range a.parts {
		if !slices.Contains(parts, c) {
			parts = append(parts, c)
		}
	}
	if len(parts) == len(b.parts) {
		return b
	}
	if len(parts) > maxParts {
		return &set{parts: []*closure{flatten(parts)}}
	}
	return &set{parts: parts}
}

// flatten makes one closure of many.
func flatten(parts []*closure) *closure {
	all := &closure{}
	for t := range all.keys {
		for _, c := range parts {
			all.keys[t] = append(all.keys[t], c.keys[t]...)
		}
		slices.SortFunc(all.keys[t], bySeq)
		all.keys[t] = slices.Compact(all.keys[t])
	}
	return all
}

// freshKey names a comparison of two closures.
type freshKey struct {
	now, old *closure
	typ      translator.Type
}

// beyond calls yield for each entry of typ that is in now and not in old.
func (t *table) beyond(now, old *set, typ translator.Type, yield func(*entry)) {
	if now == old {
		return
	}
	for i, c := range now.parts {
		if slices.Contains(old.parts, c) {
			continue
		}
		earlier := set{parts: now.parts[:i]}
		for _, e := range t.candidates(c, old, typ) {
			if !old.has(e) && !earlier.has(e) {
				yield(e)
			}
		}
	}
}

// candidates returns the entries of c among which those are that old lacks: if old has an earlier closure of the same
// scope, what c has beyond that, which is worked out once for all streams.
func (t *table) candidates(c *closure, old *set, typ translator.Type) []*entry {
	i := slices.IndexFunc(old.parts, func(o *closure) bool { return o.of == c.of && o.of != nil })
	if i < 0 {
		return c.keys[typ]
	}
	key := freshKey{c, old.parts[i], typ}
	if list, ok := t.fresh[key]; ok {
		return list
	}
	var list []*entry
	for _, e := range c.keys[typ] {
		if !key.old.has(e) {
			list = append(list, e)
		}
	}
	t.fresh[key] = list
	return list
}
