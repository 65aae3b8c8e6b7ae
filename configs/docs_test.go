package configs

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

const (
	docsFile  = "../docs/policy.md"
	docsBegin = "<!-- What follows is made from the tables in configs/schema_*.go: go test ./configs -run TestDocs -update -->\n"
)

// The reference in docs/policy.md is what the tables say.
func TestDocs(t *testing.T) {
	text, err := os.ReadFile(docsFile)
	if err != nil {
		t.Fatal(err)
	}
	prose, old, ok := strings.Cut(string(text), docsBegin)
	if !ok {
		t.Fatalf("%s has no line %s", docsFile, docsBegin)
	}
	got := reference()
	if *update {
		if err := os.WriteFile(docsFile, []byte(prose+docsBegin+got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if got != old {
		t.Errorf("%s is not what the tables say; run go test ./configs -run TestDocs -update\n%s", docsFile, Diff("policy.md", []byte(old), []byte(got)))
	}
}

// Every block, label and attribute is documented, with what holds without it.
func TestEverythingIsDocumented(t *testing.T) {
	seen := map[*shape]bool{}
	var check func(path string, s *shape)
	check = func(path string, s *shape) {
		if seen[s] {
			return
		}
		seen[s] = true
		if s.doc == "" {
			t.Errorf("%s is not documented", path)
		}
		for _, f := range append(append([]fieldDoc{}, s.labels...), s.attrs...) {
			if f.doc == "" || f.kind == "" {
				t.Errorf("%s.%s is not documented", path, f.name)
			}
			if f.required && f.absent != "" {
				t.Errorf("%s.%s is required and has a default", path, f.name)
			}
		}
		for _, b := range s.blocks {
			if b.doc == "" {
				t.Errorf("%s.%s is not documented", path, b.name)
			}
			check(path+"."+b.name, b.shape())
		}
	}
	check("policy", fileBlock.shape)
	check("server", serverBlock.shape)
	check("agent", agentBlock.shape)
}

// pages are those for people who write policy.
func pages(t *testing.T) map[string]string {
	t.Helper()
	all := map[string]string{}
	for _, pattern := range []string{"../README.md", "../docs/*.md", "../examples/*/README.md"} {
		names, err := filepath.Glob(pattern)
		if err != nil || len(names) == 0 {
			t.Fatalf("%s: %v, %v", pattern, names, err)
		}
		for _, name := range names {
			text, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			all[name] = string(text)
		}
	}
	return all
}

var (
	codeBlock  = regexp.MustCompile("(?ms)^( *)```(hcl)?([^\n]*)\n(.*?)^ *```$")
	inlineCode = regexp.MustCompile("`([^`\n]+)`")
	looksHCL   = regexp.MustCompile(`^[a-z_0-9]+( "[^"]*")* (=|\{)`)
)

// The examples in the documentation are policies without errors and in the canonical style. After "hcl" an example
// may say that it is no policy: "server", "agent", "services", or "rule" for what stands in a virtual service's rule.
func TestExamplesInTheDocumentation(t *testing.T) {
	n := 0
	for page, text := range pages(t) {
		for _, e := range codeBlock.FindAllStringSubmatch(text, -1) {
			if e[2] != "hcl" {
				continue
			}
			n++
			example := regexp.MustCompile("(?m)^"+e[1]).ReplaceAllString(e[4], "")
			checkExample(t, page, strings.TrimSpace(e[3]), example)
		}
	}
	if n < 8 {
		t.Errorf("only %d examples", n)
	}
}

func checkExample(t *testing.T, page, what, example string) {
	t.Helper()
	dir := t.TempDir()
	path := filepath.Join(dir, "example.hcl")
	text, load := example, Load
	switch what {
	case "":
	case "server":
		load = func(string) (*Policy, Diagnostics) { _, diags := LoadServer(path); return nil, diags }
	case "agent":
		load = func(string) (*Policy, Diagnostics) { _, diags := LoadAgent(path); return nil, diags }
	case "services":
		load = ParseServices
	case "rule":
		text = "virtual_service \"x\" {\n  hosts = [\"x\"]\n  http \"x\" {\n    route { host = \"x\" }\n" + example + "  }\n}\n"
	default:
		t.Errorf("%s: an example of no known kind %q", page, what)
	}
	writeFile(t, dir, "example.hcl", text)
	if _, diags := load(dir); len(diags) > 0 {
		t.Errorf("%s: %v\n%s", page, diags, example)
	}
	if formatted, diags := Format("example.hcl", []byte(example)); len(diags) > 0 || string(formatted) != example {
		t.Errorf("%s: not in the canonical style: %v\n%s", page, diags, Diff("example", []byte(example), formatted))
	}
}

// What stands in a line of text and looks like HCL can be copied into a file. "..." stands for what is left out.
func TestInlineExamplesInTheDocumentation(t *testing.T) {
	n := 0
	for page, text := range pages(t) {
		for _, e := range inlineCode.FindAllStringSubmatch(codeBlock.ReplaceAllString(text, ""), -1) {
			if !looksHCL.MatchString(e[1]) {
				continue
			}
			n++
			example := strings.ReplaceAll(strings.ReplaceAll(e[1], "= ...", "= 0"), "...", "")
			if _, diags := Format("example.hcl", []byte(example)); len(diags) > 0 {
				t.Errorf("%s: `%s` is no HCL: %v", page, e[1], diags)
			}
		}
	}
	if n < 10 {
		t.Errorf("only %d examples", n)
	}
}

// reference is everything that the tables say.
func reference() string {
	var b strings.Builder
	b.WriteString("\n## Reference: blocks of a policy\n\nAn attribute without default that is not required may be left out.\n")
	r := &referee{b: &b, known: map[*shape]string{}}
	r.index(fileBlock.shape)
	for _, block := range fileBlock.shape.blocks {
		if where, ok := r.known[block.shape()]; ok {
			fmt.Fprintf(&b, "\n### `%s`\n\n%s It is written as [`%s`](#%s).\n", head(block), block.shape().doc, where, anchor(where))
			continue
		}
		r.block(block, block.name, 3)
	}
	b.WriteString("\n## Reference: the server's file\n")
	r.body(serverBlock.shape, "", 3)
	b.WriteString("\n## Reference: the agent's file\n")
	r.body(agentBlock.shape, "", 3)
	b.WriteString("\n## Reference: functions\n\nThey are those of HCL's standard library, as known from other tools, less those that look outside.\n\n")
	for i, name := range functionNames() {
		if i > 0 {
			b.WriteString(", ")
		}
		fmt.Fprintf(&b, "`%s`", name)
	}
	b.WriteString(".\n\n## Reference: diagnostics\n\n`wattle explain CODE` prints the same.\n\n| code | what | explanation | what to do |\n|---|---|---|---|\n")
	for _, c := range Codes() {
		fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", c.Code, c.Title, cell(c.Explain), cell(c.Remedy))
	}
	return b.String()
}

// referee writes the reference of blocks, each once.
type referee struct {
	b     *strings.Builder
	known map[*shape]string // where it is documented
}

// index lists what may stand in a file.
func (r *referee) index(s *shape) {
	r.b.WriteString("\n| block | what |\n|---|---|\n")
	for _, b := range s.blocks {
		fmt.Fprintf(r.b, "| [`%s`](#%s) | %s |\n", head(b), anchor(head(b)), cell(b.doc))
	}
}

func head(b blockDoc) string {
	s := b.name
	for _, l := range b.shape().labels {
		s += fmt.Sprintf(" %q", strings.ToUpper(l.name))
	}
	return s
}

func anchor(s string) string {
	return strings.ReplaceAll(regexp.MustCompile(`[^a-z0-9 _-]`).ReplaceAllString(strings.ToLower(s), ""), " ", "-")
}

func (r *referee) block(b blockDoc, path string, level int) {
	title := strings.TrimSuffix(path, b.name) + head(b)
	r.known[b.shape()] = title
	fmt.Fprintf(r.b, "\n%s `%s`\n\n%s\n", strings.Repeat("#", min(level, 5)), title, b.shape().doc)
	r.body(b.shape(), path, level+1)
}

func (r *referee) body(s *shape, path string, level int) {
	if len(s.labels)+len(s.attrs) > 0 {
		r.b.WriteString("\n| attribute | type | without it | meaning |\n|---|---|---|---|\n")
	}
	for _, l := range s.labels {
		fmt.Fprintf(r.b, "| label *%s* | %s | required | %s |\n", l.name, kindCell(l), cell(l.doc))
	}
	for _, a := range s.attrs {
		absent := a.absent
		switch {
		case a.required:
			absent = "required"
		case strings.HasPrefix(absent, "["), absent != "" && !strings.ContainsAny(absent, "` "):
			absent = "`" + absent + "`"
		}
		fmt.Fprintf(r.b, "| `%s` | %s | %s | %s |\n", a.name, kindCell(a), cell(absent), cell(a.doc))
	}
	if len(s.blocks) == 0 {
		return
	}
	r.b.WriteString("\n| block | how often | meaning |\n|---|---|---|\n")
	for _, b := range s.blocks {
		often := map[[2]bool]string{{false, false}: "at most once", {false, true}: "once", {true, false}: "any number", {true, true}: "at least one"}[[2]bool{b.many, b.required}]
		fmt.Fprintf(r.b, "| `%s` | %s | %s |\n", head(b), often, cell(b.doc))
	}
	for _, b := range s.blocks {
		inner := b.name
		if path != "" {
			inner = path + "." + b.name
		}
		if where, ok := r.known[b.shape()]; ok {
			fmt.Fprintf(r.b, "\n`%s` is the same as [`%s`](#%s).\n", inner, where, anchor(where))
			continue
		}
		r.block(b, inner, level)
	}
}

func kindCell(f fieldDoc) string {
	if f.hint == "" {
		return f.kind
	}
	return cell(f.kind + ": " + f.hint)
}

func cell(s string) string { return strings.ReplaceAll(s, "|", `\|`) }
