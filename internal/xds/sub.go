package xds

import (
	"maps"
	"slices"

	"github.com/wattle-mesh/wattle/translator"
)

// maxNames bounds the names that one stream may subscribe to in one type, those that wait for an answer, and those that
// it says it holds. Options.MaxNames is a lower bound on the first two.
const maxNames = 1 << 17

// sub is what a stream knows of one type. What the client holds is not a list but two generations and pointers to
// sets that it shares with other streams.
type sub struct {
	on       bool // the client has asked for the type
	wild     bool // it wants all that is in scope
	must     bool // the next answer is due even if it is empty
	inflight bool // a response is unanswered
	settled  bool // what the client claimed to hold at first has been put right
	nacked   bool // the last response was refused

	acked uint64 // the client holds what was in has in this generation
	sent  uint64 // the last response, answered or not, brought next as of this generation
	has   *set
	next  *set
	may   *set // everything that the client may hold; has and more

	names  map[string]struct{} // wanted by name
	owed   map[string]struct{} // to be answered by name in the next response, changed or not
	put    []string            // names that were owed to the response last sent
	again  []string            // names that were owed to refused responses
	ghosts []string            // names that the client holds and the table does not know, to be removed

	last     *message // in flight, or refused
	removing bool     // the response in flight only removes, after the others: see removal
	rest     *set     // what the client may hold once it has answered that
	nack     *Nack
}

func (b *sub) wants(name string) bool {
	if b.wild {
		return true
	}
	_, ok := b.names[name]
	return ok
}

// tooMany reports whether a request would have the server remember more names than it may. Names that were given up
// under a wildcard wait for an answer too, which a client that acknowledges nothing never lets come.
func (b *sub) tooMany(r *request, most int) bool {
	changes := len(r.subscribe) + len(r.unsubscribe)
	return len(b.names)+len(r.subscribe) > most || len(r.initial) > maxNames || b.wild && changes > 0 && len(b.owed)+changes > most
}

func (b *sub) owe(name string) {
	if b.owed == nil {
		b.owed = map[string]struct{}{}
	}
	b.owed[name] = struct{}{}
}

// deferred reports whether removals of a type wait until nothing refers to what goes.
func deferred(t translator.Type) bool {
	return t == translator.Secret || t == translator.Cluster || t == translator.Endpoint
}

// begin takes the first request of a type. What the client holds already in the right version counts as
// acknowledged; names that it asks for and holds so are not answered again.
func (st *stream) begin(t translator.Type, r *request) {
	b, now := &st.subs[t], st.proxy.set
	*b = sub{on: true, has: emptySet, next: emptySet, may: emptySet, settled: len(r.initial) == 0, acked: st.srv.gen, sent: st.srv.gen}
	b.wild = len(r.subscribe) == 0
	for _, name := range r.subscribe {
		if name == "*" {
			b.wild = true
		} else {
			b.name(name)
		}
	}
	if t == translator.Endpoint {
		for _, m := range st.rewarm {
			for _, c := range m.resources {
				if b.wants(c.Name) && st.srv.lookup(now, t, c.Name) != nil {
					b.owe(c.Name)
				}
			}
		}
		st.rewarm = nil
	}
	if len(r.initial) == 0 {
		b.must = b.wild
		for name := range b.names {
			b.owe(name)
		}
		return
	}
	st.claims = true
	b.has, b.next, b.may = now, now, now
	seen := 0
	st.srv.beyond(now, emptySet, t, func(e *entry) {
		version, ok := r.initial[e.key.Name]
		if ok {
			seen++
		}
		if b.wants(e.key.Name) && (!ok || version != e.res.Version) {
			b.owe(e.key.Name)
		}
	})
	if seen < len(r.initial) {
		for name := range r.initial {
			if b.wants(name) && st.srv.lookup(now, t, name) == nil {
				b.ghosts = append(b.ghosts, name)
			}
		}
		slices.Sort(b.ghosts)
	}
	for name := range b.names {
		if _, claimed := r.initial[name]; !claimed {
			b.owe(name)
		}
	}
	b.settled = len(b.owed)+len(b.ghosts) == 0
}

func (b *sub) name(name string) {
	if b.names == nil {
		b.names = map[string]struct{}{}
	}
	b.names[name] = struct{}{}
}

// amend takes the subscriptions of a later request. A name is answered even if it was subscribed to before:
// the client may have dropped it. So is a name that a wildcard still covers when it is unsubscribed.
func (st *stream) amend(t translator.Type, r *request) {
	b := &st.subs[t]
	for _, name := range r.subscribe {
		if name != "*" {
			b.name(name)
			b.owe(name)
			continue
		}
		if b.wild {
			b.must = true
			continue
		}
		b.wild, b.must = true, true
		st.srv.beyond(st.proxy.set, emptySet, t, func(e *entry) { b.owe(e.key.Name) })
	}
	for _, name := range r.unsubscribe {
		switch {
		case name == "*":
			b.wild = false
			maps.DeleteFunc(b.owed, func(name string, _ struct{}) bool { return !b.wants(name) })
		case !b.wild:
			delete(b.names, name)
			delete(b.owed, name)
		default:
			if _, named := b.names[name]; named {
				b.owe(name)
			}
			delete(b.names, name)
		}
	}
}

// answer takes an acknowledgement or refusal of the response in flight.
func (st *stream) answer(t translator.Type, r *request) {
	b := &st.subs[t]
	st.unacked -= b.last.size
	b.inflight = false
	switch {
	case r.refused:
		b.nacked, b.again, b.put = true, b.put, nil
		b.nack = newNack(b.last, r.reason)
		if t == translator.Cluster {
			st.await = nil
		}
	case b.removing:
		b.last, b.ghosts = nil, nil
		b.may, b.rest = b.rest, nil
	default:
		b.settled = true
		b.last, b.nack, b.put = nil, nil, nil
		b.has, b.acked = b.next, b.sent
		if !deferred(t) {
			b.may, b.ghosts = b.next, nil
		}
	}
	b.removing = false
}
