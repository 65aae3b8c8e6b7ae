package configs

import (
	"bytes"
	"regexp"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/agext/levenshtein"
	"github.com/hashicorp/hcl/v2"
)

// source is a file that was read. It is immutable, and the same pointer as long as the file does not change.
type source struct {
	path string // relative to the loaded folder, with slashes
	data []byte

	closed bool // its values may be secrets, which are not shown
}

// place is a part of a file, small enough to keep for every reference in it.
type place struct {
	src        *source
	line       int
	start, end int // bytes
	in         *frame
}

func (s *source) place(r hcl.Range, in *frame) place {
	return place{src: s, line: r.Start.Line, start: r.Start.Byte, end: r.End.Byte, in: in}
}

// at is the place of one byte.
func (s *source) at(offset int) place {
	return place{src: s, line: 1 + bytes.Count(s.data[:offset], []byte("\n")), start: offset, end: offset + 1}
}

// beforeEnd is the place, or if that is the end of the file after the last line that says something, the end of that line.
func (p place) beforeEnd() place {
	said := len(bytes.TrimRight(p.src.data, " \t\r\n"))
	if p.start <= said || said == 0 {
		return p
	}
	at := p.src.at(said)
	at.in = p.in
	return at
}

// isJSON reports whether the file holds HCL's JSON form.
func (s *source) isJSON() bool { return strings.HasSuffix(s.path, ".json") }

// origin returns "file:line".
func (p place) origin() string { return p.src.path + ":" + strconv.Itoa(p.line) }

// maxSnippet bounds the characters of a source line that are shown.
const maxSnippet = 160

// diagnostic makes a diagnostic of this place with its source line.
func (p place) diagnostic(severity Severity, code, summary, detail string) Diagnostic {
	d := Diagnostic{Severity: severity, Code: code, Summary: summary, Detail: detail, File: p.src.path, Line: p.line}
	if p.in != nil {
		d.Context = p.in.String()
	}
	if p.line == 0 {
		return d
	}
	data := p.src.data
	start := min(max(p.start, 0), len(data))
	from := bytes.LastIndexByte(data[:start], '\n') + 1
	to := len(data)
	if n := bytes.IndexByte(data[start:], '\n'); n >= 0 {
		to = start + n
	}
	end := min(max(p.end, start), to)
	d.Column = utf8.RuneCount(data[from:start]) + 1
	d.Length = max(utf8.RuneCount(data[start:end]), 1)
	line := string(data[from:to])
	if p.src.closed {
		line = withoutValues(line)
	}
	d.setSnippet(line)
	return d
}

// withoutValues returns of a line the names of attributes and blocks only: who puts a secret where none may be does not find it in a
// log, or in the server's status, which everybody on the machine may ask for.
func withoutValues(line string) string {
	if name, _, ok := strings.Cut(line, "="); ok {
		return name + "= ..."
	}
	if blockHead.MatchString(line) {
		return line
	}
	return ""
}

var blockHead = regexp.MustCompile(`^\s*([a-z_]+(\s+"[^"]*")*\s*\{)?[\s}]*$`)

// setSnippet stores the source line, cut around the column, with what a terminal would obey made visible.
func (d *Diagnostic) setSnippet(line string) {
	runes := []rune(strings.TrimRight(line, "\r"))
	if len(runes) > maxSnippet {
		from := max(min(d.Column-maxSnippet/4, len(runes)-maxSnippet), 0)
		runes = runes[from : from+maxSnippet]
		d.SnippetColumn = from + 1
		d.Length = max(min(d.Length, maxSnippet-(d.Column-d.SnippetColumn)), 1)
	}
	d.Snippet = harmless(string(runes), "\t")
}

// harmless makes visible what a terminal would obey: names of files and values may hold escape sequences.
func harmless(s, allowed string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) || strings.ContainsRune(allowed, r) {
			return r
		}
		return '\uFFFD'
	}, s)
}

// didYouMean returns " Did you mean ...?" if one of the candidates is close to what was given.
func didYouMean(given string, candidates []string) string {
	best, at := 3, ""
	for _, c := range candidates {
		if n := levenshtein.Distance(given, c, nil); n < best {
			best, at = n, c
		}
	}
	if at == "" {
		return ""
	}
	return " Did you mean " + strconv.Quote(at) + "?"
}

// quoted writes "a", "b" and so on.
func quoted(words []string) string {
	var b strings.Builder
	for i, w := range words {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(strconv.Quote(w))
	}
	return b.String()
}
