package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/wattle-mesh/wattle/internal/api"
	"github.com/wattle-mesh/wattle/registry"
)

// seconds is what of a table differs from run to run.
var seconds = regexp.MustCompile(`\b\d+s ago\b`)

// requireOutput runs a command that prints this.
func (c *control) requireOutput(want string, args ...string) {
	c.t.Helper()
	out, code := c.wattle(args...)
	if d := cmp.Diff(strings.TrimPrefix(want, "\n"), seconds.ReplaceAllString(out, "0s ago")); d != "" || code != 0 {
		c.t.Errorf("wattle %s: exit code %d, -want +got\n%s", strings.Join(args, " "), code, d)
	}
}

// awaitOutput runs a command until it prints this.
func (c *control) awaitOutput(want string, args ...string) {
	c.t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	limit := time.After(30 * time.Second)
	for {
		out, _ := c.wattle(args...)
		d := cmp.Diff(strings.TrimPrefix(want, "\n"), seconds.ReplaceAllString(out, "0s ago"))
		if d == "" {
			return
		}
		select {
		case <-tick.C:
		case <-limit:
			c.t.Fatal(d)
		}
	}
}

const catalogMesh = `mesh {
  trust_domain = "corp.example"
}
host "h1" {
  address = "10.0.0.7"
  service "page" {
    port = 8080
    upstream "web" { bind = "127.0.0.1:9081" }
  }
}
`

func TestCatalogShowsServicesAndWhyTheirEndpointsAreUsed(t *testing.T) {
	c := newControl(t)
	c.write("policy/mesh.hcl", catalogMesh)
	c.write("services/more.hcl", "service \"web\" {\n  namespace = \"shop\"\n  ports = { a = 80, b = { number = 5432, protocol = \"tcp\" } }\n  meta = { version = \"v1\" }\n  endpoint {\n    address  = \"10.0.0.7\"\n    port = 8080\n    port_for = 80\n  }\n  endpoint {\n    address  = \"fd00::1\"\n    port_for = 5432\n  }\n}\n")
	c.await("3 services, 4 endpoints")
	c.requireOutput(`
SERVICE       PORTS             SOURCES   HEALTHY  MESH  PLAINTEXT  LEFT OUT  HELD  PROXIES
default/page  8080/http         policy:1  0/1      1     0          0         0     0
default/web   80/http           files:1   1/1      0     1          0         0     1
shop/web      80/http,5432/tcp  files:2   2/2      0     1          1         0     0
`, "catalog", "list")
	c.requireOutput(`
SERVICE       PORTS      SOURCES   HEALTHY  MESH  PLAINTEXT  LEFT OUT  HELD  PROXIES
default/page  8080/http  policy:1  0/1      1     0          0         0     0
`, "catalog", "list", "-unhealthy", "-namespace", "default", "-registry", "policy", "pa")
	c.requireOutput(`
service     shop/web
ports       80/http,5432/tcp
sources     files
origin      more.hcl:1
healthy if  registry and agent
used by     0 proxies

ENDPOINT        FOR   SOURCES  SINCE   HEALTH           PATH       AT              WEIGHT  PRIORITY  TAKEN
10.0.0.7:8080   80    files    0s ago  healthy, 0s ago  left out   -               1       0         no: left out
[fd00::1]:5432  5432  files    0s ago  healthy, 0s ago  plaintext  [fd00::1]:5432  1       0         no: no proxy has the service in scope

10.0.0.7:8080
  left out: endpoint 10.0.0.7:8080 of service "shop/web" is the workload h1/default/page, which has another identity or port (W2014)
  labels: version="v1"

[fd00::1]:5432
  plaintext: no host of the mesh has this address
  labels: version="v1"
`, "catalog", "describe", "shop/web")
	c.requireOutput(`
service     default/page
ports       8080/http
sources     policy
origin      mesh.hcl:6
healthy if  registry and agent
used by     0 proxies

ENDPOINT       FOR   SOURCES  SINCE   HEALTH             PATH  AT             WEIGHT  PRIORITY  TAKEN
10.0.0.7:8080  8080  policy   0s ago  unhealthy, 0s ago  mesh  10.0.0.7:7443  1       0         no: it is unhealthy

10.0.0.7:8080
  mesh: h1 runs page there, at its verified address
  workload: h1/default/page
  agent says unhealthy: its agent has not reported it yet
`, "catalog", "describe", "page")

	var d api.DescribedService
	out, code := c.wattle("catalog", "describe", "-json", "web")
	if err := json.Unmarshal([]byte(out), &d); err != nil || code != 0 || len(d.Proxies) != 1 || d.Proxies[0] != "h1/host" || !d.Endpoints[0].Taken {
		t.Error(err, code, out)
	}
	var all api.CatalogServices
	out, code = c.wattle("catalog", "list", "-json", "zz")
	if err := json.Unmarshal([]byte(out), &all); err != nil || code != 0 || all.Services == nil && !strings.Contains(out, "[]") {
		t.Error(err, code, out)
	}
	if out, code := c.wattle("catalog", "describe", "nobody"); code != 1 || !strings.Contains(out, `there is no service "default/nobody"; wattle catalog list lists them`) {
		t.Error(code, out)
	}
}

