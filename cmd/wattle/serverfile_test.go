package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/wattle-mesh/wattle/configs"
	"github.com/wattle-mesh/wattle/registry"
)

// file writes the server's file with these registry blocks.
func (c *control) file(blocks string) {
	c.t.Helper()
	text, err := os.ReadFile(filepath.Join(c.dir, "server.hcl"))
	if err != nil {
		c.t.Fatal(err)
	}
	head, _, _ := strings.Cut(string(text), "\n\n")
	c.write("server.hcl", head+"\n\n"+blocks)
}

// wattle runs a command against the server.
func (c *control) wattle(args ...string) (string, int) {
	c.t.Helper()
	var out bytes.Buffer
	code := run(c.t.Context(), append(args, "-addr", "unix:"+filepath.Join(c.dir, "api.sock")), &out, &out)
	return out.String(), code
}

func TestRegistriesFollowTheServersFile(t *testing.T) {
	const files = "registry \"static\" \"files\" {\n  path = \"services\"\n}\n"
	const more = "registry \"static\" \"more\" {\n  path = \"more\"\n}\n"
	c := newControl(t)
	c.write("more/api.hcl", "service \"api\" {\n  port = 80\n  endpoint { address = \"10.0.0.2\" }\n}\n")
	c.write("others/db.hcl", "service \"db\" {\n  port = 80\n  endpoint { address = \"10.0.0.3\" }\n  endpoint { address = \"10.0.0.4\" }\n}\n")
	c.await("1 service, 1 endpoint")

	c.file(more + files)
	c.await("2 services, 2 endpoints", "more      synced")
	c.file(strings.Replace(more, `"more"`+"\n", `"others"`+"\n", 1) + files)
	c.await("2 services, 3 endpoints")

	for _, wrong := range []struct{ text, says string }{
		{"registry {", "on server.hcl:6"},
		{files + "registry \"none\" \"x\" {}\n", `there is no registry driver "none"`},
		{"registry \"static\" \"files\" {\n  pth = \"services\"\n}\n", "on server.hcl:7"},
		{"registry \"static\" \"mesh\" {\n  path = \"services\"\n}\n", `the name "mesh" is taken`},
		{"registry \"static\" \"policy\" {\n  path = \"services\"\n}\n", `the name "policy" is taken`},
	} {
		c.file(wrong.text)
		c.await("2 services, 3 endpoints", wrong.says)
	}
	c.file(files + "log_level = \"debug\"\n")
	c.await("2 services, 3 endpoints", "W1411", "registry more is gone from the files and stays in force until")
	c.await("1 service, 1 endpoint", "W4311", "a change of log_level takes effect")
	c.file(files)
	c.await("1 service, 1 endpoint")
	if out, code := c.wattle("registry", "status"); code != 0 || strings.Contains(out, "more") || strings.Contains(out, "W4311") {
		t.Errorf("registries\n%s", out)
	}
	if err := os.Remove(filepath.Join(c.dir, "server.hcl")); err != nil {
		t.Fatal(err)
	}
	c.await("1 service, 1 endpoint", "there is no such file")
	if got, err := filepath.Glob(filepath.Join(c.dir, "state", "registries", "more.*.snapshot.removed")); err != nil || len(got) == 0 {
		t.Errorf("nothing is left of a registry that was removed: %v", err)
	}
	if got, err := filepath.Glob(filepath.Join(c.dir, "state", "registries", "more.*.snapshot")); err != nil || len(got) > 0 {
		t.Errorf("%v is left of a registry that was removed", got)
	}
}

