package consul

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/wattle-mesh/wattle/registry"
)

const (
	hintReaders = 8
	share       = 4                      // all checks are read again after this many times the time that it took
	grace       = 150 * time.Millisecond // for a hint to say what a change of the list was about
	lap         = time.Minute            // in which every service is read again, if there are few
	lapRate     = 20                     // reads a second
)

// hinted reads the services that moved: two queries say which, over all checks and over the list of services. What no
// hint names (an instance without checks, or other metadata) makes the list's index move, and all services are read.
type hinted struct {
	*reader
	loop chan uint64 // indexes of the list that a service that moved must explain

	mu      sync.Mutex
	tags    tagsByName
	pending map[string]bool // services to be read
	busy    map[string]bool // services that are being read
	more    chan struct{}   // has an element if there may be something pending
	drained chan struct{}   // has an element after the last one was read
	refused chan struct{}   // has an element after one could not be read
}

func newHinted(r *reader, list tagsByName) *hinted {
	return &hinted{
		reader: r, tags: list, loop: make(chan uint64, 1), pending: map[string]bool{}, busy: map[string]bool{},
		more: make(chan struct{}, hintReaders), drained: make(chan struct{}, 1), refused: make(chan struct{}, 1),
	}
}

// run follows the hints from the list's index on, with the goroutines of g.
func (h *hinted) run(ctx context.Context, g *registry.Group, index uint64) error {
	for range hintReaders {
		g.Go(func() error { return h.readPending(ctx) })
	}
	g.Go(func() error { return h.followChecks(ctx) })
	g.Go(func() error { return h.sweep(ctx) })
	g.Go(func() error { return h.goRound(ctx) })
	g.Go(func() error { return h.retry(ctx) })
	return follow(ctx, h.reader, typical, index, rate.NewLimiter(5, 5), h.takeList, nil)
}

// takeList finds out what moved in the list.
func (h *hinted) takeList(list tagsByName, index uint64) error {
	if err := h.saw(index); err != nil {
		return err
	}
	if err := h.credible(list); err != nil {
		return err
	}
	h.within(list)
	h.mu.Lock()
	was := h.tags
	h.tags = list
	h.mu.Unlock()
	var moved []string
	for name, tags := range list {
		if before, there := was[name]; !there || !slices.Equal(tags, before) {
			moved = append(moved, name)
		}
	}
	dropped := false
	for name := range was {
		if _, there := list[name]; !there {
			h.catalog.drop(h.index, name)
			dropped = true
		}
	}
	h.add(moved)
	if dropped && len(moved) == 0 {
		return nil
	}
	select { // the newest index alone counts
	case <-h.loop:
	default:
	}
	h.loop <- index
	return nil
}

// followChecks adds the services whose checks moved.
func (h *hinted) followChecks(ctx context.Context) error {
	var list []check
	index, err := h.once(ctx, checks, &list)
	if err != nil {
		return err
	}
	known := byKey(list)
	// What moved between the reading of the whole and now is not known: the catalog says what was read.
	h.add(h.catalog.older(h.index, list))
	return follow(ctx, h.reader, checks, index, rate.NewLimiter(5, 5), func(list []check, _ uint64) error {
		start := time.Now()
		now := byKey(list)
		h.add(h.moved(known, now))
		known = now
		return sleep(ctx, share*time.Since(start))
	}, nil)
}

func byKey(list []check) map[checkKey]check {
	out := make(map[checkKey]check, len(list))
	for _, c := range list {
		out[checkKey{c.Node, c.CheckID}] = c
	}
	return out
}

// moved returns the services of the checks that differ. A check of a node is one of all services there.
func (h *hinted) moved(was, now map[checkKey]check) []string {
	services, nodes := map[string]bool{}, map[string]bool{}
	differs := func(c check) {
		if c.ServiceName == "" {
			nodes[c.Node] = true
		} else {
			services[c.ServiceName] = true
		}
	}
	for k, c := range now {
		if before, there := was[k]; !there || before.ModifyIndex != c.ModifyIndex {
			differs(c)
		}
	}
	for k, c := range was {
		if _, there := now[k]; !there {
			differs(c)
		}
	}
	if len(nodes) > 0 {
		for _, name := range h.catalog.on(h.index, nodes) {
			services[name] = true
		}
	}
	return slices.Collect(maps.Keys(services))
}