// watch is a command that goes on.
type watch struct {
	t     *testing.T
	lines chan string
	end   func()
	code  chan int
}

func (c *control) watch(args ...string) *watch {
	ctx, cancel := context.WithCancel(c.t.Context())
	r, out := io.Pipe()
	w := &watch{t: c.t, lines: make(chan string, 100), end: cancel, code: make(chan int, 1)}
	go func() {
		w.code <- run(ctx, append(args, "-addr", "unix:"+filepath.Join(c.dir, "api.sock")), out, out)
		out.Close()
	}()
	go func() {
		for in := bufio.NewScanner(r); in.Scan(); {
			w.lines <- in.Text()
		}
		close(w.lines)
	}()
	c.t.Cleanup(cancel)
	return w
}

// await waits for a line with this, and returns it.
func (w *watch) await(want string) string {
	w.t.Helper()
	limit := time.After(30 * time.Second)
	var seen []string
	for {
		select {
		case line, ok := <-w.lines:
			if !ok {
				w.t.Fatalf("no %q before the end; instead\n%s", want, strings.Join(seen, "\n"))
			}
			if strings.Contains(line, want) {
				return line
			}
			seen = append(seen, line)
		case <-limit:
			w.t.Fatalf("no %q in time; instead\n%s", want, strings.Join(seen, "\n"))
		}
	}
}

// begun waits until a change is seen: what a watch says of what came before it was synced is none.
func (c *control) begun(w *watch) {
	c.t.Helper()
	limit := time.After(30 * time.Second)
	for i := 0; ; i++ {
		c.write("services/probe.hcl", fmt.Sprintf("service \"probe\" {\n  port = %d\n  endpoint { address = \"10.0.0.9\" }\n}\n", i+1))
		select {
		case <-w.lines:
			return
		case <-time.After(100 * time.Millisecond):
		case <-limit:
			c.t.Fatal("a watch says nothing")
		}
	}
}

func TestCatalogWatchSaysWhatChanges(t *testing.T) {
	c := newControl(t)
	c.await("1 service, 1 endpoint")
	list, objects, one := c.watch("catalog", "list", "-watch"), c.watch("catalog", "list", "-watch", "-json", "-registry", "files"), c.watch("catalog", "describe", "-watch", "web")
	list.await("default/web")
	one.await("no host of the mesh has this address")
	one.await("") // the end of the description
	c.begun(objects)

	c.write("services/web.hcl", "service \"web\" {\n  port = 80\n  meta = { version = \"v2\" }\n  endpoint {\n    address = \"10.0.0.1\"\n    weight  = 7\n  }\n  endpoint { address = \"10.0.0.2\" }\n}\n")
	for _, w := range []*watch{list, one} {
		w.await(`default/web  10.0.0.1:80  weight: 1 -> 7`)
		w.await(`default/web  10.0.0.1:80  labels: - -> version="v2"`)
		w.await(`default/web  10.0.0.2:80  added: - -> healthy, plaintext (by files)`)
	}
	var got change
	if line := objects.await(`"weight"`); json.Unmarshal([]byte(line), &got) != nil || got.Time.IsZero() {
		t.Error(line)
	}
	got.Time = time.Time{}
	if want := (change{Service: "default/web", Endpoint: "10.0.0.1:80", Change: "weight", From: "1", To: "7"}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}

	// The server ends, the world goes on, and the server comes back.
	c.stop()
	list.await("wattle: the connection is lost, trying again: ")
	c.write("services/web.hcl", "service \"web\" {\n  port = 80\n  meta = { version = \"v2\" }\n  endpoint { address = \"10.0.0.2\" }\n}\n")
	c.start()
	list.await("wattle: connected again")
	list.await(`default/web  10.0.0.1:80  removed`)
	c.write("services/web.hcl", "# nothing\n")
	list.await(`default/web  removed`)
	one.await(`default/web  removed`)
	for _, w := range []*watch{list, objects, one} {
		w.end()
		if code := <-w.code; code != 0 {
			t.Errorf("exit code %d", code)
		}
	}
}

