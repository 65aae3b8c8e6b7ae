package configs

import (
	"bytes"
	"errors"
	"fmt"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/hashicorp/hcl/v2/hclwrite"
	"github.com/pmezard/go-difflib/difflib"
)

// Format returns src in the canonical style. It fails if src is no valid HCL.
func Format(src []byte) ([]byte, error) {
	if s := (&source{path: "-", data: src}); mayRecurse(src) > maxRecursion && hclDepth(s) > maxRecursion {
		return nil, errors.New("format: nested too deep")
	}
	if _, diags := hclsyntax.ParseConfig(src, "", hcl.InitialPos); diags.HasErrors() {
		return nil, fmt.Errorf("format: %w", diags)
	}
	out := bytes.TrimRight(hclwrite.Format(src), " \t\r\n")
	if len(out) == 0 {
		return out, nil
	}
	return append(out, '\n'), nil
}

// Diff returns the unified difference from a to b, both named name; empty if there is none.
func Diff(name string, a, b []byte) string {
	// A string writer does not fail.
	s, _ := difflib.GetUnifiedDiffString(difflib.UnifiedDiff{
		A: lines(a), B: lines(b),
		FromFile: "a/" + name, ToFile: "b/" + name, Context: 3,
	})
	return s
}

// lines splits after each new line.
func lines(text []byte) []string {
	all := strings.SplitAfter(string(text), "\n")
	if last := len(all) - 1; all[last] == "" {
		return all[:last]
	}
	return all
}
