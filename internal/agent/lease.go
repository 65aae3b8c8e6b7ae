package agent

import (
	"fmt"
	"time"
)

// lease looks who needs a heartbeat: who is late, and who was silent for so long that the registration goes. Whoever has
// not been heard of yet, by this agent, has a whole ttl from now on. next is when time alone changes something. The caller
// holds d.mu.
func (d *desk) lease(now time.Time) (late map[workload]health, gone []*entry, next time.Time, any bool) {
	late = map[workload]health{}
	known := map[workload]bool{}
	sooner := func(at time.Time) {
		if !any || at.Before(next) {
			next, any = at, true
		}
	}
	for _, e := range d.all() {
		key := e.key()
		if e.Service.TTL == 0 || known[key] {
			continue
		}
		known[key] = true
		if _, heard := d.heard[key]; !heard {
			d.heard[key] = now
		}
		if d.expired(e, now) && !e.file {
			gone = append(gone, e)
			continue
		}
		if after := time.Duration(e.Service.DeregisterAfter); after > 0 && !d.expired(e, now) {
			sooner(d.heard[key].Add(after))
		}
		if due := d.heard[key].Add(time.Duration(e.Service.TTL)); due.After(now) {
			sooner(due)
			continue
		}
		late[key] = health{Known: true, Reason: silent(time.Duration(e.Service.TTL), e)}
	}
	for key := range d.heard {
		if !known[key] {
			delete(d.heard, key)
		}
	}
	return late, gone, next, any
}

// expired reports whether a workload was silent for so long that its registration goes. The caller holds d.mu.
func (d *desk) expired(e *entry, now time.Time) bool {
	after := time.Duration(e.Service.DeregisterAfter)
	heard, ok := d.heard[e.key()]
	return after > 0 && ok && now.Sub(heard) >= after
}

// silent says that a workload has not been heard of for so long.
func silent(d time.Duration, e *entry) string {
	return fmt.Sprintf("no heartbeat for %s (ttl %s)", d.Truncate(time.Second), time.Duration(e.Service.TTL))
}
