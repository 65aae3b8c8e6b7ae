package registry

import (
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// holding is a keeper whose clock and world a test conducts.
type holding struct {
	keeper
	now  time.Time
	dead map[string]bool // addresses
}

func newHolding(said ...*Service) *holding {
	h := &holding{now: time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC), dead: map[string]bool{}}
	h.keeper = keeper{o: DefaultHold(), alive: func(_ Name, e *Endpoint) bool { return !h.dead[e.Address.String()] }}
	h.take(said, h.now)
	return h
}

func (h *holding) after(d time.Duration, said ...*Service) {
	h.now = h.now.Add(d)
	h.take(said, h.now)
}

// shown lists what is served: "a: 1 2; b: 3", endpoints by the last number of their address.
func (h *holding) shown() string {
	var out []string
	for _, s := range h.served {
		text := s.Name.Name + ":"
		for _, e := range s.Endpoints {
			text += " " + strings.TrimPrefix(e.Address.String(), "10.0.0.")
		}
		out = append(out, text)
	}
	return strings.Join(out, "; ")
}

// of makes a service with endpoints at 10.0.0.first to 10.0.0.last.
func of(name string, first, last int) *Service {
	s := service(name)
	for i := first; i <= last; i++ {
		s.Endpoints = append(s.Endpoints, outside(fmt.Sprintf("10.0.0.%d", i)))
	}
	return s
}

func TestMassDisappearanceIsHeld(t *testing.T) {
	const moment = time.Second
	for _, c := range []struct {
		name  string
		first []*Service
		then  func(*holding)
		want  string
	}{
		{"a registry that is wiped", []*Service{of("a", 1, 3), of("b", 4, 4)}, func(h *holding) { h.after(moment) }, "a: 1 2 3; b: 4"},
		{"exactly half of it", []*Service{of("a", 1, 2), of("b", 3, 4)}, func(h *holding) { h.after(moment, of("a", 1, 2)) }, "a: 1 2"},
		{"more than half of it", []*Service{of("a", 1, 2), of("b", 3, 5)}, func(h *holding) { h.after(moment, of("a", 1, 2)) }, "a: 1 2; b: 3 4 5"},
		{"more than half of a service with 4", []*Service{of("a", 1, 4), of("b", 5, 9)}, func(h *holding) { h.after(moment, of("a", 1, 1), of("b", 5, 9)) }, "a: 1 2 3 4; b: 5 6 7 8 9"},
		{"more than half of a service with 3", []*Service{of("a", 1, 3), of("b", 4, 9)}, func(h *holding) { h.after(moment, of("b", 4, 9)) }, "b: 4 5 6 7 8 9"},
		{"one after the other", []*Service{of("a", 1, 5), of("b", 6, 9)}, func(h *holding) {
			h.after(moment, of("a", 2, 5), of("b", 6, 9))
			h.after(9*time.Second, of("a", 3, 5), of("b", 6, 9))
			h.after(19*time.Second, of("a", 4, 5), of("b", 6, 9))
		}, "a: 1 2 3 4 5; b: 6 7 8 9"},
		{"one after the other, slowly", []*Service{of("a", 1, 5), of("b", 6, 9)}, func(h *holding) {
			h.after(moment, of("a", 2, 5), of("b", 6, 9))
			h.after(9*time.Second, of("a", 3, 5), of("b", 6, 9))
			h.after(21*time.Second, of("a", 4, 5), of("b", 6, 9))
		}, "a: 4 5; b: 6 7 8 9"},
		{"others take their place", []*Service{of("a", 1, 4)}, func(h *holding) { h.after(moment, of("a", 5, 9)) }, "a: 1 2 3 4 5 6 7 8 9"},
		{"the dead are not held", []*Service{of("a", 1, 4)}, func(h *holding) {
			h.dead["10.0.0.2"], h.dead["10.0.0.3"] = true, true
			h.after(moment)
		}, "a: 1 4"},
		{"those that drained are not held", []*Service{of("a", 1, 2)}, func(h *holding) {
			s := of("a", 1, 2)
			s.Endpoints[0].Health = Draining
			h.after(moment, s)
			h.after(moment)
		}, "a: 2"},
		{"what came and went at once", []*Service{of("a", 1, 2)}, func(h *holding) {
			h.after(moment, of("a", 1, 9))
			h.after(moment, of("a", 1, 2))
		}, "a: 1 2"},
		{"what came just now goes with the rest", []*Service{of("a", 1, 4)}, func(h *holding) {
			h.after(moment, of("a", 1, 5))
			h.after(moment)
		}, "a: 1 2 3 4 5"},
		{"what came just now, went, came and went with the rest", []*Service{of("a", 1, 4)}, func(h *holding) {
			h.after(moment, of("a", 1, 5))
			h.after(moment, of("a", 1, 4))
			h.after(moment, of("a", 1, 5))
			h.after(moment)
		}, "a: 1 2 3 4 5"},
		{"all were replaced just now", []*Service{of("a", 1, 4)}, func(h *holding) {
			h.dead["10.0.0.1"], h.dead["10.0.0.2"], h.dead["10.0.0.3"], h.dead["10.0.0.4"] = true, true, true, true
			h.after(moment, of("a", 5, 8))
			h.after(moment)
		}, "a: 5 6 7 8"},
		{"what stayed for a while counts", []*Service{of("a", 1, 2)}, func(h *holding) {
			h.after(moment, of("a", 1, 5))
			h.after(6*time.Second, of("a", 1, 1))
		}, "a: 1 2 3 4 5"},
		{"what stays for longer than the window counts", []*Service{of("a", 1, 2)}, func(h *holding) {
			h.after(moment, of("a", 1, 9))
			h.after(31*time.Second, of("a", 1, 2))
		}, "a: 1 2 3 4 5 6 7 8 9"},
		{"a part comes back", []*Service{of("a", 1, 4)}, func(h *holding) {
			h.after(moment)
			h.after(moment, of("a", 1, 2))
			h.after(time.Hour, of("a", 1, 2))
		}, "a: 1 2 3 4"},
		{"all come back", []*Service{of("a", 1, 4)}, func(h *holding) { h.after(moment); h.after(moment, of("a", 1, 4)) }, "a: 1 2 3 4"},
		{"a share of 1", []*Service{of("a", 1, 4)}, func(h *holding) { h.o.Share = 1; h.after(moment) }, ""},
		{"an operator's set", []*Service{of("a", 1, 4)}, func(h *holding) { h.replace(nil) }, ""},
		{"nobody's default", []*Service{of("a", 1, 4)}, func(h *holding) { h.o = Hold{}; h.after(moment) }, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := newHolding(c.first...)
			c.then(h)
			if got := h.shown(); got != c.want {
				t.Errorf("served %q, want %q", got, c.want)
			}
			sound(t, &h.keeper)
		})
	}
}

