package api

import (
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/wattle-mesh/wattle/internal/api/apipb"
	"github.com/wattle-mesh/wattle/registry"
)

// leaveAgain is how soon it is looked again whether callers have left: a proxy that comes back says so to nobody.
const leaveAgain = 250 * time.Millisecond

// leaving follows, for one stream of reports, whether callers have left the node's workloads that drain.
type leaving struct {
	node    string
	callers Callers

	drains []*apipb.Left // as reported, sorted
	left   []*apipb.Left // those of drains that callers have left
	seen   <-chan struct{}
}

// take takes in a report.
func (l *leaving) take(health []*apipb.HealthReport) {
	l.drains = nil
	for _, h := range health {
		if h.GetDrain() != 0 {
			l.drains = append(l.drains, &apipb.Left{Namespace: h.GetNamespace(), Service: h.GetService(), Instance: h.GetInstance(), Drain: h.GetDrain()})
		}
	}
	l.left = slices.DeleteFunc(l.left, func(x *apipb.Left) bool { return !holds(l.drains, x) })
}

func holds(all []*apipb.Left, x *apipb.Left) bool {
	return slices.ContainsFunc(all, func(o *apipb.Left) bool { return proto.Equal(o, x) })
}

// wait returns what to look after: nil channels while there is nothing to wait for.
func (l *leaving) wait() (changed <-chan struct{}, again <-chan time.Time) {
	if len(l.left) == len(l.drains) {
		return nil, nil
	}
	return l.seen, time.After(leaveAgain)
}

// look asks who has left, and reports whether that is news. Who has left once has, for this drain.
func (l *leaving) look() bool {
	l.seen = l.callers.Changed()
	news := false
	for _, d := range l.drains {
		if holds(l.left, d) {
			continue
		}
		key := registry.WorkloadKey{Host: l.node, Service: registry.Name{Namespace: d.GetNamespace(), Name: d.GetService()}, Instance: d.GetInstance()}
		if lagging, _, told := l.callers.Of(key); told && len(lagging) == 0 {
			l.left, news = append(l.left, d), true
		}
	}
	return news
}
