package dns

import (
	"cmp"
	"container/heap"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/wattle-mesh/wattle/registry"
)

// run is one Run of a Source. Its goroutine owns all of it but the pool; those that ask give their results to it.
type run struct {
	*Source
	pool    *pool
	publish func([]*registry.Service)

	queue   queue
	asking  sync.WaitGroup
	busy    int         // queries under way
	results chan result // has room for all of them

	untried   int // entries that were not asked in this run
	failures  int // entries that were not answered last
	dirty     map[*service]bool
	uneasy    map[*entry]bool // there is something to report about
	noted     map[*service]bool
	news      bool // there may be something else to report than there was
	start     time.Time
	published bool
	reported  []registry.Diagnostic
}

// result is what came of asking.
type result struct {
	*entry
	answer answer
	err    error
}

// errNoResolver is a registry of which nothing can be read.
var errNoResolver = errors.New("no resolver answers")

// loop asks what is due until ctx is done, or until nothing can be read. One of four things happens: a question is due,
// an answer comes, the machine's resolvers may have changed, it is to end.
func (r *run) loop(ctx context.Context) error {
	r.begin(time.Now())
	var look <-chan time.Time
	if len(r.resolvers) == 0 {
		ticker := time.NewTicker(reread)
		defer ticker.Stop()
		look = ticker.C
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		r.flush(time.Now())
		r.ask(ctx, timer)
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		case <-look:
			if err := r.look(); err != nil {
				return err
			}
		case got := <-r.results:
			for more := true; more; {
				if fault := (*registry.Panic)(nil); errors.As(got.err, &fault) {
					return fault
				}
				r.take(got)
				select {
				case got = <-r.results:
				default:
					more = false
				}
			}
			if err := r.fault(); err != nil && ctx.Err() == nil {
				return err
			}
		}
	}
}

// begin makes all that is known due.
func (r *run) begin(now time.Time) {
	r.start = now
	r.dirty, r.uneasy, r.noted, r.news = map[*service]bool{}, map[*entry]bool{}, map[*service]bool{}, true
	for _, e := range r.state.entries {
		e.tried, e.due = false, now
		r.enter(e)
	}
	for _, s := range r.state.services {
		r.link(s, now)
		r.dirty[s] = true
	}
}

// enter puts an entry that was not asked in this run into the queue.
func (r *run) enter(e *entry) {
	heap.Push(&r.queue, e)
	r.untried++
	if e.err != nil {
		r.failures++
	}
	r.watch(e)
}

// watch takes down whether there is something to report about an entry.
func (r *run) watch(e *entry) {
	was, is := r.uneasy[e], e.err != nil || e.held() || e.objection != ""
	if r.news = r.news || was || is; is {
		r.uneasy[e] = true
	} else if was {
		delete(r.uneasy, e)
	}
}

// link makes a service use the entries that it needs, and no others.
func (r *run) link(s *service, now time.Time) {
	needs := map[*entry]bool{}
	need := func(q question) *entry {
		e := r.state.entries[q]
		if e == nil {
			e = &entry{question: q, users: map[*service]bool{}, due: now}
			r.state.entries[q] = e
			r.enter(e)
		}
		needs[e], e.users[s] = true, true
		return e
	}
	for _, set := range s.sets {
		for _, q := range r.roots(set) {
			if root := need(q); set.srv && root.known != nil {
				for _, t := range root.known.targets {
					for _, q := range r.hosts(t.host) {
						need(q)
					}
				}
			}
		}
	}
	for e := range s.needs {
		if !needs[e] {
			delete(e.users, s)
			if len(e.users) == 0 {
				r.drop(e)
			}
		}
	}
	s.needs = needs
}

// drop forgets an entry that nobody uses.
func (r *run) drop(e *entry) {
	delete(r.state.entries, e.question)
	if r.uneasy[e] {
		delete(r.uneasy, e)
		r.news = true
	}
	if e.place != outside {
		heap.Remove(&r.queue, e.place)
	}
	if !e.tried {
		r.untried--
	}
	if e.err != nil {
		r.failures--
	}
}

// ask starts the queries that are due, as many as may run at once, and sets the timer for the next one.
func (r *run) ask(ctx context.Context, timer *time.Timer) {
	for r.busy < r.maxQueries && len(r.queue) > 0 && !time.Now().Before(r.queue[0].due) {
		e := heap.Pop(&r.queue).(*entry)
		r.busy++
		pool, q := r.pool, e.question
		r.asking.Go(func() {
			var a answer
			err := registry.Safely(func() (err error) {
				a, err = pool.ask(ctx, q)
				return err
			})
			r.results <- result{e, a, err}
		})
	}
	timer.Stop()
	if r.busy < r.maxQueries && len(r.queue) > 0 {
		timer.Reset(time.Until(r.queue[0].due))
	}
}

