package agent

import (
	"strings"
	"time"

	"github.com/wattle-mesh/wattle/internal/xds"
	"github.com/wattle-mesh/wattle/translator"
)

// lingering is what the server has taken back of a caller's way: routes, clusters and their endpoints. Connections to a
// listener that went live on for a while, and their requests still need these. Only one goroutine may use it.
type lingering struct {
	limit time.Duration // zero: nothing lingers
	until map[translator.Key]time.Time
}

// inboundCluster begins the names of clusters that lead to applications of this host. They go at once: whoever asks for one
// that has left is told that nobody has seen the request.
const inboundCluster = "in/"

// hold takes out of a response what is to linger, and forgets what has come again.
func (l *lingering) hold(resp *xds.Response, now time.Time) *xds.Response {
	for _, r := range resp.Resources {
		delete(l.until, r.Key)
	}
	switch resp.Type {
	case translator.Cluster, translator.Endpoint, translator.Route:
	default:
		return resp
	}
	if l.limit == 0 || len(resp.Removed) == 0 {
		return resp
	}
	if l.until == nil {
		l.until = map[translator.Key]time.Time{}
	}
	out := *resp
	out.Removed = nil
	for _, name := range resp.Removed {
		if strings.HasPrefix(name, inboundCluster) {
			out.Removed = append(out.Removed, name)
			continue
		}
		l.until[translator.Key{Type: resp.Type, Name: name}] = now.Add(l.limit)
	}
	return &out
}

// due returns what has lingered for long enough, as removals by type.
func (l *lingering) due(now time.Time) []*xds.Response {
	byType := map[translator.Type]*xds.Response{}
	for k, until := range l.until {
		if now.Before(until) {
			continue
		}
		delete(l.until, k)
		if byType[k.Type] == nil {
			byType[k.Type] = &xds.Response{Type: k.Type}
		}
		byType[k.Type].Removed = append(byType[k.Type].Removed, k.Name)
	}
	var out []*xds.Response
	for _, t := range []translator.Type{translator.Route, translator.Endpoint, translator.Cluster} {
		if byType[t] != nil {
			out = append(out, byType[t])
		}
	}
	return out
}

// next returns when something is due, nil if nothing lingers.
func (l *lingering) next(now time.Time) <-chan time.Time {
	if len(l.until) == 0 {
		return nil
	}
	var first time.Time
	for _, until := range l.until {
		if first.IsZero() || until.Before(first) {
			first = until
		}
	}
	return time.After(max(first.Sub(now), time.Millisecond))
}

// letGo takes from Envoy what has lingered for long enough.
func (r *relay) letGo() {
	for _, resp := range r.lingering.due(time.Now()) {
		changes, err := r.table.receive(resp)
		if err != nil {
			r.o.Log.Error("cannot take back what the server took back", "proxy", r.o.ID, "error", err)
		}
		if !changes.Empty() {
			r.local.Apply(changes)
		}
		r.unkept = true
	}
}
