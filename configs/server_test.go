package configs

import (
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/hcl/v2/gohcl"
)

func TestServerDefaults(t *testing.T) {
	dir := t.TempDir()
	writeFile(t, dir, "server.hcl", string(DefaultServer()))
	s, diags := LoadServer(filepath.Join(dir, "server.hcl"))
	if len(diags) > 0 {
		t.Fatal(diags)
	}
	want := &Server{
		StateDir: "/var/lib/wattle/server", Policy: "/etc/wattle/policy", HTTP: "127.0.0.1:7500", Agents: "0.0.0.0:7501",
		Names: []string{}, WorkloadLife: Duration(24 * time.Hour), LogLevel: "info", LogFormat: "text",
	}
	if !reflect.DeepEqual(s, want) {
		t.Errorf("got %+v\nwant %+v", s, want)
	}
	checkCommentedDefaults(t, string(DefaultServer()), serverBlock.shape, `registry "static" "files" {`)
}

func TestAgentDefaults(t *testing.T) {
	dir := t.TempDir()
	writeFile(t, dir, "agent.hcl", string(DefaultAgent()))
	a, diags := LoadAgent(filepath.Join(dir, "agent.hcl"))
	if len(diags) > 0 {
		t.Fatal(diags)
	}
	want := &Agent{
		Servers: []string{"127.0.0.1:7501"}, StateDir: "/var/lib/wattle/agent", RunDir: "/run/wattle", ServicesDir: "/etc/wattle/services.d", FactsDir: "/etc/wattle/facts.d",
		Envoy: "envoy", DrainTime: Duration(20 * time.Second), Guard: true, LogLevel: "info", LogFormat: "text",
	}
	if !reflect.DeepEqual(a, want) {
		t.Errorf("got %+v\nwant %+v", a, want)
	}
	checkCommentedDefaults(t, string(DefaultAgent()), agentBlock.shape, "token_file")
}

// checkCommentedDefaults checks that a default file mentions every attribute, and with its default where it has one.
func checkCommentedDefaults(t *testing.T, text string, s *shape, alsoWants string) {
	t.Helper()
	for _, a := range s.attrs {
		if a.name == "token" {
			continue // token_file is the better way
		}
		line := regexp.MustCompile(`(?m)^#? ?` + a.name + ` *= (.*)$`).FindStringSubmatch(text)
		switch {
		case line == nil:
			t.Errorf("the default file does not show %s", a.name)
		case a.absent != "" && strings.HasPrefix(a.absent, `"`) && line[1] != a.absent:
			t.Errorf("%s is %s by default, the file says %s", a.name, a.absent, line[1])
		}
	}
	if !strings.Contains(text, alsoWants) {
		t.Errorf("the default file does not show %s", alsoWants)
	}
}

func TestServerFile(t *testing.T) {
	dir := t.TempDir()
	writeFile(t, dir, "server.hcl", `
state_dir  = "state"
policy     = "policy"
http       = "unix:http.sock"
agents     = "127.0.0.1:7601"
names      = ["wattle.example", "127.0.0.1", "::1"]
log_level  = "debug"
log_format = "json"
workload_life = "90m"

registry "static" "files" {
  path         = lower("/SERVICES")
  sync_timeout = "3s"
}
registry "static" "more" {
  path = "x"
  hold { share = 90.5 }
}
`)
	s, diags := LoadServer(filepath.Join(dir, "server.hcl"))
	if len(diags) > 0 {
		t.Fatal(diags)
	}
	if s.WorkloadLife != Duration(90*time.Minute) || s.StateDir != filepath.Join(dir, "state") || s.Policy != filepath.Join(dir, "policy") || s.HTTP != "unix:"+filepath.Join(dir, "http.sock") {
		t.Errorf("paths are not relative to the file: %+v", s)
	}
	if len(s.Registries) != 2 || s.Registries[0].Type != "static" || s.Registries[0].Name != "files" || s.Registries[0].SyncTimeout != 3*time.Second || s.Registries[1].SyncTimeout != 10*time.Second {
		t.Fatalf("registries: %+v", s.Registries)
	}
	if h := s.Registries[1].Hold; s.Registries[0].Hold != nil || h == nil ||
		*h != (Hold{Share: 90.5, Window: Duration(30 * time.Second), After: Duration(10 * time.Minute), MinEndpoints: 4}) {
		t.Errorf("hold: %+v", h)
	}
	r := &s.Registries[0]
	var driver struct {
		Path string `hcl:"path"`
	}
	if ds := gohcl.DecodeBody(r.Body, r.Eval, &driver); ds.HasErrors() || driver.Path != "/services" {
		t.Errorf("the driver reads %+v, %v", driver, ds)
	}
	var strict struct {
		Pth string `hcl:"pth"`
	}
	got := r.Diagnostics(gohcl.DecodeBody(r.Body, r.Eval, &strict))
	if len(got) != 2 || got[1].Code != codeUnknownAttr || got[1].Line != 12 || got[1].Context != `registry "static" "files"` {
		t.Errorf("what the driver found wrong: %+v", got)
	}
}

