package configs

import (
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/tools/txtar"
)

var update = flag.Bool("update", false, "rewrite what tests want")

const (
	wantPolicy      = "want/policy.json"
	wantDiagnostics = "want/diagnostics.txt"
)

// archive is a folder of policy files with what is wanted of it. The file "options" may say, a line each:
//
//	services                  the folder is one of services
//	var NAME=VALUE            a variable's value
//	symlink NAME TARGET       a symbolic link
//	big NAME BYTES            a file of comments
//	repeat NAME COUNT TEXT    a file that repeats a text
//	bytes NAME HEX            a file of bytes
type archive struct {
	path     string
	txt      *txtar.Archive
	dir      string
	opts     Options
	services bool
}

func archives(t *testing.T) []*archive {
	t.Helper()
	paths, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no archives: %v", err)
	}
	var all []*archive
	for _, path := range paths {
		txt, err := txtar.ParseFile(path)
		if err != nil {
			t.Fatal(err)
		}
		a := &archive{path: path, txt: txt, dir: t.TempDir(), opts: Options{Vars: map[string]string{}}}
		for _, f := range txt.Files {
			switch {
			case f.Name == "options":
				a.options(t, string(f.Data))
			case !strings.HasPrefix(f.Name, "want/"):
				writeFile(t, a.dir, f.Name, string(f.Data))
			}
		}
		all = append(all, a)
	}
	return all
}

func (a *archive) options(t *testing.T, text string) {
	t.Helper()
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		switch words[0] {
		case "services":
			a.services = true
		case "var":
			name, value, _ := strings.Cut(words[1], "=")
			a.opts.Vars[name] = value
		case "symlink":
			path := filepath.Join(a.dir, words[1])
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink(words[2], path); err != nil {
				t.Fatal(err)
			}
		case "big":
			n, _ := strconv.Atoi(words[2])
			writeFile(t, a.dir, words[1], strings.Repeat("# a long comment\n", n/17+1))
		case "repeat":
			n, _ := strconv.Atoi(words[2])
			text, err := strconv.Unquote(strings.TrimSpace(strings.SplitN(line, " ", 4)[3]))
			if err != nil {
				t.Fatal(err)
			}
			writeFile(t, a.dir, words[1], strings.Repeat(text, n))
		case "bytes":
			b, err := hex.DecodeString(words[2])
			if err != nil {
				t.Fatal(err)
			}
			writeFile(t, a.dir, words[1], string(b))
		default:
			t.Fatalf("%s: unknown option %q", a.path, line)
		}
	}
}

func (a *archive) load() (*Policy, Diagnostics) {
	l := NewLoader(a.opts)
	if a.services {
		return l.LoadServices(a.dir)
	}
	return l.Load(a.dir)
}

// isWrong reports whether the archive is about a policy with errors.
func (a *archive) isWrong() bool { return strings.HasPrefix(filepath.Base(a.path), "wrong_") }