// sound checks what must be so at any time.
func sound(t *testing.T, k *keeper) {
	t.Helper()
	arrived, gone := 0, 0
	for name, l := range k.ledgers {
		arrived, gone = arrived+len(l.arrived), gone+l.missing
		held, missing := 0, 0
		for _, a := range l.gone {
			if !a.young {
				missing++
			}
			if a.held {
				held++
			}
		}
		if held != l.held || missing != l.missing || l.dirty {
			t.Errorf("%s: %d are held, said to be %d; %d missing, said to be %d; dirty %t", name, held, l.held, missing, l.missing, l.dirty)
		}
	}
	if arrived != k.arrived || gone != k.gone || k.endpoints != countEndpoints(k.said) {
		t.Errorf("%d arrived, said %d; %d gone, said %d; %d endpoints, said %d", arrived, k.arrived, gone, k.gone, countEndpoints(k.said), k.endpoints)
	}
	if !slices.IsSortedFunc(k.served, func(a, b *Service) int { return a.Name.Compare(b.Name) }) {
		t.Error("what is served is out of order")
	}
	for _, s := range k.served {
		if v := inspect("x", s); v.clean != s {
			t.Errorf("what is served is faulty: %v", texts(v.ds))
		}
	}
}

func TestWhatIsHeldGoes(t *testing.T) {
	wiped := func() *holding {
		h := newHolding(of("a", 1, 4), of("b", 5, 6))
		h.after(time.Second)
		return h
	}
	t.Run("when its time has come", func(t *testing.T) {
		h := wiped()
		if at, ok := h.nextEnd(); !ok || !at.Equal(h.now.Add(10*time.Minute)) {
			t.Errorf("it ends at %s", at)
		}
		if h.tick(h.now.Add(10*time.Minute - 1)); h.shown() != "a: 1 2 3 4; b: 5 6" {
			t.Errorf("too early: %q", h.shown())
		}
		if !h.tick(h.now.Add(10*time.Minute)) || h.shown() != "" || h.restless() {
			t.Errorf("it is still held: %q", h.shown())
		}
		sound(t, &h.keeper)
	})
	t.Run("when it dies", func(t *testing.T) {
		h := wiped()
		h.dead["10.0.0.2"] = true
		if !h.tick(h.now.Add(time.Second)) || h.shown() != "a: 1 3 4; b: 5 6" {
			t.Errorf("served %q", h.shown())
		}
		if h.tick(h.now.Add(2 * time.Second)) {
			t.Error("nothing changed, and it says so")
		}
		sound(t, &h.keeper)
	})
	t.Run("when an operator says so", func(t *testing.T) {
		h := wiped()
		if n := h.accept(); n != 6 || h.shown() != "" || h.restless() {
			t.Errorf("%d accepted, served %q", n, h.shown())
		}
		if n := h.accept(); n != 0 {
			t.Errorf("%d accepted again", n)
		}
		// What comes after that is judged anew.
		h.after(time.Second, of("a", 1, 4))
		h.after(31*time.Second, of("a", 1, 1))
		if got := h.shown(); got != "a: 1 2 3 4" {
			t.Errorf("served %q", got)
		}
	})
}

