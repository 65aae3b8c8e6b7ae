package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/wattle-mesh/wattle/configs"
	"github.com/wattle-mesh/wattle/internal/api"
	"github.com/wattle-mesh/wattle/registry"
)

func TestStatusShowsEverythingThatIsWrong(t *testing.T) {
	s := api.Status{
		Ready: true, Revision: 4, Rejected: true, Policy: "policy", Version: "v1", TrustDomain: "corp.example", Services: 2, Endpoints: 3, Unreported: 1, Nodes: 1,
		Diagnostics: configs.Diagnostics{{Severity: configs.Error, Code: "W1102", Summary: `unknown attribute "wieght"`, Detail: `Did you mean "weight"?`,
			File: "reviews.hcl", Line: 7, Column: 5, Length: 6, Snippet: "    wieght = 90"}},
		Registries: []registry.Status{
			{Name: "mesh", State: registry.Waiting},
			{Name: "files", State: registry.Synced, Synced: true, LastPublish: time.Now(), Services: 2, Endpoints: 1, Diagnostics: []registry.Diagnostic{
				{Severity: registry.Error, Code: "W1103", Summary: "no port", Detail: "Say 80.", Source: "files", Origin: "services/a:2/bad.hcl:2:43",
					Excerpt: registry.Excerpt{Line: 2, Column: 43, Length: 5, Text: "port = 99999", TextColumn: 36}},
				{Severity: registry.Warning, Code: "W4103", Summary: "out of order", Source: "files"},
			}},
		},
		Refused: []api.Refusal{{Node: "h1", Namespace: "shop", Service: "web", Instance: "b", Origin: "h1:web.hcl:3", Reason: "node h1 was not granted service shop/web"}},
	}
	var out bytes.Buffer
	if err := writeStatus(&out, s, false); err != nil {
		t.Fatal(err)
	}
	want := `server        ready, but the policy folder was REJECTED; the last good policy is in force
version       v1
trust domain  corp.example
revision      4 of policy
catalog       2 services, 3 endpoints, 1 of them not reported by their agents yet
proxies       0 known, 0 connected, 0 synced
nodes         1, 1 registration REFUSED

REGISTRY  STATE                       SERVICES  ENDPOINTS  PUBLISHED  ERROR
mesh      waiting                     0         0          -          -
files     synced, 1 error, 1 warning  2         1          0s ago     -

Error W1102: unknown attribute "wieght"

  on reviews.hcl:7:5:
   7:     wieght = 90
          ^^^^^^

Did you mean "weight"?

Error W1103: no port

  on services/a:2/bad.hcl:2:43, in registry "files":
   2: port = 99999
             ^^^^^

Say 80.

Warning W4103: out of order

  on registry "files":

h1:web.hcl:3: the registration of shop/web/b does not count: node h1 was not granted service shop/web
`
	if d := cmp.Diff(want, out.String()); d != "" {
		t.Error(d)
	}
}

// control runs a server in this process, until the test ends.
type control struct {
	t    *testing.T
	dir  string
	stop func()
}

func newControl(t *testing.T) *control {
	t.Helper()
	dir, err := os.MkdirTemp("", "wattle") // t.TempDir is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	c := &control{t: t, dir: dir}
	c.write("server.hcl", "policy = \"policy\"\nstate_dir = \"state\"\nhttp = \"unix:api.sock\"\nagents = \""+freePort(t)+"\"\n\nregistry \"static\" \"files\" {\n  path = \"services\"\n}\n")
	c.write("policy/mesh.hcl", "mesh {\n  trust_domain = \"corp.example\"\n}\n")
	c.write("services/web.hcl", "service \"web\" {\n  port = 80\n  endpoint { address = \"10.0.0.1\" }\n}\n")
	c.start()
	t.Cleanup(func() { c.stop() })
	return c
}

// start starts the server, which is new or was stopped.
func (c *control) start() {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan int, 1)
	go func() {
		ended <- run(ctx, []string{"server", "-config", filepath.Join(c.dir, "server.hcl")}, io.Discard, io.Discard)
	}()
	c.stop = sync.OnceFunc(func() {
		cancel()
		<-ended
	})
}

// freePort returns an address that nobody listened at a moment ago.
func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func (c *control) write(name, text string) {
	c.t.Helper()
	path := filepath.Join(c.dir, name)
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(text), 0o600)); err != nil {
		c.t.Fatal(err)
	}
}

// await waits until wattle status shows all of that.
func (c *control) await(want ...string) {
	c.t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	limit := time.After(30 * time.Second)
	for {
		var out, wrong bytes.Buffer
		run(c.t.Context(), []string{"status", "-addr", "unix:" + filepath.Join(c.dir, "api.sock")}, &out, &wrong)
		missing := ""
		for _, w := range want {
			if !strings.Contains(out.String(), w) {
				missing = w
			}
		}
		if missing == "" {
			return
		}
		select {
		case <-tick.C:
		case <-limit:
			c.t.Fatalf("no %q in\n%s%s", missing, out.String(), wrong.String())
		}
	}
}

func TestStatusShowsWhatIsWrongInAFolderOfServices(t *testing.T) {
	c := newControl(t)
	good := "1 service, 1 endpoint"
	c.await("ready", good, "synced  ")
	c.write("services/bad.hcl", "service \"api\" {\n  prt  = 1\n  port = 99999\n}\n")
	c.await(good, "stale, 3 errors",
		"on services/bad.hcl:2:3, in registry \"files\":\n   2:   prt  = 1\n        ^^^\n", "on services/bad.hcl:3:10, in registry \"files\":\n   3:   port = 99999\n               ^^^^^\n")
	if err := os.Remove(filepath.Join(c.dir, "services/bad.hcl")); err != nil {
		t.Fatal(err)
	}
	c.await(good, "synced  ")
	if err := os.RemoveAll(filepath.Join(c.dir, "services")); err != nil {
		t.Fatal(err)
	}
	c.await("on services, in registry \"files\":", "cannot be read", "stale, ")
}
