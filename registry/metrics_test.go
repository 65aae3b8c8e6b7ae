package registry

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
)

func TestMetrics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		a := NewAggregator(Options{Log: discard, Alive: func(Name, *Endpoint) bool { return true }})
		configure(t, a, Entry{Name: "consul", Source: f, Hold: DefaultHold()}, Entry{Name: "never", Source: newFake()})
		defer start(t, a)()
		f.publish <- []*Service{of("a", 1, 4)}
		<-time.After(10 * time.Second)
		f.publish <- []*Service{of("a", 1, 1)}
		<-time.After(20 * time.Second)
		f.fail <- errors.New("gone")
		<-time.After(100 * time.Millisecond)
		want := `
# HELP wattle_registry_held_endpoints Endpoints that are served though the registry no longer names them.
# TYPE wattle_registry_held_endpoints gauge
wattle_registry_held_endpoints{registry="consul"} 3
wattle_registry_held_endpoints{registry="never"} 0
# HELP wattle_registry_set_age_seconds How long ago the registry said what is served of it. One that does not change may be silent for long: see stale_seconds.
# TYPE wattle_registry_set_age_seconds gauge
wattle_registry_set_age_seconds{registry="consul"} 20.1
# HELP wattle_registry_stale_seconds For how long the registry has not been readable; 0: it is.
# TYPE wattle_registry_stale_seconds gauge
wattle_registry_stale_seconds{registry="consul"} 0.1
wattle_registry_stale_seconds{registry="never"} 0
# HELP wattle_registry_up Whether the registry can be read.
# TYPE wattle_registry_up gauge
wattle_registry_up{registry="consul"} 0
wattle_registry_up{registry="never"} 0
`
		if err := testutil.CollectAndCompare(a.Collector(), strings.NewReader(want), "wattle_registry_up", "wattle_registry_held_endpoints",
			"wattle_registry_stale_seconds", "wattle_registry_set_age_seconds"); err != nil {
			t.Error(err)
		}
		if problems, err := testutil.CollectAndLint(a.Collector()); err != nil || len(problems) > 0 {
			t.Error(problems, err)
		}
		f.publish <- []*Service{of("a", 1, 4)}
		<-time.After(time.Second)
		if s := a.Status()[0]; s.State != Synced || !s.StaleSince.IsZero() {
			t.Errorf("status %+v", s)
		}
	})
}
