package e2e

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestDevRunsTheExample does what a newcomer does: wattle dev on examples/bookinfo, look at the split, change it, break
// the file, mend it, Ctrl-C. Only the addresses differ, so that the test can run beside anything.
func TestDevRunsTheExample(t *testing.T) {
	t.Parallel()
	m := &mesh{t: t, net: newNetwork(t)}
	var err error
	if m.dir, err = os.MkdirTemp("", "we2e-"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.close)
	m.copyExample()
	m.server = m.process("dev", filepath.Join(suite.bin, "wattle"), "dev", m.path("policy"), "-http", m.at("127.0.X.1:7500"), "-agents", m.at("127.0.X.1:7501"))
	m.server.env = append(m.server.env, "ENVOY="+suite.envoy, "TMPDIR="+m.dir)
	m.server.start(t)
	m.says(t, `ready in [0-9.]+m?s: 5 hosts, 6 proxies`)
	m.says(t, regexp.QuoteMeta(m.at("http://127.0.X.1:8080/")))

	const n = 1000
	page := request{Addr: "127.0.X.1:8080", Path: "/productpage", Header: map[string]string{"Accept": "application/json"}}
	jason := page
	jason.Header = map[string]string{"Accept": "application/json", "end-user": "jason"}
	if got := m.tally(t, n, page, reviewsVersion); !binomial(got["v3"], n, 0.1) || got["v1"]+got["v3"] != n {
		t.Errorf("reviews: %v of %d, want a tenth of them v3, the others v1", got, n)
	}
	if got := m.tally(t, 100, jason, reviewsVersion); got["v2"] != 100 {
		t.Errorf("reviews for jason: %v, want v2", got)
	}

	file := m.path("policy", "policy", "reviews.hcl")
	good, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	even := regexp.MustCompile(`weight = \d+`).ReplaceAllString(string(good), "weight = 50")
	m.write("policy/reviews.hcl", even)
	m.says(t, `revision 2: virtual_service reviews \(policy/reviews\.hcl:\d+\): \d prox(y|ies) updated in [0-9.]+(ms|µs|s)`)
	if got := m.tally(t, n, page, reviewsVersion); !binomial(got["v3"], n, 0.5) || got["v1"]+got["v3"] != n {
		t.Errorf("reviews at 50/50: %v of %d", got, n)
	}
	m.write("policy/reviews.hcl", strings.Replace(even, `subset = "v3"`, `subset = "v33"`, 1))
	m.rejected(t, "a subset that nothing declares", "policy/reviews.hcl", 0, "v33")
	if got := m.tally(t, n, page, reviewsVersion); !binomial(got["v3"], n, 0.5) || got["v1"]+got["v3"] != n {
		t.Errorf("reviews after the file was broken: %v of %d", got, n)
	}
	if out := m.wattle("proxy", "status"); !strings.Contains(out, "edge/gw-public") || !strings.Contains(out, "h4/host") {
		t.Errorf("wattle proxy status:\n%s", out)
	}

	began := time.Now()
	if err := syscall.Kill(m.server.cmd.Process.Pid, syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	<-m.server.done
	if took := time.Since(began); took > 3*time.Second || m.server.err != nil {
		t.Errorf("dev ended %s after SIGINT: %v", took, m.server.err)
	}
	if left := leftovers(m.dir); len(left) > 0 {
		t.Errorf("left behind:\n%s", strings.Join(left, "\n"))
	}
}

// copyExample copies examples/bookinfo, with addresses of this mesh's network.
func (m *mesh) copyExample() {
	m.t.Helper()
	place := strings.NewReplacer("127.0.1.", "127.0.X.10", "127.0.0.", "127.0.X.", "../../bin/bookinfo", filepath.Join(suite.bin, "bookinfo"))
	from := filepath.Join(suite.root, "examples", "bookinfo")
	err := filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil || filepath.Ext(path) != ".hcl" {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		name, err := filepath.Rel(from, path)
		m.write(name, place.Replace(string(text)))
		return err
	})
	if err != nil {
		m.t.Fatal(err)
	}
}

// says waits until the mesh's main process has printed what the pattern matches.
func (m *mesh) says(t *testing.T, pattern string) {
	t.Helper()
	re := regexp.MustCompile(pattern)
	eventually(t, "the line "+pattern, func() error {
		text, err := os.ReadFile(m.server.log)
		if err == nil && !re.Match(text) {
			err = fmt.Errorf("it said:\n%s", tail(m.server.log, 20))
		}
		return m.alive(err, m.server)
	})
}

// reviewsVersion is a key for tally: which version of reviews productpage got its answer from.
func reviewsVersion(r *response) string {
	var page struct {
		Calls []struct{ Service, Version, Error string }
	}
	if err := json.Unmarshal([]byte(r.Body), &page); err != nil {
		return fmt.Sprintf("status %d: %.100s", r.Status, r.Body)
	}
	for _, c := range page.Calls {
		if c.Service == "reviews" && c.Error == "" {
			return c.Version
		}
	}
	return "none"
}
