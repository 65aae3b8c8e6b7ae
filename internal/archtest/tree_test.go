package archtest

import (
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"strconv"
	"strings"
)

const module = "github.com/wattle-mesh/wattle"

// file is one parsed Go file.
type file struct {
	path      string // from the root of the module
	ast       *ast.File
	test      bool
	generated bool
	lines     int
}

// tree is the Go files of the module, by folder.
type tree struct {
	fset    *token.FileSet
	folders map[string][]*file
}

// readTree parses the Go files below root, but none of other modules, of testdata and of folders that begin with a dot.
func readTree(root fs.FS) (*tree, error) {
	t := &tree{fset: token.NewFileSet(), folders: map[string][]*file{}}
	err := fs.WalkDir(root, ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			return skipFolder(root, p)
		}
		if path.Ext(p) != ".go" {
			return nil
		}
		src, err := fs.ReadFile(root, p)
		if err != nil {
			return err
		}
		f, err := parser.ParseFile(t.fset, p, src, parser.ParseComments)
		if err != nil {
			return err
		}
		t.folders[path.Dir(p)] = append(t.folders[path.Dir(p)], &file{
			path: p, ast: f, test: strings.HasSuffix(p, "_test.go"), generated: ast.IsGenerated(f),
			lines: strings.Count(string(src), "\n"),
		})
		return nil
	})
	return t, err
}

func skipFolder(root fs.FS, p string) error {
	name := path.Base(p)
	if p == "." {
		return nil
	}
	if strings.HasPrefix(name, ".") || strings.HasPrefix(name, "_") || name == "testdata" {
		return fs.SkipDir
	}
	if _, err := fs.Stat(root, path.Join(p, "go.mod")); !errors.Is(err, fs.ErrNotExist) {
		return fs.SkipDir
	}
	return nil
}

// imports lists the paths that a file imports.
func (f *file) imports() []string {
	var out []string
	for _, i := range f.ast.Imports {
		p, err := strconv.Unquote(i.Path.Value)
		if err != nil { // the parser let it pass, so it is quoted
			p = i.Path.Value
		}
		out = append(out, p)
	}
	return out
}

// match reports whether a path is meant by a pattern: itself, "a/*" or "a/...".
func match(pattern, p string) bool {
	if pattern == "..." || pattern == anything {
		return true
	}
	if above, ok := strings.CutSuffix(pattern, "/..."); ok {
		return p == above || strings.HasPrefix(p, above+"/")
	}
	if above, ok := strings.CutSuffix(pattern, "/*"); ok {
		return path.Dir(p) == above
	}
	return p == pattern
}

func matchAny(patterns []string, p string) bool {
	for _, pattern := range patterns {
		if match(pattern, p) {
			return true
		}
	}
	return false
}

// at says where a node stands.
func (t *tree) at(n ast.Node) string {
	p := t.fset.Position(n.Pos())
	return fmt.Sprintf("%s:%d", p.Filename, p.Line)
}