// A secret where none may be is in no diagnostic, which the log and the status show.
func TestDiagnosticsShowNoSecrets(t *testing.T) {
	for _, text := range []string{
		"registry \"consul\" \"a\" {\n  passwort = \"SEKRIT\"\n}",
		"http = \"SEKRIT\"",
		"http = SEKRIT",
		"state_dir = [\n  \"SEKRIT\" \"x\"\n]",
		"policy = <<E\nSEKRIT ${\nE\n",
		"registry \"consul\" \"a\" { token = \"SEKRIT\" }}",
	} {
		dir := t.TempDir()
		writeFile(t, dir, "server.hcl", text)
		s, diags := LoadServer(filepath.Join(dir, "server.hcl"))
		if s != nil {
			for _, r := range s.Registries {
				var none struct{}
				diags = append(diags, r.Diagnostics(gohcl.DecodeBody(r.Body, nil, &none))...)
			}
		}
		if len(diags) == 0 {
			t.Errorf("%q has no fault", text)
		}
		for _, d := range diags {
			if strings.Contains(d.Snippet+d.Context, "SEKRIT") || d.Line == 0 {
				t.Errorf("%q: %+v", text, d)
			}
		}
	}
}

// A change of what a source does not see leaves its fingerprint alone.
func TestFingerprints(t *testing.T) {
	load := func(text string) string {
		dir := t.TempDir()
		writeFile(t, dir, "server.hcl", "\n"+text)
		s, diags := LoadServer(filepath.Join(dir, "server.hcl"))
		if len(diags) > 0 {
			t.Fatal(diags)
		}
		return s.Registries[0].Fingerprint
	}
	first := load(`registry "static" "a" { path = "x" }`)
	for text, same := range map[string]bool{
		"registry \"static\" \"a\" {\n  # moved\n  path = \"x\"\n}":                                true,
		"registry \"static\" \"a\" {\n  path = \"x\"\n  sync_timeout = \"1s\"\n}":                  true,
		"registry \"static\" \"a\" {\n  path = \"x\"\n  hold { share = 1 }\n}":                     true,
		"registry \"static\" \"a\" {\n  path = \"y\"\n}":                                           false,
		"registry \"static\" \"b\" {\n  path = \"x\"\n}":                                           false,
		"registry \"dns\" \"a\" {\n  path = \"x\"\n}":                                              false,
		"registry \"static\" \"a\" {\n  path = \"x\"\n  service \"s\" {\n    name = \"y\"\n  }\n}": false,
	} {
		if got := load(text); (got == first) != same {
			t.Errorf("%s: the same is %t", text, got == first)
		}
	}
}

// What is taken of a registry is another thing than how it is reached, and how its endpoints rank.
func TestChoices(t *testing.T) {
	load := func(body string) Registry {
		dir := t.TempDir()
		writeFile(t, dir, "server.hcl", "registry \"consul\" \"a\" {\n"+body+"\n}\n")
		s, diags := LoadServer(filepath.Join(dir, "server.hcl"))
		if len(diags) > 0 {
			t.Fatal(diags)
		}
		return s.Registries[0]
	}
	first := load("address = \"x\"\npriority = 5\ninclude { names = [\"a\"] }")
	for body, same := range map[string]bool{
		"priority = 6\nfailover = true\nweight = 2\ninclude { names = [\"a\"] }": true,
		"address = \"y\"\nsync_timeout = \"9s\"\ninclude { names = [\"a\"] }":    true,
		"address = \"x\"\npriority = 5\ninclude { names = [\"b\"] }":             false,
		"include { names = [\"a\"] }\nrename = { b = \"c\" }":                    false,
	} {
		if got := load(body); (got.Choice == first.Choice) != same {
			t.Errorf("%s: the same is %t", body, !same)
		}
	}
	if got := load("tls {\n  ca_file = \"x\"\n}").Driven; len(got) != 1 || !strings.Contains(got["tls"], "ca_file") {
		t.Errorf("the driver's part is %q", got)
	}
}

