package e2e

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
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

// etcd is a real one, in a folder of the mesh's.
type etcd struct {
	*process
	m *mesh
}

func (m *mesh) startEtcd() *etcd {
	m.t.Helper()
	client, peer := m.at("http://127.0.X.1:2379"), m.at("http://127.0.X.1:2380")
	binary, err := filepath.Abs("../../.bin/etcd")
	if err != nil {
		m.t.Fatal(err)
	}
	e := &etcd{m.process("etcd", binary, "--name", "e", "--data-dir", m.path("etcd"), "--listen-client-urls", client, "--advertise-client-urls", client,
		"--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", "e="+peer), m}
	m.t.Cleanup(func() {
		if e.running() {
			e.kill(m.t)
		}
	})
	e.up()
	return e
}

func (e *etcd) up() {
	e.start(e.m.t)
	eventually(e.m.t, "etcd to answer", func() error { return e.m.alive(e.ask("kv/range", map[string]string{"key": "eA=="}), e.process) })
}

// ask sends a request to etcd's JSON gateway.
func (e *etcd) ask(what string, body map[string]string) error {
	text, err := json.Marshal(body)
	if err != nil {
		return err
	}
	resp, err := http.Post(e.m.at("http://127.0.X.1:2379")+"/v3/"+what, "application/json", strings.NewReader(string(text)))
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("etcd: %s", resp.Status)
	}
	return nil
}

func (e *etcd) put(key, address string) {
	e.m.t.Helper()
	encode := base64.StdEncoding.EncodeToString
	value := fmt.Sprintf(`{"address": %q, "ports": [{"number": 9080, "protocol": "http"}]}`, e.m.at(address))
	if err := e.ask("kv/put", map[string]string{"key": encode([]byte(key)), "value": encode([]byte(value))}); err != nil {
		e.m.t.Fatal(err)
	}
}

func (e *etcd) wipe() {
	e.m.t.Helper()
	all := base64.StdEncoding.EncodeToString([]byte{0})
	if err := e.ask("kv/deleterange", map[string]string{"key": all, "range_end": all}); err != nil {
		e.m.t.Fatal(err)
	}
}

// A real etcd is wiped, killed, and away while the server restarts; shop runs on a host whose agent says that it lives,
// ghost is where no agent is.
func TestARegistryThatMisbehaves(t *testing.T) {
	m := newMesh(t, faults+shopOn(3))
	e := m.startEtcd()
	fill := func() {
		e.put("/wattle/services/default/shop/h2", "127.0.X.12")
		e.put("/wattle/services/default/shop/h3", "127.0.X.13")
		e.put("/wattle/services/default/ghost/g1", "127.0.X.99")
	}
	fill()
	m.configure("registry \"etcd\" \"main\" {\n  endpoints = [\"http://127.0.X.1:2379\"]\n}\n")
	whole := func(r registryStatus) bool { return r.State == "synced" && r.Endpoints == 3 }
	m.registry("main", "read", whole)

	e.wipe()
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
	e.put("/wattle/services/default/spirit/s1", "127.0.X.98")
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
	e.up()
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
