package configs

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/hashicorp/hcl/v2/json"
	"github.com/zclconf/go-cty/cty"
)

// parseJSON reads HCL's JSON form and makes the same syntax tree that the native form gives, so that everything
// after it knows one form only. The shape says which properties are blocks.
func parseJSON(src *source, s *shape) (*hclsyntax.Body, hcl.Diagnostics) {
	file, diags := json.Parse(src.data, src.path)
	if diags.HasErrors() || file == nil {
		return nil, diags
	}
	c := &jsonConverter{}
	attrs, diags := file.Body.JustAttributes()
	c.diags = append(c.diags, diags...)
	body := &hclsyntax.Body{Attributes: hclsyntax.Attributes{}, SrcRange: file.Body.MissingItemRange(), EndRange: file.Body.MissingItemRange()}
	// The library gives the top level's properties without their order.
	sorted := slices.SortedFunc(maps.Values(attrs), func(a, b *hcl.Attribute) int { return a.NameRange.Start.Byte - b.NameRange.Start.Byte })
	for _, a := range sorted {
		c.property(body, s, a.Name, a.NameRange, a.Expr)
	}
	return body, c.diags
}

type jsonConverter struct{ diags hcl.Diagnostics }

func (c *jsonConverter) fail(r hcl.Range, summary, detail string) {
	c.diags = append(c.diags, &hcl.Diagnostic{Severity: hcl.DiagError, Summary: summary, Detail: detail, Subject: &r})
}

// dynamicShape is what stands in a dynamic block, for blocks of a type with and without labels.
func dynamicShape(content *shape) *shape {
	return &shape{
		attrs: []fieldDoc{{name: "for_each"}, {name: "labels"}, {name: "iterator", keyword: true}},
		blocks: []blockDoc{{name: "content", shape: func() *shape {
			inner := *content
			inner.labels = nil
			return &inner
		}}},
	}
}

// property adds one property of an object that stands for a body.
func (c *jsonConverter) property(to *hclsyntax.Body, s *shape, name string, at hcl.Range, value hcl.Expression) {
	if name == "//" {
		return // a comment
	}
	if b := s.inner(name); b != nil {
		c.blocks(to, name, at, b.shape(), nil, len(b.shape().labels), value)
		return
	}
	if name == "dynamic" && len(s.blocks) > 0 {
		pairs, diags := hcl.ExprMap(value)
		c.diags = append(c.diags, diags...)
		for _, p := range pairs {
			typ, r := c.key(p.Key)
			made := &shape{} // of no known type, which inspect reports
			if b := s.inner(typ); b != nil {
				made = b.shape()
			}
			c.blocks(to, name, at, dynamicShape(made), []jsonLabel{{typ, r}}, 0, p.Value)
		}
		return
	}
	if _, twice := to.Attributes[name]; twice {
		c.fail(at, "Duplicate property", fmt.Sprintf("The property %q was given before.", name))
		return
	}
	a := &hclsyntax.Attribute{Name: name, NameRange: at, SrcRange: hcl.RangeBetween(at, value.Range()), EqualsRange: at}
	if f := s.find(name); f != nil && f.keyword {
		a.Expr = c.keyword(value)
	} else {
		a.Expr = c.expr(value)
	}
	to.Attributes[name] = a
}

type jsonLabel struct {
	name string
	at   hcl.Range
}

// blocks adds what one property says about blocks of one type: keys are labels, an array is several blocks.
func (c *jsonConverter) blocks(to *hclsyntax.Body, typ string, at hcl.Range, s *shape, labels []jsonLabel, missing int, value hcl.Expression) {
	if list, diags := hcl.ExprList(value); !diags.HasErrors() {
		for _, e := range list {
			c.blocks(to, typ, at, s, labels, missing, e)
		}
		return
	}
	pairs, diags := hcl.ExprMap(value)
	if diags.HasErrors() {
		c.fail(value.Range(), "Incorrect JSON value type", fmt.Sprintf("%s is a block: give an object, or an array of objects.", typ))
		return
	}
	if missing > 0 {
		for _, p := range pairs {
			name, r := c.key(p.Key)
			if name == "//" {
				continue
			}
			c.blocks(to, typ, at, s, append(labels[:len(labels):len(labels)], jsonLabel{name, r}), missing-1, p.Value)
		}
		return
	}
	b := &hclsyntax.Block{Type: typ, TypeRange: at, OpenBraceRange: value.StartRange(), CloseBraceRange: value.Range()}
	for _, l := range labels {
		b.Labels, b.LabelRanges = append(b.Labels, l.name), append(b.LabelRanges, l.at)
	}
	b.Body = &hclsyntax.Body{Attributes: hclsyntax.Attributes{}, SrcRange: value.Range(), EndRange: value.Range()}
	for _, p := range pairs {
		name, r := c.key(p.Key)
		c.property(b.Body, s, name, r, p.Value)
	}
	to.Blocks = append(to.Blocks, b)
}

