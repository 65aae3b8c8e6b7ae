package e2e

import (
	"os"
	"slices"
	"strings"
	"testing"
)

// TestAHostLeavesUnderLoadAndComesBack takes one of two hosts that serve out of the mesh, and lets it in again.
func TestAHostLeavesUnderLoadAndComesBack(t *testing.T) {
	t.Parallel()
	m := newMesh(t, faults)
	m.reached(t, request{Addr: "127.0.X.11:9081"})
	app := m.process("app-h3/shop", slices.Clone(m.apps["h2/shop"].argv)...)
	for i, a := range app.argv {
		app.argv[i] = strings.NewReplacer(m.at("127.0.X.12"), m.at("127.0.X.13"), "h2-shop", "h3-shop").Replace(a)
		if a == "h2" {
			app.argv[i] = "h3"
		}
	}
	m.apps["h3/shop"] = app
	app.start(t)
	comes := func() { m.join("h3", m.at("127.0.X.13"), shopFile, "default/shop") }
	leave := func(args ...string) (string, error) {
		return m.tryWattle(append([]string{"agent", "leave", "-config", m.path("h3", "agent.hcl")}, args...)...)
	}
	comes()
	tr := m.startTrial(t, 100, faultSide)
	tr.answered(t, "h3", 20)
	gone := func(t *testing.T, h *process) {
		t.Helper()
		<-h.done
		if h.err != nil {
			t.Errorf("the agent ended with %v", h.err)
		}
		for _, dir := range []string{"state", "run"} {
			if all, err := os.ReadDir(m.path("h3", dir)); err != nil || len(all) > 0 {
				t.Errorf("%s holds %v, %v", dir, all, err)
			}
		}
	}
	tr.fault("a host leaves", func(t *testing.T) {
		out, err := leave("-wait", "30s")
		if err != nil || !strings.Contains(out, "h3 has left e2e.example") {
			t.Errorf("%v: %s", err, out)
		}
		gone(t, m.agents["h3"])
		if out := m.wattle("host", "list"); strings.Contains(out, "h3") {
			t.Errorf("the server knows it yet: %s", out)
		}
		if out, err := leave(); err == nil || !strings.Contains(out, "has not joined a mesh, or has left it") {
			t.Errorf("a second time: %v: %s", err, out)
		}
	}, noneFailed)
	tr.fault("it joins again", func(t *testing.T) {
		comes()
		tr.answered(t, "h3", 50)
		out, err := m.tryWattle("agent", "join", "-config", m.path("h3", "agent.hcl"))
		if err == nil || !strings.Contains(out, "it is h3 of e2e.example; wattle agent leave takes it out") {
			t.Errorf("a member joins: %v: %s", err, out)
		}
		if out, err := m.tryWattle("host", "remove", "h3"); err == nil || !strings.Contains(out, "say wattle agent leave there") {
			t.Errorf("a host that is there is removed: %v: %s", err, out)
		}
	}, noneFailed)

	// No server.
	if err := m.server.stop(); err != nil {
		t.Fatal(err)
	}
	if out, err := leave("-wait", "0s"); err == nil || !strings.Contains(out, "wattle host remove h3") {
		t.Errorf("without a server: %v: %s", err, out)
	}
	tr.answered(t, "h3", 50)
	out, err := leave("-wait", "0s", "-force")
	if err != nil || !strings.Contains(out, "say on a server: wattle host remove h3") {
		t.Errorf("without a server, with force: %v: %s", err, out)
	}
	gone(t, m.agents["h3"])
	m.server.start(t)
	eventually(t, "the server to answer", func() error { _, err := m.tryStatus(); return m.alive(err, m.server) })
	if out := m.wattle("host", "remove", "h3"); !strings.Contains(out, "h3 is removed, and 1 registrations with it") {
		t.Errorf("removed: %s", out)
	}
	if out, err := m.tryWattle("host", "remove", "h3"); err == nil || !strings.Contains(out, "there is no host") {
		t.Errorf("removed twice: %v: %s", err, out)
	}
	delete(m.agents, "h3")
}
