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
	found := map[string]resolvedScope{}
	for key := range r.rescope {
		w := r.workloads.get(key)
		if w == nil {
			continue // gone in this run
		}
		now := r.resolveScope(w)
		found[key] = now
		if w.Scope != nil && w.Scope.Key != now.scope.Key {
			r.leaveScope(key, w)
		}
		r.members.add(now.scope.Key, key)
		r.rekeyed[now.scope.Key] = true
	}
	r.members.flush()
	for key := range r.rekeyed {
		r.makeScope(key, found)
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
// found holds what was resolved already.
func (r *resolver) makeScope(key string, found map[string]resolvedScope) {
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
	first, ok := found[members[0]]
	if !ok {
		first = r.resolveScope(r.workloads.get(members[0]))
	}
	now := first.scope
	if was != nil && slices.EqualFunc(was.Upstreams, now.Upstreams, func(a, b *ScopeUpstream) bool { return *a == *b }) && sameCapture(was.Capture, now.Capture) {
		now = was
	} else {
		r.scopes.put(key, now)
		r.changed.scopes = append(r.changed.scopes, key)
	}
	r.note("scope "+key, first.notes)
	for _, m := range members {
		if w := r.workloads.get(m); w.Scope != now {
			r.own(m).Scope = now
		}
	}
}

// resolvedScope is what one workload needs, and what is wrong with its upstreams.
type resolvedScope struct {
	scope *Scope
	notes []note
}

func (r *resolver) resolveScope(w *Workload) resolvedScope {
	s := &Scope{Service: w.Service, Identity: w.Identity, Variant: variantOf(w.Workload), Upstreams: make([]*ScopeUpstream, 0, len(w.Upstreams)), Capture: r.scopeCapture(w)}
	upstreams := make([]ScopeUpstream, len(w.Upstreams))
	notes := r.captureNotes(w)
	for i, u := range w.Upstreams {
		if !u.Bound() {
			continue
		}
		upstreams[i] = ScopeUpstream{Service: u.Service, Port: u.Port, Protocol: registry.HTTP, Bind: u.Bind, Socket: u.Socket, Missing: true, Origin: u.Origin}
		s.Upstreams = append(s.Upstreams, &upstreams[i])
		to := r.service(u.Service)
		if to == nil {
			notes = append(notes, unknownUpstream(w, u))
			continue
		}
		port, ok := pickPort(to, u.Port, 0)
		if !ok {
			notes = append(notes, noSuchUpstreamPort(u, to))
			continue
		}
		upstreams[i].Port, upstreams[i].Protocol, upstreams[i].Missing = port.Number, protocolOf(port), false
	}
	slices.SortFunc(s.Upstreams, compareUpstreams)
	s.Key = scopeKey(s)
	return resolvedScope{s, notes}
}

// sameCapture compares captures of one key.
func sameCapture(a, b *ScopeCapture) bool { return a == b || a != nil && b != nil && *a == *b }

func compareUpstreams(a, b *ScopeUpstream) int {
	return cmp.Or(a.Service.Compare(b.Service), cmp.Compare(a.Port, b.Port), a.Bind.Compare(b.Bind), strings.Compare(a.Socket, b.Socket), strings.Compare(a.Origin, b.Origin))
}

// scopeKeyLength is how much of the hash a key shows, in hexadecimal digits: enough that two scopes of one mesh
// never share one.
const scopeKeyLength = 32

// scopeKey hashes a scope's content: every text with its length before it, so that no two contents have one encoding.
func scopeKey(s *Scope) string {
	var bind [64]byte
	b := make([]byte, 0, 128+96*len(s.Upstreams))
	if c := s.Capture; c != nil { // begins otherwise than what follows. What is in the reach does not count: it changes
		b = appendText(append(b, 0), c.Mode)
		b = appendText(b, c.Slice.String())
		b = appendText(b, c.Reach)
	}
	b = appendText(b, s.Service.Namespace)
	b = appendText(b, s.Service.Name)
	b = appendText(b, s.Identity)
	for _, u := range s.Upstreams {
		b = appendText(b, u.Service.Namespace)
		b = appendText(b, u.Service.Name)
		b = binary.BigEndian.AppendUint16(b, u.Port)
		b = appendText(b, u.Protocol)
		b = appendText(b, u.Bind.AppendTo(bind[:0]))
		b = appendText(b, u.Socket)
		if u.Missing {
			b = append(b, 1)
		} else {
			b = append(b, 0)
		}
	}
	if s.Variant != "" {
		b = appendText(b, s.Variant)
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])[:scopeKeyLength]
}

// variantLength is how much of a hash the name of a cluster shows that only one workload's calls go to.
const variantLength = 8

// variantOf tells the clusters of a workload's calls from those of others; empty: they share them. In a proxy of its own it
// shares nothing anyway.
func variantOf(w *registry.Workload) string {
	if !w.Isolate || w.Sidecar {
		return ""
	}
	sum := sha256.Sum256([]byte(w.Service.String() + "/" + w.Instance))
	return hex.EncodeToString(sum[:])[:variantLength]
}

func appendText[T ~string | []byte](b []byte, text T) []byte {
	return append(binary.AppendUvarint(b, uint64(len(text))), text...)
}
