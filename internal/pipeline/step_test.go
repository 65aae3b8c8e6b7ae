package pipeline

import (
	"slices"
	"testing"

	"github.com/wattle-mesh/wattle/configs"
	"github.com/wattle-mesh/wattle/internal/mesh"
	"github.com/wattle-mesh/wattle/registry"
)

func TestStepsAreHeardOneAfterTheOther(t *testing.T) {
	first, second, third := newStep(), newStep(), newStep()
	if first.Next() != nil {
		t.Error("there is a step after the last")
	}
	heard := make(chan *Step)
	for range 3 { // however many follow
		go func() {
			s := first
			for s.Services == nil {
				<-s.Done()
				s = s.Next()
			}
			heard <- s
		}()
	}
	third.Services = []registry.Name{{Name: "x"}}
	first.follow(second)
	second.follow(third)
	for range 3 {
		if s := <-heard; s != third {
			t.Error("another step was heard")
		}
	}
}

func TestAStepNamesWhatMayDiffer(t *testing.T) {
	name := func(n string) registry.Name { return registry.Name{Namespace: "default", Name: n} }
	web := &registry.Service{Name: name("web"), Ports: []registry.Port{{Number: 80}}}
	db := &registry.Service{Name: name("db"), Ports: []registry.Port{{Number: 80}}}
	policy := &configs.Policy{Mesh: &configs.Mesh{TrustDomain: "corp.example", Domain: "mesh", Plaintext: true}}
	state := func(prev *State, p *configs.Policy, services ...*registry.Service) *State {
		s := &State{Policy: p, Catalog: registry.Merge(prev.Catalog, []registry.Set{{Name: "x", Services: services}}, nil)}
		s.View, _ = mesh.Resolve(prev.View, s.Catalog, p)
		return s
	}
	requireTouched := func(what string, s *State, wantAll bool, want ...registry.Name) {
		t.Helper()
		if names, all := touched(s); all != wantAll || !slices.Equal(names, want) {
			t.Errorf("%s: %v %t, want %v %t", what, names, all, want, wantAll)
		}
	}
	first := state(&State{}, policy, db, web)
	requireTouched("the first", first, true, name("db"), name("web"))
	requireTouched("nothing", state(first, policy, db, web), false)
	requireTouched("one is gone", state(first, policy, web), false, name("db"))
	shared := *policy
	shared.ServiceDefaults = []*configs.ServiceDefaults{{Block: configs.Block{Namespace: "default", Name: "web"}, Protocol: "http"}}
	requireTouched("what the policy says of one", state(first, &shared, db, web), false, name("web"))
	other := *policy
	other.Mesh = &configs.Mesh{TrustDomain: "corp.example", Domain: "mesh"}
	requireTouched("the whole mesh", state(first, &other, db, web), true, name("db"), name("web"))
}
