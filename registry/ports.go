package registry

import (
	"cmp"
	"maps"
	"slices"
)

// Listener is an instance of a service as far as it says which port callers name.
type Listener struct {
	Port  uint16
	Index uint64 // when it was registered, in the registry's own count; zero: it has none
}

// NamedPort returns the port that callers name a service by if nobody says, and whether all instances agree on it: the one that
// most of them have; of equally common ones that of the instance that was there first, of equals the lowest. So the answer
// depends on what there is and not on its order or history, and all servers give the same one. An instance that comes changes it
// only to its own port, and only if that is then as common as the one so far; one that goes only if it had the port that was
// named, and another is then as common. There must be an instance.
func NamedPort(all []Listener) (port uint16, agreed bool) {
	type heap struct {
		count int
		first uint64
	}
	heaps := map[uint16]heap{}
	for _, l := range all {
		h, ok := heaps[l.Port]
		if !ok || l.Index < h.first {
			h.first = l.Index
		}
		h.count++
		heaps[l.Port] = h
	}
	best := slices.MinFunc(slices.Collect(maps.Keys(heaps)), func(a, b uint16) int {
		x, y := heaps[a], heaps[b]
		return cmp.Or(cmp.Compare(y.count, x.count), cmp.Compare(x.first, y.first), cmp.Compare(a, b))
	})
	return best, len(heaps) == 1
}
