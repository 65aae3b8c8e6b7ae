package xds

import (
	"slices"
	"time"

	"github.com/wattle-mesh/wattle/translator"
)

const (
	// warmUp bounds how long listeners and routes wait until the client has asked for the endpoints of a new cluster.
	warmUp = time.Second
	// settle is how long a stream that resumes another may take until it has asked for listeners and routes. Before
	// that nothing is removed that these might refer to.
	settle = 5 * time.Second
)

// next returns the response to send now, nil if there is none. Five things hold for what it returns:
//  1. one response per type is unanswered;
//  2. what is new comes in the order of the types, so that nothing refers to what the client does not have: if a type
//     has something new and must wait, so do the types after it;
//  3. the endpoints of a cluster that was sent are sent after it, and listeners and routes wait until a client that asks
//     for endpoints by name has asked for those of a new cluster;
//  4. listeners and routes go with what is new, but secrets, clusters and endpoints only when the client has
//     acknowledged listeners and routes of a generation in which they were not in its scope any more;
//  5. what was refused is sent again only when something in it changes, or somebody asks for it.
func (st *stream) next() *message {
	st.blocked = false
	for i := range translator.NumTypes {
		t := translator.Type(i)
		b := &st.subs[t]
		if !b.on {
			continue
		}
		if st.warming(t) {
			st.blocked = true
			break
		}
		if b.inflight {
			if st.pending(t) {
				break
			}
			continue
		}
		if m := st.update(t); m != nil {
			return m
		}
	}
	for _, t := range [...]translator.Type{translator.Cluster, translator.Endpoint, translator.Secret} {
		if m := st.removal(t); m != nil {
			return m
		}
	}
	return nil
}

// pending reports whether the client should get something of t that was not in the last response, refused or not.
func (st *stream) pending(t translator.Type) bool {
	b, now := &st.subs[t], st.proxy.set
	if len(b.owed) > 0 || b.must {
		return true
	}
	found := false
	note := func(e *entry) { found = found || b.wants(e.key.Name) }
	st.srv.beyond(now, b.next, t, note)
	st.srv.updates(now, t, b.sent, note)
	if !deferred(t) {
		st.srv.beyond(b.next, now, t, note)
	}
	return found
}

// update returns what brings the client from what it acknowledged to what is in scope now.
func (st *stream) update(t translator.Type) *message {
	b, now := &st.subs[t], st.proxy.set
	if b.nacked && !st.pending(t) {
		return nil
	}
	var add []*entry
	var gone []string
	note := func(e *entry) {
		if b.wants(e.key.Name) {
			add = append(add, e)
		}
	}
	st.srv.beyond(now, b.has, t, note)
	st.srv.updates(now, t, b.acked, note)
	if !deferred(t) {
		gone, _ = st.gone(t, nil)
	}
	for _, name := range b.again {
		if b.wants(name) { // still
			b.owe(name)
		}
	}
	put := make([]string, 0, len(b.owed))
	for name := range b.owed {
		put = append(put, name)
		if e := st.srv.lookup(now, t, name); e != nil {
			add = append(add, e)
		} else {
			gone = append(gone, name)
		}
	}
	b.owed, b.again = nil, nil
	b.next, b.sent = now, st.srv.gen
	if len(add)+len(gone) == 0 && !b.must {
		b.has, b.acked, b.nacked, b.nack, b.last = now, st.srv.gen, false, nil, nil
		if b.may = union(b.may, now); !deferred(t) {
			b.may = now
		}
		return nil
	}
	b.may, b.must, b.nacked, b.put = union(b.may, now), false, false, put
	slices.SortFunc(add, bySeq)
	slices.Sort(gone)
	m := st.srv.mint.message(t, st.srv.gen, slices.Compact(add), slices.Compact(gone))
	if t == translator.Cluster {
		st.warm(m)
	}
	return st.launch(b, m)
}

