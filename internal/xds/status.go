package xds

import (
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/wattle-mesh/wattle/translator"
)

// ProxyStatus is what the server knows of one proxy. Plain data.
type ProxyStatus struct {
	ID        string       `json:"id"`
	Connected bool         `json:"connected"`
	Since     time.Time    `json:"since,omitzero"` // of the stream
	Synced    bool         `json:"synced"`         // connected and has acknowledged everything in its scope
	Types     []TypeStatus `json:"types,omitempty"`
}

// TypeStatus is the state of one type on a proxy's stream.
type TypeStatus struct {
	Type      string `json:"type"`              // translator.Type.String
	Sent      uint64 `json:"sent"`              // generation that the last response brought it to
	Acked     uint64 `json:"acked"`             // generation that it has acknowledged
	Waiting   bool   `json:"waiting,omitempty"` // a response is unanswered, or due
	Resources int    `json:"resources"`         // how many it has asked for and are in its scope
	Nack      *Nack  `json:"nack,omitempty"`
}

// Nack is a response that a proxy refused, kept until one that replaces it is acknowledged. Immutable.
type Nack struct {
	Generation uint64         `json:"generation"`
	Message    string         `json:"message"` // the proxy's words
	Resources  []NackResource `json:"resources"`
	Time       time.Time      `json:"time"`
}

// NackResource is a resource of a refused response: those that the message names; if it names none, all of the
// response, up to a bound.
type NackResource struct {
	Name   string `json:"name"`
	Origin string `json:"origin,omitempty"` // the policy position that produced it
}

// Quarantined begins the words of an agent that does not serve what it was sent, because Envoy could not live with it.
const Quarantined = "in quarantine: "

const (
	maxNackText      = 4096
	maxNackResources = 16
)

func newNack(m *message, reason string) *Nack {
	if len(reason) > maxNackText {
		reason = reason[:maxNackText]
	}
	n := &Nack{Generation: m.gen, Message: printable(reason), Time: time.Now()}
	for _, named := range [...]bool{true, false} {
		for _, r := range m.resources {
			if len(n.Resources) < maxNackResources && (!named || mentions(reason, r.Name)) {
				n.Resources = append(n.Resources, NackResource{r.Name, r.Origin})
			}
		}
		if len(n.Resources) > 0 {
			break
		}
	}
	return n
}

// printable makes one line of what a proxy says, without what would steer a terminal.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case unicode.IsSpace(r):
			return ' '
		case !unicode.IsPrint(r) || r == unicode.ReplacementChar:
			return '?'
		}
		return r
	}, text)
}

// mentions reports whether name is in text as a word of its own, so that "a:80" is not found in "data:8080".
func mentions(text, name string) bool {
	for rest := text; name != ""; {
		i := strings.Index(rest, name)
		if i < 0 {
			break
		}
		before, after := rest[:i], rest[i+len(name):]
		if (before == "" || !partOfName(before[len(before)-1])) && (after == "" || !partOfName(after[0]) || partOfEnd(after)) {
			return true
		}
		rest = rest[i+1:]
	}
	return false
}

// partOfEnd reports whether text goes on with punctuation that only looks like a name's.
func partOfEnd(text string) bool {
	return strings.ContainsRune(".:/", rune(text[0])) && (len(text) == 1 || text[1] == ' ' || text[1] == '\n')
}

func partOfName(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.ContainsRune("-_.:/|@", rune(c))
}

// Proxies returns the state of every proxy that is known or connected, sorted by id.
func (s *Server) Proxies() []ProxyStatus {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]ProxyStatus, 0, len(s.proxies))
	for _, p := range s.proxies {
		out = append(out, s.status(p))
	}
	slices.SortFunc(out, func(a, b ProxyStatus) int { return strings.Compare(a.ID, b.ID) })
	return out
}

// Retry sends a proxy once more what it refuses: the reason may have gone.
func (s *Server) Retry(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.proxies[id]
	if p == nil || p.stream == nil {
		return
	}
	for i := range p.stream.subs {
		if b := &p.stream.subs[i]; b.nacked {
			b.must = true
		}
	}
	s.queue(p.stream)
}

func (s *Server) status(p *proxy) ProxyStatus {
	out := ProxyStatus{ID: p.id}
	st := p.stream
	if st == nil {
		return out
	}
	out.Connected, out.Since, out.Synced = true, st.since, !st.blocked
	for i := range st.subs {
		t, b := translator.Type(i), &st.subs[i]
		if !b.on {
			continue
		}
		ts := TypeStatus{Type: t.String(), Sent: b.sent, Acked: b.acked, Waiting: b.inflight || st.pending(t), Nack: b.nack}
		s.beyond(p.set, emptySet, t, func(e *entry) {
			if b.wants(e.key.Name) {
				ts.Resources++
			}
		})
		if ts.Waiting || b.nack != nil {
			out.Synced = false
		}
		out.Types = append(out.Types, ts)
	}
	out.Synced = out.Synced && len(out.Types) > 0
	return out
}
