package configs

import (
	"slices"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
)

// Part names what a diagnostic of a later stage is about, in the block that stands at its Origin. The zero value is
// the block's head.
type Part struct {
	Block string // the type of the block, "route"
	Name  string // its attribute or label, "host"; empty: its type and labels
	Value string // what is meant of it, as it may be written: an element of a list, a key; empty: all
}

// At returns the diagnostic with the part that Locate shall point at.
func (d Diagnostic) At(p Part) Diagnostic {
	d.Part = p
	return d
}

// Locate adds to diagnostics of later stages what only the text knows, as far as they name blocks in files of the
// last load: column, source line and the blocks around. It reads such a file's syntax again, once as long as the file
// does not change, because syntax trees are too large to be kept for the case that something is wrong. Not
// concurrently with other calls.
func (l *Loader) Locate(ds Diagnostics) Diagnostics {
	out := slices.Clone(ds)
	for i := range out {
		d := &out[i]
		f := l.files[d.File]
		if f == nil || f.src == nil || d.Line == 0 || d.Snippet != "" {
			continue
		}
		if f.outline == nil {
			f.outline = outlineOf(f.src)
		}
		at, ok := f.outline.find(d.Line, d.Part)
		if !ok {
			continue
		}
		*d = at.diagnostic(d.Severity, d.Code, d.Summary, d.Detail).At(d.Part)
	}
	return out
}

// outline says of the blocks of a file, by the line that they begin at, where their parts are, without the syntax tree.
type outline struct {
	src    *source
	byLine map[int][]*outlined
}

// outlined is one block.
type outlined struct {
	place place
	frame *frame // of its type and labels only
	spots []spot
}

// spot is a label or an attribute; with a value, one of the elements or keys in it.
type spot struct {
	name, value string
	place       place
}

// outlineOf reads the blocks of a file. There are none if its syntax is wrong.
func outlineOf(src *source) *outline {
	o := &outline{src: src, byLine: map[int][]*outlined{}}
	var body *hclsyntax.Body
	if src.isJSON() {
		body, _ = readJSON(src, fileBlock.shape)
	} else {
		body, _ = readHCL(src)
	}
	if body != nil {
		o.body(body, fileBlock.shape, nil)
	}
	return o
}

func (o *outline) body(b *hclsyntax.Body, s *shape, in *frame) {
	for _, block := range b.Blocks {
		typ, labels, body := block.Type, block.Labels, block.Body
		if typ == "dynamic" && len(labels) == 1 { // what it makes has its place
			typ, labels = labels[0], nil
			if i := slices.IndexFunc(body.Blocks, func(b *hclsyntax.Block) bool { return b.Type == "content" }); i >= 0 {
				body = body.Blocks[i].Body
			}
		}
		known := s.inner(typ)
		if known == nil {
			continue
		}
		inner := known.shape()
		f := &frame{parent: in, head: header{typ: typ, labels: labels}}
		n := &outlined{place: o.src.place(block.DefRange(), in), frame: f}
		for i := range min(len(labels), len(inner.labels)) {
			n.add(inner.labels[i].name, "", o.src.place(block.LabelRanges[i], f))
		}
		for _, a := range inner.attrs {
			if found, ok := body.Attributes[a.name]; ok {
				n.attribute(o.src, a.name, found.Expr)
			}
		}
		o.byLine[n.place.line] = append(o.byLine[n.place.line], n)
		o.body(body, inner, f)
	}
}

func (n *outlined) add(name, value string, at place) {
	n.spots = append(n.spots, spot{name, value, at})
}

// maxParts bounds the elements of one attribute that are remembered.
const maxParts = 1000

// attribute adds an attribute, with the elements and keys of its value that are written out.
func (n *outlined) attribute(src *source, name string, e hclsyntax.Expression) {
	n.add(name, "", src.place(e.Range(), n.frame))
	switch e := e.(type) {
	case *hclsyntax.TupleConsExpr:
		for _, x := range e.Exprs[:min(len(e.Exprs), maxParts)] {
			if value, ok := written(x); ok {
				n.add(name, value, src.place(x.Range(), n.frame))
			}
		}
	case *hclsyntax.ObjectConsExpr:
		for _, item := range e.Items[:min(len(e.Items), maxParts)] {
			if value, ok := written(item.KeyExpr); ok {
				n.add(name, value, src.place(item.ValueExpr.Range(), n.frame))
			}
		}
	default:
		if value, ok := written(e); ok {
			n.add(name, value, src.place(e.Range(), n.frame))
		}
	}
}

// written is the text or number that an expression is, if it is no more than that. Nothing is computed.
func written(e hclsyntax.Expression) (string, bool) {
	switch e := e.(type) {
	case *hclsyntax.ObjectConsKeyExpr:
		if word := hcl.ExprAsKeyword(e.Wrapped); word != "" && !e.ForceNonLiteral {
			return word, true
		}
		return written(e.Wrapped)
	case *hclsyntax.TemplateExpr:
		if len(e.Parts) == 1 && isLiteral(e.Parts[0]) {
			return written(e.Parts[0])
		}
	case *hclsyntax.LiteralValueExpr:
		return valueWord(e.Val), !e.Val.IsNull() && e.Val.IsKnown()
	}
	return "", false
}

// find returns the place of a part of the block that begins at a line. In JSON several can begin there: then the
// one counts whose part has the value.
func (o *outline) find(line int, want Part) (at place, ok bool) {
	named := false // at is the part, not only the block
	for _, n := range o.byLine[line] {
		if want.Block != "" && n.frame.head.typ != want.Block {
			continue
		}
		if !ok {
			at, ok = n.place, true
		}
		for _, p := range n.spots {
			switch {
			case p.name != want.Name:
			case p.value != "" && p.value == want.Value:
				return p.place, true
			case p.value == "" && !named:
				at, named = p.place, true
			}
		}
	}
	return at, ok
}
