package configs

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func mustLoad(tb testing.TB, l *Loader, dir string) *Policy {
	tb.Helper()
	p, diags := l.Load(dir)
	if p == nil {
		tb.Fatalf("load: %v", diags)
	}
	return p
}

// tenBlocks is a file of ten virtual services of which one, if any, has another timeout.
func tenBlocks(other int) string {
	var b strings.Builder
	for i := range 10 {
		timeout := 1
		if i == other {
			timeout = 2
		}
		fmt.Fprintf(&b, "virtual_service \"vs-%d\" {\n  hosts = [\"s-%d\"]\n  http \"a\" {\n    timeout = \"%ds\"\n    route { host = \"s-%d\" }\n  }\n  http \"b\" {\n    route { host = \"s-%d\" }\n  }\n}\n", i, i, timeout, i, i)
	}
	return b.String()
}

func TestBlocksThatDoNotChangeKeepTheirPointers(t *testing.T) {
	dir := t.TempDir()
	writeFile(t, dir, "a.hcl", strings.ReplaceAll(tenBlocks(-1), "vs-", "other-"))
	writeFile(t, dir, "b.hcl", tenBlocks(-1)+"mesh { domain = \"corp\" }\n")
	l := NewLoader(Options{})
	first := mustLoad(t, l, dir)
	if again := mustLoad(t, l, dir); again != first {
		t.Error("nothing changed, but the policy did")
	}

	writeFile(t, dir, "b.hcl", tenBlocks(4)+"mesh { domain = \"corp\" }\n")
	second := mustLoad(t, l, dir)
	if second == first || second.Mesh != first.Mesh {
		t.Error("the policy did not change, or the mesh did")
	}
	changed := 0
	for i, v := range second.VirtualServices {
		if v == first.VirtualServices[i] {
			continue
		}
		changed++
		if v.Name != "vs-4" {
			t.Errorf("%s has a new pointer", v.Name)
		}
		if v.HTTP[0] == first.VirtualServices[i].HTTP[0] || v.HTTP[1] != first.VirtualServices[i].HTTP[1] {
			t.Error("of the rules, only the one that changed gets a new pointer")
		}
	}
	if changed != 1 {
		t.Errorf("%d blocks have new pointers, want 1", changed)
	}

	// A policy with errors between two good ones changes nothing for the blocks.
	writeFile(t, dir, "c.hcl", "virtual_service {")
	if p, diags := l.Load(dir); p != nil || !diags.HasErrors() {
		t.Fatalf("a broken file gives %v, %v", p, diags)
	}
	if err := os.Remove(filepath.Join(dir, "c.hcl")); err != nil {
		t.Fatal(err)
	}
	third := mustLoad(t, l, dir)
	if !slices.Equal(third.VirtualServices, second.VirtualServices) {
		t.Error("blocks have new pointers after a policy with errors")
	}

	// A variable that no block uses decodes everything again, and gives the same blocks.
	writeFile(t, dir, "vars.hcl", "variable \"x\" { default = 1 }\n")
	if fourth := mustLoad(t, l, dir); !slices.Equal(fourth.VirtualServices, second.VirtualServices) {
		t.Error("blocks have new pointers although their values are equal")
	}

	// A block that moves says where it is now.
	writeFile(t, dir, "b.hcl", "\n"+tenBlocks(4)+"mesh { domain = \"corp\" }\n")
	if fifth := mustLoad(t, l, dir); fifth.VirtualServices[19].Origin != "b.hcl:92" {
		t.Errorf("origin is %s", fifth.VirtualServices[19].Origin)
	}
}