func TestServerFileIsRefused(t *testing.T) {
	for _, c := range []struct{ name, text, code string }{
		{"an HTTP address that others reach", `http = "0.0.0.0:7500"`, codeLoopback},
		{"an HTTP address by name", `http = "localhost:7500"`, codeAddress},
		{"an HTTP address without port", `http = "127.0.0.1"`, codeAddress},
		{"an HTTP socket without path", `http = "unix:"`, codeAddress},
		{"a name as the agents' address", `agents = "example.com:7501"`, codeAddress},
		{"a name with a port", `names = ["a:1"]`, codeDomain},
		{"an unknown attribute", `htp = "127.0.0.1:1"`, codeUnknownAttr},
		{"an unknown level", `log_level = "loud"`, codeWord},
		{"a registry without name", `registry "static" {}`, codeLabels},
		{"two registries of one name", "registry \"static\" \"a\" {}\nregistry \"dns\" \"a\" {}", codeDuplicate},
		{"two holds", "registry \"static\" \"a\" {\n  hold {}\n  hold {}\n}", codeBlockTwice},
		{"a hold for no time", "registry \"static\" \"a\" {\n  hold { after = \"0s\" }\n}", codeRange},
		{"a share of more than all", "registry \"static\" \"a\" {\n  hold { share = 101 }\n}", codeRange},
		{"an unknown attribute of a hold", "registry \"static\" \"a\" {\n  hold { shar = 1 }\n}", codeUnknownAttr},
		{"a broken file", `http = `, codeSyntax},
		{"dynamic registries", "dynamic \"registry\" {\n  for_each = []\n  content {}\n}", codeUnknownBlock},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			writeFile(t, dir, "server.hcl", c.text)
			s, diags := LoadServer(filepath.Join(dir, "server.hcl"))
			if s != nil || len(diags) == 0 || diags[0].Code != c.code || diags[0].File != "server.hcl" || diags[0].Line == 0 {
				t.Errorf("got %v, %v", s, diags)
			}
		})
	}
}

