// Package registrytest is the conformance suite that every registry driver's test runs: it changes a registry, and
// holds the driver's Source to what registry.Source promises.
package registrytest

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/wattle-mesh/wattle/registry"
)

// patience is how long a Source has to notice a change, stopTime how long to end, on a machine that may be busy.
const (
	patience = 30 * time.Second
	stopTime = 3 * time.Second
)

// Registry is a registry, real or a fake, and a Source that watches it. It is empty at first.
type Registry struct {
	Source registry.Source
	// Put makes the registry hold exactly these services: endpoints outside the mesh, with labels.
	Put func([]*registry.Service)
	// Break makes it unreadable, or lets it answer nonsense. If the Source runs, it returns once that has noticed.
	Break func()
	// Mend ends that. The registry holds what was put last, also while it was broken.
	Mend func()
}

// Run runs the suite. start makes a new Registry, which t.Cleanup ends.
func Run(t *testing.T, start func(t *testing.T) Registry) {
	for _, c := range []struct {
		name string
		test func(*testing.T, Registry)
	}{
		{"the first set is whole", firstSet},
		{"an empty registry is an empty set, not none", empty},
		{"an update changes one service and no other's pointer", update},
		{"what is removed is gone", removal},
		{"what is new is there", addition},
		{"an error keeps the set", broken},
		{"a registry that is broken at first is no empty set", brokenFirst},
		{"a broken registry does not hold up the end", endBroken},
	} {
		t.Run(c.name, func(t *testing.T) {
			leaks := goleak.IgnoreCurrent()
			t.Run("run", func(t *testing.T) { c.test(t, start(t)) })
			goleak.VerifyNone(t, leaks)
		})
	}
}

func firstSet(t *testing.T, r Registry) {
	r.Put(three())
	s := watch(t, r.Source)
	if got := s.next(); normal(got) != normal(three()) {
		t.Errorf("first set:\n%s\nwant:\n%s", normal(got), normal(three()))
	}
	s.end()
}

func empty(t *testing.T, r Registry) {
	s := watch(t, r.Source)
	if got := s.next(); len(got) > 0 {
		t.Errorf("first set of an empty registry: %s", normal(got))
	}
	s.end()
}

func update(t *testing.T, r Registry) {
	r.Put(three())
	s := watch(t, r.Source)
	before := s.await(three())
	r.Put(changed())
	after := s.await(changed())
	for i, keep := range []bool{true, false, true} {
		if same := before[i] == after[i]; same != keep {
			t.Errorf("service %s: kept its pointer: %t, want %t", before[i].Name, same, keep)
		}
	}
	s.end()
}

func removal(t *testing.T, r Registry) {
	r.Put(three())
	s := watch(t, r.Source)
	s.await(three())
	r.Put(three()[1:])
	s.await(three()[1:])
	r.Put(nil)
	s.await(nil)
	s.end()
}

func addition(t *testing.T, r Registry) {
	r.Put(three()[1:])
	s := watch(t, r.Source)
	s.await(three()[1:])
	r.Put(three())
	s.await(three())
	s.end()
}

func broken(t *testing.T, r Registry) {
	r.Put(three())
	s := watch(t, r.Source)
	s.await(three())
	r.Break()
	r.Put(changed())
	r.Mend()
	s.awaitOnly(changed(), three())
	s.end()
}

func brokenFirst(t *testing.T, r Registry) {
	r.Put(three())
	r.Break()
	s := watch(t, r.Source)
	r.Mend()
	s.awaitOnly(three())
	s.end()
}

func endBroken(t *testing.T, r Registry) {
	r.Put(three())
	s := watch(t, r.Source)
	s.await(three())
	r.Break()
	s.broken = true
	s.end()
}

// three returns three services, sorted.
func three() []*registry.Service {
	names := []registry.Name{{Namespace: "default", Name: "db"}, {Namespace: "default", Name: "web"}, {Namespace: "shop", Name: "cart"}}
	out := make([]*registry.Service, len(names))
	for i, name := range names {
		s := &registry.Service{Name: name, Ports: []registry.Port{{Number: 9080, Protocol: registry.HTTP}}}
		for j := range byte(2) {
			s.Endpoints = append(s.Endpoints, &registry.Endpoint{
				Address: netip.AddrFrom4([4]byte{10, 0, byte(i), j + 1}), Port: 8080, ServicePort: 9080,
				Meta: registry.LabelsOf(map[string]string{"version": fmt.Sprintf("v%d", j+1)}), Weight: 1,
			})
		}
		out[i] = s
	}
	return out
}

// changed returns the three services after the second one lost an endpoint.
func changed() []*registry.Service {
	all := three()
	all[1].Endpoints = all[1].Endpoints[:1]
	return all
}