func TestWhatOtherFilesSayIsSeen(t *testing.T) {
	dir := t.TempDir()
	writeFile(t, dir, "a.hcl", `
virtual_service "a" {
  hosts = ["a.corp"]
  http "a" {
    match { headers = { motd = file("motd.txt"), local = local.x } }
    route { host = "a" }
  }
}
`)
	writeFile(t, dir, "motd.txt", "one")
	writeFile(t, dir, "b.hcl", "locals { x = \"one\" }\nmesh { domain = \"corp\" }\n")
	l := NewLoader(Options{})
	header := func(p *Policy, name string) string { return *p.VirtualServices[0].HTTP[0].Match[0].Headers[name].Exact }
	if p := mustLoad(t, l, dir); header(p, "motd") != "one" || header(p, "local") != "one" {
		t.Fatalf("%v", p.VirtualServices[0].HTTP[0].Match[0].Headers)
	}
	writeFile(t, dir, "motd.txt", "two")
	if p := mustLoad(t, l, dir); header(p, "motd") != "two" {
		t.Error("a text that file() reads changed, and the block did not")
	}
	writeFile(t, dir, "b.hcl", "locals { x = \"two\" }\nmesh { domain = \"corp\" }\n")
	if p := mustLoad(t, l, dir); header(p, "local") != "two" {
		t.Error("a local changed, and the block did not")
	}
	writeFile(t, dir, "b.hcl", "locals { x = \"two\" }\nmesh { domain = \"mesh\" }\n")
	if p, diags := l.Load(dir); !diags.HasErrors() {
		t.Errorf("a.corp is no service any more: %v", p.VirtualServices[0].Hosts)
	}
	writeFile(t, dir, "b.hcl", "locals { x = \"two\" }\nmesh { domain = \"corp\" }\nnamespace \"shop\" { path = \".\" }\n")
	if p := mustLoad(t, l, dir); p.VirtualServices[0].Namespace != "shop" || p.VirtualServices[0].Hosts[0].Namespace != "shop" {
		t.Error("the folder got a namespace, and the block did not")
	}
	if err := os.Remove(filepath.Join(dir, "motd.txt")); err != nil {
		t.Fatal(err)
	}
	if _, diags := l.Load(dir); !diags.HasErrors() {
		t.Error("a text that file() reads is gone, and nothing is wrong")
	}
}

func TestAFolderThatComesAndGoes(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "policy")
	l := NewLoader(Options{})
	if p, diags := l.Load(dir); p != nil || diags[0].Code != codeFolder {
		t.Fatalf("a missing folder gives %v, %v", p, diags)
	}
	writeFile(t, dir, "a.hcl", tenBlocks(-1))
	first := mustLoad(t, l, dir)
	if err := os.Rename(dir, dir+".away"); err != nil {
		t.Fatal(err)
	}
	if p, _ := l.Load(dir); p != nil {
		t.Error("the folder is gone, and the policy is not")
	}
	if err := os.Rename(dir+".away", dir); err != nil {
		t.Fatal(err)
	}
	if again := mustLoad(t, l, dir); !slices.Equal(again.VirtualServices, first.VirtualServices) {
		t.Error("blocks have new pointers after the folder was away")
	}
	if err := os.Remove(filepath.Join(dir, "a.hcl")); err != nil {
		t.Fatal(err)
	}
	if p, diags := l.Load(dir); p == nil || len(p.VirtualServices) != 0 || diags[0].Code != codeNoPolicy {
		t.Errorf("an empty folder gives %v, %v", p, diags)
	}
}

// Diagnostics of later stages, which know only an origin, get their source line.
func TestLocateAddsTheSourceLine(t *testing.T) {
	dir := t.TempDir()
	writeFile(t, dir, "a.hcl", tenBlocks(-1))
	l := NewLoader(Options{})
	mustLoad(t, l, dir)
	got := l.Locate(Diagnostics{NewDiagnostic(Error, "W2001", "a.hcl:5", "s", "d"), NewDiagnostic(Error, "W2001", "consul", "s", "d")})
	if got[0].File != "a.hcl" || got[0].Line != 5 || got[0].Snippet != "    route { host = \"s-0\" }" || got[1].File != "consul" {
		t.Errorf("%+v", got)
	}
}

