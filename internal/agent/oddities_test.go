package agent

import (
	"strings"
	"testing"

	"github.com/wattle-mesh/wattle/adapters"
	"github.com/wattle-mesh/wattle/internal/mesh/planpb"
	"github.com/wattle-mesh/wattle/internal/systemd"
)

func TestWhatIsOddOfAUnitIsSaidWithItsRemedy(t *testing.T) {
	good := systemd.State{Load: "loaded", Active: "active", KillMode: "control-group"}
	change := func(f func(*systemd.State)) systemd.State { s := good; f(&s); return s }
	states := map[string]systemd.State{"a.service": good}
	for _, c := range []struct {
		name, unit   string
		state        systemd.State
		want, remedy string
	}{
		{"a template", "web@.service", systemd.State{Load: "template"}, "without an instance", `unit = "web@NAME.service"`},
		{"an unknown one", "web.service", systemd.State{Load: "not-found"}, "systemd knows no unit web.service", "systemctl --user"},
		{"a masked one", "web.service", systemd.State{Load: "masked"}, "cannot run web.service (masked)", "systemctl status web.service"},
		{"one that a socket starts", "web.service", change(func(s *systemd.State) { s.Socket = "web.socket" }), "is started by web.socket", "stop the socket first"},
		{"one whose stop ends nothing", "web.service", change(func(s *systemd.State) { s.KillMode = "none" }), "KillMode=none", "KillMode=mixed"},
		{"one that drains by itself", "web.service", change(func(s *systemd.State) { s.Drains = true }), "runs wattle service drain", "ExecStop"},
	} {
		all := oddities(c.unit, c.state)
		if len(all) != 1 || !strings.Contains(all[0].what, c.want) || !strings.Contains(all[0].remedy, c.remedy) {
			t.Errorf("%s: %+v", c.name, all)
		}
		states[c.unit] = c.state
		ds := (&unitStates{states}).diagnostics()
		if len(ds) != 1 || ds[0].Code != codeUnit || ds[0].Summary != all[0].what {
			t.Errorf("%s: the server is told %+v", c.name, ds)
		}
		delete(states, c.unit)
	}
	if all := oddities("a.service", good); len(all) > 0 {
		t.Errorf("nothing is odd of it: %+v", all)
	}
}

func TestATemplateGetsNoDropIn(t *testing.T) {
	w := withUnits(new(adapters.Workloads), &planpb.HostPlan{Workloads: []*planpb.Workload{{Namespace: "default", Service: "web", Unit: "web@.service"}, {Namespace: "default", Service: "one", Unit: "web@1.service"}}}, nil)
	if len(w.Units) != 1 || w.Units[0].Name != "web@1.service" {
		t.Errorf("%+v", w.Units)
	}
}
