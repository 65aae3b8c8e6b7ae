package xds

import (
	"slices"

	"google.golang.org/grpc/mem"

	"github.com/wattle-mesh/wattle/translator"
)

// table is everything published: entries, the scopes that list them and the proxies that need the scopes.
// It changes only in apply; its user guards it.
type table struct {
	gen     uint64
	seq     uint64 // of the last entry made
	visit   uint64 // of the last traversal
	entries map[translator.Key]*entry
	names   map[typeName][]*entry // the variants of a name
	scopes  map[string]*scope
	proxies map[string]*proxy
	logs    [translator.NumTypes]changeLog
	fresh   map[freshKey][]*entry // what one closure has and another lacks; kept for one generation
}

type typeName struct {
	typ  translator.Type
	name string
}

// entry is a key of the table. It lives while it is published or some scope lists it; a key that comes back
// is a new entry, so that a stream that lags behind sees that it went.
type entry struct {
	key    translator.Key
	seq    uint64               // order of creation; what lists of entries are sorted by
	res    *translator.Resource // nil: not published
	gen    uint64               // the generation that last changed res
	pieces *[2]mem.Buffer       // res as part of a large response; nil until there is one
	scopes []*scope             // that list it
	seen   uint64               // by the traversal of this number
}

// scope is a named set of entries, with the scopes that it includes.
type scope struct {
	name    string
	known   bool // declared; else only referred to
	keys    []*entry
	uses    []*scope
	usedBy  []*scope
	proxies []*proxy // that list it
	closure *closure // of a scope that proxies list, else nil
	touched uint64   // the generation in which its content last changed
	spoilt  uint64   // the generation in which its closure may have changed
	queued  uint64   // the generation in which its closure was last made
	seen    uint64   // by the traversal of this number
}

// proxy is a proxy with what it has in scope.
type proxy struct {
	id     string
	known  bool // declared; else only connected
	scopes []*scope
	set    *set
	stream *stream
	queued uint64 // the generation that last touched it
}

func newTable() table {
	return table{
		entries: map[translator.Key]*entry{},
		names:   map[typeName][]*entry{},
		scopes:  map[string]*scope{},
		proxies: map[string]*proxy{},
		fresh:   map[freshKey][]*entry{},
	}
}

// work is the state of one apply.
type work struct {
	*table
	stale    []*scope // whose closure must be made anew
	moved    []*proxy // whose set must be
	touched  []*proxy // in whose scope something changed
	orphans  []*entry // that may have to go
	unlinked []*scope // likewise
}

// apply brings changes in and returns the proxies in whose scope something changed.
func (t *table) apply(c translator.Changes) []*proxy {
	t.gen++
	clear(t.fresh)
	w := &work{table: t}
	for _, r := range c.Resources {
		w.publish(r)
	}
	for _, k := range c.Removed {
		w.remove(k)
	}
	for _, s := range c.Scopes {
		w.declare(t.scope(s.Name), true, s.Keys, s.Uses)
	}
	for _, name := range c.GoneScopes {
		w.declare(t.scope(name), false, nil, nil)
	}
	for _, p := range c.Proxies {
		w.assign(t.proxy(p.ID), true, p.Scopes)
	}
	for _, id := range c.GoneProxies {
		w.assign(t.proxy(id), false, nil)
	}
	w.rebuild()
	w.sweep()
	return w.touched
}

func (w *work) publish(r *translator.Resource) {
	e := w.entry(r.Key)
	old := e.res
	e.res = r
	if old != nil && old.Version == r.Version {
		return // only its origin can have moved
	}
	e.gen, e.pieces = w.gen, nil
	w.logs[r.Type].add(e)
	for _, s := range e.scopes {
		if old == nil {
			w.spoil(s)
		}
		w.touch(s)
	}
}

