package registry

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// world is what the registries of a test say, by source and service. Equal draws share pointers, as a driver's do.
type world struct {
	sources []string
	says    map[string]map[Name]*Service
	health  HealthMap
}

func drawWorld(t *rapid.T, sources ...string) *world {
	w := &world{sources: sources, says: map[string]map[Name]*Service{}, health: HealthMap{}}
	for _, source := range sources {
		w.says[source] = map[Name]*Service{}
		for range rapid.IntRange(0, 5).Draw(t, "services") {
			w.change(t, source)
		}
	}
	return w
}

// change lets a source say something else about one service.
func (w *world) change(t *rapid.T, source string) Name {
	name := Name{"default", rapid.SampledFrom([]string{"a", "b", "c", "d"}).Draw(t, "name")}
	if rapid.IntRange(0, 4).Draw(t, "gone") == 0 {
		delete(w.says[source], name)
		return name
	}
	s := service(name.Name)
	for _, at := range rapid.SliceOfNDistinct(rapid.IntRange(1, 4), 0, 4, rapid.ID).Draw(t, "endpoints") {
		address := netip.AddrFrom4([4]byte{10, 0, 0, byte(at)}).String()
		e := outside(address)
		if rapid.Bool().Draw(t, "inside") {
			e = inside(name.Name, fmt.Sprintf("h%d", at), address, "")
			if rapid.IntRange(0, 3).Draw(t, "elsewhere") == 0 {
				e = inside(name.Name, fmt.Sprintf("h%d", at), "10.9.9.9", "")
			}
		}
		if rapid.Bool().Draw(t, "labelled") {
			e.Meta = LabelsOf(map[string]string{"version": rapid.SampledFrom([]string{"v1", "v2"}).Draw(t, "version"), source: "yes"})
		}
		e.Priority = rapid.SampledFrom([]uint32{0, 0, 1, 7}).Draw(t, "priority")
		e.Health = rapid.SampledFrom([]Health{"", Healthy, Draining, Unhealthy}).Draw(t, "health")
		s.Endpoints = append(s.Endpoints, e)
	}
	w.says[source][name] = s
	return name
}

// changeHealth lets an agent find a workload unhealthy, or have nothing more to say of one.
func (w *world) changeHealth(t *rapid.T) Name {
	next := maps.Clone(w.health)
	defer func() { w.health = next }()
	if known := slices.SortedFunc(maps.Keys(next), WorkloadKey.Compare); len(known) > 0 && rapid.Bool().Draw(t, "forget") {
		key := rapid.SampledFrom(known).Draw(t, "workload")
		delete(next, key)
		return key.Service
	}
	name := Name{"default", rapid.SampledFrom([]string{"a", "b", "c", "d"}).Draw(t, "name")}
	next[WorkloadKey{Host: fmt.Sprintf("h%d", rapid.IntRange(1, 4).Draw(t, "host")), Service: name}] = HealthWord{Unhealthy, "it said so"}
	return name
}

// sets returns what the sources say, in order.
func (w *world) sets() []Set {
	var out []Set
	for _, source := range w.sources {
		set := Set{Name: source}
		for _, s := range w.says[source] {
			set.Services = append(set.Services, s)
		}
		slices.SortFunc(set.Services, func(a, b *Service) int { return a.Name.Compare(b.Name) })
		out = append(out, set)
	}
	return out
}

func dump(t *rapid.T, c *Catalog) string {
	b, err := json.MarshalIndent(c, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// However a catalog came about, it is what a merge from nothing gives; Changed lists exactly what differs from the
// one before; and whatever a change does not concern, or the place of a host, keeps its pointer.
func TestMergeIsIncremental(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := drawWorld(t, "policy", "consul")
		c := Merge(nil, w.sets(), w.health)
		for range rapid.IntRange(1, 8).Draw(t, "steps") {
			before := c
			var touched Name
			if rapid.IntRange(0, 3).Draw(t, "kind") == 0 {
				touched = w.changeHealth(t)
			} else {
				touched = w.change(t, rapid.SampledFrom(w.sources).Draw(t, "source"))
			}
			c = Merge(before, w.sets(), w.health)
			if d := cmp.Diff(dump(t, Merge(nil, w.sets(), w.health)), dump(t, c)); d != "" {
				t.Fatalf("not what a merge from nothing gives: %s", d)
			}
			checkChanged(t, before, c, touched)
		}
	})
}