// take takes in what came of asking.
func (r *run) take(got result) {
	r.busy--
	if r.state.entries[got.question] != got.entry {
		return // it is not needed any more
	}
	now := time.Now()
	r.record(got.entry, got.answer, got.err, now)
	heap.Push(&r.queue, got.entry)
	for _, q := range slices.SortedFunc(maps.Keys(got.answer.extra), compareQuestions) {
		r.hint(r.state.entries[q], gather(got.answer.extra[q]), now)
	}
	got.entry.forgetExtra()
}

func compareQuestions(a, b question) int {
	return cmp.Or(cmp.Compare(a.name, b.name), cmp.Compare(a.kind, b.kind))
}

// forgetExtra lets go of what came along with the records.
func (e *entry) forgetExtra() {
	if e.known != nil {
		e.known.extra = nil
	}
}

// record puts what is known of an entry right.
func (r *run) record(e *entry, a answer, err error, now time.Time) {
	if e.err != nil {
		r.failures--
	}
	changed := e.take(r.config, a, err, now)
	if e.err != nil {
		r.failures++
	}
	if !e.tried {
		e.tried, changed = true, true
		r.untried--
	}
	r.watch(e)
	if !changed {
		return
	}
	for s := range e.users {
		r.link(s, now)
		r.dirty[s] = true
	}
}

// hint uses addresses that came along with SRV records: they are taken where nothing is known yet, and renew what is
// known. Where they differ from that, the question is asked: not every server sends all of them along.
func (r *run) hint(e *entry, a answer, now time.Time) {
	switch {
	case e == nil || e.place == outside:
		return
	case e.known == nil && e.absence == "", e.known != nil && e.known.equal(a):
		r.record(e, a, nil, now)
	default:
		e.due = now
	}
	heap.Fix(&r.queue, e.place)
}

// fault returns why nothing can be read, if nothing can.
func (r *run) fault() error {
	if r.failures == 0 || !r.pool.dead() && (r.untried > 0 || r.failures < len(r.state.entries)) {
		return nil
	}
	var first *entry
	for _, e := range r.state.entries {
		if e.err != nil && (first == nil || compareQuestions(e.question, first.question) < 0) {
			first = e
		}
	}
	if r.pool.dead() {
		return fmt.Errorf("%w: %w", errNoResolver, first.err)
	}
	return fmt.Errorf("none of its names can be read; %s: %w", first.question, first.err)
}

// unsettled reports whether something could never be read and deserves another try before a set goes out without it: the
// resolvers may be coming back just now.
func (r *run) unsettled(now time.Time) bool {
	if now.Sub(r.start) >= r.timeout {
		return false
	}
	for e := range r.uneasy {
		if e.standing() == failing {
			return true
		}
	}
	return false
}

// flush publishes what changed, and reports what is wrong. The first set of a run waits until everything was asked.
func (r *run) flush(now time.Time) {
	if !r.published && (r.untried > 0 || r.unsettled(now)) {
		return
	}
	changed := !r.published
	for s := range r.dirty {
		changed = s.rebuild(r.state, r.config, now) || changed
		if was, is := r.noted[s], len(s.notes) > 0; was || is {
			r.noted[s], r.news = is, true
		}
	}
	clear(r.dirty)
	if changed {
		r.published = true
		r.publish(r.state.set())
	}
	if !r.news {
		return
	}
	r.news = false
	if ds := r.diagnostics(); r.reported == nil || !slices.Equal(ds, r.reported) { // an earlier run may have left something
		r.reported = append([]registry.Diagnostic{}, ds...)
		r.report(ds)
	}
}

// look reads anew which resolvers the machine has.
func (r *run) look() error {
	now, err := r.addresses()
	if err != nil {
		return err
	}
	was := make([]string, len(r.pool.members))
	for i, m := range r.pool.members {
		was[i] = m.address.String()
	}
	is := make([]string, len(now))
	for i, a := range now {
		is[i] = a.String()
	}
	if !slices.Equal(was, is) {
		r.log.Info("the machine's resolvers changed", "was", was, "now", is)
		r.pool = newPool(now, r.config)
	}
	return nil
}
