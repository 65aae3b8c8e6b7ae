package configs

import (
	"strconv"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
)

// header is a block before its body is read.
type header struct {
	typ         string
	labels      []string
	labelRanges []hcl.Range
	rng         hcl.Range // type and labels
	typeRange   hcl.Range
	body        hcl.Body
}

// String returns `http "testers"`.
func (h header) String() string {
	s := h.typ
	for _, l := range h.labels {
		s += " " + strconv.Quote(l)
	}
	return s
}

// frame is a block that is being decoded, and the ones around and in it: where diagnostics find their places.
type frame struct {
	parent   *frame
	head     header
	reader   reader
	children []*frame
}

// String returns `virtual_service "reviews", http "testers"`.
func (f *frame) String() string {
	var parts []string
	for ; f != nil && f.head.typ != ""; f = f.parent {
		parts = append(parts, f.head.String())
	}
	for i, j := 0, len(parts)-1; i < j; i, j = i+1, j-1 {
		parts[i], parts[j] = parts[j], parts[i]
	}
	return strings.Join(parts, ", ")
}

// child returns the i-th inner block of a type, or f itself if there are fewer.
func (f *frame) child(typ string, i int) *frame {
	for _, c := range f.children {
		if c.head.typ != typ {
			continue
		}
		if i == 0 {
			return c
		}
		i--
	}
	return f
}

// forgetChildren lets go of the syntax trees of the inner blocks: places keep frames as long as the file is known.
func (f *frame) forgetChildren() {
	for _, c := range f.children {
		c.reader, c.head.body, c.children = nil, nil, nil
	}
}

// reader gives the content of a body. There are two: native bodies are read directly, which is several times
// faster, and those with dynamic blocks through dynblock.
type reader interface {
	attr(name string) (expr hcl.Expression, name_ hcl.Range, ok bool)
	each(func(header))
	// strangers reports what is not in the shape.
	strangers(d *decoder, s *shape)
}

// native reads what the parser made.
type native struct{ *hclsyntax.Body }

func (n native) attr(name string) (hcl.Expression, hcl.Range, bool) {
	a, ok := n.Attributes[name]
	if !ok {
		return nil, hcl.Range{}, false
	}
	return a.Expr, a.NameRange, true
}

func (n native) each(visit func(header)) {
	for _, b := range n.Blocks {
		visit(headerOf(b))
	}
}

func headerOf(b *hclsyntax.Block) header {
	return header{typ: b.Type, labels: b.Labels, labelRanges: b.LabelRanges, rng: b.DefRange(), typeRange: b.TypeRange, body: b.Body}
}

func (n native) strangers(d *decoder, s *shape) {
	for name, a := range n.Attributes {
		if s.find(name) == nil {
			d.unknownAttr(s, name, a.NameRange)
		}
	}
	for _, b := range n.Blocks {
		if s.inner(b.Type) == nil {
			d.unknownBlock(s, headerOf(b))
		}
	}
}

// expanded reads a body whose dynamic blocks are expanded.
type expanded struct{ *hcl.BodyContent }

func (e expanded) attr(name string) (hcl.Expression, hcl.Range, bool) {
	a, ok := e.Attributes[name]
	if !ok {
		return nil, hcl.Range{}, false
	}
	return a.Expr, a.NameRange, true
}

func (e expanded) each(visit func(header)) {
	for _, b := range e.Blocks {
		visit(header{typ: b.Type, labels: b.Labels, labelRanges: b.LabelRanges, rng: b.DefRange, typeRange: b.TypeRange, body: b.Body})
	}
}

// strangers does nothing: the content was asked for by schema, and what is not in it was reported then.
func (expanded) strangers(*decoder, *shape) {}