func checkChanged(t *rapid.T, before, c *Catalog, touched Name) {
	if c.PrevGen != before.Gen || c.Gen == before.Gen {
		t.Fatalf("gen %d after %d, the one before was %d", c.Gen, c.PrevGen, before.Gen)
	}
	var differ []Name
	for _, name := range []Name{{"default", "a"}, {"default", "b"}, {"default", "c"}, {"default", "d"}} {
		was, now := before.Service(name), c.Service(name)
		if was == now {
			continue
		}
		if name != touched && !hostMoved(was, now) {
			t.Fatalf("%s lost its pointer, but only %s was touched", name, touched)
		}
		if reflect.DeepEqual(was, now) {
			t.Fatalf("%s is equal, but lost its pointer", name)
		}
		differ = append(differ, name)
		checkEndpoints(t, was, now)
	}
	if !slices.Equal(differ, c.Changed) {
		t.Fatalf("Changed is %v, but %v differ", c.Changed, differ)
	}
}

// hostMoved reports whether a workload's host is elsewhere now.
func hostMoved(was, now *Service) bool {
	at := map[WorkloadKey]place{}
	for _, e := range was.Endpoints {
		if e.Workload != nil {
			at[e.Workload.Key()] = placeOf(e.Workload.Host)
		}
	}
	return slices.ContainsFunc(now.Endpoints, func(e *Endpoint) bool {
		return e.Workload != nil && at[e.Workload.Key()] != placeOf(e.Workload.Host)
	})
}

// checkEndpoints holds equal endpoints to their pointers, and the endpoints of one workload to one pointer.
func checkEndpoints(t *rapid.T, was, now *Service) {
	if was == nil || now == nil {
		return
	}
	for _, e := range now.Endpoints {
		for _, o := range was.Endpoints {
			if e != o && reflect.DeepEqual(e, o) {
				t.Fatalf("endpoint %s of %s is equal, but lost its pointer", e, now.Name)
			}
		}
	}
}

// The order in which registries list things does not matter, nor the order of registries that do not disagree.
func TestShuffledSetsGiveAnEqualCatalog(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := drawWorld(t, "policy", "consul", "nomad")
		var straight, shuffled []Set
		for _, set := range w.sets() {
			straight = append(straight, Set{Name: set.Name, Services: checked{}.next(set.Name, set.Services).clean})
			services := make([]*Service, len(set.Services))
			for i, s := range set.Services {
				c := *s
				c.Endpoints = rapid.Permutation(s.Endpoints).Draw(t, "endpoints")
				c.Ports = rapid.Permutation(s.Ports).Draw(t, "ports")
				services[i] = &c
			}
			services = rapid.Permutation(services).Draw(t, "services")
			shuffled = append(shuffled, Set{Name: set.Name, Services: checked{}.next(set.Name, services).clean})
		}
		want := Merge(nil, straight, w.health)
		if d := cmp.Diff(dump(t, want), dump(t, Merge(nil, shuffled, w.health))); d != "" {
			t.Fatalf("shuffled services: %s", d)
		}
		other := Merge(nil, rapid.Permutation(straight).Draw(t, "sets"), w.health)
		if len(want.Diagnostics()) > 0 || len(other.Diagnostics()) > 0 {
			return
		}
		if d := cmp.Diff(dump(t, want), dump(t, other)); d != "" {
			t.Fatalf("shuffled sets: %s", d)
		}
	})
}

// What is served of a set is sorted, without repeats, and the same whether it was checked after others or alone.
func TestCheckIsIncremental(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		pool := []*Service{nil, {}, service("a"), service("b"), service("b", outside("10.0.0.1")), service("c", outside("10.0.0.1"), nil), service("d")}
		var c checked
		for range rapid.IntRange(1, 6).Draw(t, "sets") {
			set := rapid.SliceOfN(rapid.SampledFrom(pool), 0, 8).Draw(t, "set")
			if rapid.Bool().Draw(t, "sorted") {
				set = slices.DeleteFunc(set, func(s *Service) bool { return s == nil })
				slices.SortFunc(set, func(a, b *Service) int { return a.Name.Compare(b.Name) })
				set = slices.Compact(set)
			}
			c = c.next("r", set)
			alone := checked{}.next("r", set)
			if !slices.Equal(texts(c.ds), texts(alone.ds)) {
				t.Fatalf("says %v, alone %v", texts(c.ds), texts(alone.ds))
			}
			if !reflect.DeepEqual(c.clean, alone.clean) {
				t.Fatalf("serves %v, alone %v", names(c.clean), names(alone.clean))
			}
			for i := 1; i < len(c.clean); i++ {
				if c.clean[i-1].Name.Compare(c.clean[i].Name) >= 0 {
					t.Fatalf("not sorted: %v", names(c.clean))
				}
			}
			if same := c.next("r", slices.Clone(set)); len(c.clean) > 0 && &same.clean[0] != &c.clean[0] {
				t.Fatal("the same set gave another slice")
			}
		}
	})
}
