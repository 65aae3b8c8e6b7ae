package registry

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// Hold says when the disappearance of endpoints is not believed at once. The zero value believes everything.
type Hold struct {
	Share        float64       // endpoints are held when more than this share of them is gone, 0.5 for more than half; zero or 1: none ever is
	Window       time.Duration // counted is what disappeared within it
	After        time.Duration // how long they are held
	MinEndpoints int           // services that had fewer are held only with their whole registry
}

// DefaultHold returns what holds if nothing else is said.
func DefaultHold() Hold {
	return Hold{Share: 0.5, Window: 30 * time.Second, After: 10 * time.Minute, MinEndpoints: 4}
}

// exceeded reports whether gone of so many that were there are too many.
func (h Hold) exceeded(gone, were int) bool {
	return h.Share > 0 && gone > 0 && float64(gone) > h.Share*float64(were)
}

// settle is how long an endpoint must have been there for its disappearance to count.
const settle = 5 * time.Second

// Held says that endpoints of one service are served though their registry no longer names them.
type Held struct {
	Service   Name      `json:"service"`
	Endpoints int       `json:"endpoints"` // that are held
	Named     int       `json:"named"`     // that the registry still names
	Since     time.Time `json:"since"`     // when the first of them disappeared
	Until     time.Time `json:"until"`     // when the last of them goes if nothing else happens
	Reason    string    `json:"reason"`
}

// absent is an endpoint that disappeared.
type absent struct {
	endpoint *Endpoint
	service  *Service // the last that had it
	at       time.Time
	young    bool // it came and went within settle: it does not count for the share
	held     bool
	until    time.Time // if held
	reason   string    // likewise
}

// ledger is what moved lately in one service.
type ledger struct {
	arrived map[identity]time.Time // the registry names them, but did not when the window began
	gone    map[identity]*absent   // the other way round, or held; or came and went
	missing int                    // of gone, those that are not young
	held    int                    // of gone
	overlay *Service               // what is served while held is not 0
	over    *Service               // what overlay was made of; nil: the registry names none
	dirty   bool                   // overlay is not of what is held now
}

// movement is an entry of a ledger that is over when its window has passed.
type movement struct {
	at   time.Time
	name Name
	id   identity
}

// keeper decides what of a source's endpoints is held. It is a plain state machine: time and what is alive come in
// with each call, and it locks nothing. Its work grows with what changed, is held, or moved within the window.
type keeper struct {
	o       Hold
	alive   func(Name, *Endpoint) bool
	said    []*Service // what the source says
	started bool       // said is known
	served  []*Service // said and what is held; said itself while nothing is

	ledgers       map[Name]*ledger
	queue         []movement                      // in order of time; some are over already
	endpoints     int                             // of said
	arrived, gone int                             // of all ledgers; gone without the young
	kept          map[Name]map[identity]time.Time // since when what a restart interrupted was held; until the first set
}

// take brings in what the source says now.
func (k *keeper) take(said []*Service, now time.Time) {
	if !k.started {
		k.started, k.said, k.served, k.endpoints = true, said, said, countEndpoints(said)
		return
	}
	k.expire(now)
	var shrunk []Name
	diff(k.said, said, func(old, new *Service) {
		if k.note(old, new, now) {
			shrunk = append(shrunk, old.Name)
		}
	})
	same := len(k.said) == len(said) && (len(said) == 0 || &k.said[0] == &said[0])
	k.said = said
	k.judge(shrunk, now)
	k.kept = nil
	if !same || k.stale() {
		k.lay()
	}
}

// replace brings in a set that an operator chose: nothing of it is held, and nothing that was.
func (k *keeper) replace(said []*Service) {
	*k = keeper{o: k.o, alive: k.alive, said: said, served: said, started: true, endpoints: countEndpoints(said)}
}