func TestHeldServicesKeepTheirPointer(t *testing.T) {
	a, b := of("a", 1, 4), of("b", 5, 9)
	h := newHolding(a, b)
	h.after(time.Second, b)
	if h.served[0] != a || h.served[1] != b {
		t.Error("what is held looks like a change")
	}
	h.after(time.Second, of("a", 1, 1), b)
	held := h.served[0]
	h.after(time.Second, h.said[0], of("b", 5, 8))
	if h.served[0] != held {
		t.Error("a held service changed with another one")
	}
	want := []Held{{Service: Name{"default", "a"}, Endpoints: 3, Named: 1, Since: h.now.Add(-2 * time.Second), Until: h.now.Add(10*time.Minute - 2*time.Second),
		Reason: "4 of the service's 4 endpoints disappeared within 30s"}}
	if d := cmp.Diff(want, h.holds()); d != "" {
		t.Error(d)
	}
}

func TestAKeeperForgetsWhatCameAndWent(t *testing.T) {
	h := newHolding(of("a", 1, 9))
	for range 5_000 {
		h.after(time.Millisecond, of("a", 1, 9), of("b", 10, 10))
		h.after(time.Millisecond, of("a", 1, 9))
	}
	if len(h.queue) > 4096 {
		t.Errorf("%d movements are remembered", len(h.queue))
	}
	h.after(time.Minute, of("a", 1, 9))
	if h.restless() {
		t.Errorf("%v is remembered", h.ledgers)
	}
}

func TestTheAggregatorHoldsUntilAnOperatorAccepts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, other := newFake(), newFake()
		var dead atomic.Bool
		a := NewAggregator(Options{Log: discard, Alive: func(n Name, _ *Endpoint) bool { return n.Name == "a" && !dead.Load() }})
		configure(t, a, Entry{Name: "consul", Source: f, Hold: DefaultHold()}, Entry{Name: "mesh", Source: other})
		end := start(t, a)
		defer end()
		wipe := func() {
			f.publish <- []*Service{of("a", 1, 4), of("b", 5, 6)}
			other.publish <- []*Service{of("a", 1, 4)}
			<-time.After(time.Minute) // until then they are new
			f.publish <- nil
			other.publish <- nil
			synctest.Wait()
		}
		wipe()
		s := a.Status()
		if s[0].State != Holding || s[0].Endpoints != 4 || len(s[0].Held) != 1 || len(s[0].Diagnostics) != 1 {
			t.Fatalf("status %+v", s[0])
		}
		want := `error W4300: registry consul no longer names 4 of the 4 endpoints of service default/a, though they live`
		if got := s[0].Diagnostics[0]; !strings.Contains(got.String(), want) || !strings.Contains(got.Detail, "6 of the registry's 6 endpoints disappeared within 30s") ||
			!strings.Contains(got.Detail, "wattle registry accept consul") {
			t.Errorf("%s\n%s", got, got.Detail)
		}
		if s[1].Endpoints != 0 {
			t.Error("a registry without a hold holds")
		}
		holds, which := a.Holds(), a.HeldOf(service("a").Name)
		if len(holds) != 1 || !slices.Equal(holds["consul"], s[0].Held) || len(which) != 4 || len(a.HeldOf(service("b").Name)) != 0 {
			t.Errorf("held %+v, of a %+v", holds, which)
		}
		for i, h := range which {
			if h.Registry != "consul" || !h.Is(of("a", 1, 4).Endpoints[i]) || h.Is(outside("10.0.0.9")) || h.Until.Sub(h.Since) != 10*time.Minute || h.Reason == "" {
				t.Errorf("%+v", h)
			}
		}
		if _, ok := a.Accept("nobody"); ok {
			t.Error("an unknown registry was accepted")
		}
		if n, ok := a.Accept("consul"); n != 4 || !ok || a.Status()[0].Endpoints != 0 || len(a.Sets()[0].Services) != 0 {
			t.Errorf("%d accepted, status %+v", n, a.Status()[0])
		}
		wipe()
		<-time.After(10*time.Minute - time.Second)
		if n := a.Status()[0].Endpoints; n != 4 {
			t.Errorf("%d endpoints before their time has come", n)
		}
		<-time.After(time.Second + time.Millisecond)
		synctest.Wait()
		if n := a.Status()[0].Endpoints; n != 0 {
			t.Errorf("%d endpoints after it", n)
		}
		wipe()
		dead.Store(true)
		<-time.After(lookPause + time.Millisecond)
		synctest.Wait()
		if n := a.Status()[0].Endpoints; n != 0 {
			t.Errorf("%d endpoints that are dead", n)
		}
	})
}

