package registrytest

import (
	"context"
	"encoding/json"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/wattle-mesh/wattle/registry"
)

// session is a Source that runs, again whenever it fails, as the Aggregator would run it.
type session struct {
	t      *testing.T
	cancel context.CancelFunc
	done   chan struct{}
	broken bool // at its end: Run may have failed just before it could see the end; set before cancel

	mu    sync.Mutex
	queue [][]*registry.Service // published, not yet looked at
	more  chan struct{}         // has an element if there may be something in queue

	last []*registry.Service
	seen map[*registry.Service]string // all that were looked at, as they were then
}

// watch runs the Source until end.
func watch(t *testing.T, src registry.Source) *session {
	ctx, cancel := context.WithCancel(context.Background())
	s := &session{t: t, cancel: cancel, done: make(chan struct{}), more: make(chan struct{}, 1), seen: map[*registry.Service]string{}}
	go func() {
		defer close(s.done)
		for {
			err := src.Run(ctx, s.publish)
			if ctx.Err() != nil {
				if err != nil && !s.broken {
					t.Errorf("Run returned %v when it was ended, want nil", err)
				}
				return
			}
			if err == nil {
				t.Error("Run returned nil, but nobody ended it")
			}
			select {
			case <-time.After(50 * time.Millisecond):
			case <-ctx.Done():
				return
			}
		}
	}()
	t.Cleanup(func() { cancel(); <-s.done })
	return s
}

func (s *session) publish(services []*registry.Service) {
	s.mu.Lock()
	s.queue = append(s.queue, slices.Clone(services))
	s.mu.Unlock()
	select {
	case s.more <- struct{}{}:
	default:
	}
}

// next waits for the next set and checks what holds for every set.
func (s *session) next() []*registry.Service {
	s.t.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	for {
		if set, ok := s.take(); ok {
			return set
		}
		select {
		case <-s.more:
		case <-deadline.C:
			s.t.Fatalf("nothing was published within %s; the last set was:\n%s", patience, normal(s.last))
		}
	}
}

func (s *session) take() ([]*registry.Service, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.queue) == 0 {
		return nil, false
	}
	set := s.queue[0]
	s.queue = s.queue[1:]
	s.check(set)
	s.last = set
	return set, true
}

// check holds a set to the contract: sorted, without repeats, and equal services keep their pointer.
func (s *session) check(set []*registry.Service) {
	s.t.Helper()
	before := map[registry.Name]*registry.Service{}
	for _, b := range s.last {
		before[b.Name] = b
	}
	for i, now := range set {
		if i > 0 && set[i-1].Name.Compare(now.Name) >= 0 {
			s.t.Errorf("not sorted, or twice: %s before %s", set[i-1].Name, now.Name)
		}
		text := plain(now)
		if b := before[now.Name]; b != nil && b != now && s.seen[b] == text {
			s.t.Errorf("service %s did not change, but lost its pointer", now.Name)
		}
		if _, ok := s.seen[now]; !ok {
			s.seen[now] = text
		}
	}
}

// await waits until the source publishes these services.
func (s *session) await(want []*registry.Service) []*registry.Service {
	s.t.Helper()
	deadline := time.Now().Add(patience)
	for {
		got := s.next()
		if normal(got) == normal(want) {
			return got
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("published:\n%s\nwant:\n%s", normal(got), normal(want))
		}
	}
}

// awaitOnly is await for a registry that was broken: nothing but what is allowed may be published before.
func (s *session) awaitOnly(want []*registry.Service, allowed ...[]*registry.Service) {
	s.t.Helper()
	for {
		got := s.next()
		if normal(got) == normal(want) {
			return
		}
		if !slices.ContainsFunc(allowed, func(a []*registry.Service) bool { return normal(a) == normal(got) }) {
			s.t.Fatalf("a broken registry gave this set:\n%s", normal(got))
		}
	}
}

// end ends the source in time, and checks that what it published was left alone.
func (s *session) end() {
	s.t.Helper()
	s.cancel()
	select {
	case <-s.done:
	case <-time.After(stopTime):
		s.t.Fatalf("Run did not return within %s of its end", stopTime)
	}
	for service, text := range s.seen {
		if plain(service) != text {
			s.t.Errorf("service %s was changed after it had been published", service.Name)
		}
	}
}

// plain is all of a service as text.
func plain(s *registry.Service) string {
	b, err := json.Marshal(s)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// normal is what the suite knows of services, as text: not where they were declared, and a weight of 1 is none.
func normal(services []*registry.Service) string {
	out := make([]registry.Service, 0, len(services))
	for _, s := range services {
		c := registry.Service{Name: s.Name, Ports: s.Ports}
		for _, e := range s.Endpoints {
			d := *e
			d.Sources, d.Reason = nil, ""
			if d.Weight == 1 {
				d.Weight = 0
			}
			c.Endpoints = append(c.Endpoints, &d)
		}
		out = append(out, c)
	}
	b, err := json.MarshalIndent(out, "", "  ")
	if err != nil {
		return err.Error()
	}
	return string(b)
}
