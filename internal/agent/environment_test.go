package agent

import (
	"fmt"
	"testing"

	"github.com/wattle-mesh/wattle/adapters"
	"github.com/wattle-mesh/wattle/internal/mesh/planpb"
)

func TestAWorkloadsUnitIsToldWhereUpstreamsAre(t *testing.T) {
	plan := &planpb.HostPlan{Workloads: []*planpb.Workload{
		{Namespace: "default", Service: "web", Upstreams: []*planpb.Upstream{
			{Namespace: "default", Service: "re-views", Port: 9080, Bind: "127.0.0.1:9081"},
			{Namespace: "shop", Service: "db", Port: 5432, Bind: "unix:/run/db.sock"},
			{Namespace: "default", Service: "echo", Port: 80, Bind: "127.0.0.1:1"}, {Namespace: "default", Service: "echo", Port: 81, Bind: "127.0.0.1:2"},
		}},
		{Namespace: "default", Service: "side", Unit: "side@1.service", Proxy: "side"},
		{Namespace: "default", Service: "none"},
	}}
	got := withUnits(&adapters.Workloads{Resolver: true, Units: []adapters.Unit{{Name: "web.service", Resolv: "/r"}}}, plan,
		map[workload]string{{"default", "web", ""}: "web.service"})
	const want = "&{[{side@1.service  [side] []} {web.service /r [host] [WATTLE_UPSTREAM_ECHO_80=127.0.0.1:1 WATTLE_UPSTREAM_ECHO_81=127.0.0.1:2 " +
		"WATTLE_UPSTREAM_RE_VIEWS=127.0.0.1:9081 WATTLE_UPSTREAM_RE_VIEWS_9080=127.0.0.1:9081 WATTLE_UPSTREAM_SHOP__DB=unix:/run/db.sock WATTLE_UPSTREAM_SHOP__DB_5432=unix:/run/db.sock]}] true}"
	if text := fmt.Sprint(got); text != want {
		t.Errorf("%s, want %s", text, want)
	}
}
