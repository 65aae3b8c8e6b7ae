package consul

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/wattle-mesh/wattle/registry"
)

const (
	readers     = 32               // services that are read at once when a part is read as a whole
	maxServices = 1 << 16          // services of a part that are read; Consul lists any number
	maxName     = 1 << 10          // bytes of a service's name
	defaultBeat = 10 * time.Second // between two heartbeats, and how long one may take
)

// What is asked. Services that are proxies or gateways, and not of a typical kind, need not be read at all; a Consul
// that does not know the filter lists them.
var (
	typical = question{path: "/v1/catalog/services", filter: `ServiceKind == ""`}
	itself  = question{path: "/v1/catalog/services", filter: `ServiceName == "consul"`}
	checks  = question{path: "/v1/health/state/any"}
)

func serviceQuestion(name string) question { return question{path: "/v1/health/service/" + name} }

// part is one datacentre and namespace of a Consul.
type part struct {
	datacenter string // empty: the agent's own
	namespace  string // empty: none is sent
}

// String names the part in messages.
func (p *part) String() string {
	s := "datacentre " + p.datacenter
	if p.datacenter == "" {
		s = "the agent's own datacentre"
	}
	if p.namespace != "" {
		s += ", namespace " + p.namespace
	}
	return s
}

// tagsByName is the answer to which services there are.
type tagsByName map[string][]string

// reader reads one part of a run.
type reader struct {
	*run
	part    *part
	index   int // of the part
	crowded bool

	mu   sync.Mutex
	seen uint64 // the highest index of the list
	at   time.Time
}

// errCrowded is a part that has more services than there is room for queries of their own.
var errCrowded = errors.New("more services than can be watched one by one")

// settled reports whether the part was read as a whole, and that a while ago: the next failure is another one.
func (r *reader) settled() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return !r.at.IsZero() && time.Since(r.at) > maxPause*r.config.pause
}

// read reads the part as a whole, then what changes in it, until it cannot.
func (r *reader) read(ctx context.Context) error {
	for {
		err := r.readOnce(ctx)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, errCrowded):
			r.crowded = true
		case errors.Is(err, errBack): // what its leader said: it is believed, but nothing of what was asked before holds
			r.log.Info("consul is read anew", "registry", r.config.name, "part", r.part.String(), "cause", err)
		default:
			return err
		}
		if err := sleep(ctx, r.config.pauses().NextBackOff()); err != nil {
			return err
		}
	}
}

func (r *reader) readOnce(ctx context.Context) error {
	list, index, indexes, err := r.readAll(ctx)
	if err != nil {
		return err
	}
	r.mu.Lock()
	r.seen, r.at = index, time.Now()
	r.mu.Unlock()
	r.set(r.index, state{synced: true})
	g, ctx := registry.NewGroup(ctx)
	g.Go(func() error { return r.heartbeat(ctx) })
	if r.client.multiplexes() && !r.crowded && r.room(list) {
		w := &watcher{reader: r, group: g, ends: map[string]context.CancelFunc{}}
		g.Go(func() error { return w.run(ctx, list, index, indexes) })
	} else {
		h := newHinted(r, list)
		g.Go(func() error { return h.run(ctx, g, index) })
	}
	return g.Wait()
}

// room reports whether each service of a list can have a query of its own.
func (r *reader) room(list tagsByName) bool { return len(list) <= r.config.slots/len(r.parts) }

