package agent

import (
	"context"
	"net"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/wattle-mesh/wattle/internal/mesh/planpb"
)

func TestAWorkloadIsHealthyWhenAllItsChecksAre(t *testing.T) {
	yes, no, unknown := health{Known: true, Healthy: true}, health{Known: true, Reason: "no"}, health{}
	for _, c := range []struct {
		parts []health
		want  health
	}{
		{[]health{yes, yes}, yes},
		{[]health{yes, unknown}, unknown},
		{[]health{unknown, no}, no},
		{[]health{yes, no}, no},
	} {
		if got := together(c.parts); got != c.want {
			t.Errorf("%v gave %v", c.parts, got)
		}
	}
}

func TestChecksGoOnAcrossPlansAndEndWithTheirWorkload(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	declare := func(name string) *planpb.Workload {
		return &planpb.Workload{
			Namespace: "default", Service: name,
			Ports:  []*planpb.Port{{Number: 80, Protocol: "tcp", Local: l.Addr().String()}},
			Checks: []*planpb.Check{{Type: "tcp", Port: 80, Interval: durationpb.New(time.Hour)}, {Type: "tcp", Port: 81}},
		}
	}
	var plan value[*planpb.HostPlan]
	c := &checks{log: discard()}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- c.run(ctx, &plan) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	until := func(ok func(map[workload]health) bool) {
		t.Helper()
		limit := time.After(10 * time.Second)
		for {
			now, changed := c.held.Load()
			if ok(now) {
				return
			}
			select {
			case <-changed:
			case <-limit:
				t.Fatalf("it is %v", now)
			}
		}
	}
	a, b := workloadOf(declare("a")), workloadOf(declare("b"))
	plan.Set(&planpb.HostPlan{Workloads: []*planpb.Workload{declare("a")}})
	until(func(m map[workload]health) bool { return m[a].Healthy })
	// In an hour's interval a would not be known again if it began anew.
	plan.Set(&planpb.HostPlan{Workloads: []*planpb.Workload{declare("a"), declare("b")}})
	until(func(m map[workload]health) bool {
		if !m[a].Healthy {
			t.Fatal("a was forgotten")
		}
		return m[b].Healthy
	})
	plan.Set(&planpb.HostPlan{Workloads: []*planpb.Workload{declare("b")}})
	until(func(m map[workload]health) bool { _, ok := m[a]; return !ok && m[b].Healthy })
}
