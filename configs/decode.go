package configs

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"
)

const (
	maxDiagnostics = 100    // of one file
	maxBlocks      = 50_000 // of one file, those that dynamic blocks make included
)

// decoder decodes one file. It reports everything it finds and goes on. Owned by one goroutine.
type decoder struct {
	src       *source
	env       *env
	ctx       *hcl.EvalContext
	out       *decoded
	meter     *meter
	namespace string         // in which short names resolve
	frame     *frame         // the block that is being decoded
	last      *frame         // the block that was decoded last
	expr      hcl.Expression // the attribute that is being decoded, nil for a label
	attr      string         // its name
	label     hcl.Range      // the label that is being decoded
	path      []cty.Value    // where in its value
	onKey     bool           // at the key that path ends with, not at what it stands for
	blocks    int
	expanded  bool       // the file has dynamic blocks
	host      *hostScope // set in a host block
}

// decode reads one block. It returns a value even where there were errors.
func (b *block[T]) decode(d *decoder, h header) *T {
	t := new(T)
	f := &frame{parent: d.frame, head: h, before: len(d.out.diags)}
	if d.frame != nil {
		d.frame.children = append(d.frame.children, f)
	}
	outer, namespace := d.frame, d.namespace
	d.frame = f
	defer func() { d.frame, d.namespace, d.last = outer, namespace, f }()

	if d.blocks++; d.blocks > maxBlocks {
		if d.blocks == maxBlocks+1 {
			d.failFrame(f, codeTooMuch, "too many blocks", fmt.Sprintf("A file may make %d blocks. Check the for_each of its dynamic blocks, or spread them over several files.", maxBlocks))
		}
		return t
	}
	f.reader = d.read(h.body, b.shape)
	if b.origin != nil {
		*b.origin(t) = d.src.place(h.rng, f).origin()
	}
	decodeLabels(d, b, h, t)
	decodeAttrs(d, b, t)
	if b.begin != nil {
		b.begin(d, t)
	}
	decodeBlocks(d, b, t)
	if b.finish != nil {
		b.finish(d, t)
	}
	f.forgetChildren()
	return t
}

// read opens a body.
func (d *decoder) read(body hcl.Body, s *shape) reader {
	if n, ok := body.(*hclsyntax.Body); ok {
		r := native{n}
		r.strangers(d, s)
		return r
	}
	content, diags := body.Content(s.schema)
	d.hclDiagnostics(diags)
	return expanded{content}
}

func decodeLabels[T any](d *decoder, b *block[T], h header, t *T) {
	d.checkLabels(b.shape, h)
	for i := range min(len(b.labels), len(h.labels)) {
		d.label, d.attr = h.labelRanges[i], b.labels[i].name
		b.labels[i].set(d, t, cty.StringVal(h.labels[i]))
	}
	d.label = hcl.Range{}
}

// checkLabels checks how many labels the block that is being decoded has.
func (d *decoder) checkLabels(s *shape, h header) {
	if len(h.labels) == len(s.labels) {
		return
	}
	want := "no label"
	switch n := len(s.labels); n {
	case 0:
	case 1:
		want = "one label, its " + s.labels[0].name
	default:
		want = fmt.Sprintf("%d labels", n)
	}
	d.failFrame(d.frame, codeLabels, fmt.Sprintf("%s has %d labels", h.typ, len(h.labels)), fmt.Sprintf("A %s block has %s. Add or remove what differs.", h.typ, want))
}

func decodeAttrs[T any](d *decoder, b *block[T], t *T) {
	for i := range b.attrs {
		a := &b.attrs[i]
		d.attr = a.name
		expr, _, ok := d.frame.reader.attr(a.name)
		if ok && a.expr != nil {
			d.expr = expr
			a.expr(d, t, expr)
			d.expr = nil
			continue
		}
		var v cty.Value
		if ok {
			if v, ok = d.eval(expr); !ok {
				continue // reported
			}
			ok = !v.IsNull() // as if it were absent
		}
		switch {
		case ok:
			d.expr = expr
			a.set(d, t, v)
			d.expr = nil
		case a.required && !slices.Contains(d.frame.meant, a.name):
			d.failFrame(d.frame, codeMissingAttr, fmt.Sprintf("%s without %s", cmp.Or(d.frame.head.String(), "the file"), a.name), fmt.Sprintf("Give it the attribute %s. %s", a.name, a.doc))
		case a.initial != cty.NilVal:
			a.set(d, t, a.initial)
		}
	}
}

