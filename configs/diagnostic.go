package configs

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Severity says whether a diagnostic refuses the input.
type Severity string

// The severities. Input with an error is not used; a warning is shown and used all the same.
const (
	Error   Severity = "error"
	Warning Severity = "warning"
)

// Diagnostic is one thing that a person got wrong, with the place and the remedy. It is a plain value.
type Diagnostic struct {
	Severity Severity `json:"severity"`
	Code     string   `json:"code"`              // "W1101"; Explain knows it
	Summary  string   `json:"summary"`           // one line, no full stop
	Detail   string   `json:"detail,omitempty"`  // what to do about it
	File     string   `json:"file,omitempty"`    // relative to the loaded folder
	Line     int      `json:"line,omitempty"`    // from 1; zero: not known. What is about the file as a whole is at 1:1, without Snippet
	Column   int      `json:"column,omitempty"`  // from 1, in characters; zero: the whole line
	Length   int      `json:"length,omitempty"`  // characters of Snippet that are meant, from Column
	Context  string   `json:"context,omitempty"` // the block around it: `virtual_service "reviews"`
	Snippet  string   `json:"snippet,omitempty"` // the source line; a part of it if it is very long
	// SnippetColumn is the column that Snippet begins at; zero means 1.
	SnippetColumn int `json:"snippet_column,omitempty"`
	// Part is what in the block at Line is meant, for Locate.
	Part Part `json:"-"`
}

// NewDiagnostic is for the stages after this package: origin is the Origin of the block that is to blame
// ("file:line"), or another place a person can look; At says which part of the block. (*Loader).Locate adds the
// column and the source line.
func NewDiagnostic(severity Severity, code, origin, summary, detail string) Diagnostic {
	d := Diagnostic{Severity: severity, Code: code, Summary: summary, Detail: detail, File: origin}
	if file, line, ok := splitOrigin(origin); ok {
		d.File, d.Line = file, line
	}
	return d
}

// splitOrigin takes "file:line" apart. It reports false if origin has another form.
func splitOrigin(origin string) (file string, line int, ok bool) {
	i := strings.LastIndexByte(origin, ':')
	if i <= 0 {
		return "", 0, false
	}
	line, err := strconv.Atoi(origin[i+1:])
	if err != nil || line <= 0 {
		return "", 0, false
	}
	return origin[:i], line, true
}

// Origin returns "file:line:column", as far as it is known.
func (d Diagnostic) Origin() string {
	switch {
	case d.Line == 0:
		return d.File
	case d.Column == 0:
		return fmt.Sprintf("%s:%d", d.File, d.Line)
	}
	return fmt.Sprintf("%s:%d:%d", d.File, d.Line, d.Column)
}

// What Bounded leaves of a diagnostic.
const (
	maxCode    = 16  // bytes
	maxSummary = 512 // bytes
	maxDetail  = 2 << 10
	maxPlace   = 1 << 30 // of a line, column or length
)

// Bounded returns the diagnostic as it may be kept for others and shown to them, whoever made it: long texts are cut,
// and nothing in it is what a terminal would obey.
func (d Diagnostic) Bounded() Diagnostic {
	if d.Severity != Warning {
		d.Severity = Error
	}
	cut := func(s *string, n int) {
		*s = harmless((*s)[:min(len(*s), n)], "\t")
	}
	cut(&d.Code, maxCode)
	cut(&d.Summary, maxSummary)
	cut(&d.Detail, maxDetail)
	cut(&d.File, maxSummary)
	cut(&d.Context, maxSummary)
	cut(&d.Snippet, maxSnippet*utf8.UTFMax)
	for _, n := range []*int{&d.Line, &d.Column, &d.Length, &d.SnippetColumn} {
		*n = min(max(*n, 0), maxPlace)
	}
	d.Part = Part{}
	return d
}