func TestChangesOfAService(t *testing.T) {
	n := registry.Name{Namespace: "shop", Name: "web"}
	base := func() *api.DescribedService {
		d := &api.DescribedService{Name: n, Sources: []string{"a"}, HealthyIf: registry.RegistryAndAgent}
		e := api.DescribedEndpoint{Port: 80, ServicePort: 80, Sources: []string{"a"}, Health: registry.Healthy, Path: "plaintext", Why: "x"}
		d.Endpoints = []api.DescribedEndpoint{e, e} // two workloads may share an address
		return d
	}
	for name, test := range map[string]struct {
		change func(*api.DescribedService)
		want   []string
	}{
		"nothing": {func(*api.DescribedService) {}, nil},
		"health": {func(d *api.DescribedService) {
			d.Endpoints[1].Health, d.Endpoints[1].Reason = registry.Unhealthy, "refused"
		}, []string{"health: healthy -> unhealthy (refused)"}},
		"held": {func(d *api.DescribedService) {
			d.Endpoints[0].Held = &registry.HeldEndpoint{Registry: "a", Reason: "gone"}
		}, []string{"held: no -> a (gone)"}},
		"mesh":     {func(d *api.DescribedService) { d.Endpoints[0].Path, d.Endpoints[0].Why = "mesh", "h1" }, []string{"path: plaintext -> mesh (h1)"}},
		"gone":     {func(d *api.DescribedService) { d.Endpoints = d.Endpoints[:1] }, []string{"removed"}},
		"sources":  {func(d *api.DescribedService) { d.Sources = []string{"a", "b"} }, []string{"sources: a -> a,b"}},
		"locality": {func(d *api.DescribedService) { d.Endpoints[0].Locality.Zone = "z" }, []string{"locality: - -> -/z"}},
	} {
		now := base()
		test.change(now)
		var got []string
		for _, c := range changesOf(n, base(), now) {
			line := c.String()
			got = append(got, line[strings.LastIndex(line, "  ")+2:])
		}
		if d := cmp.Diff(test.want, got); d != "" {
			t.Errorf("%s: %s", name, d)
		}
	}
}

func TestTheCatalogIsExportedAsFilesThatSayTheSame(t *testing.T) {
	c := newControl(t)
	c.write("policy/mesh.hcl", catalogMesh)
	c.write("services/more.hcl", "service \"db\" {\n  namespace = \"shop\"\n  port      = 5432\n  protocol  = \"tcp\"\n  endpoint {\n    address = \"fd00::1\"\n    meta    = { \"a b\" = \"$${x}\" }\n    health  = \"draining\"\n  }\n}\n")
	c.await("3 services, 3 endpoints")
	const db = "service \"db\" {\n  namespace = \"shop\"\n  port      = 5432\n  protocol  = \"tcp\"\n\n  endpoint {\n    address = \"fd00::1\"\n    meta = {\n      \"a b\" = \"$${x}\"\n    }\n    health = \"draining\"\n  }\n}\n"
	c.requireOutput("# shop/db.hcl\n"+db, "catalog", "export", "-namespace", "shop")
	c.requireOutput("# default/web.hcl\nservice \"web\" {\n  port     = 80\n  protocol = \"http\"\n\n  endpoint {\n    address = \"10.0.0.1\"\n  }\n}\n\n# shop/db.hcl\n"+db,
		"catalog", "export", "-registry", "files")

	dir := filepath.Join(c.dir, "out")
	c.requireOutput(dir+": 3 files written\n", "catalog", "export", "-dir", dir)
	if out, code := c.wattle("catalog", "export", "-dir", dir); code != 2 || !strings.Contains(out, "out is not empty; name another folder, or write into it with -force") {
		t.Error(code, out)
	}
	c.write("out/shop/db.hcl", "# old")
	c.write("out/other.txt", "mine")
	c.requireOutput(dir+": 2 files written\n", "catalog", "export", "-dir", dir, "-force", "-registry", "files")
	for name, want := range map[string]string{"shop/db.hcl": db, "other.txt": "mine"} {
		if text, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(text) != want {
			t.Errorf("%s: %v\n%s", name, err, text)
		}
	}
	if code := run(t.Context(), []string{"fmt", "-check", dir}, os.Stdout, os.Stderr); code != 0 {
		t.Error(code)
	}
	// The registry that is gone is followed by its files.
	if err := os.Remove(filepath.Join(dir, "h1.host.hcl")); err != nil {
		t.Fatal(err)
	}
	c.file("registry \"static\" \"kept\" {\n  path = \"out\"\n}\n")
	c.awaitOutput(`
SERVICE       PORTS      SOURCES   HEALTHY  MESH  PLAINTEXT  LEFT OUT  HELD  PROXIES
default/page  8080/http  policy:1  0/1      1     0          0         0     0
default/web   80/http    kept:1    1/1      0     1          0         0     1
shop/db       5432/tcp   kept:1    0/1      0     1          0         0     0
`, "catalog", "list")
}

func TestPrioritiesAreShownAsTheyWereWritten(t *testing.T) {
	for p, want := range map[uint32]string{0: "0", 3: "3", 200 << 16: "failover 200", 200<<16 | 3: "failover 200, 3"} {
		if got := priorityText(p); got != want {
			t.Errorf("%d: %q, want %q", p, got, want)
		}
	}
}