func TestOperatorsRemoveAndChangeSourcesAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		one, two, three := newFake(), newFake(), newFake()
		var changes atomic.Int32
		a := NewAggregator(Options{Log: discard, Alive: func(Name, *Endpoint) bool { return true }, OnChange: func() { changes.Add(1) }})
		entry := func(name string, f *fake) Entry {
			return Entry{Name: name, Source: f, Hold: DefaultHold(), Choice: fmt.Sprintf("%p", f)}
		}
		configure(t, a, entry("one", one), entry("two", two))
		end := start(t, a)
		defer end()
		one.publish <- []*Service{of("a", 1, 4)}
		two.publish <- []*Service{of("b", 1, 4)}
		synctest.Wait()

		configure(t, a, entry("three", three), entry("one", one)) // two is removed
		three.publish <- []*Service{of("c", 1, 4)}
		synctest.Wait()
		if got := fmt.Sprint(shownSets(a)); got != "three: c; one: a" {
			t.Errorf("sets %s", got)
		}
		if one.runs.Load() != 1 || changes.Load() < 4 {
			t.Errorf("%d runs of a source that was left alone, %d changes", one.runs.Load(), changes.Load())
		}

		again := newFake()
		configure(t, a, entry("three", again), entry("one", one))
		synctest.Wait()
		if got := fmt.Sprint(shownSets(a)); got != "three: c; one: a" {
			t.Errorf("a source that was changed does not leave its set until the next one speaks: %s", got)
		}
		three.kept(nil) // its run is over
		again.publish <- []*Service{of("d", 1, 4)}
		synctest.Wait()
		if got := fmt.Sprint(shownSets(a)); got != "three: d; one: a" {
			t.Errorf("sets %s", got)
		}
		if err := a.Configure([]Entry{entry("x", one), entry("x", two)}); err == nil || len(a.Sets()) != 2 {
			t.Errorf("two sources of one name: %v", err)
		}
		configure(t, a)
		if len(a.Sets()) != 0 || len(a.Status()) != 0 {
			t.Error("sources are left")
		}
	})
}

func TestAChangeThatTakesTheSameEndsNoHold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := NewAggregator(Options{Log: discard, Alive: func(Name, *Endpoint) bool { return true }})
		f := newFake()
		entry := func(choice string) Entry { return Entry{Name: "one", Source: f, Hold: DefaultHold(), Choice: choice} }
		configure(t, a, entry("x"))
		end := start(t, a)
		defer end()
		wiped := []*Service{of("a", 1, 1)}
		f.publish <- []*Service{of("a", 1, 4)}
		synctest.Wait()
		f.publish <- wiped
		for _, c := range []struct {
			what, choice string
			endpoints    int
		}{{"another address", "x", 4}, {"another selection", "y", 1}} {
			f = newFake()
			configure(t, a, entry(c.choice))
			f.publish <- wiped
			synctest.Wait()
			if n := a.Status()[0].Endpoints; n != c.endpoints {
				t.Errorf("%s: %d endpoints, want %d", c.what, n, c.endpoints)
			}
		}
	})
}

// shownSets lists the names of the services of each source.
func shownSets(a *Aggregator) string {
	var out []string
	for _, s := range a.Sets() {
		out = append(out, s.Name+": "+strings.Join(names(s.Services), " "))
	}
	return strings.Join(out, "; ")
}