// What is wrong with the configuration file as such is said of the file, with a remedy that fits.
func TestConfigurationFileThatCannotBeRead(t *testing.T) {
	dir := t.TempDir()
	for name, target := range map[string]string{"nowhere.hcl": "missing", "loop.hcl": "loop.hcl"} {
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := syscall.Mkfifo(filepath.Join(dir, "pipe.hcl"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ path, summary, detail string }{
		{filepath.Join(dir, "missing.hcl"), filepath.Join(dir, "missing.hcl") + " cannot be read: there is no such file", "-config"},
		{filepath.Join(dir, "no", "folder.hcl"), "there is no such file", "-config"},
		{dir, dir + " is a folder", "Name the configuration file"},
		{filepath.Join(dir, "nowhere.hcl"), "nowhere.hcl cannot be read", "leads nowhere"},
		{filepath.Join(dir, "loop.hcl"), "loop.hcl cannot be read", "circle"},
		{filepath.Join(dir, "pipe.hcl"), "pipe.hcl cannot be read", "regular file"},
	} {
		s, diags := LoadServer(c.path)
		if s != nil || len(diags) != 1 {
			t.Errorf("%s: got %v, %v", c.path, s, diags)
			continue
		}
		d := diags[0]
		if d.Code != codeFile || d.Line != 1 || d.Column != 1 || d.Snippet != "" || !strings.Contains(d.Summary, c.summary) || !strings.Contains(d.Detail, c.detail) {
			t.Errorf("%s: got %+v", c.path, d)
		}
		if _, agent := LoadAgent(c.path); !slices.Equal(agent, diags) {
			t.Errorf("%s: the agent says %+v", c.path, agent)
		}
	}
}

func TestAgentFile(t *testing.T) {
	dir := t.TempDir()
	writeFile(t, dir, "agent.hcl", `
node           = "h1"
server         = ["127.0.0.1:7501", "wattle.example:7501", "[::1]:7501"]
state_dir      = "state"
run_dir        = "run"
services_dir   = "services.d"
address        = "10.0.0.1"
source_address = "127.0.0.11"
token          = "secret"
envoy          = "bin/envoy"
log_level      = "warn"
log_format     = "json"
`)
	a, diags := LoadAgent(filepath.Join(dir, "agent.hcl"))
	if len(diags) > 0 {
		t.Fatal(diags)
	}
	want := &Agent{
		Node: "h1", Servers: []string{"127.0.0.1:7501", "wattle.example:7501", "[::1]:7501"}, StateDir: filepath.Join(dir, "state"), RunDir: filepath.Join(dir, "run"),
		ServicesDir: filepath.Join(dir, "services.d"), FactsDir: "/etc/wattle/facts.d", Address: netip.MustParseAddr("10.0.0.1"), SourceAddress: netip.MustParseAddr("127.0.0.11"), Token: "secret",
		Envoy: filepath.Join(dir, "bin/envoy"), DrainTime: Duration(20 * time.Second), Guard: true, LogLevel: "warn", LogFormat: "json",
	}
	if !reflect.DeepEqual(a, want) {
		t.Errorf("got %+v\nwant %+v", a, want)
	}
}

func TestAgentFileIsRefused(t *testing.T) {
	for _, c := range []struct{ name, text, code string }{
		{"no server", ``, codeMissingAttr},
		{"an empty list of servers", `server = []`, codeEmpty},
		{"a server without port", `server = ["a"]`, codeAddress},
		{"a token twice", "server = [\"a:1\"]\ntoken = \"a\"\ntoken_file = \"b\"", codeExactlyOne},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			writeFile(t, dir, "agent.hcl", c.text)
			a, diags := LoadAgent(filepath.Join(dir, "agent.hcl"))
			if a != nil || len(diags) == 0 || diags[0].Code != c.code {
				t.Errorf("got %v, %v", a, diags)
			}
		})
	}
}

func TestRegistryShape(t *testing.T) {
	dir := t.TempDir()
	writeFile(t, dir, "server.hcl", `
registry "consul" "dc1" {
  address       = "http://127.0.0.1:8500"
  priority      = 20
  failover      = true
  weight        = 3
  namespaces    = { consul-ns = "shop", "*" = "rest" }
  rename        = { "web_v1" = "web" }
  locality      = { region = "eu", zone = "z1" }
  protocol_from = ["meta.protocol", "tag", "port_name"]
  include {
    names  = ["web-*", "shop/*"]
    tags   = ["mesh"]
    filter = "meta.version != v1 and name matches \"^web\""
  }
  exclude { names = ["web-old"] }
}
registry "static" "files" { path = "x" }
`)
	s, diags := LoadServer(filepath.Join(dir, "server.hcl"))
	if len(diags) > 0 {
		t.Fatal(diags)
	}
	got := s.Registries[0].Shape
	in := got.Include
	got.Include = nil
	want := RegistryShape{
		Priority: 20, Failover: true, Weight: 3, Namespaces: map[string]string{"consul-ns": "shop", "*": "rest"}, Rename: map[string]string{"web_v1": "web"},
		Region: "eu", Zone: "z1", ProtocolFrom: []string{"meta.protocol", "tag", "port_name"}, Exclude: &Selection{Names: []string{"web-old"}},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v\nwant %+v", got, want)
	}
	for _, c := range []struct {
		name string
		x    Filtered
		want bool
	}{
		{"all holds", Filtered{"default", "web-a", []string{"blue", "mesh"}, map[string]string{"version": "v2"}}, true},
		{"no such label", Filtered{"default", "web-a", []string{"mesh"}, nil}, true},
		{"another label", Filtered{"default", "web-a", []string{"mesh"}, map[string]string{"version": "v1"}}, false},
		{"another tag", Filtered{"default", "web-a", []string{"blue"}, nil}, false},
		{"another name", Filtered{"default", "db", []string{"mesh"}, nil}, false},
		{"its namespace", Filtered{"shop", "web", []string{"mesh"}, nil}, true},
	} {
		if got := in.Match(c.x); got != c.want {
			t.Errorf("%s: got %t", c.name, got)
		}
	}
	if plain := s.Registries[1].Shape; !reflect.DeepEqual(plain, RegistryShape{Priority: 100, Weight: 1}) {
		t.Errorf("defaults: %+v", plain)
	}
}

