package agent

import (
	"testing"

	"github.com/wattle-mesh/wattle/internal/mesh/planpb"
	"github.com/wattle-mesh/wattle/internal/spiffe"
)

func TestTheStatusLineSaysHowTheHostIs(t *testing.T) {
	node := &credential{id: spiffe.ForNode("corp.example", "h1")}
	web := &planpb.HostPlan{
		Workloads: []*planpb.Workload{{Service: "web", Identity: "spiffe://corp.example/ns/default/svc/web"}},
		Proxies:   []*planpb.Proxy{{Id: "h1/host"}, {Id: "h1/gw-public"}},
	}
	good := holdings{"spiffe://corp.example/ns/default/svc/web": {leaf: &leaf{}}}
	for _, c := range []struct {
		name      string
		plan      *planpb.HostPlan
		held      holdings
		connected bool
		want      string
	}{
		{"all is well", web, good, true, "host h1 of corp.example: 1 workload, 2 proxies; a server is connected"},
		{"no server", web, good, false, "host h1 of corp.example: 1 workload, 2 proxies; NO SERVER is reached, what was kept is in force"},
		{"a certificate is missing", web, holdings{"spiffe://corp.example/ns/default/svc/web": {waiting: "no grant"}}, true,
			"host h1 of corp.example: 1 workload, 2 proxies, 1 certificate missing yet; a server is connected"},
		{"maintenance", &planpb.HostPlan{Draining: true}, nil, true, "host h1 of corp.example: no workloads, no proxies, DRAINS for maintenance; a server is connected"},
		{"no plan yet", nil, nil, false, "host h1 of corp.example: it waits for its plan; NO SERVER is reached, what was kept is in force"},
	} {
		if got := line(node, c.plan, c.held, c.connected); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}
