package api

import (
	"maps"
	"slices"
	"time"
)

// report takes a report of the stream that is numbered so, and returns what was refused of it.
func (r *Registrar) report(node string, stream uint64, said said) ([]refusal, error) {
	sick, refused, err := r.take(node, stream, said)
	if sick && r.o.OnHealth != nil {
		r.o.OnHealth()
	}
	return refused, err
}

func (r *Registrar) take(node string, stream uint64, said said) (sick bool, refused []refusal, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	h := r.host(node)
	if h.stream != stream {
		return false, nil, errSuperseded
	}
	sick = !slices.Equal(h.said.health, said.health)
	if sick {
		next := maps.Clone(r.health)
		h.dropHealth(next)
		h.said.health = said.health
		h.putHealth(next)
		r.health = next
	}
	if !slices.Equal(h.said.problems, said.problems) {
		r.untold = true
		r.poke()
	}
	news := !maps.Equal(h.said.facts, said.facts)
	h.said = h.said.with(said)
	if news {
		r.learn()
	}
	if r.judge(h) || news {
		r.rebuild()
	}
	return sick || news, h.refused, nil
}

// open begins a stream of reports. An older one of the same node ends: it may be of a connection that died.
func (r *Registrar) open(node string) (stream uint64, superseded <-chan struct{}) {
	back := false
	defer func() {
		if back && r.o.OnHealth != nil {
			r.o.OnHealth()
		}
	}()
	r.mu.Lock()
	defer r.mu.Unlock()
	h := r.host(node)
	if h.end != nil {
		close(h.end)
	}
	r.streams++
	h.stream, h.end = r.streams, make(chan struct{})
	if back = h.dead; back {
		r.bury(h, false)
	}
	return h.stream, h.end
}

// close ends a stream. What it reported stays.
func (r *Registrar) close(node string, stream uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if h := r.hosts[node]; h != nil && h.stream == stream {
		h.end, h.left = nil, time.Now()
	}
}
