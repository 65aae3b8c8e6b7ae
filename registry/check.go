package registry

import (
	"fmt"
	"slices"
)

// What bounds the memory that a set takes here, whatever a registry says.
const (
	maxTold      = 100     // diagnostics that one set, or one service, gives rise to
	maxKept      = 10_000  // diagnostics that are kept for as long as the services are that they are about
	maxServices  = 100_000 // of a set
	maxEndpoints = 500_000 // of a set
)

// checked is what one source published and what of it is served. The zero value is a source that has not
// published. It is a value: next makes the one that follows.
type checked struct {
	raw    []*Service           // as published
	sorted bool                 // raw is in order, without repeats
	clean  []*Service           // what is served of it; raw itself if there is nothing wrong with it
	faulty map[*Service]verdict // those in raw that are not served as they are
	ds     []Diagnostic         // what is wrong with raw
	kept   int                  // diagnostics in faulty
	over   Diagnostic           // what of the set was not taken; zero: nothing
}

// verdict is what becomes of a faulty service.
type verdict struct {
	clean *Service // without what is faulty in it; nil: the whole is left out
	ds    []Diagnostic
	more  int // faults that have no diagnostic
}

// next checks what the source published after c. A service that kept its pointer is not looked into again. What
// is served is the same slice if nothing changed. It keeps no reference to the slice that it is given.
func (c checked) next(source string, published []*Service) checked {
	published, over := c.bounded(source, published)
	if len(published) == len(c.raw) && slices.Equal(published, c.raw) && c.raw != nil && c.over == over {
		return c
	}
	n := checked{raw: make([]*Service, len(published)), sorted: true, over: over}
	copy(n.raw, published)
	i, last := 0, -2 // last is where in c.raw the service before this one stood, -2 if nowhere
	for j, s := range n.raw {
		for i < len(c.raw) && c.raw[i] != s && before(c.raw[i], s) {
			i++
		}
		at := -2
		if i < len(c.raw) && c.raw[i] == s {
			at = i
			i++
		} else {
			n.inspect(source, s)
		}
		if at >= 0 {
			n.adopt(c, s)
		}
		if j > 0 && !(c.sorted && at >= 0 && at == last+1) && !before(n.raw[j-1], s) {
			n.sorted = false
		}
		last = at
	}
	n.clean = n.raw
	if !n.sorted || len(n.faulty) > 0 {
		n.clear(source)
	}
	if over != (Diagnostic{}) {
		n.ds = append(slices.Clip(n.ds), over)
	}
	return n
}

// before reports whether a stands before b in a sorted set. A missing service has no place.
func before(a, b *Service) bool { return a != nil && b != nil && a.Name.Compare(b.Name) < 0 }

// adopt takes over the earlier verdict on a service.
func (c *checked) adopt(earlier checked, s *Service) {
	if v, ok := earlier.faulty[s]; ok {
		c.condemn(s, v)
	}
}

// inspect looks into a service.
func (c *checked) inspect(source string, s *Service) {
	if v := inspect(source, s); v.faults() > 0 {
		c.condemn(s, v)
	}
}

func (c *checked) condemn(s *Service, v verdict) {
	if c.faulty == nil {
		c.faulty = map[*Service]verdict{}
	}
	if left := max(maxKept-c.kept, 0); len(v.ds) > left {
		v.more += len(v.ds) - left
		v.ds = slices.Clone(v.ds[:left])
	}
	c.kept += len(v.ds)
	c.faulty[s] = v
}

// faults is how many there are.
func (v verdict) faults() int { return len(v.ds) + v.more }

// clear makes what is served of a set that is not as it should be, and says what is wrong with it.
func (c *checked) clear(source string) {
	c.clean = make([]*Service, 0, len(c.raw))
	told, more := map[*Service]bool{}, 0
	for _, s := range c.raw {
		v, faulty := c.faulty[s]
		if !faulty {
			c.clean = append(c.clean, s)
			continue
		}
		if !told[s] {
			told[s] = true
			c.ds = append(c.ds, v.ds[:min(len(v.ds), max(maxTold-len(c.ds), 0))]...)
			more += v.faults()
		}
		if v.clean != nil {
			c.clean = append(c.clean, v.clean)
		}
	}
	more -= len(c.ds)
	if !c.sorted {
		more += c.sort(source)
	}
	if more > 0 {
		code := badEndpoint
		if len(c.ds) > 0 {
			code = c.ds[len(c.ds)-1].Code
		}
		c.ds = append(c.ds, Diagnostic{Severity: Error, Code: code, Source: source,
			Summary: fmt.Sprintf("%d more faults in what registry %s says", more, source)})
	}
}

// sort brings clean into order and leaves the repeats out: the first one holds. It returns how many faults it found and
// does not tell.
func (c *checked) sort(source string) (more int) {
	tell := func(d Diagnostic) {
		if len(c.ds) < maxTold {
			c.ds = append(c.ds, d)
			return
		}
		more++
	}
	byName := func(a, b *Service) int { return a.Name.Compare(b.Name) }
	if !slices.IsSortedFunc(c.clean, byName) {
		slices.SortStableFunc(c.clean, byName)
		tell(Diagnostic{Severity: Warning, Code: unsorted, Source: source,
			Summary: fmt.Sprintf("registry %s gives its services out of order", source),
			Detail:  "They are sorted and used. This is a fault of the driver: please report it."})
	}
	once := c.clean[:0]
	for _, s := range c.clean {
		if len(once) == 0 || once[len(once)-1].Name != s.Name {
			once = append(once, s)
			continue
		}
		tell(Diagnostic{Severity: Error, Code: repeatedName, Source: source, Origin: clip(s.Origin, maxShown),
			Summary: fmt.Sprintf("service %s is named twice; the second one is left out", s.Name),
			Detail:  "Put all endpoints into one service."})
	}
	c.clean = once
	return more
}
