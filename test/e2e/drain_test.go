package e2e

import (
	"strings"
	"testing"
)

// TestDrainsUnderLoad takes one of two instances out by hand, and then its host, under the standard load. What has drained may
// be killed.
func TestDrainsUnderLoad(t *testing.T) {
	t.Parallel()
	m := newMesh(t, faults+shopOn(3))
	m.reached(t, request{Addr: "127.0.X.11:9081"})
	tr := m.startTrial(t, 100, faultSide)
	app := m.apps["h3/shop"]
	says := func(t *testing.T, out, want string) {
		t.Helper()
		if !strings.Contains(out, want) {
			t.Errorf("%q is not in %s", want, out)
		}
	}
	tr.answered(t, "h3", 20)
	tr.fault("a workload is drained, killed, and brought back", func(t *testing.T) {
		says(t, m.service("drain", "shop", "-wait", "-limit", "50s", "-reason", "new disk"), "default/shop: drained")
		app.kill(t)
		tr.silent(t, "h3", 200)
		says(t, m.wattle("status"), "host h3: default/shop drains, drained: drained by uid")
		app.start(t)
		eventually(t, "it to listen", func() error { return dial(t.Context(), m.at("127.0.X.13:9090")) })
		m.service("drain", "shop", "-undo")
		tr.answered(t, "h3", 50)
	}, noneFailed)
	tr.fault("a host is in maintenance, and out of it again", func(t *testing.T) {
		out := m.wattle("host", "drain", "h3", "-wait", "-reason", "new kernel")
		says(t, out, "h3 is in maintenance")
		says(t, out, "default/shop: drained")
		says(t, m.wattle("host", "list"), "new kernel")
		app.kill(t)
		tr.silent(t, "h3", 200)
		app.start(t)
		eventually(t, "it to listen", func() error { return dial(t.Context(), m.at("127.0.X.13:9090")) })
		says(t, m.wattle("host", "undrain", "h3"), "h3 is not in maintenance")
		tr.answered(t, "h3", 50)
	}, noneFailed)
}
