package drain

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wattle-mesh/wattle/configs"
	"github.com/wattle-mesh/wattle/internal/mesh"
	"github.com/wattle-mesh/wattle/internal/pipeline"
	"github.com/wattle-mesh/wattle/registry"
	"github.com/wattle-mesh/wattle/registry/static"
	"github.com/wattle-mesh/wattle/translator"
)

// shop is served by two hosts and called by web.
const shop = `
mesh { trust_domain = "corp.example" }
host "h1" {
  address = "10.0.0.1"
  service "shop" { ports = { http = { number = 80, protocol = "http" }, tcp = { number = 81, protocol = "tcp" } } }
}
host "h2" {
  address = "10.0.0.2"
  service "shop" { ports = { http = { number = 80, protocol = "http" }, tcp = { number = 81, protocol = "tcp" } } }
}
host "h3" {
  address = "10.0.0.3"
  service "web" {
    port = 9000
    upstream "shop" {
      port = 80
      bind = "127.0.0.1:9080"
    }
  }
}
`

var (
	name = registry.Name{Namespace: "default", Name: "shop"}
	onH1 = registry.WorkloadKey{Host: "h1", Service: name}
	onH2 = registry.WorkloadKey{Host: "h2", Service: name}
)

// view resolves shop with these words on its workloads.
func view(t *testing.T, health registry.HealthMap) *mesh.View {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "mesh.hcl"), []byte(shop), 0o600); err != nil {
		t.Fatal(err)
	}
	policy, diags := configs.Load(dir)
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	v, diags := mesh.Resolve(nil, registry.Merge(nil, []registry.Set{{Name: "policy", Services: static.Services(policy)}}, health), policy)
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	return v
}

func words(h1, h2 registry.Health) registry.HealthMap {
	return registry.HealthMap{onH1: {Health: h1}, onH2: {Health: h2}}
}

// proxies acknowledge, or do not.
type proxies struct {
	lagging, away []string
	asked         []string
}

func (p *proxies) Lagging(_ translator.Type, names []string) (lagging, away []string) {
	p.asked = names
	return p.lagging, p.away
}

func TestCallersHaveLeftWhenAllThatAreConnectedAcknowledge(t *testing.T) {
	p := &proxies{lagging: []string{"h3/host"}, away: []string{"h4/host"}}
	state := &pipeline.State{}
	c := New(Options{State: func() *pipeline.State { return state }, Lagging: p.Lagging})
	if _, _, told := c.Of(onH1); told {
		t.Error("they were told before there is anything")
	}
	state.View = view(t, words(registry.Healthy, registry.Healthy))
	if _, _, told := c.Of(onH1); told {
		t.Error("they were told, though what is in force calls it")
	}
	state.View = view(t, words(registry.Draining, registry.Healthy))
	lagging, away, told := c.Of(onH1)
	if !told || !slices.Equal(lagging, p.lagging) || !slices.Equal(away, p.away) {
		t.Errorf("it drains: %q, %q, %v", lagging, away, told)
	}
	if len(p.asked) != 2 { // of both ports
		t.Errorf("asked for %q", p.asked)
	}
	if _, _, told := c.Of(onH2); told {
		t.Error("the other one was drained, too")
	}
	p.lagging = nil
	if lagging, _, told := c.Of(onH1); !told || len(lagging) > 0 {
		t.Errorf("all that are connected acknowledge: %q, %v", lagging, told)
	}
	p.asked = nil
	for what, key := range map[string]registry.WorkloadKey{
		"an instance that is gone": {Host: "h9", Service: name}, "a service that is gone": {Host: "h1", Service: registry.Name{Namespace: "default", Name: "none"}},
	} {
		if _, _, told := c.Of(key); !told || len(p.asked) > 0 {
			t.Errorf("%s: %v, %q", what, told, p.asked)
		}
	}
	// It is undone.
	state.View = view(t, words(registry.Healthy, registry.Healthy))
	if _, _, told := c.Of(onH1); told {
		t.Error("callers have left what they are sent to again")
	}
}

// Who waits hears of acknowledgements, and of every state; one that goes away leaves nothing.
func TestWhoWaitsHearsOfNews(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		loop := pipeline.New(pipeline.Options{})
		c := New(Options{State: loop.State, Lagging: (&proxies{}).Lagging})
		first := c.Changed()
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- c.Run(ctx) }()
		<-first // the state that there is
		synctest.Wait()
		now := c.Changed()
		select {
		case <-now:
			t.Error("nothing has happened")
		default:
		}
		c.Nudge()
		<-now
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// move is a view in which shop of h1 goes from the host's proxy to its own.
func move(t *testing.T, leaving bool) *mesh.View {
	v := view(t, words(registry.Healthy, registry.Healthy))
	s := mesh.Seats{Proxy: "host", MeshPort: 7443, Other: mesh.Seat{Proxy: "shop", Port: 7444}}
	if leaving {
		s = mesh.Seats{Proxy: "shop", MeshPort: 7444, Other: mesh.Seat{Proxy: "host", Port: 7443, Leaving: true}}
	}
	v.Ports = mesh.Allotment{onH1: s, onH2: {Proxy: "host", MeshPort: 7443}}
	return v
}

func TestCallersGoToANewProxyWhenItIsReady(t *testing.T) {
	p := &proxies{lagging: []string{"h3/host"}} // another's lag is no matter
	var ready []string
	m := &Moves{Lagging: p.Lagging, Ready: func(registry.WorkloadKey) []string { return ready }}
	v := move(t, false)
	goes := func(what string, want bool) {
		t.Helper()
		if got := m.Done(v); slices.Equal(got, []registry.WorkloadKey{onH1}) != want || len(got) > 1 {
			t.Errorf("%s: %v", what, got)
		}
	}
	goes("its agent has not said that the new one is well", false)
	ready = []string{"host"}
	goes("only the old one is", false)
	ready = []string{"host", "shop"}
	goes("both are", true)
	p.lagging = []string{"h1/shop"}
	goes("the new one has not opened the port", false)
	p.lagging, p.away = nil, []string{"h1/shop"}
	goes("the new one is not connected", false)
	p.away = []string{"h1/host"}
	goes("the old one is not connected", true)
	// It is undone: nothing moves any more.
	v = view(t, words(registry.Healthy, registry.Healthy))
	if got := m.Done(v); len(got) > 0 || len(m.since) > 0 {
		t.Errorf("%v, %v", got, m.since)
	}
}

func TestAnOldProxyIsLetGoWhenCallersHaveLeftIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &proxies{lagging: []string{"h3/host"}, away: []string{"h4/host"}}
		m := &Moves{Lagging: p.Lagging, Ready: func(registry.WorkloadKey) []string { return nil }}
		v := move(t, true)
		goes := func(what string, want bool) {
			t.Helper()
			if got := m.Done(v); slices.Equal(got, []registry.WorkloadKey{onH1}) != want {
				t.Errorf("%s: %v", what, got)
			}
		}
		goes("a caller has not acknowledged", false)
		time.Sleep(time.Hour)
		goes("it never does, and is connected", false)
		p.lagging = nil
		goes("one that is away had its time", true)

		// Begun anew, its time counts from then on.
		m.Done(view(t, words(registry.Healthy, registry.Healthy)))
		goes("one is away", false)
		time.Sleep(awayLimit - time.Second)
		goes("its time is not over", false)
		time.Sleep(time.Second)
		goes("its time is over", true)
		m.Done(move(t, false)) // taken back, and then on again
		goes("it was turned round", false)
		p.away = nil
		goes("nobody is away", true)
	})
}
