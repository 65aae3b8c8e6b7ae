package registry_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"

	"github.com/wattle-mesh/wattle/registry"
	"github.com/wattle-mesh/wattle/registry/registrytest"
)

// memory is a registry in memory. It keeps the pointers of services that stay as they are.
type memory struct {
	mu       sync.Mutex
	services []*registry.Service
	broken   bool
	wake     chan struct{} // closed at the next change
}

func (m *memory) change(f func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f()
	close(m.wake)
	m.wake = make(chan struct{})
}

func (m *memory) Run(ctx context.Context, publish func([]*registry.Service)) error {
	for {
		m.mu.Lock()
		services, broken, wake := m.services, m.broken, m.wake
		m.mu.Unlock()
		if broken {
			return errors.New("it is broken")
		}
		publish(services)
		select {
		case <-ctx.Done():
			return nil
		case <-wake:
		}
	}
}

// put holds the services as a registry says them that has its own names for everything, and more than is asked for.
func (m *memory) put(services []*registry.Service) {
	m.change(func() {
		was := m.services
		m.services = []*registry.Service{{Name: registry.Name{Namespace: "default", Name: "unwanted"}}}
		for _, s := range services {
			own := *s
			own.Name = registry.Name{Namespace: "dc1-" + s.Namespace, Name: "old-" + s.Name.Name}
			own.Ports = []registry.Port{{Number: 9080}}
			own.Endpoints = nil
			for _, e := range s.Endpoints {
				x := *e
				x.Meta = e.Meta.Or(map[string]string{"protocol": "http"})
				own.Endpoints = append(own.Endpoints, &x)
			}
			i := slices.IndexFunc(was, func(x *registry.Service) bool { return x.Name == own.Name && len(x.Endpoints) == len(own.Endpoints) })
			if i >= 0 {
				m.services = append(m.services, was[i])
			} else {
				m.services = append(m.services, &own)
			}
		}
		slices.SortFunc(m.services, func(a, b *registry.Service) int { return a.Name.Compare(b.Name) })
	})
}

// unmark takes the label away that only protocol_from needs, so that what is published is what was put.
type unmark struct {
	registry.Source
	seen map[*registry.Service]*registry.Service
}

func (u unmark) Run(ctx context.Context, publish func([]*registry.Service)) error {
	return u.Source.Run(ctx, func(services []*registry.Service) {
		out := make([]*registry.Service, len(services))
		for i, s := range services {
			if u.seen[s] == nil {
				plain := *s
				plain.Endpoints = nil
				for _, e := range s.Endpoints {
					x := *e
					meta := e.Meta.Map()
					delete(meta, "protocol")
					x.Meta = registry.LabelsOf(meta)
					plain.Endpoints = append(plain.Endpoints, &x)
				}
				u.seen[s] = &plain
			}
			out[i] = u.seen[s]
		}
		publish(out)
	})
}

// A Source in shape keeps the promises of the Source, with all options at once.
func TestShapedConformance(t *testing.T) {
	registrytest.Run(t, func(*testing.T) registrytest.Registry {
		m := &memory{wake: make(chan struct{})}
		shaper := registry.NewShaper(registry.Shape{
			Standing:     registry.Standing{Priority: 10, Failover: true, Weight: 3},
			Namespaces:   map[string]string{"dc1-shop": "shop", "*": "default"},
			Rename:       map[string]string{"old-db": "db", "old-web": "web", "dc1-shop/old-cart": "cart"},
			PicksService: func(s *registry.Service) bool { return s.Name.Name != "unwanted" },
			Picks:        func(_ *registry.Service, e *registry.Endpoint) bool { return e.Meta.Get("version") != "" },
			ProtocolFrom: []string{"port_name", "tag", "meta.protocol"},
		}, nil)
		return registrytest.Registry{
			Source: unmark{shaper.Source(m), map[*registry.Service]*registry.Service{}},
			Put:    m.put,
			Break:  func() { m.change(func() { m.broken = true }) },
			Mend:   func() { m.change(func() { m.broken = false }) },
		}
	})
}
