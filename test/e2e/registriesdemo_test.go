package e2e

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// TestTheDemoOfRegistries runs examples/registries as make demo-registries does, at addresses of its own: the page has all
// parts, whatever happens to Consul.
func TestTheDemoOfRegistries(t *testing.T) {
	t.Parallel()
	m := prepareDev(t)
	m.copyRegistriesDemo(t)
	m.server = m.process("demo", m.path("examples", "registries", "run.sh"))
	m.server.env = append(m.server.env, "ENVOY="+suite.envoy, "TMPDIR="+m.dir)
	m.server.start(t)
	m.says(t, "Ctrl-C ends everything")
	if got := m.reviews(t, 60); got["v1"] < 5 || got["v2"] < 5 || got["v3"] < 5 {
		t.Errorf("reviews: %v", got)
	}
	for service, want := range map[string]string{"reviews": "consul nomad etcd", "ratings": "dns", "details": "mesh", "productpage": "policy"} {
		sources := map[string]bool{}
		all, err := m.endpoints(service)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range all {
			for _, s := range e.Sources {
				sources[s] = true
			}
		}
		for s := range strings.FieldsSeq(want) {
			if !sources[s] {
				t.Errorf("%s is known to %v, want %s", service, sources, want)
			}
		}
	}
	consul := func() int {
		pid, err := filepath.Glob(m.path("tmp.*", "consul.pid"))
		if err != nil || len(pid) != 1 {
			t.Fatal(pid, err)
		}
		text, err := os.ReadFile(pid[0])
		if err != nil {
			t.Fatal(err)
		}
		n, err := strconv.Atoi(strings.TrimSpace(string(text)))
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	send := func(s syscall.Signal) {
		if err := syscall.Kill(consul(), s); err != nil {
			t.Fatal(err)
		}
	}
	send(syscall.SIGSTOP)
	m.failing(t, "consul")
	if got := m.reviews(t, 60); got["v1"] < 5 {
		t.Errorf("while Consul hangs: %v", got)
	}
	send(syscall.SIGCONT)
	m.recovered(t, "consul")
	send(syscall.SIGKILL)
	m.held(t, "consul", 1)
	if got := m.reviews(t, 60); got["v1"] < 5 {
		t.Errorf("while it is held: %v", got)
	}
	token, err := filepath.Glob(m.path("tmp.*", "wattle-dev-*", "server", "admin.token"))
	if err != nil || len(token) != 1 {
		t.Fatal(token, err)
	}
	m.wattle("registry", "accept", "consul", "-addr", m.at("127.0.X.1:7500"), "-token-file", token[0])
	eventually(t, "reviews v1 to be gone", func() error {
		if got := m.reviews(t, 20); got["v1"] > 0 {
			return fmt.Errorf("reviews: %v", got)
		}
		return nil
	})
	m.signal(t, syscall.SIGINT)
	<-m.server.done
	if left := leftovers(m.dir); len(left) > 0 {
		t.Errorf("left behind:\n%s", strings.Join(left, "\n"))
	}
	if left, err := filepath.Glob(m.path("tmp.*")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// reviews asks for the page n times, and counts the versions of reviews on it. A page without one fails the test.
func (m *mesh) reviews(t *testing.T, n int) map[string]int {
	t.Helper()
	got := m.tally(t, n, request{Addr: "127.0.X.1:8080", Path: "/productpage", Header: map[string]string{"Accept": "application/json"}}, func(r *response) string {
		_, rest, ok := strings.Cut(r.Body, `"service":"reviews","version":"`)
		if version, _, end := strings.Cut(rest, `"`); ok && end {
			return version
		}
		return fmt.Sprintf("status %d: %s", r.Status, r.Body)
	})
	for version := range got {
		if len(version) != 2 {
			t.Errorf("a page without reviews: %s", version)
		}
	}
	return got
}

// copyRegistriesDemo copies the example with addresses of this mesh's network, and links the programs that it starts.
func (m *mesh) copyRegistriesDemo(t *testing.T) {
	t.Helper()
	own := m.at("127.0.X.")
	place := strings.NewReplacer("127.0.3.", own+"21", "127.0.2.", own+"20", "127.0.1.", own+"10", "127.0.0.", own)
	from := filepath.Join(suite.root, "examples", "registries")
	err := filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || filepath.Ext(path) == ".go" {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		name, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		to := m.path("examples", "registries", name)
		if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
			return err
		}
		return os.WriteFile(to, []byte(place.Replace(string(text))), 0o700)
	})
	for link, to := range map[string]string{"bin": suite.bin, ".bin": filepath.Join(suite.root, ".bin")} {
		if err == nil {
			err = os.Symlink(to, m.path(link))
		}
	}
	if err != nil {
		t.Fatal(err)
	}
}