// blocksOf are blocks that do not depend on their order.
var blocksOf = []string{
	"mesh { domain = \"corp\" }\n", "locals { x = 1 }\n", "locals { y = local.x }\n", "variable \"v\" { default = \"3s\" }\n",
	"virtual_service \"a\" {\n  hosts = [\"a.corp\"]\n  gateways = [\"mesh\", \"g\"]\n  http \"x\" {\n    timeout = var.v\n    route {\n      host = \"a\"\n      subset = \"v1\"\n    }\n  }\n}\n",
	"virtual_service \"b\" {\n  namespace = \"z\"\n  hosts = [\"b\"]\n  http \"x\" {\n    route { host = \"b\" }\n  }\n}\n",
	"destination_rule \"a\" {\n  host = \"a\"\n  subset \"v1\" { labels = { v = \"v${local.y}\" } }\n}\n",
	"gateway \"g\" {\n  run_on = [\"h1\"]\n  server \"s\" { port = 80 }\n}\n",
	"host \"h1\" { address = \"10.0.0.1\" }\n", "host \"h2\" {\n  address = \"10.0.0.2\"\n  service \"w\" { port = 80 }\n}\n",
	"service \"out\" {\n  port = 80\n  endpoint { address = \"10.9.0.1\" }\n}\n",
}

// In which files and in what order blocks stand changes nothing but their origins.
func TestOrderOfFilesAndBlocksDoesNotMatter(t *testing.T) {
	var want string
	rapid.Check(t, func(rt *rapid.T) {
		dir := t.TempDir()
		files := map[string]string{}
		for _, block := range rapid.Permutation(blocksOf).Draw(rt, "blocks") {
			files[rapid.SampledFrom([]string{"a.hcl", "b.hcl", "sub/c.hcl", "z.hcl"}).Draw(rt, "file")] += block
		}
		for _, name := range slices.Sorted(maps.Keys(files)) {
			writeFile(t, dir, name, files[name])
		}
		p, diags := Load(dir)
		if len(diags) > 0 {
			rt.Fatal(diags)
		}
		b, err := json.Marshal(p)
		if err != nil {
			rt.Fatal(err)
		}
		got := regexpOrigin.ReplaceAllString(string(b), "")
		if want == "" {
			want = got
		}
		if got != want {
			rt.Fatalf("got  %s\nwant %s", got, want)
		}
	})
}

// Whatever a Loader has seen before, it gives what a new one gives.
func TestALoaderForgetsNothingWrong(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		dir := t.TempDir()
		l := NewLoader(Options{})
		names := []string{"a.hcl", "b.hcl", "c.json", "sub/d.hcl"}
		texts := append([]string{"", "broken {", "{}", "virtual_service \"a\" {\n  hosts = [var.v]\n  http \"x\" {\n    route { host = \"a\" }\n  }\n}\n"}, blocksOf...)
		for range rapid.IntRange(1, 6).Draw(rt, "steps") {
			name := rapid.SampledFrom(names).Draw(rt, "name")
			if text := rapid.SampledFrom(texts).Draw(rt, "text"); text == "" {
				_ = os.Remove(filepath.Join(dir, name))
			} else {
				writeFile(t, dir, name, text)
			}
			got, gotDiags := l.Load(dir)
			want, wantDiags := Load(dir)
			if !reflect.DeepEqual(got, want) || !reflect.DeepEqual(gotDiags, wantDiags) {
				rt.Fatalf("after %s:\ngot  %v\nwant %v", name, gotDiags, wantDiags)
			}
		}
	})
}

// The agent sends services as JSON.
func TestServicesSurviveJSON(t *testing.T) {
	for _, a := range archives(t) {
		if a.isWrong() {
			continue
		}
		p, _ := a.load()
		b, err := json.Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		var back Policy
		if err := json.Unmarshal(b, &back); err != nil {
			t.Fatalf("%s: %v", a.path, err)
		}
		again, err := json.Marshal(&back)
		if err != nil {
			t.Fatal(err)
		}
		if string(again) != string(b) {
			t.Errorf("%s: %s", a.path, Diff("policy.json", b, again))
		}
		for i, s := range p.Services {
			if !reflect.DeepEqual(s, back.Services[i]) {
				t.Errorf("%s: service %s differs", a.path, s.Name)
			}
		}
	}
}
