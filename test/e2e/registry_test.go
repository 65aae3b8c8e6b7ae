package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// registryStatus is one registry of GET /v1/registries.
type registryStatus struct {
	Name, State string
	Endpoints   int
	Held        []struct{ Endpoints int }
}

// registry waits until the registry of that name is as ok says.
func (m *mesh) registry(name, what string, ok func(registryStatus) bool) {
	m.t.Helper()
	eventually(m.t, "registry "+name+" to be "+what, func() error {
		var all struct{ Registries []registryStatus }
		if err := m.get("/v1/registries", &all); err != nil {
			return m.alive(err, m.server)
		}
		i := slices.IndexFunc(all.Registries, func(r registryStatus) bool { return r.Name == name })
		if i < 0 {
			return fmt.Errorf("there is none")
		}
		if !ok(all.Registries[i]) {
			return fmt.Errorf("it is %+v", all.Registries[i])
		}
		return nil
	})
}

// configure writes registry blocks into the server's file.
func (m *mesh) configure(blocks string) {
	m.t.Helper()
	file := m.path("server.hcl")
	text, err := os.ReadFile(file)
	if err != nil {
		m.t.Fatal(err)
	}
	head, _, _ := strings.Cut(string(text), "registry ")
	if err := os.WriteFile(file, []byte(head+m.at(blocks)), 0o600); err != nil {
		m.t.Fatal(err)
	}
}

// A real etcd is wiped, killed, and away while the server restarts; shop runs on a host whose agent says that it lives,
// ghost is where nobody listens.
func TestARegistryThatMisbehaves(t *testing.T) {
	m := newMesh(t, faults+shopOn(3))
	e := m.startEtcd(t, "127.0.X.51")
	put := func(key, address string) {
		e.put(t, "/wattle/services/default/"+key, fmt.Sprintf(`{"address": %q, "ports": [{"number": 9080, "protocol": "http"}]}`, m.at(address)))
	}
	fill := func() {
		put("shop/h2", "127.0.X.12")
		put("shop/h3", "127.0.X.13")
		put("ghost/g1", "127.0.X.99")
	}
	fill()
	m.configure("registry \"etcd\" \"main\" {\n  endpoints = [\"http://127.0.X.51:2379\"]\n}\n")
	whole := func(r registryStatus) bool { return r.State == "synced" && r.Endpoints == 3 }
	m.registry("main", "read", whole)

	e.clear(t)
	held := func(r registryStatus) bool {
		return r.State == "holding" && r.Endpoints == 2 && len(r.Held) == 1 && r.Held[0].Endpoints == 2
	}
	m.registry("main", "held where agents say that it lives", held)
	if out := m.wattle("status"); !strings.Contains(out, "W4300") {
		t.Errorf("wattle status does not say what is held:\n%s", out)
	}

	// A restart does not let go of it, and what was accepted stays accepted whatever happens then.
	if err := m.server.stop(); err != nil {
		t.Fatal(err)
	}
	m.server.start(t)
	m.registry("main", "held after a restart", held)
	if out := m.wattle("registry", "accept", "main"); out != "main: 2 endpoints are held no longer" {
		t.Errorf("accept: %s", out)
	}
	empty := func(r registryStatus) bool { return r.State == "synced" && r.Endpoints == 0 }
	m.registry("main", "empty", empty)
	m.server.kill(t)
	m.server.start(t)
	m.registry("main", "empty after a restart", empty)

	fill()
	put("spirit/s1", "127.0.X.98")
	more := func(r registryStatus) bool { return r.State == "synced" && r.Endpoints == 4 }
	m.registry("main", "read again", more)
	eventually(t, "the set to be on disk", func() error {
		files, err := filepath.Glob(m.path("server", "registries", "main.*"))
		for _, f := range files {
			if text, err := os.ReadFile(f); err == nil && strings.Contains(string(text), "spirit") && strings.Contains(string(text), "ghost") {
				return nil
			}
		}
		return fmt.Errorf("it is not in %v, %v", files, err)
	})
	e.kill(t)
	m.registry("main", "stale", func(r registryStatus) bool { return r.State == "stale" && r.Endpoints == 4 })
	m.server.kill(t)
	m.server.start(t)
	m.registry("main", "served from disk", func(r registryStatus) bool { return r.State == "snapshot" && r.Endpoints == 4 })
	m.ready([]string{"h1/host", "h2/host", "h3/host"})
	if out := m.wattle("registry", "status"); !strings.Contains(out, "W4301") || !strings.Contains(out, "snapshot") {
		t.Errorf("wattle registry status does not say what comes from disk:\n%s", out)
	}
	e.start(t)
	m.registry("main", "read once more", more)

	began := time.Now()
	m.configure("")
	eventually(t, "a registry that was removed to be gone", func() error {
		if out := m.wattle("registry", "status"); strings.Contains(out, "main") {
			return fmt.Errorf("after %s:\n%s", time.Since(began), out)
		}
		return nil
	})
}