// gone returns the names of t that the client may hold and should not, but for those that keep refuses to let go,
// and whether there were such.
func (st *stream) gone(t translator.Type, keep func(*entry) bool) (names []string, kept bool) {
	b, now := &st.subs[t], st.proxy.set
	st.srv.beyond(b.may, now, t, func(e *entry) {
		name := e.key.Name
		switch {
		case !b.wants(name) || st.srv.lookup(now, t, name) != nil:
		case keep != nil && keep(e):
			kept = true
		default:
			names = append(names, name)
		}
	})
	for _, name := range b.ghosts {
		if b.wants(name) && st.srv.lookup(now, t, name) == nil {
			names = append(names, name)
		}
	}
	return names, kept
}

// removal returns what takes from the client the secrets, clusters or endpoints that nothing it holds can refer to.
func (st *stream) removal(t translator.Type) *message {
	b, now := &st.subs[t], st.proxy.set
	if !b.on || b.inflight || b.may == now && len(b.ghosts) == 0 || !st.mayRemove() {
		return nil
	}
	if c := &st.subs[translator.Cluster]; t == translator.Endpoint && c.inflight && !c.removing {
		return nil // endpoints go with their cluster
	}
	if b.nacked && !st.pending(t) {
		return nil
	}
	l, r := &st.subs[translator.Listener], &st.subs[translator.Route]
	rest := now
	for _, s := range []*sub{l, r} {
		if s.on {
			rest = union(union(rest, s.has), s.next)
		}
	}
	names, kept := st.gone(t, rest.has)
	if !kept {
		rest = now
	}
	if len(names) == 0 {
		if !kept {
			b.may, b.ghosts = now, nil
		}
		return nil
	}
	slices.Sort(names)
	b.removing, b.rest = true, rest
	return st.launch(b, st.srv.mint.message(t, st.srv.gen, nil, slices.Compact(names)))
}

// mayRemove reports whether it is known what the client's listeners and routes refer to.
func (st *stream) mayRemove() bool {
	for _, t := range [...]translator.Type{translator.Listener, translator.Route} {
		b := &st.subs[t]
		if b.on && !b.settled {
			return false
		}
		if !b.on && st.claims {
			if left := settle - time.Since(st.since); left > 0 {
				st.wakeAfter(left)
				return false
			}
		}
	}
	return true
}

func (st *stream) launch(b *sub, m *message) *message {
	b.inflight, b.last = true, m
	st.unacked += m.size
	st.reached = m.gen
	return m
}

// warm has the endpoints of the clusters in m follow them.
func (st *stream) warm(m *message) {
	b, now := &st.subs[translator.Endpoint], st.proxy.set
	if !b.wild {
		st.await, st.awaitEnd = append(st.await, m), time.Now().Add(warmUp)
		st.wakeAfter(warmUp)
	}
	if !b.on {
		if st.claims {
			st.rewarm = append(st.rewarm, m)
		}
		return
	}
	for _, c := range m.resources {
		if !b.wants(c.Name) {
			continue
		}
		if e := st.srv.lookup(now, translator.Endpoint, c.Name); e != nil && b.next.has(e) && e.gen <= b.sent {
			b.owe(c.Name)
		}
	}
}

// warming reports whether t waits for the endpoints of new clusters.
func (st *stream) warming(t translator.Type) bool {
	if len(st.await) == 0 || t != translator.Listener && t != translator.Route {
		return false
	}
	for len(st.await) > 0 && st.warmed(st.await[0]) {
		st.await = st.await[1:]
	}
	if len(st.await) > 0 && time.Now().Before(st.awaitEnd) {
		return true
	}
	st.await = nil
	return false
}

// warmed reports whether the client has been answered for the endpoints of all clusters in m.
func (st *stream) warmed(m *message) bool {
	b := &st.subs[translator.Endpoint]
	if b.on && b.wild && len(b.owed) == 0 {
		return true
	}
	for _, c := range m.resources {
		if _, owed := b.owed[c.Name]; b.on && b.wants(c.Name) && !owed {
			continue
		}
		if st.srv.lookup(st.proxy.set, translator.Endpoint, c.Name) != nil {
			return false
		}
	}
	return true
}
