package main

import (
	"context"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// used is a child that departs, as long as busy says so.
func used(i int, word string, busy *atomic.Bool) proc {
	c := stubborn(i, word)
	c.Idle = func(context.Context) bool { return !busy.Load() }
	return c
}

func at(addresses ...string) []netip.AddrPort {
	var out []netip.AddrPort
	for _, a := range addresses {
		out = append(out, netip.MustParseAddrPort(a))
	}
	return out
}

// newDeparting has one child running that is in use. The caller stops it.
func newDeparting(t *testing.T) (p *procs, out *output, child proc, busy *atomic.Bool) {
	t.Helper()
	p, out = newTestProcs(t)
	p.grace = 10 * time.Millisecond
	busy = new(atomic.Bool)
	busy.Store(true)
	child = used(0, "first", busy)
	child.Listens = at("127.0.0.1:9080", "127.0.0.1:9081")
	p.Set([]proc{child})
	out.until(t, "up first", 1)
	return p, out, child, busy
}

const (
	saysDeparts = "child0    | is not in the policy any more, it goes on until nobody uses it"
	saysEnded   = "child0    | has ended"
)

func TestWhatIsUsedGoesOnUntilNobodyUsesIt(t *testing.T) {
	p, out, _, busy := newDeparting(t)
	defer p.Stop()
	p.Set(nil)
	p.Set([]proc{stubborn(1, "other")}) // does not wait for it
	out.until(t, "up other", 1)
	if text := out.String(); strings.Contains(text, saysEnded) || strings.Count(text, saysDeparts) != 1 {
		t.Errorf("it is in use:\n%s", text)
	}
	busy.Store(false)
	out.until(t, saysEnded+": nobody used it any more", 1)
	p.Set([]proc{used(0, "second", busy)})
	out.until(t, "up second", 1)
}

func TestADepartureHasALimitThatNoChangeMoves(t *testing.T) {
	p, out, child, _ := newDeparting(t)
	defer p.Stop()
	p.limit = 300 * time.Millisecond
	p.Set(nil)
	until := p.running[child.ID].leaving.until
	p.limit = time.Hour
	p.Set([]proc{stubborn(1, "other")})
	if now := p.running[child.ID].leaving.until; now != until {
		t.Errorf("it could go on until %s, now until %s", until, now)
	}
	out.until(t, saysEnded+": its time was up", 1)
}

func TestWhatComesBackWhileItIsUsedIsTheSameProcess(t *testing.T) {
	p, out, child, busy := newDeparting(t)
	defer p.Stop()
	for range 3 {
		p.Set(nil)
		p.Set([]proc{child})
	}
	busy.Store(false)
	p.Set([]proc{child, stubborn(1, "other")})
	out.until(t, "up other", 1)
	text := out.String()
	if strings.Count(text, "up first") != 1 || strings.Contains(text, saysEnded) || strings.Count(text, "is in the policy again") != 3 {
		t.Errorf("want one process all the time:\n%s", text)
	}
}

func TestWhatComesBackChangedTakesThePlaceOfItsPredecessor(t *testing.T) {
	p, out, _, busy := newDeparting(t)
	defer p.Stop()
	p.Set(nil)
	p.Set([]proc{used(0, "second", busy)})
	out.until(t, "up second", 1)
	if text := out.String(); strings.Count(text, "child0    | changed, starting it anew") != 1 || strings.Contains(text, saysEnded) {
		t.Errorf("want it changed:\n%s", text)
	}
}

// Whoever needs the address has it, whether it is new or was there before and listens at more places now.
func TestWhatIsUsedMakesRoomAtItsAddress(t *testing.T) {
	for _, c := range []struct {
		name    string
		listens string
		room    bool
	}{
		{"the same", "127.0.0.1:9081", true},
		{"all addresses", "0.0.0.0:9080", true},
		{"another port", "127.0.0.1:9082", false},
		{"another address", "127.0.0.2:9080", false},
	} {
		for _, later := range []bool{false, true} {
			t.Run(c.name, func(t *testing.T) {
				p, out, child, _ := newDeparting(t)
				defer p.Stop()
				other := stubborn(1, "other")
				before := []proc{child, other}
				if later {
					p.Set(before)
					out.until(t, "up other", 1)
				}
				other.Listens = at(c.listens)
				p.Set([]proc{other})
				out.until(t, "up other", 1)
				text := out.String()
				if strings.Contains(text, "child0    | is not in the policy any more, ending it") != c.room || strings.Contains(text, saysDeparts) == c.room {
					t.Errorf("makes room: want %t:\n%s", c.room, text)
				}
			})
		}
	}
}

func TestStopDuringADepartureWaitsForNobody(t *testing.T) {
	p, out, _, _ := newDeparting(t)
	p.Set(nil)
	asked := make(chan struct{})
	blocked := stubborn(1, "blocked")
	blocked.Idle = func(ctx context.Context) bool { close(asked); <-ctx.Done(); return false }
	p.Set([]proc{blocked})
	out.until(t, "up blocked", 1)
	p.Set(nil)
	<-asked
	began := time.Now()
	p.Stop()
	if took := time.Since(began); took > stopGrace {
		t.Errorf("ended after %s", took)
	}
	if strings.Contains(out.String(), "has ended") {
		t.Errorf("Stop says nothing:\n%s", out)
	}
}