func (w *work) remove(k translator.Key) {
	e := w.entries[k]
	if e == nil || e.res == nil {
		return
	}
	e.res, e.gen = nil, w.gen
	w.orphans = append(w.orphans, e)
	for _, s := range e.scopes {
		w.spoil(s)
	}
}

// touch notes every proxy that has s in scope.
func (w *work) touch(s *scope) {
	if s.touched == w.gen {
		return
	}
	s.touched = w.gen
	for _, p := range s.proxies {
		w.touchProxy(p)
	}
	for _, u := range s.usedBy {
		w.touch(u)
	}
}

func (w *work) touchProxy(p *proxy) {
	if p.queued != w.gen {
		p.queued = w.gen
		w.touched = append(w.touched, p)
	}
}

// spoil notes every scope whose closure includes s.
func (w *work) spoil(s *scope) {
	if s.spoilt == w.gen {
		return
	}
	s.spoilt = w.gen
	if len(s.proxies) > 0 {
		w.queue(s)
	}
	for _, u := range s.usedBy {
		w.spoil(u)
	}
}

// queue has the closure of s made anew.
func (w *work) queue(s *scope) {
	if s.queued != w.gen {
		s.queued = w.gen
		w.stale = append(w.stale, s)
	}
}

// declare gives a scope its content.
func (w *work) declare(s *scope, known bool, keys []translator.Key, uses []string) {
	s.known = known
	entries := make([]*entry, 0, len(keys))
	for _, k := range keys {
		entries = append(entries, w.entry(k))
	}
	scopes := make([]*scope, 0, len(uses))
	for _, name := range uses {
		scopes = append(scopes, w.scope(name))
	}
	w.visit++
	exchange(s.keys, entries, w.visit, func(e *entry) *uint64 { return &e.seen },
		func(e *entry) { e.scopes = drop(e.scopes, s); w.orphans = append(w.orphans, e) },
		func(e *entry) { e.scopes = append(e.scopes, s) })
	w.visit++
	exchange(s.uses, scopes, w.visit, func(u *scope) *uint64 { return &u.seen },
		func(u *scope) { u.usedBy = drop(u.usedBy, s); w.unlinked = append(w.unlinked, u) },
		func(u *scope) { u.usedBy = append(u.usedBy, s) })
	s.keys, s.uses = entries, scopes
	w.unlinked = append(w.unlinked, s)
	w.spoil(s)
}

// assign gives a proxy its scopes.
func (w *work) assign(p *proxy, known bool, names []string) {
	p.known = known
	scopes := make([]*scope, 0, len(names))
	for _, name := range names {
		scopes = append(scopes, w.scope(name))
	}
	w.visit++
	exchange(p.scopes, scopes, w.visit, func(s *scope) *uint64 { return &s.seen },
		func(s *scope) { s.proxies = drop(s.proxies, p); w.unlinked = append(w.unlinked, s) },
		func(s *scope) { s.proxies = append(s.proxies, p) })
	p.scopes = scopes
	w.moved = append(w.moved, p)
	if !known {
		w.touchProxy(p)
	}
}

// exchange calls gone for what only old has and come for what only now has. mark says where the number of a
// traversal is noted; each element of now should be there once.
func exchange[T comparable](old, now []T, visit uint64, mark func(T) *uint64, gone, come func(T)) {
	before := make(map[T]struct{}, len(old))
	for _, x := range old {
		before[x] = struct{}{}
	}
	for _, x := range now {
		if *mark(x) == visit {
			continue
		}
		*mark(x) = visit
		if _, ok := before[x]; !ok {
			come(x)
		}
	}
	for _, x := range old {
		if *mark(x) != visit {
			*mark(x) = visit
			gone(x)
		}
	}
}

// drop removes x from a list in which order means nothing.
func drop[T comparable](list []T, x T) []T {
	i := slices.Index(list, x)
	if i < 0 {
		return list
	}
	last := len(list) - 1
	list[i] = list[last]
	var zero T
	list[last] = zero
	return list[:last]
}
