package agent

import "sync"

// value holds the newest of a sequence of immutable values, and tells any number of readers when there is a newer
// one. The zero value holds T's zero value. Safe for concurrent use.
type value[T any] struct {
	mu      sync.Mutex
	v       T
	changed chan struct{}
}

// Set replaces the value.
func (v *value[T]) Set(x T) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.v = x
	if v.changed != nil {
		close(v.changed)
		v.changed = nil
	}
}

// Load returns the value, and a channel that is closed when it has been replaced.
func (v *value[T]) Load() (T, <-chan struct{}) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.changed == nil {
		v.changed = make(chan struct{})
	}
	return v.v, v.changed
}

// Now returns the value.
func (v *value[T]) Now() T {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.v
}
