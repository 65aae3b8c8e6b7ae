package configs

import (
	"fmt"
	"slices"
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
	made        bool // by a dynamic block, which has its labels
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
	meant    []string // attributes that unknown ones seem to mean
	before   int      // diagnostics when it began
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
	var unknown []string
	for name := range n.Attributes {
		if s.find(name) == nil {
			unknown = append(unknown, name)
		}
	}
	slices.Sort(unknown)
	for _, name := range unknown {
		d.unknownAttr(s, name, n.Attributes[name].NameRange)
	}
	for _, b := range n.Blocks {
		if s.inner(b.Type) == nil {
			d.unknownBlock(s, headerOf(b))
		}
	}
}

// inspect reports what is in no shape in a body whose dynamic blocks are not expanded yet, all the way down.
func (d *decoder) inspect(h header, s *shape) {
	f := &frame{parent: d.frame, head: h}
	d.frame = f
	defer func() { d.frame = f.parent }()
	body := h.body.(*hclsyntax.Body)
	rest := *body
	rest.Blocks = nil
	if h.typ != "" && !h.made && !s.open {
		d.checkLabels(s, h)
	}
	for _, b := range body.Blocks {
		inner := headerOf(b)
		if b.Type != "dynamic" {
			rest.Blocks = append(rest.Blocks, b)
			if known := s.inner(b.Type); known != nil && !known.shape().open {
				d.inspect(inner, known.shape())
			}
			continue
		}
		if len(b.Labels) != 1 {
			d.report(d.src.place(inner.rng, f), Error, codeLabels, fmt.Sprintf("dynamic has %d labels", len(b.Labels)), "Its label is the type of the blocks that it makes.")
			continue
		}
		known := s.inner(b.Labels[0])
		if known == nil {
			d.unknownBlock(s, header{typ: b.Labels[0], typeRange: b.LabelRanges[0]})
			continue
		}
		for _, content := range b.Body.Blocks {
			if content.Type == "content" {
				inner := headerOf(content)
				inner.typ, inner.labels, inner.made = b.Labels[0], nil, true
				d.inspect(inner, known.shape())
			}
		}
	}
	if !s.open {
		native{&rest}.strangers(d, s)
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

// strangers does nothing: inspect reported them before the dynamic blocks were expanded.
func (expanded) strangers(*decoder, *shape) {}
