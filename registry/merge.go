package registry

import (
	"cmp"
	"reflect"
	"slices"

	iradix "github.com/hashicorp/go-immutable-radix/v2"
)

// inputs are what a catalog was merged from.
type inputs struct {
	sets   []Set
	health HealthMap
}

// Merge joins the sets, those of a lower priority taking precedence, and of equal ones the earlier, and what the agents say of their workloads' health.
// It is pure, and incremental relative to prev (nil for the first catalog): a set that kept its slice is not
// looked at, of the others only the pointers of services are compared, and only a service of which a pointer or a
// health changed is merged again, and one with workloads on a host that is elsewhere now. One that comes out equal keeps its pointer and is not in Changed.
//
// Sets are as the Aggregator gives them: checked, sorted, without repeats.
func Merge(prev *Catalog, sets []Set, health HealthMap) *Catalog {
	if prev == nil {
		prev = &Catalog{Services: iradix.New[*Service](), conflicts: iradix.New[[]Diagnostic](), hosts: iradix.New[[]claim]()}
	}
	sets = slices.Clone(sets)
	slices.SortStableFunc(sets, func(a, b Set) int { return cmp.Compare(a.Priority, b.Priority) })
	next := &Catalog{
		Gen:     prev.Gen + 1,
		PrevGen: prev.Gen,
		inputs:  inputs{sets, health},
		Drained: prev.Drained,
	}
	services, conflicts := prev.Services.Txn(), prev.conflicts.Txn()
	places := hosts{prev.hosts.Txn()}
	names, moved := stale(prev.inputs, next.inputs)
	if moved {
		next.Drained = drained(health)
	}
	if more := places.move(names, prev.inputs.sets, sets); len(more) > 0 {
		names = append(names, more...)
		slices.SortFunc(names, Name.Compare)
		names = slices.Compact(names)
	}
	sources := make([][]string, len(sets))
	for i := range sets {
		sources[i] = []string{sets[i].Name}
	}
	for _, name := range names {
		key := []byte(name.String())
		old, _ := services.Get(key)
		now, disagree := mergeService(name, old, sets, sources, health, places)
		if len(disagree) > 0 {
			conflicts.Insert(key, disagree)
		} else {
			conflicts.Delete(key)
		}
		if now == old {
			continue
		}
		next.Changed = append(next.Changed, name)
		if now == nil {
			services.Delete(key)
		} else {
			services.Insert(key, now)
		}
	}
	next.Services, next.conflicts, next.hosts = services.Commit(), conflicts.Commit(), places.Commit()
	return next
}

// stale lists, sorted and without repeats, the services that may come out otherwise with now than with old, and reports
// whether the operator's word on a host is another one.
func stale(old, now inputs) (names []Name, hosts bool) {
	add := func(n Name) { names = append(names, n) }
	agents := (old.health == nil) == (now.health == nil) // what their silence means is the same
	if agents && slices.EqualFunc(old.sets, now.sets, func(a, b Set) bool { return a.Name == b.Name && a.Standing == b.Standing }) {
		for i := range now.sets {
			diffServices(old.sets[i].Services, now.sets[i].Services, add)
		}
	} else { // another standing is another precedence
		for _, set := range append(slices.Clone(old.sets), now.sets...) {
			diffServices(nil, set.Services, add)
		}
	}
	diffHealth(old.health, now.health, func(n Name) {
		if n == (Name{}) {
			hosts = true
		} else {
			add(n)
		}
	})
	slices.SortFunc(names, Name.Compare)
	return slices.Compact(names), hosts
}

// drained lists the hosts that are in maintenance, sorted.
func drained(health HealthMap) []string {
	var out []string
	for k, word := range health {
		if k == HostKey(k.Host) && word.Health == Draining {
			out = append(out, k.Host)
		}
	}
	slices.Sort(out)
	return out
}

// diffServices calls add for every service that differs by pointer between two sorted slices.
func diffServices(old, now []*Service, add func(Name)) {
	if len(old) == len(now) && (len(old) == 0 || &old[0] == &now[0]) {
		return
	}
	i, j := 0, 0
	for i < len(old) && j < len(now) {
		if old[i] == now[j] {
			i, j = i+1, j+1
			continue
		}
		c := old[i].Name.Compare(now[j].Name)
		if c <= 0 {
			add(old[i].Name)
			i++
		}
		if c >= 0 {
			add(now[j].Name)
			j++
		}
	}
	for ; i < len(old); i++ {
		add(old[i].Name)
	}
	for ; j < len(now); j++ {
		add(now[j].Name)
	}
}

// diffHealth calls add for the service of every workload whose health differs, and with no name for a host.
func diffHealth(old, now HealthMap, add func(Name)) {
	// The same map, which nobody changes once it is published, says the same.
	if reflect.ValueOf(old).UnsafePointer() == reflect.ValueOf(now).UnsafePointer() {
		return
	}
	known := 0
	for k, word := range now {
		was, ok := old[k]
		if ok {
			known++
		}
		if !ok || was != word {
			add(k.Service)
		}
	}
	if known == len(old) {
		return
	}
	for k := range old {
		if _, ok := now[k]; !ok {
			add(k.Service)
		}
	}
}

// find returns the service of that name, or nil.
func (s Set) find(name Name) *Service {
	i, ok := slices.BinarySearchFunc(s.Services, name, func(s *Service, n Name) int { return s.Name.Compare(n) })
	if !ok {
		return nil
	}
	return s.Services[i]
}
