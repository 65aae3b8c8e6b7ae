package xds

import "github.com/wattle-mesh/wattle/translator"

// entry returns the entry of a key, made if there is none.
func (t *table) entry(k translator.Key) *entry {
	if e := t.entries[k]; e != nil {
		return e
	}
	t.seq++
	e := &entry{key: k, seq: t.seq}
	t.entries[k] = e
	n := typeName{k.Type, k.Name}
	t.names[n] = append(t.names[n], e)
	return e
}

func (t *table) scope(name string) *scope {
	s := t.scopes[name]
	if s == nil {
		s = &scope{name: name}
		t.scopes[name] = s
	}
	return s
}

func (t *table) proxy(id string) *proxy {
	p := t.proxies[id]
	if p == nil {
		p = &proxy{id: id, set: emptySet}
		t.proxies[id] = p
	}
	return p
}

// lookup returns what name is in a set: at most one variant, nil if none.
func (t *table) lookup(in *set, typ translator.Type, name string) *entry {
	for _, e := range t.names[typeName{typ, name}] {
		if in.has(e) {
			return e
		}
	}
	return nil
}

// rebuild makes the closures and sets anew that apply found stale.
func (w *work) rebuild() {
	for _, p := range w.moved {
		for _, s := range p.scopes {
			if s.closure == nil {
				w.queue(s)
			}
		}
	}
	for _, s := range w.stale {
		now := w.closureOf(s)
		if now == s.closure {
			continue
		}
		s.closure = now
		w.moved = append(w.moved, s.proxies...)
	}
	for _, p := range w.moved {
		w.regroup(p)
	}
}

// regroup gives a proxy the set of its scopes' closures, the old one if nothing differs.
func (w *work) regroup(p *proxy) {
	parts := make([]*closure, 0, len(p.scopes))
	for _, s := range p.scopes {
		if c := s.closure; c != nil && !c.empty() {
			parts = append(parts, c)
		}
	}
	if p.set.equal(parts) {
		return
	}
	p.set = &set{parts: parts}
	w.touchProxy(p)
}

// sweep forgets what nothing refers to any more.
func (w *work) sweep() {
	for _, e := range w.orphans {
		if e.res != nil || len(e.scopes) > 0 || w.entries[e.key] != e {
			continue
		}
		delete(w.entries, e.key)
		n := typeName{e.key.Type, e.key.Name}
		if w.names[n] = drop(w.names[n], e); len(w.names[n]) == 0 {
			delete(w.names, n)
		}
	}
	for _, s := range w.unlinked {
		if len(s.proxies) > 0 {
			continue
		}
		s.closure = nil
		if !s.known && len(s.usedBy) == 0 {
			delete(w.scopes, s.name)
		}
	}
	for _, p := range w.moved {
		w.forget(p)
	}
}

// forget drops a proxy that is neither declared nor connected.
func (t *table) forget(p *proxy) {
	if !p.known && p.stream == nil && t.proxies[p.id] == p {
		delete(t.proxies, p.id)
	}
}
