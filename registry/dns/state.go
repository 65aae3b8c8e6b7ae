package dns

import (
	"container/heap"
	"time"

	"github.com/cenkalti/backoff/v5"

	"github.com/wattle-mesh/wattle/registry"
)

// state is what is known of a registry block's names. One goroutine at a time uses it.
type state struct {
	services []*service // sorted by name
	entries  map[question]*entry
}

func newState(c *config) *state {
	st := &state{entries: map[question]*entry{}}
	for _, s := range c.services {
		st.services = append(st.services, &service{serviceConfig: s, needs: map[*entry]bool{}})
	}
	return st
}

// service is a service block and what came of it.
type service struct {
	*serviceConfig
	built *registry.Service // as published; nil: it is not there, or not known
	needs map[*entry]bool
	notes []registry.Diagnostic // what is wrong with its records
}

// entry keeps one question answered.
type entry struct {
	question
	users map[*service]bool

	known     *answer   // the last records; nil: none, or none yet
	absence   absence   // there are none; empty while known is held
	since     time.Time // when the resolvers began to say so; zero: they do not
	err       error     // why it was not answered last
	failed    time.Time // when that began; zero: it was answered
	objection string    // a resolver that says there is nothing, while another has records
	pauses    *backoff.ExponentialBackOff

	tried bool      // in this run
	due   time.Time // when it is asked again
	place int       // in the queue; outside if it is being asked
}

// outside is the place of an entry that is not in the queue.
const outside = -1

// standing is what is known of a question.
type standing int

const (
	pending standing = iota // not asked yet
	there                   // there are records
	absent                  // there are none
	failing                 // it could never be read
)

func (e *entry) standing() standing {
	switch {
	case e.known != nil:
		return there
	case e.absence != "":
		return absent
	case e.err != nil:
		return failing
	}
	return pending
}

// held reports whether records are kept that the resolvers no longer have.
func (e *entry) held() bool { return e.known != nil && !e.since.IsZero() }

// take takes in what came of asking, and reports whether a service may come out otherwise now.
func (e *entry) take(c *config, a answer, err error, now time.Time) bool {
	was := *e
	if err != nil {
		e.err = err
		if e.failed.IsZero() {
			e.failed = now
		}
		if e.pauses == nil {
			e.pauses = c.pauses()
		}
		e.due = now.Add(e.pauses.NextBackOff())
		return e.known == nil // it may have failed for long enough
	}
	e.err, e.failed, e.pauses, e.objection = nil, time.Time{}, nil, a.objection
	ttl := c.bound(a.ttl)
	if a.absence == "" {
		e.known, e.absence, e.since = &a, "", time.Time{}
		e.due = now.Add(late(ttl))
		return was.known == nil || !was.known.equal(a)
	}
	if e.since.IsZero() {
		e.since = now
	}
	if hold := e.since.Add(c.negativeHold).Sub(now); e.known != nil && hold > 0 {
		e.due = now.Add(min(late(ttl), hold))
		return false
	}
	e.known, e.absence = nil, a.absence
	e.due = now.Add(late(ttl))
	return was.known != nil || was.absence != a.absence
}

// queue orders entries by when they are due.
type queue []*entry

var _ heap.Interface = (*queue)(nil)

func (q queue) Len() int           { return len(q) }
func (q queue) Less(i, j int) bool { return q[i].due.Before(q[j].due) }
func (q queue) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].place, q[j].place = i, j
}

// Push implements heap.Interface.
func (q *queue) Push(x any) {
	e := x.(*entry)
	e.place = len(*q)
	*q = append(*q, e)
}

// Pop implements heap.Interface.
func (q *queue) Pop() any {
	last := len(*q) - 1
	e := (*q)[last]
	(*q)[last], e.place = nil, outside
	*q = (*q)[:last]
	return e
}
