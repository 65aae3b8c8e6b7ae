package agent

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/wattle-mesh/wattle/internal/mesh/planpb"
)

func TestTheFirstResultDecidesAndLaterOnesInARow(t *testing.T) {
	for results, want := range map[string]string{ // + success, - failure; h healthy, u unhealthy, . no change
		"+":         "h",
		"-":         "u",
		"+--":       "h..",
		"+---":      "h..u",
		"+--+--+":   "h......",
		"-+":        "u.",
		"-++":       "u.h",
		"-+-+-+":    "u.....",
		"+---++---": "h..u.h..u",
	} {
		s := state{healthyAfter: 2, unhealthyAfter: 3}
		got := ""
		for _, r := range results {
			var err error
			if r == '-' {
				err = errors.New("no")
			}
			switch {
			case !s.add(err):
				got += "."
			case s.health.healthy:
				got += "h"
			default:
				got += "u"
			}
		}
		if got != want {
			t.Errorf("%s gave %s, want %s", results, got, want)
		}
	}
}

func TestAWorkloadIsHealthyWhenAllItsChecksAre(t *testing.T) {
	yes, no, unknown := health{known: true, healthy: true}, health{known: true, reason: "no"}, health{}
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

func TestAProbeSeesWhatACallerWould(t *testing.T) {
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/moved":
			http.Redirect(w, r, "/broken", http.StatusFound)
		case "/broken":
			w.WriteHeader(http.StatusServiceUnavailable)
		case "/slow":
			<-r.Context().Done()
		}
	})
	plain := httptest.NewServer(handler)
	defer plain.Close()
	two := httptest.NewUnstartedServer(handler)
	two.Config.Protocols = new(http.Protocols)
	two.Config.Protocols.SetUnencryptedHTTP2(true)
	two.Start()
	defer two.Close()
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	http1, http2 := plain.Listener.Addr().String(), two.Listener.Addr().String()
	for _, c := range []struct {
		kind, address, path, protocol string
		want                          string // part of the error; empty: success
	}{
		{"http", http1, "/", "http", ""},
		{"http", http2, "/", "http2", ""},
		{"http", http2, "/", "grpc", ""},
		{"http", http1, "/", "tcp", ""},
		{"http", http1, "/moved", "http", ""},
		{"http", http1, "/broken", "http", "status 503"},
		{"http", http1, "/slow", "http", "no answer within"},
		{"http", closed.Addr().String(), "/", "http", "refused"},
		{"tcp", http1, "", "tcp", ""},
		{"tcp", closed.Addr().String(), "", "tcp", "refused"},
		{"ping", http1, "", "tcp", "knows no checks"},
	} {
		p := probe{kind: c.kind, address: c.address, path: c.path, protocol: c.protocol, timeout: 100 * time.Millisecond}
		if c.want == "" {
			p.timeout = 5 * time.Second
		}
		err := p.try(t.Context())
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v", c, err)
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
	until(func(m map[workload]health) bool { return m[a].healthy })
	// In an hour's interval a would not be known again if it began anew.
	plan.Set(&planpb.HostPlan{Workloads: []*planpb.Workload{declare("a"), declare("b")}})
	until(func(m map[workload]health) bool {
		if !m[a].healthy {
			t.Fatal("a was forgotten")
		}
		return m[b].healthy
	})
	plan.Set(&planpb.HostPlan{Workloads: []*planpb.Workload{declare("b")}})
	until(func(m map[workload]health) bool { _, ok := m[a]; return !ok && m[b].healthy })
}
