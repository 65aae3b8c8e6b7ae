package e2e

import (
	"bufio"
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

	"github.com/prometheus/procfs"
)

// TestDevRunsTheExample does what a newcomer does: wattle dev on examples/bookinfo, look at the split, change it, break
// the file, mend it, Ctrl-C. Only the addresses differ, so that the test can run beside anything.
func TestDevRunsTheExample(t *testing.T) {
	t.Parallel()
	m := prepareDev(t)
	m.copyExample()
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
	m.signal(t, syscall.SIGINT)
	<-m.server.done
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("dev ended %s after SIGINT", took)
	}
	m.devLeftNothing(t)
}

// A policy that the server rejects ends nothing and starts nothing, whatever it says of hosts and commands.
func TestDevKeepsItsProcessesWhileAPolicyIsRejected(t *testing.T) {
	t.Parallel()
	m := prepareDev(t)
	m.copyExample()
	m.server.start(t)
	m.says(t, `ready in`)
	before := m.children(t)
	if len(before) < 1+5+5+7 { // server, agents, Envoys, applications
		t.Fatalf("%d processes: %v", len(before), before)
	}
	page := request{Addr: "127.0.X.1:8080", Path: "/productpage"}
	move := func(from, to string) {
		if err := os.Rename(m.path("policy", from), m.path("policy", to)); err != nil {
			t.Fatal(err)
		}
	}
	read := func(name string) string {
		text, err := os.ReadFile(m.path("policy", name))
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	const route, h4 = "policy/productpage.hcl", "hosts/h4.hcl"
	h1, was := read("hosts/h1.hcl"), read(h4)
	slower := strings.ReplaceAll(was, `"-timeout", "1s"`, `"-timeout", "2s"`)
	for _, c := range []struct {
		name, file, text string
		spoil, mend      func()
	}{
		{"all hosts are gone", "hosts/h1.hcl", "removed", func() { move("hosts", ".hosts") }, func() { move(".hosts", "hosts") }},
		{"a host of which a route needs a service is gone", route, "productpage", func() { m.write("hosts/h1.hcl", "") }, func() { m.write("hosts/h1.hcl", h1) }},
		{"a service has another name", route, "productpage", func() {
			m.write("hosts/h1.hcl", strings.Replace(h1, `service "productpage"`, `service "frontpage"`, 1))
		}, func() { m.write("hosts/h1.hcl", h1) }},
		{"a route dangles and a command is another", route, "productpage", func() { m.write("hosts/h1.hcl", ""); m.write(h4, slower) }, func() { m.write(h4, was); m.write("hosts/h1.hcl", h1) }},
	} {
		c.spoil()
		m.rejected(t, c.name, c.file, 0, c.text)
		m.mustCall(t, page)
		c.mend()
		m.accepted(t)
	}
	// Dev goes through changes in order: when it has followed this one, it is done with those above.
	m.write(h4, slower)
	m.says(t, `reviews-v2@h4 +\| changed, starting it anew`)
	m.says(t, `reviews-v3@h4 +\| changed, starting it anew`)
	var after map[string]int
	eventually(t, "the two commands with their new arguments", func() error {
		after = m.children(t)
		n := 0
		for argv := range after {
			if strings.Contains(argv, "-timeout 2s") {
				n++
			}
		}
		if n != 2 || len(after) != len(before) {
			return fmt.Errorf("%d of 2, %d processes", n, len(after))
		}
		return nil
	})
	for argv, pid := range before {
		if now := after[argv]; now != pid && !strings.Contains(argv, "-timeout 1s") {
			t.Errorf("%s: was process %d, is %d", argv, pid, now)
		}
	}
}

// However dev is made to end, it ends everything and takes its folder with it, which holds keys and the admin token.
func TestDevLeavesNothingBehind(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		end  func(t *testing.T, m *mesh, reader *os.File)
	}{
		{"its terminal is closed", func(t *testing.T, m *mesh, _ *os.File) { m.signal(t, syscall.SIGHUP) }},
		{"nobody reads what it says", func(_ *testing.T, m *mesh, reader *os.File) {
			reader.Close()
			m.write("broken.hcl", "}") // something to say
		}},
		{"Ctrl-C ends its reader first", func(t *testing.T, m *mesh, reader *os.File) {
			reader.Close()
			m.signal(t, syscall.SIGINT)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			m := prepareDev(t)
			m.write("mesh.hcl", strings.ReplaceAll(oneHost, "BIN", suite.bin))
			r, w, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			m.server.out = w
			m.server.start(t)
			w.Close()
			said := bufio.NewScanner(r)
			for said.Scan() && !strings.Contains(said.Text(), "look around") {
			}
			if err := said.Err(); err != nil || !m.server.running() {
				t.Fatalf("%v, it said %s", err, said.Text())
			}
			c.end(t, m, r)
			select {
			case <-m.server.done:
			case <-time.After(readyLimit):
				t.Fatal("dev does not end")
			}
			m.devLeftNothing(t)
		})
	}
}