// String returns the diagnostic on one line, with nothing in it that a terminal would obey.
func (d Diagnostic) String() string {
	s := fmt.Sprintf("%s %s: %s", d.Severity, d.Code, d.Summary)
	if o := d.Origin(); o != "" {
		s = o + ": " + s
	}
	return harmless(s, "")
}

// Diagnostics is a list of them in the order of their places.
type Diagnostics []Diagnostic

// HasErrors reports whether one of them is an error.
func (ds Diagnostics) HasErrors() bool {
	return slices.ContainsFunc(ds, func(d Diagnostic) bool { return d.Severity == Error })
}

// Error makes Diagnostics usable where an error is wanted: the first error, and how many more there are.
func (ds Diagnostics) Error() string {
	var first string
	n := 0
	for _, d := range ds {
		if d.Severity != Error {
			continue
		}
		if n++; n == 1 {
			first = d.String()
		}
	}
	switch n {
	case 0:
		return "no errors"
	case 1:
		return first
	}
	return fmt.Sprintf("%s (and %d more)", first, n-1)
}

// Sort orders by file, line, column, code and summary, in place, and drops repeats.
func (ds Diagnostics) Sort() Diagnostics {
	slices.SortStableFunc(ds, func(a, b Diagnostic) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column),
			cmp.Compare(a.Code, b.Code), cmp.Compare(a.Summary, b.Summary), cmp.Compare(a.Detail, b.Detail))
	})
	return slices.Compact(ds)
}

const (
	red, yellow, underline, reset = "\x1b[31m", "\x1b[33m", "\x1b[1;4m", "\x1b[0m"
)

// WriteText writes them for a person: place, source line with the part that is meant, remedy. Nothing in it is what a
// terminal would obey, but for the colours.
func (ds Diagnostics) WriteText(w io.Writer, color bool) error {
	var b strings.Builder
	for _, d := range ds {
		d.writeText(&b, color)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// Text returns what WriteText writes without colours, for a log.
func (ds Diagnostics) Text() string {
	var b strings.Builder
	_ = ds.WriteText(&b, false) // a Builder takes everything
	return strings.TrimSpace(b.String())
}

func (d Diagnostic) writeText(b *strings.Builder, color bool) {
	word, hue := "Error", red
	if d.Severity == Warning {
		word, hue = "Warning", yellow
	}
	if color {
		word = hue + word + reset
	}
	fmt.Fprintf(b, "%s %s: %s\n", word, d.Code, harmless(d.Summary, ""))
	if d.File != "" {
		fmt.Fprintf(b, "\n  on %s", harmless(d.Origin(), ""))
		if d.Context != "" {
			fmt.Fprintf(b, ", in %s", harmless(d.Context, ""))
		}
		b.WriteString(":\n")
	}
	if d.Snippet != "" {
		d.writeSnippet(b, color)
	}
	if d.Detail != "" {
		fmt.Fprintf(b, "\n%s\n", harmless(d.Detail, "\n\t"))
	}
	b.WriteByte('\n')
}

// writeSnippet writes the source line, and below it marks what is meant; on a colour terminal it underlines it instead.
func (d Diagnostic) writeSnippet(b *strings.Builder, color bool) {
	line := []rune(d.Snippet)
	from := min(max(d.Column-max(d.SnippetColumn, 1), 0), len(line))
	to := min(from+d.Length, len(line))
	if color {
		fmt.Fprintf(b, "%4d: %s%s%s%s%s\n", d.Line, string(line[:from]), underline, string(line[from:to]), reset, string(line[to:]))
		return
	}
	fmt.Fprintf(b, "%4d: %s\n", d.Line, d.Snippet)
	if d.Column == 0 {
		return
	}
	pad := strings.Map(func(r rune) rune {
		if r == '\t' {
			return r
		}
		return ' '
	}, string(line[:from]))
	fmt.Fprintf(b, "      %s%s\n", pad, strings.Repeat("^", max(to-from, 1)))
}
