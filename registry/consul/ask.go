package consul

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/hashicorp/consul/api"
	"golang.org/x/time/rate"
)

const (
	answerTime = 30 * time.Second // a read that does not block
	firstPause = 250 * time.Millisecond
	maxPause   = 120 // times the first one: 30 s
	busyPause  = 8   // likewise: 2 s, at most, before a first read is tried again
	tries      = 4   // of a read that a server refuses
	triesBusy  = 12  // of one that it puts off
)

// What an answer may be worth nothing for.
var (
	errNoLeader = errors.New("its servers have no leader, so what they say may be old")
	errBack     = errors.New("its index went back: it was restored from a snapshot or made anew")
	errDoubt    = errors.New("the server that answered is behind")
)

// pauses makes the pauses between tries, with jitter.
func (c *config) pauses() *backoff.ExponentialBackOff {
	b := backoff.NewExponentialBackOff()
	b.InitialInterval, b.MaxInterval, b.Multiplier = c.pause, maxPause*c.pause, 2
	return b
}

// sleep waits, or returns why ctx is done.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// consistent asks the leader, after it has made sure that it leads.
func consistent() *api.QueryOptions { return &api.QueryOptions{RequireConsistent: true} }

// question is something that is read, and read again when it changes.
type question struct {
	path, filter string
}

// once asks for the state as the leader knows it, after it has made sure that it leads. It tries again when a server
// refuses.
func (r *reader) once(ctx context.Context, q question, out any) (index uint64, err error) {
	pauses := r.config.pauses()
	pauses.MaxInterval = busyPause * r.config.pause
	for try := 1; ; try++ {
		meta, err := r.ask(ctx, q, consistent(), answerTime, out)
		if err == nil {
			return meta.LastIndex, nil
		}
		if !r.again(err, try) {
			return 0, err
		}
		if err := sleep(ctx, pauses.NextBackOff()); err != nil {
			return 0, err
		}
	}
}

// again reports whether it is worth it to ask this again after an error: only a server that answers is asked again, all
// else is the end of the run.
func (r *reader) again(err error, try int) bool {
	var status api.StatusError
	switch {
	case errors.Is(err, errNoLeader):
		return try < tries
	case !errors.As(err, &status):
		return false
	case status.Code == http.StatusTooManyRequests || status.Code == http.StatusServiceUnavailable:
		return try < triesBusy
	}
	return try < tries
}

// next waits until the state has changed since index, or some time has passed. Any server may answer; when its answer
// is in doubt, the leader is asked. The index is 1 or more, and smaller than before only if the leader said so.
func (r *reader) next(ctx context.Context, q question, index uint64, out any) (uint64, error) {
	wait := time.Duration(float64(r.config.wait) * (0.8 + 0.2*rand.Float64())) // all were asked at once: let them not return at once
	o := &api.QueryOptions{WaitIndex: max(index, 1), WaitTime: wait, AllowStale: r.config.stale}
	meta, err := r.ask(ctx, q, o, wait+wait/16+answerTime, out)
	if err == nil && (meta.LastIndex < index || r.config.stale && meta.LastContact > r.config.maxStale) {
		err = errDoubt
	}
	if !errors.Is(err, errDoubt) {
		if err != nil {
			return 0, err
		}
		return max(meta.LastIndex, 1), nil
	}
	meta, err = r.ask(ctx, q, consistent(), answerTime, out)
	if err != nil {
		return 0, err
	}
	return max(meta.LastIndex, 1), nil
}

// ask asks once.
func (r *reader) ask(ctx context.Context, q question, o *api.QueryOptions, within time.Duration, out any) (*api.QueryMeta, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, within, fmt.Errorf("no answer within %s", within.Round(time.Second)))
	defer cancel()
	o.Datacenter, o.Namespace, o.Partition, o.Filter = r.part.datacenter, r.part.namespace, r.config.partition, q.filter
	meta, err := r.client.api.Raw().Query(q.path, out, o.WithContext(ctx))
	if err != nil {
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			err = context.Cause(ctx)
		}
		return nil, fmt.Errorf("%s: %w", q.path, r.explain(err))
	}
	// A client agent that answers from its stream of events does not say whether there is a leader.
	if !meta.KnownLeader && meta.QueryBackend != api.QueryBackendStreaming {
		return nil, fmt.Errorf("%s: %w", q.path, errNoLeader)
	}
	return meta, nil
}

// explain adds the remedy.
func (r *reader) explain(err error) error {
	var status api.StatusError
	if errors.As(err, &status) && status.Code == http.StatusForbidden {
		if r.config.tokenFile == "" {
			return fmt.Errorf("%w; set token_file to a file with a token that may read services and nodes", err)
		}
		return fmt.Errorf("%w; put a token that may read services and nodes into %s", err, r.config.tokenFile)
	}
	return err
}

// follow asks again and again, and gives each answer that is not the last one to take. A server that refuses is asked
// again after a pause. It returns when ctx is done, take fails, the agent cannot be reached, or, unless stubborn says
// otherwise, the server refuses several times.
func follow[T any](ctx context.Context, r *reader, q question, index uint64, pace *rate.Limiter, take func(T, uint64) error, stubborn func(error)) error {
	pauses := r.config.pauses()
	for try := 1; ; {
		if err := pace.Wait(ctx); err != nil {
			return err
		}
		var out T
		now, err := r.next(ctx, q, index, &out)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil:
			if !r.again(err, try) {
				if stubborn == nil || !r.again(err, 1) {
					return err
				}
				stubborn(err)
			}
			try++
			if err := sleep(ctx, pauses.NextBackOff()); err != nil {
				return err
			}
			continue
		}
		if try > 1 {
			try = 1
			pauses.Reset()
			if stubborn != nil {
				stubborn(nil)
			}
		}
		if now == index && now > 1 { // 1 is what a server says that does not know
			continue
		}
		if err := take(out, now); err != nil {
			return err
		}
		index = now
	}
}
