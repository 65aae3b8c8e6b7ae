package registry

import (
	"time"

	iradix "github.com/hashicorp/go-immutable-radix/v2"
)

// Age says since when an endpoint is there, and since when its health is what it is. No earlier than the server's start.
type Age struct {
	Since, HealthSince time.Time
}

// Ages knows the age of every endpoint. It stands beside the catalog, so that an endpoint that only grows older keeps its
// pointer. Immutable and persistent, as a catalog is. The zero value knows none.
type Ages struct {
	tree *iradix.Tree[aged] // by Name.String()
}

// aged is one service's endpoints, in their order, and their ages.
type aged struct {
	endpoints []*Endpoint // the service's own slice
	ages      []age
}

// age is an Age in milliseconds since 1970.
type age struct{ since, health int64 }

// Next returns the ages at a time at which services changed, which find returns, nil if one is gone. An endpoint is
// the same as long as its address, port, service's port and workload are. The work grows with what changed.
func (a Ages) Next(changed []Name, find func(Name) *Service, at time.Time) Ages {
	if len(changed) == 0 {
		return a
	}
	if a.tree == nil {
		a.tree = iradix.New[aged]()
	}
	txn, now := a.tree.Txn(), at.UnixMilli()
	for _, n := range changed {
		key := []byte(n.String())
		s := find(n)
		if s == nil {
			txn.Delete(key)
			continue
		}
		old, _ := txn.Get(key)
		txn.Insert(key, old.next(s.Endpoints, now))
	}
	return Ages{txn.Commit()}
}

// next walks both lists side by side: each is sorted.
func (a aged) next(now []*Endpoint, at int64) aged {
	out := aged{endpoints: now, ages: make([]age, len(now))}
	i := 0
	for j, e := range now {
		for i < len(a.endpoints) && a.endpoints[i].compare(e) < 0 {
			i++
		}
		out.ages[j] = age{at, at}
		if i == len(a.endpoints) || a.endpoints[i].compare(e) != 0 {
			continue
		}
		out.ages[j].since = a.ages[i].since
		if was := a.endpoints[i]; was.Health == e.Health || was.well() && e.well() {
			out.ages[j].health = a.ages[i].health
		}
	}
	return out
}

func (e *Endpoint) well() bool { return e.Health == "" || e.Health == Healthy }

// Of returns the age of each endpoint of service n, in their order; nil if it knows none.
func (a Ages) Of(n Name) []Age {
	if a.tree == nil {
		return nil
	}
	all, _ := a.tree.Get([]byte(n.String()))
	out := make([]Age, len(all.ages))
	for i, x := range all.ages {
		out[i] = Age{time.UnixMilli(x.since).UTC(), time.UnixMilli(x.health).UTC()}
	}
	return out
}
