package agent

import (
	"slices"
	"testing"

	"github.com/wattle-mesh/wattle/internal/mesh/planpb"
	"github.com/wattle-mesh/wattle/internal/systemd"
)

// hostIs says how the host's own proxy is.
func hostIs(now serving) map[string]serving { return map[string]serving{hostProxy: now} }

func TestAWorkloadTakesRequestsWhenNothingIsInTheWay(t *testing.T) {
	const id = "spiffe://mesh.local/ns/default/svc/web"
	plain := &planpb.Workload{Namespace: "default", Service: "web", Identity: id}
	sidecar := &planpb.Workload{Namespace: "default", Service: "web", Identity: id, Proxy: "web"}
	checked := &planpb.Workload{
		Namespace: "default", Service: "web", Identity: id,
		Ports:  []*planpb.Port{{Number: 80, Local: "127.0.0.1:80"}},
		Checks: []*planpb.Check{{Type: "tcp", Port: 80}},
	}
	if len(probes(checked)) != 1 {
		t.Fatal("the workload has no check")
	}
	key := workloadOf(plain)
	byPolicy := &planpb.Workload{Namespace: "default", Service: "web", Identity: id, Unit: "none.service"}
	failed := &unitStates{map[string]systemd.State{
		"web.service": {Load: "loaded", Active: "failed"}, "none.service": {Load: "not-found", Active: "inactive"},
		"idle.service": {Load: "loaded", Active: "inactive", Socket: "idle.socket"},
	}}
	certified, dead := holdings{id: {leaf: &leaf{}}}, health{Known: true, Reason: "connection refused"}
	for _, c := range []struct {
		name   string
		w      *planpb.Workload
		facts  facts
		last   map[workload]health
		reason string // empty: healthy
	}{
		{"nothing to check", plain, facts{held: certified, serving: hostIs(servingYes)}, nil, ""},
		{"no certificate asked for yet", plain, facts{serving: hostIs(servingYes)}, nil, "waiting for certificate"},
		{"a certificate refused", plain, facts{held: holdings{id: {waiting: "not granted"}}, serving: hostIs(servingYes)}, nil, "waiting for certificate: not granted"},
		{"an Envoy that starts", plain, facts{held: certified}, nil, "waiting for the host's Envoy"},
		{"an Envoy that does not start", plain, facts{held: certified, serving: hostIs(servingNo)}, nil, "the host's Envoy does not run"},
		{"an Envoy of its own that does not start", sidecar, facts{held: certified, serving: map[string]serving{"host": servingYes, "web": servingNo}}, nil, "its own Envoy, web, does not run"},
		{"an Envoy of its own beside a dead one of the host", sidecar, facts{held: certified, serving: map[string]serving{"host": servingNo, "web": servingYes}}, nil, ""},
		{"a check under way", checked, facts{held: certified, serving: hostIs(servingYes)}, nil, "its first check is under way"},
		{"a check that fails", checked, facts{held: certified, serving: hostIs(servingYes), checked: map[workload]health{key: dead}}, nil, "connection refused"},
		{"a check that succeeds without a heartbeat", checked, facts{
			held: certified, serving: hostIs(servingYes), checked: map[workload]health{key: {Known: true, Healthy: true}}, silent: map[workload]health{key: {Reason: "no heartbeat"}},
		}, nil, "no heartbeat"},
		{"a unit that has failed", plain, facts{held: certified, serving: hostIs(servingYes), states: failed, unitOf: map[workload]string{key: "web.service"}}, nil, "its unit web.service is failed"},
		{"a unit that has failed, though a check succeeded before", checked, facts{
			held: certified, serving: hostIs(servingYes), checked: map[workload]health{key: {Known: true, Healthy: true}}, states: failed, unitOf: map[workload]string{key: "web.service"},
		}, nil, "its unit web.service is failed"},
		{"a unit that has failed, and the check has found out", checked, facts{
			held: certified, serving: hostIs(servingYes), checked: map[workload]health{key: dead}, states: failed, unitOf: map[workload]string{key: "web.service"},
		}, nil, "connection refused"},
		{"a unit that a socket starts", plain, facts{held: certified, serving: hostIs(servingYes), states: failed, unitOf: map[workload]string{key: "idle.service"}}, nil, ""},
		{"a unit that nothing is known of", plain, facts{held: certified, serving: hostIs(servingYes), states: new(unitStates), unitOf: map[workload]string{key: "web.service"}}, nil, ""},
		{"the unit of a host block", byPolicy, facts{held: certified, serving: hostIs(servingYes), states: failed}, nil, "its unit none.service is not one that systemd can run (not-found)"},
		{"a check that succeeds", checked, facts{held: certified, serving: hostIs(servingYes), checked: map[workload]health{key: {Known: true, Healthy: true}}}, nil, ""},
		{"a check that is new for a workload that takes requests", checked, facts{held: certified, serving: hostIs(servingYes)}, map[workload]health{key: {Healthy: true}}, ""},
	} {
		r := &reporter{judged: new(value[map[workload]health])}
		r.judged.Set(c.last)
		if got := r.judge(c.w, c.facts); got.Healthy != (c.reason == "") || got.Reason != c.reason {
			t.Errorf("%s: %+v", c.name, got)
		}
	}
}