// note writes down how a service differs from before; either may be nil. It reports whether endpoints disappeared.
func (k *keeper) note(old, new *Service, now time.Time) (shrunk bool) {
	name := cmp.Or(old, new).Name
	var was, is []*Endpoint
	if old != nil {
		was = old.Endpoints
	}
	if new != nil {
		is = new.Endpoints
	}
	k.endpoints += len(is) - len(was)
	before := make(map[identity]*Endpoint, len(was))
	for _, e := range was {
		before[e.identity()] = e
	}
	l := k.ledgers[name]
	for _, e := range is {
		id := e.identity()
		if before[id] != nil {
			delete(before, id)
			continue
		}
		l = k.ledger(name, l)
		if a := l.gone[id]; a != nil { // it is back
			k.forget(l, id)
			if !a.young {
				continue
			}
		}
		l.arrived[id] = now
		k.arrived++
		k.queue = append(k.queue, movement{now, name, id})
	}
	for id, e := range before {
		l = k.ledger(name, l)
		came, young := l.arrived[id]
		if young {
			delete(l.arrived, id)
			k.arrived--
			young = now.Sub(came) < settle
		}
		if !young {
			k.gone++
			l.missing++
		}
		at := now
		if since, ok := k.kept[name][id]; ok {
			at = since
		}
		l.gone[id] = &absent{endpoint: e, service: old, at: at, young: young}
		k.queue = append(k.queue, movement{now, name, id})
		shrunk = true
	}
	return shrunk
}

func (k *keeper) ledger(name Name, l *ledger) *ledger {
	if l != nil {
		return l
	}
	l = &ledger{arrived: map[identity]time.Time{}, gone: map[identity]*absent{}}
	if k.ledgers == nil {
		k.ledgers = map[Name]*ledger{}
	}
	k.ledgers[name] = l
	return l
}

// forget drops an absent endpoint.
func (k *keeper) forget(l *ledger, id identity) {
	if l.gone[id].held {
		l.held--
		l.dirty = true
	}
	if !l.gone[id].young {
		k.gone--
		l.missing--
	}
	delete(l.gone, id)
}

// expire drops what the window has left behind.
func (k *keeper) expire(now time.Time) {
	i := 0
	for ; i < len(k.queue) && now.Sub(k.queue[i].at) >= k.o.Window; i++ {
		m := k.queue[i]
		l := k.ledgers[m.name]
		if l == nil {
			continue
		}
		if at, ok := l.arrived[m.id]; ok && !at.After(m.at) {
			delete(l.arrived, m.id)
			k.arrived--
		}
		if a := l.gone[m.id]; a != nil && !a.held && !a.at.After(m.at) {
			k.forget(l, m.id)
		}
		k.close(m.name, l)
	}
	k.queue = slices.Delete(k.queue, 0, i)
	if len(k.queue) > 2*(k.arrived+k.gone)+1024 { // what moved again within the window
		k.queue = slices.DeleteFunc(k.queue, func(m movement) bool {
			l := k.ledgers[m.name]
			if l == nil {
				return true
			}
			at, arrived := l.arrived[m.id]
			a := l.gone[m.id]
			return !(arrived && at.Equal(m.at)) && !(a != nil && a.at.Equal(m.at))
		})
	}
}

// close drops a ledger that says nothing. One with an overlay stays until lay has seen it.
func (k *keeper) close(name Name, l *ledger) {
	if len(l.arrived)+len(l.gone) == 0 && !l.dirty {
		delete(k.ledgers, name)
	}
}

// judge decides whether too much is gone, of the whole registry or of one of the services that lost something, and
// then holds all that is gone and alive.
func (k *keeper) judge(shrunk []Name, now time.Time) {
	if len(shrunk) == 0 {
		return
	}
	if were := k.endpoints - k.arrived + k.gone; k.o.exceeded(k.gone, were) {
		reason := fmt.Sprintf("%d of the registry's %d endpoints disappeared within %s", k.gone, were, k.o.Window)
		for name, l := range k.ledgers {
			k.hold(name, l, reason, now)
		}
		return
	}
	for _, name := range shrunk {
		l := k.ledgers[name]
		is := 0
		if i, ok := slices.BinarySearchFunc(k.said, name, func(s *Service, n Name) int { return s.Name.Compare(n) }); ok {
			is = len(k.said[i].Endpoints)
		}
		were := is - len(l.arrived) + l.missing
		if were >= k.o.MinEndpoints && k.o.exceeded(l.missing, were) {
			k.hold(name, l, fmt.Sprintf("%d of the service's %d endpoints disappeared within %s", l.missing, were, k.o.Window), now)
		}
	}
}