// add makes services be read soon.
func (h *hinted) add(names []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, name := range names {
		if _, listed := h.tags[name]; listed && !h.pending[name] {
			h.pending[name] = true
			h.wake()
		}
	}
}

func (h *hinted) wake() {
	select {
	case h.more <- struct{}{}:
	default:
	}
}

// readPending reads one pending service after the other.
func (h *hinted) readPending(ctx context.Context) error {
	for {
		name, ok := h.take()
		if !ok {
			select {
			case <-h.more:
				continue
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		if err := h.readOne(ctx, name); err != nil {
			return err
		}
		h.done(name)
	}
}

func (h *hinted) take() (string, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for name := range h.pending {
		if !h.busy[name] {
			delete(h.pending, name)
			h.busy[name] = true
			return name, true
		}
	}
	return "", false
}

func (h *hinted) done(name string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.busy, name)
	if h.pending[name] {
		h.wake()
	}
	if len(h.busy) == 0 && len(h.pending) == 0 {
		select {
		case h.drained <- struct{}{}:
		default:
		}
	}
}

func (h *hinted) readOne(ctx context.Context, name string) error {
	if !legible(name) {
		h.catalog.put(h.index, name, &offer{illegible: true})
		return nil
	}
	var entries []*entry
	index, err := h.once(ctx, serviceQuestion(name), &entries)
	if err != nil {
		if ctx.Err() == nil && h.again(err, 1) { // the service alone cannot be read
			h.catalog.unreadable(h.index, name, err)
			select {
			case h.refused <- struct{}{}:
			default:
			}
			return nil
		}
		return err
	}
	h.catalog.unreadable(h.index, name, nil)
	h.mu.Lock()
	defer h.mu.Unlock()
	if _, listed := h.tags[name]; listed { // else it was dropped, or will be
		h.catalog.put(h.index, name, h.config.offer(name, entries, index))
	}
	return nil
}

// sweep reads all services when the list moved and nothing that was read says why.
func (h *hinted) sweep(ctx context.Context) error {
	for {
		var index uint64
		select {
		case index = <-h.loop:
		case <-ctx.Done():
			return ctx.Err()
		}
		if err := sleep(ctx, grace); err != nil {
			return err
		}
		if h.catalog.explains(h.index, index) {
			continue
		}
		start := time.Now()
		h.readEverything()
		select {
		case <-h.drained:
		case <-ctx.Done():
			return ctx.Err()
		}
		if err := sleep(ctx, max(time.Second, share*time.Since(start))); err != nil {
			return err
		}
	}
}

// readEverything makes all services be read soon.
func (h *hinted) readEverything() {
	select {
	case <-h.drained:
	default:
	}
	h.add(h.names())
}

func (h *hinted) names() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Sorted(maps.Keys(h.tags))
}

// retry makes the services that could not be read be read again, with growing pauses: no hint will name them.
func (h *hinted) retry(ctx context.Context) error {
	pauses, last := h.config.pauses(), time.Now()
	for {
		select {
		case <-h.refused:
		case <-ctx.Done():
			return ctx.Err()
		}
		if time.Since(last) > 2*maxPause*h.config.pause { // this is another trouble
			pauses.Reset()
		}
		if err := sleep(ctx, pauses.NextBackOff()); err != nil {
			return err
		}
		last = time.Now()
		h.add(h.catalog.troubled(h.index))
	}
}

// goRound reads every service again from time to time: two changes at once can look like one.
func (h *hinted) goRound(ctx context.Context) error {
	pace := rate.NewLimiter(lapRate, 1)
	for {
		start := time.Now()
		for _, name := range h.names() {
			if err := pace.Wait(ctx); err != nil {
				return err
			}
			h.add([]string{name})
		}
		if err := sleep(ctx, time.Until(start.Add(lap))); err != nil {
			return err
		}
	}
}