// systemctl reload counts at once: it is an operator's word, not a file that is half written.
func TestAReloadTakesARegistryAwayAtOnce(t *testing.T) {
	f := &serverFile{path: "server.hcl", blocks: []registry.Entry{{Name: "a"}, {Name: "b"}}, sources: map[string]source{"a": {}, "b": {}}}
	left := func(now time.Time) (names []string, said int, again time.Duration) {
		entries, sources, diags := []registry.Entry{{Name: meshRegistry}, {Name: "b"}}, map[string]source{"b": {}}, configs.Diagnostics(nil)
		again = f.outlive(&entries, sources, now, &diags)
		for _, e := range entries {
			names = append(names, e.Name)
		}
		return names, len(diags), again
	}
	now := time.Now()
	if names, said, again := left(now); !slices.Equal(names, []string{meshRegistry, "a", "b"}) || said != 1 || again != configs.SettleTime {
		t.Errorf("a file that lacks it: %v, %d diagnostics, again in %s", names, said, again)
	}
	if names, said, again := left(time.Time{}); !slices.Equal(names, []string{meshRegistry, "b"}) || said != 0 || again != 0 {
		t.Errorf("a reload: %v, %d diagnostics, again in %s", names, said, again)
	}
}

func TestRegistryStatusAndAccept(t *testing.T) {
	t.Setenv("WATTLE_TOKEN_FILE", "")
	c := newControl(t)
	c.await("1 service, 1 endpoint")
	if out, code := c.wattle("registry", "status", "files"); code != 0 || strings.Contains(out, "mesh") || !strings.Contains(out, "REGISTRY  TYPE    STATE   SERVICES") ||
		!strings.Contains(out, "files     static  synced  1") {
		t.Errorf("code %d\n%s", code, out)
	}
	if out, code := c.wattle("registry", "status", "-json"); code != 0 || !strings.Contains(out, `"state": "synced"`) || !strings.Contains(out, `"type": "mesh"`) {
		t.Errorf("code %d\n%s", code, out)
	}
	if out, code := c.wattle("registry", "status", "nobody"); code != exitInvalid {
		t.Errorf("code %d\n%s", code, out)
	}
	token := filepath.Join(c.dir, "state", "admin.token")
	if out, code := c.wattle("registry", "accept", "files", "-token-file", token); code != 0 || out != "files: nothing was held\n" {
		t.Errorf("code %d\n%s", code, out)
	}
	if out, code := c.wattle("registry", "accept", "nobody", "-token-file", token); code != exitError || !strings.Contains(out, `there is no registry "nobody"`) {
		t.Errorf("code %d\n%s", code, out)
	}
}

func TestHowARegistryIsReachedIsNotWhatIsTakenOfIt(t *testing.T) {
	choice := func(typ, body string) string {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "server.hcl"), fmt.Appendf(nil, "registry %q \"a\" {\n%s\n}\n", typ, body), 0o600); err != nil {
			t.Fatal(err)
		}
		s, diags := configs.LoadServer(filepath.Join(dir, "server.hcl"))
		if len(diags) > 0 {
			t.Fatal(diags)
		}
		return choiceOf(s.Registries[0])
	}
	for _, c := range []struct {
		typ, one, other string
		same            bool
	}{
		{"consul", `address = "a"`, "token_file = \"b\"\ntls {\n  ca_file = \"x\"\n}", true},
		{"consul", `datacenters = ["a"]`, `datacenters = ["b"]`, false},
		{"etcd", `endpoints = ["a"]`, `endpoints = ["b"]`, true},
		{"etcd", `prefix = "a"`, `prefix = "b"`, false},
		{"dns", `resolvers = ["a"]`, `resolvers = ["b"]`, true},
		{"dns", "service \"a\" {\n  srv = \"x\"\n}", "service \"a\" {\n  srv = \"y\"\n}", false},
		{"nomad", `wait = "1s"`, `wait = "2s"`, true},
		{"static", `path = "a"`, `path = "b"`, false},
	} {
		if got := choice(c.typ, c.one) == choice(c.typ, c.other); got != c.same {
			t.Errorf("%s: %s and %s: the same is %t", c.typ, c.one, c.other, got)
		}
	}
}