func decodeBlocks[T any](d *decoder, b *block[T], t *T) {
	if len(b.blocks) == 0 {
		return
	}
	d.frame.reader.each(func(h header) {
		for i := range b.blocks {
			if b.blocks[i].name == h.typ {
				b.blocks[i].decode(d, h, t)
				return
			}
		}
	})
	for i := range b.blocks {
		if c := &b.blocks[i]; c.required && d.frame.child(c.name, 0) == d.frame {
			d.failFrame(d.frame, codeMissingBlock, fmt.Sprintf("%s without a %s block", d.frame.head.String(), c.name), fmt.Sprintf("Add at least one %s block. %s", c.name, c.doc))
		}
	}
}

// clean reports whether there was no error in the block so far.
func (d *decoder) clean() bool { return !d.out.diags[d.frame.before:].HasErrors() }

// eval computes an expression. It reports false, after a diagnostic, if there is no value.
func (d *decoder) eval(expr hcl.Expression) (cty.Value, bool) {
	switch e := expr.(type) { // most are literals
	case *hclsyntax.LiteralValueExpr:
		return e.Val, true
	case *hclsyntax.TemplateExpr:
		if len(e.Parts) == 1 {
			if l, ok := e.Parts[0].(*hclsyntax.LiteralValueExpr); ok && l.Val.Type() == cty.String {
				return l.Val, true
			}
		}
	}
	v, diags := d.meter.eval(expr, d.ctx)
	d.hclDiagnostics(diags)
	// Unknown is what depends on something that has no value, which was reported.
	return v, !diags.HasErrors() && v.IsWhollyKnown()
}

// fail reports an error in the attribute or label that is being decoded.
func (d *decoder) fail(code, summary, detail string) {
	d.report(d.here(), Error, code, summary, detail)
}

// here is the place of the value that is being decoded.
func (d *decoder) here() place {
	switch {
	case d.expr != nil:
		return d.src.place(locate(d.expr, d.path, d.onKey), d.frame)
	case d.label.Filename != "":
		return d.src.place(d.label, d.frame)
	}
	return d.src.place(d.frame.head.rng, d.frame)
}

// at is the place of an attribute of a block, or of the block if it is absent.
func (d *decoder) at(f *frame, attr string) place {
	if f.reader != nil {
		if expr, _, ok := f.reader.attr(attr); ok {
			return d.src.place(expr.Range(), f)
		}
	}
	return d.src.place(f.head.rng, f)
}

// failFrame reports an error in a block as a whole.
func (d *decoder) failFrame(f *frame, code, summary, detail string) {
	d.report(d.src.place(f.head.rng, f.parent), Error, code, summary, detail)
}

func (d *decoder) report(p place, severity Severity, code, summary, detail string) {
	d.out.report(p.diagnostic(severity, code, summary, detail))
}

func (d *decoder) unknownAttr(s *shape, name string, r hcl.Range) {
	detail := didYouMean(name, s.attrNames())
	for _, a := range s.attrs {
		if strings.Contains(detail, strconv.Quote(a.name)) {
			d.frame.meant = append(d.frame.meant, a.name)
		}
	}
	if b := s.inner(name); b != nil {
		detail = fmt.Sprintf(" It is a block: write %s { ... } without the equals sign.", name)
	}
	d.report(d.src.place(r, d.frame), Error, codeUnknownAttr, "unknown attribute "+strconv.Quote(name), "Nothing of this name may stand here: correct or remove it."+detail)
}

func (d *decoder) unknownBlock(s *shape, h header) {
	detail := didYouMean(h.typ, s.blockNames())
	if s.find(h.typ) != nil {
		detail = fmt.Sprintf(" It is an attribute: write %s = ... with an equals sign.", h.typ)
	}
	d.report(d.src.place(h.typeRange, d.frame), Error, codeUnknownBlock, "unknown block "+strconv.Quote(h.typ), "No block of this type may stand here: correct the name, or move or remove the block."+detail)
}

// locate returns the place of a part of a value, or of the last key that leads to it, as far as the expression shows it.
func locate(expr hcl.Expression, path []cty.Value, onKey bool) hcl.Range {
	at := expr.Range()
	for _, step := range path {
		key, next := stepInto(hcl.UnwrapExpression(expr), step)
		if next == nil {
			break
		}
		expr, at = next, next.Range()
		if onKey && key != nil {
			at = key.Range()
		}
	}
	return at
}

// stepInto returns an element of an expression, with its key if it has one.
func stepInto(expr hcl.Expression, step cty.Value) (key, value hcl.Expression) {
	switch e := expr.(type) {
	case *hclsyntax.ObjectConsExpr:
		for _, item := range e.Items {
			if key, diags := item.KeyExpr.Value(nil); !diags.HasErrors() && key.RawEquals(step) {
				return item.KeyExpr, item.ValueExpr
			}
		}
	case *hclsyntax.TupleConsExpr:
		if step.Type() != cty.Number {
			return nil, nil
		}
		if i, _ := step.AsBigFloat().Int64(); i < int64(len(e.Exprs)) {
			return nil, e.Exprs[i]
		}
	}
	return nil, nil
}