// hold holds what is gone of a service and alive. An endpoint that was draining was meant to go.
func (k *keeper) hold(name Name, l *ledger, reason string, now time.Time) {
	for _, a := range l.gone {
		if a.held || a.endpoint.Health == Draining || !k.alive(name, a.endpoint) {
			continue
		}
		until := a.at.Add(k.o.After)
		if !until.After(now) {
			continue
		}
		a.held, a.until, a.reason = true, until, reason
		l.held++
		l.dirty = true
	}
}

// tick lets go of what has been held for long enough and of what is no longer alive. It reports whether served
// changed.
func (k *keeper) tick(now time.Time) bool {
	k.expire(now)
	for name, l := range k.ledgers {
		if l.held == 0 {
			continue
		}
		for id, a := range l.gone {
			if a.held && (!now.Before(a.until) || !k.alive(name, a.endpoint)) {
				k.forget(l, id)
			}
		}
	}
	if !k.stale() {
		return false
	}
	k.lay()
	return true
}

// accept lets go of all that is held, and returns how many endpoints that were.
func (k *keeper) accept() int {
	n := 0
	for _, l := range k.ledgers {
		n += l.held
	}
	k.replace(k.said)
	return n
}

// restless reports whether time alone can change something.
func (k *keeper) restless() bool { return len(k.ledgers) > 0 }

// stale reports whether served is not of what is held now.
func (k *keeper) stale() bool {
	for _, l := range k.ledgers {
		if l.dirty {
			return true
		}
	}
	return false
}

// holds lists what is held, sorted by service.
func (k *keeper) holds() []Held {
	var out []Held
	for name, l := range k.ledgers {
		if l.held == 0 {
			continue
		}
		h := Held{Service: name, Endpoints: l.held, Named: len(l.overlay.Endpoints) - l.held}
		for _, a := range l.gone {
			if !a.held {
				continue
			}
			if h.Since.IsZero() || a.at.Before(h.Since) {
				h.Since = a.at
			}
			if a.until.After(h.Until) {
				h.Until, h.Reason = a.until, a.reason
			}
		}
		out = append(out, h)
	}
	slices.SortFunc(out, func(a, b Held) int { return a.Service.Compare(b.Service) })
	return out
}

// nextEnd returns when the first of what is held has been held for long enough, or false if nothing is.
func (k *keeper) nextEnd() (at time.Time, any bool) {
	for _, l := range k.ledgers {
		if l.held == 0 {
			continue
		}
		for _, a := range l.gone {
			if a.held && (!any || a.until.Before(at)) {
				at, any = a.until, true
			}
		}
	}
	return at, any
}

// diff calls differ for every service that is not the same pointer in two sorted slices; either may be nil.
func diff(old, now []*Service, differ func(old, now *Service)) {
	if len(old) == len(now) && (len(old) == 0 || &old[0] == &now[0]) {
		return
	}
	i, j := 0, 0
	for i < len(old) || j < len(now) {
		switch {
		case i < len(old) && j < len(now) && old[i] == now[j]:
			i, j = i+1, j+1
		case j == len(now) || i < len(old) && old[i].Name.Compare(now[j].Name) < 0:
			differ(old[i], nil)
			i++
		case i == len(old) || old[i].Name.Compare(now[j].Name) > 0:
			differ(nil, now[j])
			j++
		default:
			differ(old[i], now[j])
			i, j = i+1, j+1
		}
	}
}
