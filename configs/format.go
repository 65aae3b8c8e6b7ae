package configs

import (
	"bytes"
	"strings"

	"github.com/hashicorp/hcl/v2/hclwrite"
	"github.com/pmezard/go-difflib/difflib"
)

// Format returns src in the canonical style, whose lines end with LF. If it is no valid HCL, the text is nil and the diagnostics, of which one
// is an error then, say why; they call it name.
func Format(name string, src []byte) ([]byte, Diagnostics) {
	if _, diags := readHCL(&source{path: name, data: src}); len(diags) > 0 {
		return nil, diags
	}
	out := bytes.TrimRight(bytes.ReplaceAll(hclwrite.Format(src), []byte("\r\n"), []byte("\n")), " \t\n")
	if len(out) == 0 {
		return []byte{}, nil
	}
	return append(out, '\n'), nil
}

// Diff returns the unified difference from a to b, both named name; empty if there is none.
func Diff(name string, a, b []byte) string {
	// A string writer does not fail.
	s, _ := difflib.GetUnifiedDiffString(difflib.UnifiedDiff{
		A: lines(a), B: lines(b),
		FromFile: "a/" + harmless(name, ""), ToFile: "b/" + harmless(name, ""), Context: 3,
	})
	return s
}

// lines splits after each new line. A last one without it says so, as diff does.
func lines(text []byte) []string {
	all := strings.SplitAfter(string(text), "\n")
	last := len(all) - 1
	if all[last] == "" {
		return all[:last]
	}
	all[last] += "\n\\ No newline at end of file\n"
	return all
}
