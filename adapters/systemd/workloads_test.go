package systemd

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/wattle-mesh/wattle/adapters"
)

func TestACapturedWorkloadsUnitSeesItsOwnResolver(t *testing.T) {
	h := newHost(t)
	foreign := filepath.Join(h.etc, "web.service.d", "override.conf")
	if err := os.MkdirAll(filepath.Dir(foreign), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(foreign, []byte("[Service]\nNice=5\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	plan := adapters.Workloads{Resolver: true, Units: []adapters.Unit{{Name: "plain.service"}, {Name: "shop@1.service", Resolv: "/var/lib/w/50%.conf"}, {Name: "web.service", Resolv: "/var/lib/w/web.conf"}}}
	h.whole(adapters.Plan{Workloads: &plan})
	web, shop := filepath.Join(h.etc, "web.service.d", workloadFile), filepath.Join(h.etc, "shop@1.service.d", workloadFile)
	has := func(path, line string) func() bool {
		return func() bool {
			text, err := os.ReadFile(path)
			return err == nil && slices.Contains(strings.Split(string(text), "\n"), line)
		}
	}
	h.wait("the resolver runs", func() bool { return h.State(resolverUnit) == "active" })
	h.wait("both have drop-ins", func() bool {
		return has(web, "BindReadOnlyPaths=-/var/lib/w/web.conf:/etc/resolv.conf")() && has(shop, "BindReadOnlyPaths=-/var/lib/w/50%%.conf:/etc/resolv.conf")()
	})
	h.wait("systemd has read them", func() bool { return h.did("daemon-reload") == 1 })
	if entries, _ := filepath.Glob(filepath.Join(h.etc, "*")); len(entries) != 2 {
		t.Errorf("%q: a unit that needs nothing has a folder", entries)
	}

	if err := os.WriteFile(web, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	h.poke()
	h.wait("what another hand changed is written again", has(web, "TemporaryFileSystem=/run/systemd/resolve:ro,mode=0755"))
	h.wait("systemd has read it", func() bool { return h.did("daemon-reload") == 2 })

	h.whole(adapters.Plan{Workloads: &adapters.Workloads{Units: plan.Units[:2]}})
	h.wait("the one that is not captured any more has none", func() bool { _, err := os.Stat(web); return os.IsNotExist(err) })
	h.wait("the resolver is stopped", func() bool { return h.State(resolverUnit) == "inactive" })
	h.whole(adapters.Plan{})
	h.wait("a plan that says nothing of workloads leaves them as they are", func() bool { return has(shop, "After="+resolverUnit)() })
	h.whole(adapters.Plan{Workloads: &adapters.Workloads{}})
	h.wait("nothing is left but what is not ours", func() bool {
		entries, _ := filepath.Glob(filepath.Join(h.etc, "*", "*"))
		return slices.Equal(entries, []string{foreign})
	})
	h.wait("systemd has read that", func() bool { return h.did("daemon-reload") == 4 })
	if _, err := os.Stat(filepath.Dir(shop)); !os.IsNotExist(err) {
		t.Error("an empty folder is left")
	}
}

func TestWhatTheResolverNeedsHarmsNoProxy(t *testing.T) {
	h := newHost(t)
	h.Fail(resolverUnit, "failed")
	h.whole(adapters.Plan{Proxies: []adapters.Proxy{{ID: "h1/host", Name: "host", Bootstrap: []byte("{}")}},
		Workloads: &adapters.Workloads{Resolver: true, Units: []adapters.Unit{{Name: "no/such.service", Resolv: "/x"}}}})
	h.wait("the proxy runs", h.is("host", "active"))
	h.wait("what is wrong is said", func() bool {
		return strings.Contains(h.log.String(), "what workloads need of systemd cannot all be had") && strings.Contains(h.log.String(), "journalctl -u "+resolverUnit)
	})
}

func TestAWorkloadsUnitStartsAfterItsProxiesWithACompanion(t *testing.T) {
	h := newHost(t)
	web := companionOf("web.service")
	h.Set("web.service", "active")
	h.Set(web, "inactive")
	h.Set("idle.service", "inactive")
	h.Set(companionOf("idle.service"), "inactive")
	plan := func(env ...string) {
		h.whole(adapters.Plan{Workloads: &adapters.Workloads{Units: []adapters.Unit{
			{Name: "idle.service", Proxies: []string{"host"}, Env: env},
			{Name: "web.service", Proxies: []string{"host", "side"}, Env: []string{"WATTLE_UPSTREAM_DB=unix:/run/50%.sock"}, Resolv: "/r"},
		}}})
	}
	plan()
	const want = `# The Wattle agent's, written anew when it changes: what this workload has of the mesh.
[Unit]
Wants=wattle-envoy@host.service
After=wattle-envoy@host.service
Wants=wattle-envoy@side.service
After=wattle-envoy@side.service
Wants=wattle-workload@web.service
Wants=wattle-dns.service
After=wattle-dns.service

[Service]
Environment="WATTLE_UPSTREAM_DB=unix:/run/50%%.sock"
TemporaryFileSystem=/run/systemd/resolve:ro,mode=0755
BindReadOnlyPaths=-/r:/etc/resolv.conf
InaccessiblePaths=-/run/nscd
`
	h.wait("one that runs already is given its companion", func() bool { return h.State(web) == "active" })
	if text, err := os.ReadFile(filepath.Join(h.etc, "web.service.d", workloadFile)); err != nil || string(text) != want {
		t.Errorf("%v\n%s", err, text)
	}

	h.Set(web, "inactive")                       // by hand: it drains
	for i, env := range []string{"A=1", "A=2"} { // when it reads the second time, it has done all of the first
		plan(env)
		h.wait("systemd reads the drop-in of another unit", func() bool { return h.did("daemon-reload") == i+2 })
	}
	if n := h.did("start " + web); n != 1 {
		t.Errorf("it was started %d times in one run of its unit", n)
	}
	if n := h.did("start " + companionOf("idle.service")); n != 0 {
		t.Error("a unit that does not run is given a companion")
	}
	h.Set("web.service", "inactive")
	h.Set("web.service", "active")
	h.poke()
	h.wait("another run is given one again", func() bool { return h.did("start "+web) == 2 })
}