// A report is the whole truth: one that is made too early takes back what an agent before said.
func TestTheFirstReportWaitsUntilThereIsEnoughToTell(t *testing.T) {
	const id = "spiffe://mesh.local/ns/default/svc/web"
	plan := &planpb.HostPlan{Workloads: []*planpb.Workload{{Namespace: "default", Service: "web", Identity: id}}}
	all := facts{states: new(unitStates), host: map[string]string{}, plan: plan, local: &registrations{}, held: holdings{id: {}}, serving: hostIs(servingNo)}
	for name, c := range map[string]struct {
		change func(*facts)
		want   bool
	}{
		"all is known":                  {func(*facts) {}, true},
		"its own services are not":      {func(f *facts) { f.local = nil }, false},
		"what the host is, is not":      {func(f *facts) { f.host = nil }, false},
		"its certificates are not":      {func(f *facts) { f.held = nil }, false},
		"its units are not":             {func(f *facts) { f.states = nil }, false},
		"its Envoy is not":              {func(f *facts) { f.serving = nil }, false},
		"its plan is not":               {func(f *facts) { f.plan = nil }, false},
		"its plan is not, for a second": {func(f *facts) { f.plan, f.waited = nil, true }, true},
		"nothing is to run here":        {func(f *facts) { f.plan, f.held, f.serving = &planpb.HostPlan{}, nil, nil }, true},
	} {
		f := all
		c.change(&f)
		if got := (&reporter{}).complete(f); got != c.want {
			t.Errorf("%s: complete is %t", name, got)
		}
		if !(&reporter{begun: true}).complete(facts{host: map[string]string{}, local: &registrations{}}) {
			t.Error("later reports wait")
		}
	}
}

func TestAWorkloadThatMovesIsReadyWhereItsIdentityIsServed(t *testing.T) {
	const id = "spiffe://mesh.local/ns/default/svc/web"
	f := facts{
		plan: &planpb.HostPlan{Proxies: []*planpb.Proxy{
			{Id: "h1/host", Identities: []string{id}}, {Id: "h1/other", Identities: []string{id + "2"}}, {Id: "h1/web", Identities: []string{id}}, {Id: "h1/web_b", Identities: []string{id}},
		}},
		serving: map[string]serving{"host": servingYes, "other": servingYes, "web": servingYes, "web_b": servingNo},
	}
	if got := ready(&planpb.Workload{Identity: id}, f); !slices.Equal(got, []string{"host", "web"}) {
		t.Errorf("ready at %q", got)
	}
}
