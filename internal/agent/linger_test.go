package agent

import (
	"slices"
	"testing"
	"time"

	"github.com/wattle-mesh/wattle/internal/xds"
	"github.com/wattle-mesh/wattle/translator"
)

func TestWhatLiveConnectionsNeedLingers(t *testing.T) {
	l, began := lingering{limit: time.Minute}, time.Now()
	gone := func(typ translator.Type, names ...string) []string {
		return l.hold(&xds.Response{Type: typ, Removed: names}, began).Removed
	}
	if got := gone(translator.Cluster, "in/default/web:80", "shop:80", "other:80"); !slices.Equal(got, []string{"in/default/web:80"}) {
		t.Errorf("gone at once: %q", got)
	}
	if got := append(gone(translator.Route, "shop:80"), gone(translator.Endpoint, "shop:80")...); len(got) > 0 {
		t.Errorf("gone at once: %q", got)
	}
	if got := gone(translator.Listener, "out"); !slices.Equal(got, []string{"out"}) {
		t.Errorf("the listener lingers: %q", got)
	}
	l.hold(&xds.Response{Type: translator.Cluster, Resources: []*translator.Resource{{Key: translator.Key{Type: translator.Cluster, Name: "other:80"}}}}, began)
	if due := l.due(began.Add(time.Minute - 1)); len(due) > 0 || l.next(began) == nil {
		t.Errorf("due too early: %v", due)
	}
	due := l.due(began.Add(time.Minute))
	var types []translator.Type
	for _, d := range due {
		types = append(types, d.Type)
		if !slices.Equal(d.Removed, []string{"shop:80"}) {
			t.Errorf("due of %s: %q", d.Type, d.Removed)
		}
	}
	if !slices.Equal(types, []translator.Type{translator.Route, translator.Endpoint, translator.Cluster}) || l.next(began) != nil {
		t.Errorf("due are %v", types)
	}
}
