package nomad

import (
	"sync"

	"github.com/wattle-mesh/wattle/registry"
)

// queue is the services that are to be read. One that is being read while it is added again is read once more after that.
type queue struct {
	more chan struct{} // has an element if there may be something waiting

	mu      sync.Mutex
	waiting map[registry.Name]bool
	busy    map[registry.Name]bool
	drained chan struct{} // closed when nothing is waiting or busy; nil: nobody waits for that
}

func newQueue() *queue {
	return &queue{more: make(chan struct{}, readers), waiting: map[registry.Name]bool{}, busy: map[registry.Name]bool{}}
}

func (q *queue) add(names ...registry.Name) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, n := range names {
		q.waiting[n] = true
		q.wake()
	}
}

func (q *queue) wake() {
	select {
	case q.more <- struct{}{}:
	default:
	}
}

// take returns a service to be read, which is then busy.
func (q *queue) take() (registry.Name, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for n := range q.waiting {
		if !q.busy[n] {
			delete(q.waiting, n)
			q.busy[n] = true
			return n, true
		}
	}
	return registry.Name{}, false
}

func (q *queue) done(n registry.Name) {
	q.mu.Lock()
	defer q.mu.Unlock()
	delete(q.busy, n)
	if q.waiting[n] {
		q.wake()
	}
	q.settle()
}

func (q *queue) settle() {
	if len(q.busy)+len(q.waiting) == 0 && q.drained != nil {
		close(q.drained)
		q.drained = nil
	}
}

// empty returns a channel that is closed when nothing is waiting or busy.
func (q *queue) empty() <-chan struct{} {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.drained == nil {
		q.drained = make(chan struct{})
	}
	out := q.drained
	q.settle()
	return out
}