// TestDevNeedsNoRoot runs it as nobody, if this user may.
func TestDevNeedsNoRoot(t *testing.T) {
	t.Parallel()
	m := prepareDev(t)
	bin := suite.bin
	if os.Getuid() == 0 {
		const nobody = 65534
		bin = m.path("bin")
		m.server.user = &syscall.Credential{Uid: nobody, Gid: nobody}
		m.server.env = append(m.server.env, "HOME="+m.dir, "ENVOY="+m.share(t, suite.envoy))
		m.server.argv[0] = m.share(t, filepath.Join(suite.bin, "wattle"))
		m.share(t, filepath.Join(suite.bin, "bookinfo"))
	}
	m.write("mesh.hcl", strings.ReplaceAll(oneHost, "BIN", bin))
	if os.Getuid() == 0 {
		for _, path := range []string{m.dir, m.path("policy"), m.path("policy", "mesh.hcl")} {
			if err := os.Chown(path, int(m.server.user.Uid), int(m.server.user.Gid)); err != nil {
				t.Fatal(err)
			}
		}
	}
	m.server.start(t)
	m.says(t, `ready in`)
	m.mustCall(t, request{Addr: "127.0.X.1:8080", Path: "/details"})
	m.signal(t, syscall.SIGINT)
	<-m.server.done
	m.devLeftNothing(t)
}

// share puts a program in the mesh's folder, where another user reaches it.
func (m *mesh) share(t *testing.T, program string) string {
	t.Helper()
	to := m.path("bin", filepath.Base(program))
	program, err := filepath.EvalSymlinks(program)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(m.path("bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	if os.Link(program, to) == nil { // an Envoy has 100 MB
		return to
	}
	text, err := os.ReadFile(program)
	if err == nil {
		err = os.WriteFile(to, text, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	return to
}

// oneHost is the smallest mesh with everything in it.
const oneHost = `
host "h1" {
  address = "127.0.X.2"
  service "details" {
    port    = 9080
    local   = "127.0.X.102:9080"
    command = ["BIN/bookinfo", "-service", "details", "-version", "v1", "-host", "h1", "-listen", "127.0.X.102:9080"]
  }
}
gateway "public" {
  run_on = ["h1"]
  server "http" {
    bind = "127.0.X.1"
    port = 8080
  }
}
virtual_service "all" {
  hosts    = ["*"]
  gateways = ["public"]
  http "all" {
    route { host = "details" }
  }
}
`

// prepareDev makes a mesh whose main process is wattle dev, which is not running yet.
func prepareDev(t *testing.T) *mesh {
	t.Helper()
	m := &mesh{t: t, net: newNetwork(t)}
	var err error
	if m.dir, err = os.MkdirTemp("", "we2e-"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.close)
	m.server = m.process("dev", filepath.Join(suite.bin, "wattle"), "dev", m.path("policy"), "-http", m.at("127.0.X.1:7500"), "-agents", m.at("127.0.X.1:7501"))
	m.server.env = append(m.server.env, "ENVOY="+suite.envoy, "TMPDIR="+m.dir)
	return m
}

func (m *mesh) signal(t *testing.T, s syscall.Signal) {
	t.Helper()
	if err := syscall.Kill(m.server.cmd.Process.Pid, s); err != nil {
		t.Fatal(err)
	}
}

// children maps the command line of what dev runs, without the folder of this run, to the process.
func (m *mesh) children(t *testing.T) map[string]int {
	t.Helper()
	all, err := procfs.AllProcs()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]int{}
	for _, p := range all {
		argv, err := p.CmdLine()
		if err == nil && len(argv) > 0 && p.PID != m.server.cmd.Process.Pid && marked(p, m.dir) {
			out[strings.Join(argv, " ")] = p.PID
		}
	}
	return out
}

// devLeftNothing checks what there is when dev has ended.
func (m *mesh) devLeftNothing(t *testing.T) {
	t.Helper()
	if m.server.err != nil {
		t.Errorf("dev ended with %v", m.server.err)
	}
	if left := leftovers(m.dir); len(left) > 0 {
		t.Errorf("left behind:\n%s", strings.Join(left, "\n"))
	}
	if left, err := filepath.Glob(m.path("wattle-dev-*")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
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
