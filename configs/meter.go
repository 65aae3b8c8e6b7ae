package configs

import (
	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"
)

const (
	maxWork     = 500_000 // values that the expressions of one file may touch
	maxDepth    = 100     // of blocks, brackets, operators and values
	maxExponent = 4096    // binary, of numbers: their text has no more digits than a line
)

// meter bounds what the expressions of one file cost. HCL itself bounds nothing: three nested for expressions
// over a thousand elements run for hours. guard puts a metered node at every inner place of an expression; each
// charges the size of the value that passes it. Owned by one goroutine at a time.
type meter struct {
	src  *source
	left int
}

// eval computes a whole expression. When the meter is used up, which was reported, the value is unknown.
func (m *meter) eval(expr hcl.Expression, ctx *hcl.EvalContext) (cty.Value, hcl.Diagnostics) {
	if m.left < 0 {
		return cty.DynamicVal, nil
	}
	return m.value(expr, ctx)
}

// value computes an expression and charges for its value.
func (m *meter) value(expr hcl.Expression, ctx *hcl.EvalContext) (cty.Value, hcl.Diagnostics) {
	v, diags := expr.Value(ctx)
	if diags.HasErrors() {
		return cty.DynamicVal, diags
	}
	if d := m.charge(v, expr.Range()); d != nil {
		return cty.DynamicVal, hcl.Diagnostics{d}
	}
	return v, diags
}

// Summaries of diagnostics that the meter makes; code in errors.go gives them their code.
const (
	summaryTooMuch   = "the expression makes too much"
	summaryTooDeep   = "nested too deep"
	summaryBigNumber = "number too big"
)

func (m *meter) charge(v cty.Value, r hcl.Range) *hcl.Diagnostic {
	if m.left < 0 {
		return tooMuch(r)
	}
	if big := m.walk(v, 0); big != "" {
		return &hcl.Diagnostic{Severity: hcl.DiagError, Summary: big, Detail: "No policy needs this.", Subject: &r}
	}
	if m.left < 0 {
		return tooMuch(r)
	}
	return nil
}

func tooMuch(r hcl.Range) *hcl.Diagnostic {
	return &hcl.Diagnostic{
		Severity: hcl.DiagError, Summary: summaryTooMuch, Subject: &r,
		Detail: "The expressions of a file may touch 500000 values. Check its loops.",
	}
}

// walk takes the size of v off the meter and stops when it is used up. It returns what is wrong with v.
func (m *meter) walk(v cty.Value, depth int) string {
	m.left--
	if m.left < 0 || !v.IsKnown() || v.IsNull() || v.IsMarked() {
		return ""
	}
	if depth > maxDepth {
		return summaryTooDeep
	}
	t := v.Type()
	switch {
	case t == cty.String:
		m.left -= len(v.AsString()) / 16
	case t == cty.Number:
		if e := v.AsBigFloat().MantExp(nil); e > maxExponent || e < -maxExponent {
			return summaryBigNumber
		}
	case t.IsCollectionType() || t.IsTupleType() || t.IsObjectType():
		for it := v.ElementIterator(); it.Next() && m.left >= 0; {
			k, e := it.Element()
			if k.Type() == cty.String {
				m.left -= len(k.AsString()) / 16
			}
			if bad := m.walk(e, depth+1); bad != "" {
				return bad
			}
		}
	}
	return ""
}

// metered is an inner node of an expression.
type metered struct {
	hclsyntax.Expression
	meter *meter
}

// Value charges for the value. The errors of a used up meter end every loop after one round.
func (e *metered) Value(ctx *hcl.EvalContext) (cty.Value, hcl.Diagnostics) {
	if e.meter.left < 0 {
		return cty.DynamicVal, hcl.Diagnostics{tooMuch(e.Range())}
	}
	return e.meter.value(e.Expression, ctx)
}

