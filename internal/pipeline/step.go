package pipeline

import (
	"slices"

	"github.com/wattle-mesh/wattle/registry"
)

// Step is one change of what is in force. Whoever holds on to a step hears of those after it, one after the other: nobody
// is registered, and a step that nobody holds is gone. Services and All are set when it is the state's.
type Step struct {
	Services []registry.Name // those of catalog or view that may differ from the state before, sorted
	All      bool            // the mesh is another one: everything may differ

	next *Step
	done chan struct{} // closed when next is set
}

func newStep() *Step { return &Step{done: make(chan struct{})} }

// Done is closed when there is a Next, and the loop's State is one that it led to.
func (s *Step) Done() <-chan struct{} { return s.done }

// Next returns the step after s, or nil as long as there is none.
func (s *Step) Next() *Step {
	select {
	case <-s.done:
		return s.next
	default:
		return nil
	}
}

// follow makes next the step after s. It is called once.
func (s *Step) follow(next *Step) {
	s.next = next
	close(s.done)
}

// touched lists the services that may be otherwise in a state than in the one before.
func touched(s *State) (names []registry.Name, all bool) {
	if s.View.PrevGen == 0 {
		for svc := range s.Catalog.All() {
			names = append(names, svc.Name)
		}
		all = true
	}
	names = slices.Concat(names, s.Catalog.Changed, s.View.Changed.Services)
	slices.SortFunc(names, registry.Name.Compare)
	return slices.Compact(names), all
}