func (c *jsonConverter) key(e hcl.Expression) (string, hcl.Range) {
	v, diags := e.Value(nil)
	if diags.HasErrors() || v.Type() != cty.String {
		return "", e.Range()
	}
	return v.AsString(), e.Range()
}

// expr converts a value; its strings are templates.
func (c *jsonConverter) expr(e hcl.Expression) hclsyntax.Expression {
	r := e.Range()
	if list, diags := hcl.ExprList(e); !diags.HasErrors() {
		t := &hclsyntax.TupleConsExpr{SrcRange: r, OpenRange: e.StartRange()}
		for _, x := range list {
			t.Exprs = append(t.Exprs, c.expr(x))
		}
		return t
	}
	if pairs, diags := hcl.ExprMap(e); !diags.HasErrors() {
		o := &hclsyntax.ObjectConsExpr{SrcRange: r, OpenRange: e.StartRange()}
		for _, p := range pairs {
			key := &hclsyntax.ObjectConsKeyExpr{Wrapped: c.expr(p.Key), ForceNonLiteral: true}
			o.Items = append(o.Items, hclsyntax.ObjectConsItem{KeyExpr: key, ValueExpr: c.expr(p.Value)})
		}
		return o
	}
	v, diags := e.Value(nil)
	if diags.HasErrors() {
		c.diags = append(c.diags, diags...)
		v = cty.DynamicVal
	}
	if v.Type() != cty.String || v.IsNull() {
		return &hclsyntax.LiteralValueExpr{Val: v, SrcRange: r}
	}
	text := v.AsString()
	if !strings.Contains(text, "${") && !strings.Contains(text, "%{") {
		return &hclsyntax.LiteralValueExpr{Val: v, SrcRange: r}
	}
	if mayRecurse([]byte(text)) > maxRecursion {
		c.fail(r, summaryTooDeep, "Brackets and operators are nested thousands deep.")
		return &hclsyntax.LiteralValueExpr{Val: cty.DynamicVal, SrcRange: r}
	}
	t, diags := hclsyntax.ParseTemplate([]byte(text), r.Filename, inQuotes(r))
	c.diags = append(c.diags, diags...)
	if diags.HasErrors() {
		return &hclsyntax.LiteralValueExpr{Val: cty.DynamicVal, SrcRange: r}
	}
	if t, ok := t.(*hclsyntax.TemplateExpr); ok {
		t.SrcRange = r // as wide as it is in the file, escapes included
	}
	return t
}

// keyword converts a string that holds a name or a type.
func (c *jsonConverter) keyword(e hcl.Expression) hclsyntax.Expression {
	v, diags := e.Value(nil)
	if diags.HasErrors() || v.Type() != cty.String || v.IsNull() {
		return c.expr(e)
	}
	r := e.Range()
	if mayRecurse([]byte(v.AsString())) > maxRecursion {
		c.fail(r, summaryTooDeep, "Brackets and operators are nested thousands deep.")
		return c.expr(e)
	}
	x, diags := hclsyntax.ParseExpression([]byte(v.AsString()), r.Filename, inQuotes(r))
	c.diags = append(c.diags, diags...)
	if diags.HasErrors() {
		return &hclsyntax.LiteralValueExpr{Val: cty.DynamicVal, SrcRange: r}
	}
	return x
}

// inQuotes is the position after the opening quote.
func inQuotes(r hcl.Range) hcl.Pos {
	return hcl.Pos{Line: r.Start.Line, Column: r.Start.Column + 1, Byte: r.Start.Byte + 1}
}