// UnwrapExpression lets static analysis (types, iterator names) see the node.
func (e *metered) UnwrapExpression() hcl.Expression { return e.Expression }

// guarder prepares the expressions of a file.
type guarder struct {
	meter *meter
	deep  *hcl.Range // the first place that is nested too deep
}

func (g *guarder) body(b *hclsyntax.Body, depth int) {
	if g.tooDeep(depth, b.SrcRange) {
		return
	}
	for _, a := range b.Attributes {
		g.inside(a.Expr, depth)
	}
	for _, inner := range b.Blocks {
		g.body(inner.Body, depth+1)
	}
}

func (g *guarder) tooDeep(depth int, r hcl.Range) bool {
	if depth <= maxDepth {
		return false
	}
	if g.deep == nil || r.Start.Byte < g.deep.Start.Byte {
		g.deep = &r
	}
	return true
}

// wrap prepares an inner expression and returns what stands in its place.
func (g *guarder) wrap(e hclsyntax.Expression, depth int) hclsyntax.Expression {
	switch e := e.(type) {
	case nil, *hclsyntax.AnonSymbolExpr, *metered:
		return e
	case *hclsyntax.LiteralValueExpr:
		if e.Val.Type() != cty.Number {
			return e
		}
	case *hclsyntax.TemplateExpr:
		if len(e.Parts) == 1 && isLiteral(e.Parts[0]) {
			return e
		}
	case *hclsyntax.ObjectConsKeyExpr:
		if _, word := e.Wrapped.(*hclsyntax.ScopeTraversalExpr); !word || e.ForceNonLiteral {
			e.Wrapped = g.wrap(e.Wrapped, depth)
		}
		return e
	}
	g.inside(e, depth)
	return &metered{e, g.meter}
}

func isLiteral(e hclsyntax.Expression) bool {
	_, ok := e.(*hclsyntax.LiteralValueExpr)
	return ok
}

// inside prepares what an expression is made of.
func (g *guarder) inside(e hclsyntax.Expression, depth int) {
	depth++
	if e == nil || g.tooDeep(depth, e.Range()) {
		return
	}
	wrap := func(at *hclsyntax.Expression) { *at = g.wrap(*at, depth) }
	wrapAll := func(list []hclsyntax.Expression) {
		for i := range list {
			wrap(&list[i])
		}
	}
	switch e := e.(type) {
	case *hclsyntax.TemplateExpr:
		wrapAll(e.Parts)
	case *hclsyntax.TemplateJoinExpr:
		wrap(&e.Tuple)
	case *hclsyntax.TemplateWrapExpr:
		wrap(&e.Wrapped)
	case *hclsyntax.ParenthesesExpr:
		wrap(&e.Expression)
	case *hclsyntax.FunctionCallExpr:
		wrapAll(e.Args)
	case *hclsyntax.RelativeTraversalExpr:
		wrap(&e.Source)
	case *hclsyntax.ConditionalExpr:
		wrap(&e.Condition)
		wrap(&e.TrueResult)
		wrap(&e.FalseResult)
	case *hclsyntax.IndexExpr:
		wrap(&e.Collection)
		wrap(&e.Key)
	case *hclsyntax.TupleConsExpr:
		wrapAll(e.Exprs)
	case *hclsyntax.ObjectConsExpr:
		for i := range e.Items {
			wrap(&e.Items[i].KeyExpr)
			wrap(&e.Items[i].ValueExpr)
		}
	case *hclsyntax.ForExpr:
		wrap(&e.CollExpr)
		wrap(&e.KeyExpr)
		wrap(&e.ValExpr)
		wrap(&e.CondExpr)
	case *hclsyntax.SplatExpr:
		wrap(&e.Source)
		wrap(&e.Each)
	case *hclsyntax.BinaryOpExpr:
		wrap(&e.LHS)
		wrap(&e.RHS)
	case *hclsyntax.UnaryOpExpr:
		wrap(&e.Val)
	}
}