// readAll reads every service and puts what there is in the place of what was known of the part. It returns the list,
// its index and those of the services.
func (r *reader) readAll(ctx context.Context) (tagsByName, uint64, map[string]uint64, error) {
	var list tagsByName
	index, err := r.once(ctx, typical, &list)
	if err != nil {
		return nil, 0, nil, err
	}
	if err := r.credible(list); err != nil {
		return nil, 0, nil, err
	}
	r.within(list)
	var mu sync.Mutex
	offers, indexes := make(map[string]*offer, len(list)), make(map[string]uint64, len(list))
	g, ctx := registry.NewGroup(ctx)
	g.SetLimit(readers)
	for _, name := range slices.Sorted(maps.Keys(list)) {
		g.Go(func() error {
			if !legible(name) {
				mu.Lock()
				defer mu.Unlock()
				offers[name] = &offer{illegible: true}
				return nil
			}
			var entries []*entry
			index, err := r.once(ctx, serviceQuestion(name), &entries)
			if err != nil {
				return err
			}
			o := r.config.offer(name, entries, index)
			mu.Lock()
			defer mu.Unlock()
			indexes[name] = index
			if o != nil {
				offers[name] = o
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, 0, nil, err
	}
	r.catalog.replace(r.index, offers)
	return list, max(index, 1), indexes, nil
}

// credible refuses a list without any service: Consul lists itself. A server that has just been made anew has not
// registered itself yet, and a token that may see nothing sees nothing.
func (r *reader) credible(list tagsByName) error {
	if len(list) > 0 {
		return nil
	}
	return r.explain(fmt.Errorf("%s: it lists no service at all, not even consul itself; see that the token may read services and nodes", typical.path))
}

// within leaves out of a list what is beyond the number of services that are read.
func (r *reader) within(list tagsByName) {
	beyond := max(0, len(list)-r.config.most)
	r.catalog.exceed(r.index, beyond)
	if beyond == 0 {
		return
	}
	names := slices.Sorted(maps.Keys(list))
	all := maps.Clone(list)
	clear(list)
	for _, name := range registry.Room(names, r.config.most, r.catalog.offered(r.index), func(name string) string { return name }) {
		list[name] = all[name]
	}
}

// heartbeat asks the leader from time to time, so that an agent that hangs and a Consul that was made anew are noticed
// although no query returns.
func (r *reader) heartbeat(ctx context.Context) error {
	failed := 0
	for {
		if err := sleep(ctx, r.config.beat); err != nil {
			return err
		}
		r.mu.Lock()
		seen := r.seen
		r.mu.Unlock()
		var list tagsByName
		meta, err := r.ask(ctx, itself, consistent(), r.config.beat, &list)
		if err != nil {
			if failed++; !r.again(err, failed) {
				return err
			}
			continue
		}
		failed = 0
		if meta.LastIndex < seen {
			return fmt.Errorf("%w, from %d to %d", errBack, seen, meta.LastIndex)
		}
	}
}

// saw takes in the index of a list. It returns errBack if it is smaller than one before.
func (r *reader) saw(index uint64) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if index < r.seen {
		return fmt.Errorf("%w, from %d to %d", errBack, r.seen, index)
	}
	r.seen = index
	return nil
}

// legible reports whether a service of this name can be read. Whether the mesh can have the name is not the driver's to
// say: the registry's block may give it another one. A path that is not clean leads elsewhere.
func legible(name string) bool {
	return name != "" && len(name) <= maxName && path.Clean("/"+name) == "/"+name
}

// watcher has one query for each service of a part.
type watcher struct {
	*reader
	group *registry.Group
	ends  map[string]context.CancelFunc // by service; of run alone
}

func (w *watcher) run(ctx context.Context, list tagsByName, index uint64, indexes map[string]uint64) error {
	for name := range list {
		w.start(ctx, name, indexes[name])
	}
	pace := rate.NewLimiter(5, 5)
	return follow(ctx, w.reader, typical, index, pace, func(list tagsByName, now uint64) error {
		if err := cmp.Or(w.saw(now), w.credible(list)); err != nil {
			return err
		}
		w.within(list)
		if !w.room(list) {
			return errCrowded
		}
		for name := range list {
			if w.ends[name] == nil {
				w.start(ctx, name, 0)
			}
		}
		for name, end := range w.ends {
			if _, there := list[name]; !there {
				end()
				delete(w.ends, name)
				w.catalog.drop(w.index, name)
			}
		}
		return nil
	}, nil)
}

// start begins to watch a service.
func (w *watcher) start(ctx context.Context, name string, index uint64) {
	ctx, w.ends[name] = context.WithCancel(ctx)
	if !legible(name) {
		w.catalog.put(w.index, name, &offer{illegible: true})
		return
	}
	w.group.Go(func() error {
		err := w.watch(ctx, name, index)
		if ctx.Err() != nil {
			return nil // of it alone, or whoever ended all knows why
		}
		return err
	})
}

func (w *watcher) watch(ctx context.Context, name string, index uint64) error {
	pace := rate.NewLimiter(2, 5)
	take := func(entries []*entry, now uint64) error {
		o := w.config.offer(name, entries, now)
		w.catalog.tell(ctx, w.index, name, o)
		return nil
	}
	if index == 0 {
		var entries []*entry
		now, err := w.once(ctx, serviceQuestion(name), &entries)
		if err != nil {
			return err
		}
		if err := take(entries, now); err != nil {
			return err
		}
		index = now
	}
	return follow(ctx, w.reader, serviceQuestion(name), index, pace, take, func(err error) { w.catalog.unreadable(w.index, name, err) })
}
