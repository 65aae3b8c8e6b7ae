package mesh

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"slices"
	"strings"

	"github.com/wattle-mesh/wattle/registry"
)

// resolveScopes finds the scope of each workload that is new, changed, or calls a service whose ports changed,
// then makes the scopes whose members changed.
func (r *resolver) resolveScopes() {
	for key := range r.rescope {
		w := r.workloads.get(key)
		if w == nil {
			continue // gone in this run
		}
		now, _ := r.scopeOf(w)
		if w.Scope != nil && w.Scope.Key != now.Key {
			r.leaveScope(key, w)
		}
		r.members.add(now.Key, key)
		r.rekeyed[now.Key] = true
	}
	r.members.flush()
	for key := range r.rekeyed {
		r.makeScope(key)
	}
}

// leaveScope takes a workload out of its scope.
func (r *resolver) leaveScope(key string, w *Workload) {
	if w == nil || w.Scope == nil {
		return
	}
	r.members.remove(w.Scope.Key, key)
	r.rekeyed[w.Scope.Key] = true
}

// makeScope makes the scope with this key, if it still has members. Members differ only in where they were
// declared: the first one by its key lends its Origins, so that the scope does not depend on who came first.
func (r *resolver) makeScope(key string) {
	members := r.members.get(key)
	was := r.scopes.get(key)
	if len(members) == 0 {
		r.note("scope "+key, nil)
		if was != nil {
			r.scopes.drop(key)
			r.changed.scopes = append(r.changed.scopes, key)
		}
		return
	}
	now, notes := r.scopeOf(r.workloads.get(members[0]))
	if was != nil && slices.EqualFunc(was.Upstreams, now.Upstreams, func(a, b *ScopeUpstream) bool { return *a == *b }) {
		now = was
	} else {
		r.scopes.put(key, now)
		r.changed.scopes = append(r.changed.scopes, key)
	}
	r.note("scope "+key, notes)
	for _, m := range members {
		if w := r.workloads.get(m); w.Scope != now {
			r.own(m).Scope = now
		}
	}
}

// scopeOf resolves what one workload needs, and says what is wrong with its upstreams.
func (r *resolver) scopeOf(w *Workload) (*Scope, []note) {
	s := &Scope{Service: w.Service, Identity: w.Identity, Upstreams: make([]*ScopeUpstream, len(w.Upstreams))}
	var notes []note
	for i, u := range w.Upstreams {
		s.Upstreams[i] = &ScopeUpstream{Service: u.Service, Port: u.Port, Protocol: registry.HTTP, Bind: u.Bind, Socket: u.Socket, Missing: true, Origin: u.Origin}
		to := r.cat.Service(u.Service)
		if to == nil {
			notes = append(notes, unknownUpstream(w, u))
			continue
		}
		port, ok := pickPort(to, u.Port, 0)
		if !ok {
			notes = append(notes, noSuchUpstreamPort(u, to))
			continue
		}
		s.Upstreams[i].Port, s.Upstreams[i].Protocol, s.Upstreams[i].Missing = port.Number, protocolOf(port), false
	}
	slices.SortFunc(s.Upstreams, compareUpstreams)
	s.Key = scopeKey(s)
	return s, notes
}

func compareUpstreams(a, b *ScopeUpstream) int {
	return cmp.Or(a.Service.Compare(b.Service), cmp.Compare(a.Port, b.Port), a.Bind.Compare(b.Bind), strings.Compare(a.Socket, b.Socket), strings.Compare(a.Origin, b.Origin))
}

// scopeKeyLength is how much of the hash a key shows, in hexadecimal digits: enough that two scopes of one mesh
// never share one.
const scopeKeyLength = 32

// scopeKey hashes a scope's content: every field with its length before it, so that no two contents have one encoding.
func scopeKey(s *Scope) string {
	b := make([]byte, 0, 64+64*len(s.Upstreams))
	text := func(t string) {
		b = binary.AppendUvarint(b, uint64(len(t)))
		b = append(b, t...)
	}
	text(s.Service.Namespace)
	text(s.Service.Name)
	text(s.Identity)
	for _, u := range s.Upstreams {
		text(u.Service.Namespace)
		text(u.Service.Name)
		b = binary.BigEndian.AppendUint16(b, u.Port)
		text(string(u.Protocol))
		text(u.Bind.String())
		text(u.Socket)
		if u.Missing {
			b = append(b, 1)
		} else {
			b = append(b, 0)
		}
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])[:scopeKeyLength]
}
