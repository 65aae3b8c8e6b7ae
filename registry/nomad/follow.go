package nomad

import (
	"context"
	"fmt"
	"time"

	"github.com/hashicorp/nomad/api"
	"golang.org/x/time/rate"

	"github.com/wattle-mesh/wattle/registry"
)

// follow asks again and again, and gives each answer that is not the last one to take. A server that refuses is asked
// again after a pause. It returns when ctx is done, take fails, the index goes back, the agent cannot be reached, or the
// server refuses several times.
func follow[T any](ctx context.Context, r *run, q question, index uint64, take func(T, uint64) error) error {
	pauses := r.config.pauses()
	pace := rate.NewLimiter(5, 5)
	for try := 1; ; {
		if err := pace.Wait(ctx); err != nil {
			return err
		}
		var out T
		start := time.Now()
		now, err := r.client.next(ctx, q, index, &out)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil && !again(err, try):
			return err
		case err != nil:
			try++
			if err := sleep(ctx, pauses.NextBackOff()); err != nil {
				return err
			}
			continue
		case now < index:
			return fmt.Errorf("%s: %w, from %d to %d", q.path, errBack, index, now)
		}
		if try > 1 {
			try = 1
			pauses.Reset()
		}
		if now == index && now > 1 { // 1 is what a server says that knows nothing yet
			continue
		}
		began := time.Now()
		if err := take(out, now); err != nil {
			return err
		}
		index = now
		// A large list that changes all the time may take a fifth of the time.
		if err := sleep(ctx, share*min(time.Since(began), time.Since(start))); err != nil {
			return err
		}
	}
}

func (r *run) followNodes(ctx context.Context, index uint64) error {
	return follow(ctx, r, allNodes, index, func(all []*node, _ uint64) error { return r.takeNodes(ctx, all) })
}

func (r *run) followAllocs(ctx context.Context, namespace string, index uint64) error {
	return follow(ctx, r, r.allAllocs(namespace), index, func(all []*alloc, now uint64) error {
		r.queue.add(r.table.putAllocs(namespace, all, now)...)
		return nil
	})
}

// followList follows which services there are. The list does not say which of them moved: the events do, and if they do not,
// all are read.
func (r *run) followList(ctx context.Context, namespace string, index uint64) error {
	return follow(ctx, r, allServices(namespace), index, func(all []namespaceServices, now uint64) error {
		r.takeList(namespace, all, now)
		deadline := time.Now().Add(grace)
		for !r.explained(now) {
			if time.Now().After(deadline) {
				return r.sweep(ctx)
			}
			if err := sleep(ctx, grace/25); err != nil {
				return err
			}
		}
		return nil
	})
}

// explained reports whether the events have said what moved up to an index.
func (r *run) explained(index uint64) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.heard >= index
}

// listen follows the stream of events, which says which services move. It is only a hint: without it all are read. Each
// time that it is opened all are read, too, for what moved before.
func (r *run) listen(ctx context.Context, namespace string) error {
	pauses := r.config.pauses()
	for {
		start := time.Now()
		err := r.listenOnce(ctx, namespace)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		r.log.Debug("nomad's stream of events ended", "registry", r.config.name, "namespace", namespace, "error", err)
		if time.Since(start) > maxPause*r.config.pause {
			pauses.Reset()
		}
		if err := sleep(ctx, pauses.NextBackOff()); err != nil {
			return err
		}
	}
}

func (r *run) listenOnce(ctx context.Context, namespace string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := r.client.api.EventStream().Stream(ctx, map[api.Topic][]string{api.TopicService: {"*"}}, 0, &api.QueryOptions{Namespace: namespace})
	if err != nil {
		return err
	}
	if err := r.sweep(ctx); err != nil {
		return err
	}
	for batch := range stream {
		if batch.Err != nil {
			return batch.Err
		}
		for i := range batch.Events {
			if s, err := batch.Events[i].Service(); err == nil && s != nil {
				r.queue.add(registry.Name{Namespace: s.Namespace, Name: s.ServiceName})
			}
		}
		r.mu.Lock()
		r.heard = max(r.heard, batch.Index)
		r.mu.Unlock()
	}
	return ctx.Err()
}

// heartbeat asks the leader from time to time, so that an agent that hangs and a Nomad that was made anew are noticed although
// no query returns.
func (r *run) heartbeat(ctx context.Context) error {
	failed := 0
	for {
		if err := sleep(ctx, r.config.beat); err != nil {
			return err
		}
		for _, namespace := range r.config.namespaces {
			q := allServices(namespace)
			q.params = map[string]string{"per_page": "1"}
			r.mu.Lock()
			seen := r.lists[namespace].index
			r.mu.Unlock()
			var some []namespaceServices
			index, err := r.client.ask(ctx, q, &api.QueryOptions{}, r.config.beat, &some)
			switch {
			case err != nil:
				if failed++; !again(err, failed) {
					return err
				}
			case index < seen:
				return fmt.Errorf("%w, from %d to %d", errBack, seen, index)
			default:
				failed = 0
			}
		}
	}
}
