package configs

import (
	"bytes"
	"fmt"
	"unicode/utf8"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
)

// maxRecursion bounds how deep the parser may call itself, far above maxDepth, so that no input overflows its stack.
const maxRecursion = 20_000

// parsed is the syntax tree of a file. Trees are ten times the size of the text, so they live only until the file
// is decoded; those of globals stay.
type parsed struct {
	body    *hclsyntax.Body // nil if the syntax is wrong
	dynamic bool            // there are dynamic blocks
	meter   *meter
	needs   map[*hclsyntax.Attribute][]string // of locals: the locals they refer to
	diags   Diagnostics
}

// parse reads the syntax of a file. The shape is needed for JSON, where it tells blocks from attributes.
func parse(src *source, s *shape) *parsed {
	p := &parsed{meter: &meter{src: src, left: maxWork}}
	if src.isJSON() {
		p.body, p.diags = readJSON(src, s)
	} else {
		p.body, p.diags = readHCL(src)
	}
	if p.body == nil {
		return p
	}
	p.findNeeds()
	g := guarder{meter: p.meter}
	g.body(p.body, 0)
	if g.deep != nil {
		p.diags = append(p.diags, src.place(*g.deep, nil).diagnostic(Error, codeTooDeep, "nested too deep", fmt.Sprintf("Blocks and expressions may be nested %d deep. Give parts of the expression names in a locals block.", maxDepth)))
		p.body = nil
		return p
	}
	p.dynamic = bytes.Contains(src.data, []byte("dynamic")) && hasDynamic(p.body)
	return p
}

// readHCL reads HCL's native syntax; the body is nil if it is wrong.
func readHCL(src *source) (*hclsyntax.Body, Diagnostics) {
	if !utf8.Valid(src.data) {
		return nil, Diagnostics{invalidUTF8(src)}
	}
	if at, deep := hclDepth(src); deep {
		return nil, Diagnostics{tooDeep(src, at)}
	}
	file, diags := hclsyntax.ParseConfig(src.data, src.path, hcl.InitialPos)
	if wrong := firstError(src, diags, codeSyntax); wrong != nil {
		return nil, wrong
	}
	return file.Body.(*hclsyntax.Body), nil
}

// readJSON reads HCL's JSON form; the body is nil if it is wrong.
func readJSON(src *source, s *shape) (*hclsyntax.Body, Diagnostics) {
	if !utf8.Valid(src.data) {
		return nil, Diagnostics{invalidUTF8(src)}
	}
	if at, deep := jsonDepth(src.data); deep {
		return nil, Diagnostics{tooDeep(src, at)}
	}
	body, diags := parseJSON(src, s)
	if wrong := firstError(src, diags, codeJSONSyntax); wrong != nil {
		return nil, wrong
	}
	return body, nil
}

// firstError returns the first of the parser's errors: what comes after it mostly comes of it.
func firstError(src *source, diags hcl.Diagnostics, code string) Diagnostics {
	for _, h := range diags {
		if h.Severity == hcl.DiagError {
			return Diagnostics{translate(src, nil, h, code)}
		}
	}
	return nil
}

func tooDeep(src *source, at int) Diagnostic {
	return src.at(at).diagnostic(Error, codeTooDeep, "nested too deep", "Brackets and operators are nested thousands deep. Close them, or give parts of the expression names in a locals block.")
}

// findNeeds asks what locals refer to, before guard hides it.
func (p *parsed) findNeeds() {
	for _, b := range p.body.Blocks {
		if b.Type != "locals" {
			continue
		}
		for _, a := range b.Body.Attributes {
			if p.needs == nil {
				p.needs = map[*hclsyntax.Attribute][]string{}
			}
			p.needs[a] = localNeeds(a.Expr)
		}
	}
}

func hasDynamic(b *hclsyntax.Body) bool {
	for _, inner := range b.Blocks {
		if inner.Type == "dynamic" || hasDynamic(inner.Body) {
			return true
		}
	}
	return false
}

// mayRecurse is a cheap upper bound of the depth that hclDepth looks for: the characters that can make the parser call itself.
func mayRecurse(data []byte) int {
	n := 0
	for i, c := range data {
		switch c {
		case '(', '[', '{', '?':
			n++
		case '-', '!':
			if i+1 < len(data) && !isWord(data[i+1]) {
				n++
			}
		}
	}
	return n
}

func isWord(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
}

// hclDepth finds the byte at which the parser would have called itself more than maxRecursion times. It reads tokens only, which needs no stack.
func hclDepth(src *source) (at int, deep bool) {
	if mayRecurse(src.data) <= maxRecursion {
		return 0, false
	}
	tokens, _ := hclsyntax.LexConfig(src.data, src.path, hcl.InitialPos)
	type level struct {
		calls int // of operators since the last item began
		keep  bool
	}
	stack := []level{{}}
	depth := 0
	for i, t := range tokens {
		top := &stack[len(stack)-1]
		switch t.Type {
		case hclsyntax.TokenOBrace, hclsyntax.TokenOBrack, hclsyntax.TokenOParen, hclsyntax.TokenTemplateInterp, hclsyntax.TokenTemplateControl:
			// Inside of parentheses, brackets and for expressions a new line ends nothing.
			keep := t.Type != hclsyntax.TokenOBrace || isFor(tokens[i+1:])
			stack = append(stack, level{keep: keep})
			depth++
		case hclsyntax.TokenCBrace, hclsyntax.TokenCBrack, hclsyntax.TokenCParen, hclsyntax.TokenTemplateSeqEnd:
			if len(stack) > 1 {
				depth -= 1 + top.calls
				stack = stack[:len(stack)-1]
			}
		case hclsyntax.TokenQuestion, hclsyntax.TokenMinus, hclsyntax.TokenBang:
			top.calls++
			depth++
		case hclsyntax.TokenComma:
			depth -= top.calls
			top.calls = 0
		case hclsyntax.TokenNewline:
			if !top.keep {
				depth -= top.calls
				top.calls = 0
			}
		}
		if depth > maxRecursion {
			return t.Range.Start.Byte, true
		}
	}
	return 0, false
}

func isFor(tokens hclsyntax.Tokens) bool {
	for _, t := range tokens {
		if t.Type != hclsyntax.TokenNewline && t.Type != hclsyntax.TokenComment {
			return t.Type == hclsyntax.TokenIdent && string(t.Bytes) == "for"
		}
	}
	return false
}

// jsonDepth finds where brackets outside of strings are nested too deep.
func jsonDepth(data []byte) (at int, deep bool) {
	depth := 0
	inString := false
	for i := 0; i < len(data); i++ {
		switch c := data[i]; {
		case inString && c == '\\':
			i++
		case c == '"':
			inString = !inString
		case inString:
		case c == '[' || c == '{':
			if depth++; depth > maxRecursion {
				return i, true
			}
		case c == ']' || c == '}':
			depth--
		}
	}
	return 0, false
}
