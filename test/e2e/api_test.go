package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"testing"

	"github.com/prometheus/procfs"
)

// The API's answers as a client of another language would read them.

type status struct {
	Unreported  int          `json:"unreported"`
	Ready       bool         `json:"ready"`
	Revision    uint64       `json:"revision"`
	Diagnostics []diagnostic `json:"diagnostics"`
	Registries  []struct {
		Name string `json:"name"`
		Held []struct {
			Endpoints int `json:"endpoints"`
		} `json:"held"`
		Diagnostics []diagnostic `json:"diagnostics"`
	} `json:"registries"`
}

type diagnostic struct {
	Severity, Code, Summary, Detail, File string
	Line                                  int
}

type proxy struct {
	ID        string `json:"id"`
	Connected bool   `json:"connected"`
	Synced    bool   `json:"synced"`
}

// get reads a path of the HTTP API.
func (m *mesh) get(path string, into any) error {
	ctx, cancel := context.WithTimeout(context.Background(), callLimit)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, m.at("http://127.0.X.1:7500")+path, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("GET %s: %s", path, resp.Status)
	}
	return json.NewDecoder(resp.Body).Decode(into)
}

func (m *mesh) tryStatus() (s status, err error) {
	err = m.get("/v1/status", &s)
	return s, err
}

func (m *mesh) status() status {
	m.t.Helper()
	s, err := m.tryStatus()
	if err != nil {
		m.t.Fatal(err)
	}
	return s
}

func (m *mesh) proxies() ([]proxy, error) {
	var out struct {
		Proxies []proxy `json:"proxies"`
	}
	err := m.get("/v1/proxies", &out)
	return out.Proxies, err
}

// tryWattle runs a command of the CLI against the mesh's server.
func (m *mesh) tryWattle(args ...string) (string, error) {
	cmd := exec.Command(filepath.Join(suite.bin, "wattle"), args...)
	cmd.Env = append(os.Environ(), m.at("WATTLE_ADDR=127.0.X.1:7500"), m.at("WATTLE_TOKEN_FILE=DIR/server/admin.token"))
	out, err := cmd.CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

// ready waits until the server has published and every one of the proxies has acknowledged all it was sent.
func (m *mesh) ready(want []string) {
	m.t.Helper()
	eventually(m.t, "the proxies to be in sync", func() error {
		s, err := m.tryStatus()
		if err != nil || !s.Ready {
			return fmt.Errorf("not ready: %v, %+v", m.alive(err, m.server), s)
		}
		if bare := slices.ContainsFunc(m.bare, func(h string) bool { return m.agents[h] == nil }); !bare && s.Unreported > 0 {
			return fmt.Errorf("%d endpoints are not reported by their agents", s.Unreported)
		}
		proxies, err := m.proxies()
		if err != nil {
			return err
		}
		synced := map[string]bool{}
		for _, p := range proxies {
			synced[p.ID] = p.Connected && p.Synced
		}
		for _, id := range want {
			if !synced[id] {
				host, _, _ := strings.Cut(id, "/")
				return m.alive(fmt.Errorf("%s is not in sync: %+v", id, proxies), m.agents[host])
			}
		}
		return nil
	})
}

// envoys lists the process ids of the mesh's Envoys.
func (m *mesh) envoys(t *testing.T) string {
	t.Helper()
	all, err := procfs.AllProcs()
	if err != nil {
		t.Fatal(err)
	}
	var pids []int
	for _, p := range all {
		exe, _ := p.Executable()
		if strings.HasPrefix(filepath.Base(exe), "envoy") && marked(p, m.dir) {
			pids = append(pids, p.PID)
		}
	}
	sort.Ints(pids)
	return fmt.Sprint(pids)
}

// limited is the test's context with readyLimit.
func limited(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), readyLimit)
	t.Cleanup(cancel)
	return ctx
}

// endpoint is one endpoint of the catalog.
type endpoint struct {
	Address, Health, Reason string
	Sources                 []string
	ServicePort             uint16 `json:"service_port"`
}

// endpoints lists what the catalog has of a service of the default namespace.
func (m *mesh) endpoints(service string) ([]endpoint, error) {
	var catalog struct {
		Services []struct {
			Namespace, Name string
			Endpoints       []endpoint
		}
	}
	if err := m.get("/v1/catalog", &catalog); err != nil {
		return nil, err
	}
	for _, s := range catalog.Services {
		if s.Namespace == "default" && s.Name == service {
			return s.Endpoints, nil
		}
	}
	return nil, nil
}

// isUnhealthy waits until the catalog has shop's endpoints at an address as unhealthy.
func (m *mesh) isUnhealthy(t *testing.T, address string) {
	t.Helper()
	eventually(t, address+" to be unhealthy", func() error {
		all, err := m.endpoints("shop")
		for _, e := range all {
			if e.Address == m.at(address) && e.Health != "unhealthy" {
				err = fmt.Errorf("it is %+v", e)
			}
		}
		return err
	})
}
