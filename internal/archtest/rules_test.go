package archtest

import (
	"fmt"
	"go/ast"
	"maps"
	"path"
	"slices"
	"strings"
)

// maxLines is where a file is split by noun; see STYLE.md.
const maxLines = 600

// faults lists everything in the tree that breaks a rule, in the order of the folders.
func (t *tree) faults(ours map[string][]string) []string {
	var out []string
	for _, folder := range slices.Sorted(maps.Keys(t.folders)) {
		files := t.folders[folder]
		may, known := ours[folder]
		if !known {
			out = append(out, fmt.Sprintf("%s: the package is not in the table in internal/archtest; put it in and say what it may import", folder))
		}
		for _, f := range files {
			if !f.test {
				out = append(out, importFaults(folder, f, may, known)...)
			}
			out = append(out, t.sourceFaults(f)...)
		}
	}
	return append(out, t.agentFaults()...)
}

// importFaults lists the imports of a file that the table does not have, or that a rule forbids.
func importFaults(folder string, f *file, may []string, known bool) []string {
	var out []string
	for _, p := range f.imports() {
		if inside, ok := strings.CutPrefix(p, module+"/"); ok && known && !matchAny(may, inside) {
			out = append(out, fmt.Sprintf("%s: imports %s, which the table in internal/archtest does not allow for %s", f.path, inside, folder))
		}
		for _, r := range never {
			if matchAny(r.who, folder) && !matchAny(r.but, folder) && matchAny(r.what, p) && !matchAny(r.unless, p) {
				out = append(out, fmt.Sprintf("%s: imports %s: %s", f.path, p, r.why))
			}
		}
	}
	return out
}

// sourceFaults lists what may stand in no file that people write.
func (t *tree) sourceFaults(f *file) []string {
	if f.generated {
		return nil
	}
	var out []string
	if name := strings.TrimSuffix(f.ast.Name.Name, "_test"); slices.Contains(banned, name) {
		out = append(out, fmt.Sprintf("%s: package %s: the name says nothing", f.path, name))
	}
	if f.lines > maxLines {
		out = append(out, fmt.Sprintf("%s: %d lines: split it by noun", f.path, f.lines))
	}
	ast.Inspect(f.ast, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.FuncDecl:
			if n.Recv == nil && n.Name.Name == "init" {
				out = append(out, t.at(n)+": func init: wire it up where it is used")
			}
		case *ast.SelectorExpr:
			if why := selectorFault(f, n); why != "" {
				out = append(out, t.at(n)+": "+why)
			}
		}
		return true
	})
	return out
}

// fakeClock reports whether a test runs in a bubble of its own time, in which to sleep is to say what time it is.
func (f *file) fakeClock() bool {
	return f.test && slices.ContainsFunc(f.ast.Imports, func(i *ast.ImportSpec) bool { return i.Path.Value == `"testing/synctest"` })
}

// selectorFault says what is wrong with x.Name.
func selectorFault(f *file, s *ast.SelectorExpr) string {
	x, ok := s.X.(*ast.Ident)
	if !ok {
		return ""
	}
	switch {
	case x.Name == "time" && s.Sel.Name == "Sleep" && !f.fakeClock():
		return "time.Sleep: wait for a condition, or for a timer and the context"
	case f.test && slices.Contains([]string{"t", "b", "f", "tb"}, x.Name) && slices.Contains([]string{"Skip", "Skipf", "SkipNow"}, s.Sel.Name):
		return "a test that skips proves nothing: make what it needs, or fail"
	}
	return ""
}

// agentFaults lists where the agent uses more of the translator than its resources.
func (t *tree) agentFaults() []string {
	allowed := map[string]bool{}
	for _, f := range t.folders[path.Dir(agentMayUse)] {
		if f.path == agentMayUse {
			for name := range f.ast.Scope.Objects {
				allowed[name] = true
			}
		}
	}
	var out []string
	for _, f := range t.folders[agentPackage] {
		if f.test {
			continue
		}
		ast.Inspect(f.ast, func(n ast.Node) bool {
			s, ok := n.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			if x, ok := s.X.(*ast.Ident); ok && x.Name == "translator" && !allowed[s.Sel.Name] {
				out = append(out, fmt.Sprintf("%s: translator.%s: the agent knows resources, not how they are made", t.at(n), s.Sel.Name))
			}
			return true
		})
	}
	return out
}