func TestRegistryShapeIsRefused(t *testing.T) {
	for _, c := range []struct{ name, text, code string }{
		{"a priority that is too high", "priority = 1001", codeRange},
		{"no weight", "weight = 0", codeRange},
		{"a namespace that cannot be one", `namespaces = { a = "B" }`, codeName},
		{"a name that cannot be one", `rename = { a = "b.c" }`, codeName},
		{"a part that localities do not have", `locality = { zoen = "a" }`, codeUnknownAttr},
		{"a place where no protocol stands", `protocol_from = ["name"]`, codeWord},
		{"no place", `protocol_from = []`, codeEmpty},
		{"a selection of nothing", "include {}", codeEmpty},
		{"two selections", "include { names = [\"a\"] }\ninclude { names = [\"b\"] }", codeBlockTwice},
		{"no pattern", `include { names = ["[a"] }`, codePattern},
		{"a filter that cannot be read", `exclude { filter = "meta.version ==" }`, codeFilter},
		{"a filter over what endpoints do not have", `exclude { filter = "version == v1" }`, codeFilter},
		{"an attribute that a selection does not have", `exclude { name = "a" }`, codeUnknownAttr},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			writeFile(t, dir, "server.hcl", "registry \"static\" \"files\" {\n"+c.text+"\n}\n")
			_, diags := LoadServer(filepath.Join(dir, "server.hcl"))
			if len(diags) != 1 || diags[0].Code != c.code || diags[0].Line < 2 || diags[0].Detail == "" {
				t.Errorf("got %v", diags)
			}
		})
	}
}

func TestOtherServersLeaveAllElseAlone(t *testing.T) {
	got, err := WithServers(DefaultAgent(), []string{"s1.example:7501", "10.0.0.1:7501"})
	if err != nil {
		t.Fatal(err)
	}
	want := strings.Replace(string(DefaultAgent()), `server = ["127.0.0.1:7501"]`, `server = ["s1.example:7501", "10.0.0.1:7501"]`, 1)
	if string(got) != want {
		t.Error(Diff("agent.hcl", []byte(want), got))
	}
	if got, err := WithServers([]byte("node = \"h1\"\n"), []string{"s1:7501"}); err != nil || string(got) != "node   = \"h1\"\nserver = [\"s1:7501\"]\n" && string(got) != "node = \"h1\"\nserver = [\"s1:7501\"]\n" {
		t.Errorf("%q, %v", got, err)
	}
	if _, err := WithServers([]byte("server = ["), nil); err == nil {
		t.Error("no error")
	}
}

func TestAUnitMayBeListedOnce(t *testing.T) {
	dir := t.TempDir()
	writeFile(t, dir, "agent.hcl", `server = ["127.0.0.1:7501"]
unit "web.service" { services = ["web", "shop/*"] }
unit "none@.service" { services = [] }
`)
	a, diags := LoadAgent(filepath.Join(dir, "agent.hcl"))
	if len(diags) > 0 {
		t.Fatal(diags)
	}
	if len(a.Units) != 2 || !reflect.DeepEqual(a.Units[0].Services, []ServiceRef{{"default", "web"}, {"shop", Any}}) || len(a.Units[1].Services) != 0 {
		t.Errorf("%+v", a.Units)
	}
	for text, says := range map[string]string{
		"unit \"a.service\" { services = [\"a\"] }\nunit \"a.service\" { services = [] }\n": "given twice",
		"unit \"a\" { services = [\"a\"] }\n":                                               "no name of a service unit",
		"unit \"a.service\" { services = [\"*/a\"] }\n":                                     "no pattern of services",
		"unit \"a.service\" {}\n":                                                           "services",
	} {
		writeFile(t, dir, "agent.hcl", "server = [\"127.0.0.1:7501\"]\n"+text)
		if _, diags := LoadAgent(filepath.Join(dir, "agent.hcl")); !diags.HasErrors() || !strings.Contains(diags.Text(), says) {
			t.Errorf("%s: %s", text, diags.Text())
		}
	}
}
