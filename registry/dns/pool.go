package dns

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

const (
	// setBack is how long a resolver that did not answer is asked last.
	setBack = 10 * time.Second
	// deadAfter is after how many queries in a row without an answer a resolver counts as dead.
	deadAfter = 3
)

// pool asks several resolvers. Its methods may be called from any goroutine.
type pool struct {
	members []*member
	seed    maphash.Seed

	mu sync.Mutex // guards what changes in members
}

// member is a resolver and how well it answers.
type member struct {
	resolverClient
	place int       // among the members
	fails int       // queries without an answer, in a row
	until time.Time // when it is asked in its turn again, if it failed
}

func newPool(resolvers []netip.AddrPort, c *config) *pool {
	p := &pool{seed: maphash.MakeSeed()}
	limit := rate.NewLimiter(rate.Limit(c.rate), max(1, c.rate/10))
	for i, a := range resolvers {
		p.members = append(p.members, &member{place: i, resolverClient: resolverClient{address: a, timeout: c.timeout, limit: limit}})
	}
	return p
}

// order lists the resolvers as they are to be asked: each name has its own first one, and keeps it, so that resolvers
// share the work and those that disagree do not make a set flap; those that did not answer come last.
func (p *pool) order(q question) []*member {
	p.mu.Lock()
	defer p.mu.Unlock()
	start := int(maphash.String(p.seed, q.name) % uint64(len(p.members)))
	order := slices.Concat(p.members[start:], p.members[:start])
	now := time.Now()
	late := func(m *member) int {
		if m.fails > 0 && now.Before(m.until) {
			return 1
		}
		return 0
	}
	slices.SortStableFunc(order, func(a, b *member) int { return cmp.Compare(late(a), late(b)) })
	if first := order[0]; first.fails > 0 && late(first) == 0 {
		first.until = now.Add(setBack) // one question finds out whether it is back; the others do not wait
	}
	return order
}

// note takes down how a query went.
func (p *pool) note(m *member, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !errors.As(err, new(unreachable)) {
		m.fails = 0
		return
	}
	m.fails++
	m.until = time.Now().Add(setBack)
}

// failing reports whether a resolver did not answer when it was asked last.
func (p *pool) failing(m *member) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return m.fails > 0
}

// dead reports whether no resolver answers at all.
func (p *pool) dead() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return !slices.ContainsFunc(p.members, func(m *member) bool { return m.fails < deadAfter })
}

// ask asks one resolver after the other until one has records. That there are none counts only when all that answer
// say so. A resolver that does not answer gets a second chance if no other does.
func (p *pool) ask(ctx context.Context, q question) (answer, error) {
	var none *answer
	faults := map[*member]error{}
	todo := p.order(q)
	for range 2 {
		var silent []*member
		for _, m := range todo {
			if none != nil && p.failing(m) {
				continue
			}
			a, err := p.chase(ctx, m, q)
			if ctx.Err() != nil {
				return answer{}, ctx.Err()
			}
			switch {
			case err != nil:
				faults[m] = err
				if errors.As(err, new(unreachable)) {
					silent = append(silent, m)
				}
			case a.absence == "":
				if none != nil {
					a.objection = none.objection
				}
				return a, nil
			case none == nil:
				a.objection = m.address.String()
				none = &a
			}
		}
		if none != nil {
			none.objection = ""
			return *none, nil
		}
		if todo = silent; len(todo) == 0 {
			break
		}
	}
	return answer{}, together(faults)
}

// together makes one error of those of several resolvers, in their order.
func together(faults map[*member]error) error {
	var members []*member
	for m := range faults {
		members = append(members, m)
	}
	slices.SortFunc(members, func(a, b *member) int { return cmp.Compare(a.place, b.place) })
	texts := make([]string, len(members))
	for i, m := range members {
		texts[i] = fmt.Sprintf("%s: %v", m.address, faults[m])
	}
	return errors.New(strings.Join(texts, "; "))
}

// chase asks one resolver, and goes on where aliases lead out of its answer.
func (p *pool) chase(ctx context.Context, m *member, q question) (answer, error) {
	at, ttl := q, forever
	for range maxChain + 1 {
		message, err := m.exchange(ctx, at)
		if ctx.Err() != nil {
			return answer{}, ctx.Err()
		}
		p.note(m, err)
		if err != nil {
			return answer{}, err
		}
		a, next, err := read(at, message)
		if err != nil {
			return answer{}, err
		}
		ttl = min(ttl, a.ttl)
		if next == "" {
			a.ttl = ttl
			return a, nil
		}
		at.name = next
	}
	return answer{}, errChain
}