// results loads an archive and returns what it gives, as text.
func (a *archive) results(t *testing.T) (policy, diagnostics string) {
	t.Helper()
	p, diags := a.load()
	if diags.HasErrors() != a.isWrong() {
		t.Errorf("the archive's name does not fit: %v", diags)
	}
	if (p == nil) != diags.HasErrors() {
		t.Errorf("policy %v with diagnostics %v", p, diags)
	}
	if p != nil {
		b, err := json.MarshalIndent(p, "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		policy = string(b) + "\n"
	}
	var b strings.Builder
	if err := diags.WriteText(&b, false); err != nil {
		t.Fatal(err)
	}
	return policy, strings.ReplaceAll(b.String(), a.dir, "DIR")
}

func TestGolden(t *testing.T) {
	for _, a := range archives(t) {
		t.Run(strings.TrimSuffix(filepath.Base(a.path), ".txtar"), func(t *testing.T) {
			policy, diagnostics := a.results(t)
			if *update {
				a.rewrite(t, policy, diagnostics)
				return
			}
			want := map[string]string{}
			for _, f := range a.txt.Files {
				want[f.Name] = string(f.Data)
			}
			if policy != want[wantPolicy] {
				t.Errorf("policy:\n%s", Diff(wantPolicy, []byte(want[wantPolicy]), []byte(policy)))
			}
			if diagnostics != want[wantDiagnostics] {
				t.Errorf("diagnostics:\n%s", Diff(wantDiagnostics, []byte(want[wantDiagnostics]), []byte(diagnostics)))
			}
		})
	}
}

func (a *archive) rewrite(t *testing.T, policy, diagnostics string) {
	t.Helper()
	a.txt.Files = slices.DeleteFunc(a.txt.Files, func(f txtar.File) bool { return strings.HasPrefix(f.Name, "want/") })
	for _, f := range []txtar.File{{Name: wantPolicy, Data: []byte(policy)}, {Name: wantDiagnostics, Data: []byte(diagnostics)}} {
		if len(f.Data) > 0 {
			a.txt.Files = append(a.txt.Files, f)
		}
	}
	if err := os.WriteFile(a.path, txtar.Format(a.txt), 0o644); err != nil {
		t.Fatal(err)
	}
}

// toDo matches a sentence that tells the reader to do something: that begins, or goes on after a condition, with one
// of the verbs that remedies use.
var toDo = regexp.MustCompile(`(^|[.:;,?] |\b(or|and|then|may) )(Add|Ask|Check|Choose|Compute|Copy|Correct|Declare|Each of them|Give|Join|Keep|Leave|Make|Match|Mend|Move|Name|Put|Rename|Remove|Report|Route|Run|Save|Say|Spread|Take|Tell|Use|Write|` +
	`add|choose|correct|declare|give|join|leave|make|mend|move|name|place|put|register|remove|rename|say|use|write)\b|Did you mean|Do you mean`)

func saysWhatToDo(text string) bool { return toDo.MatchString(text) }

// Every code is in the table, and every code of this package appears in an archive.
func TestEveryCodeIsExplainedAndShown(t *testing.T) {
	seen := map[string]bool{}
	for _, a := range archives(t) {
		_, diags := a.load()
		for _, d := range diags {
			seen[d.Code] = true
			if _, ok := Explain(d.Code); !ok {
				t.Errorf("%s: code %s is not explained", a.path, d.Code)
			}
			if d.Summary == "" || !saysWhatToDo(d.Detail) {
				t.Errorf("%s: %s has no summary or no remedy: %q", a.path, d, d.Detail)
			}
		}
	}
	_, diags := Load(filepath.Join(t.TempDir(), "missing"))
	seen[diags[0].Code] = true
	server := filepath.Join(t.TempDir(), "server.hcl") // whose codes no policy shows
	if err := os.WriteFile(server, []byte("registry \"static\" \"x\" {\n exclude {\n names = [\"[\"]\n filter = \"(\"\n }\n}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, diags = LoadServer(server)
	diags = append(diags, Vanished("registry", "x", "server.hcl", time.Now()))
	for _, d := range append(diags, loadRemoved(t)...) {
		seen[d.Code] = true
	}
	if !slices.IsSortedFunc(Codes(), func(a, b Code) int { return strings.Compare(a.Code, b.Code) }) {
		t.Error("the codes are not in order")
	}
	for _, c := range Codes() {
		if strings.HasPrefix(c.Code, "W1") && !seen[c.Code] {
			t.Errorf("no archive shows %s: %s", c.Code, c.Title)
		}
		if c.Title == "" || c.Explain == "" || !saysWhatToDo(c.Remedy) {
			t.Errorf("code %s has no title, no explanation or no remedy: %q", c.Code, c.Remedy)
		}
		if !strings.Contains(c.String(), "What to do: "+c.Remedy) {
			t.Errorf("wattle explain %s does not say what to do", c.Code)
		}
	}
}

// Every attribute and block is set in an archive without errors.
func TestEveryFieldIsShown(t *testing.T) {
	seen := map[string]bool{}
	for _, a := range archives(t) {
		if a.isWrong() {
			continue
		}
		root, entries, _ := openFolder(a.dir)
		root.Close()
		for _, e := range entries {
			data, err := os.ReadFile(filepath.Join(a.dir, e.path))
			if err != nil {
				t.Fatal(err)
			}
			tree := parse(&source{path: e.path, data: data}, fileBlock.shape)
			tick(seen, "", native{tree.body}, fileBlock.shape)
		}
	}
	for path := range seen { // a service's fields are the same in a host and alone
		if rest, ok := strings.CutPrefix(path, ".host.service."); ok {
			seen[".service."+rest] = true
		} else if rest, ok := strings.CutPrefix(path, ".service."); ok {
			seen[".host.service."+rest] = true
		}
	}
	for _, path := range fieldPaths("", fileBlock.shape) {
		if !seen[path] {
			t.Errorf("no archive sets %s", path)
		}
	}
}

func tick(seen map[string]bool, path string, n native, s *shape) {
	for name := range n.Attributes {
		seen[path+"."+name] = true
	}
	for _, b := range n.Blocks {
		if inner := s.inner(b.Type); inner != nil {
			seen[path+"."+b.Type] = true
			tick(seen, path+"."+b.Type, native{b.Body}, inner.shape())
		}
	}
}

func fieldPaths(path string, s *shape) []string {
	var out []string
	for _, a := range s.attrs {
		out = append(out, path+"."+a.name)
	}
	for _, b := range s.blocks {
		out = append(out, path+"."+b.name)
		out = append(out, fieldPaths(path+"."+b.name, b.shape())...)
	}
	return out
}

var originPattern = regexp.MustCompile(` *"origin": "[^"]*",?\n`)

// The JSON form of a policy file gives the same policy as the native one.
func TestJSONFormGivesTheSamePolicy(t *testing.T) {
	load := func(name, text string) string {
		dir := t.TempDir()
		writeFile(t, dir, name, text)
		p, diags := Load(dir)
		if len(diags) > 0 {
			t.Fatal(diags)
		}
		b, err := json.MarshalIndent(p, "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		return originPattern.ReplaceAllString(string(b), "")
	}
	native := load("a.hcl", `
variable "n" {
  type    = number
  default = 90
}
locals { v1 = "v${1}" }
virtual_service "reviews" {
  hosts = ["reviews"]
  http "all" {
    match { headers = { "x-a" = { regex = "a+" } } }
    dynamic "route" {
      for_each = { (local.v1) = var.n, v3 = 10 }
      iterator = it
      content {
        host   = "reviews"
        subset = it.key
        weight = it.value
      }
    }
  }
}
destination_rule "reviews" {
  host = "reviews"
  subset "v1" { labels = { version = "v1" } }
  subset "v3" { labels = { version = "v3" } }
}
`)
	jsonForm := load("a.hcl.json", `{
  "//": "a comment",
  "variable": {"n": {"type": "number", "default": 90}},
  "locals": {"v1": "v${1}"},
  "virtual_service": {"reviews": {
    "hosts": ["reviews"],
    "http": {"all": {
      "match": {"headers": {"x-a": {"regex": "a+"}}},
      "dynamic": {"route": {
        "for_each": {"${local.v1}": "${var.n}", "v3": 10},
        "iterator": "it",
        "content": {"host": "reviews", "subset": "${it.key}", "weight": "${it.value}"}
      }}
    }}
  }},
  "destination_rule": {"reviews": {
    "host": "reviews",
    "subset": [{"v1": {"labels": {"version": "v1"}}}, {"v3": {"labels": {"version": "v3"}}}]
  }}
}`)
	if native != jsonForm {
		t.Error(Diff("policy", []byte(native), []byte(jsonForm)))
	}
	if !strings.Contains(native, `"weight": 90`) {
		t.Error(fmt.Errorf("no weight in %s", native))
	}
}

// regexpOrigin matches origins in compact JSON.
var regexpOrigin = regexp.MustCompile(`"origin":"[^"]*",?`)
