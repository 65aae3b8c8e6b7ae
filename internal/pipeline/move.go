package pipeline

import "github.com/wattle-mesh/wattle/registry"

// moves reports whether the view in force has workloads that move from one proxy to another.
func (r *round) moves() bool { return r.l.o.Moved != nil && len(r.state.View.Moves()) > 0 }

// moved lists those of them that may take the next step.
func (r *round) moved() []registry.WorkloadKey {
	if !r.moves() {
		return nil
	}
	return r.l.o.Moved(r.state.View)
}
