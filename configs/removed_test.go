package configs

import (
	"os"
	"path/filepath"
	"testing"
)

const (
	routeA = "virtual_service \"a\" {\n  hosts = [\"a\"]\n  http \"x\" {\n    route { host = \"a\" }\n  }\n}\n"
	ruleA  = "destination_rule \"a\" {\n  host = \"a\"\n}\n"
)

func removeFile(t *testing.T, dir, name string) {
	t.Helper()
	if err := os.Remove(filepath.Join(dir, name)); err != nil {
		t.Fatal(err)
	}
}

// loadRemoved loads a folder of which a file in force was removed.
func loadRemoved(t *testing.T) Diagnostics {
	t.Helper()
	dir := t.TempDir()
	writeFile(t, dir, "a.hcl", routeA)
	l := NewLoader(Options{})
	mustLoad(t, l, dir)
	l.InForce()
	removeFile(t, dir, "a.hcl")
	_, diags := l.Load(dir)
	return diags
}

func TestAFileInForceThatIsRemovedIsAnErrorUntilItIsMeant(t *testing.T) {
	dir := t.TempDir()
	writeFile(t, dir, "mesh.hcl", "mesh { domain = \"corp\" }\n")
	writeFile(t, dir, "sub/a.hcl", "\n"+routeA+ruleA)
	writeFile(t, dir, "out.json", `{"service": {"out": {"port": 80, "endpoint": {"address": "10.9.0.1"}}}}`)
	l := NewLoader(Options{})
	first := mustLoad(t, l, dir)
	l.InForce()

	removeFile(t, dir, "sub/a.hcl")
	removeFile(t, dir, "mesh.hcl")
	removeFile(t, dir, "out.json")
	for range 2 { // the result is kept
		p, diags := l.Load(dir)
		if p != nil || len(diags) != 4 {
			t.Fatalf("%v, %v", p, diags)
		}
		for i, want := range []string{
			"error W1406: no policy files in " + dir,
			"mesh.hcl:1:1: error W1408: mesh.hcl was removed while it is in force, with mesh",
			"out.json:1:2: error W1408: out.json was removed while it is in force, with service out",
			"sub/a.hcl:2:1: error W1408: sub/a.hcl was removed while it is in force, with virtual_service a, destination_rule a",
		} {
			if got := diags[i]; got.Severity == Error && (got.String() != want || got.Snippet == "" || got.Detail == "") {
				t.Errorf("got %s, %q, want %s", got, got.Snippet, want)
			}
		}
	}
	writeFile(t, dir, "sub/a.hcl", "\n"+routeA+ruleA)
	writeFile(t, dir, "mesh.hcl", "mesh { domain = \"corp\" }\n")
	writeFile(t, dir, "out.json", `{"service": {"out": {"port": 80, "endpoint": {"address": "10.9.0.1"}}}}`)
	if again := mustLoad(t, l, dir); again.VirtualServices[0] != first.VirtualServices[0] {
		t.Error("a block that was away has a new pointer")
	}

	// Saying so holds for one load.
	removeFile(t, dir, "sub/a.hcl")
	if p, _ := l.Load(dir); p != nil {
		t.Fatal("a removed file is no error")
	}
	l.AllowRemovals()
	if p := mustLoad(t, l, dir); len(p.VirtualServices) != 0 {
		t.Errorf("%v", p.VirtualServices)
	}
	l.InForce()
	mustLoad(t, l, dir)
	removeFile(t, dir, "out.json")
	if p, _ := l.Load(dir); p != nil {
		t.Error("the next removed file is no error")
	}
}

func TestAFileWhoseBlocksAreElsewhereMayGo(t *testing.T) {
	dir := t.TempDir()
	writeFile(t, dir, "a.hcl", routeA+ruleA)
	writeFile(t, dir, "empty.hcl", "# nothing\n")
	l := NewLoader(Options{})
	mustLoad(t, l, dir)
	l.InForce()

	removeFile(t, dir, "empty.hcl")
	mustLoad(t, l, dir)
	removeFile(t, dir, "a.hcl")
	writeFile(t, dir, "b.hcl", routeA)
	if p, diags := l.Load(dir); p != nil || diags.Error() != "a.hcl:7:1: error W1408: a.hcl was removed while it is in force, with destination_rule a" {
		t.Errorf("%v, %v", p, diags)
	}
	writeFile(t, dir, "c.hcl", ruleA)
	mustLoad(t, l, dir)
	l.InForce()

	// A file that was emptied first is meant to go. One that was only broken is not.
	writeFile(t, dir, "c.hcl", "destination_rule {\n")
	if p, _ := l.Load(dir); p != nil {
		t.Fatal("a broken file loads")
	}
	removeFile(t, dir, "c.hcl")
	if p, _ := l.Load(dir); p != nil {
		t.Error("a broken file that is removed takes its blocks with it")
	}
	writeFile(t, dir, "c.hcl", "")
	mustLoad(t, l, dir)
	l.InForce()
	removeFile(t, dir, "c.hcl")
	mustLoad(t, l, dir)
}
