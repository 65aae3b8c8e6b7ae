package configs

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
)

// hclCodes gives the diagnostics of HCL that can appear while content is read and expressions are computed their
// codes, by the beginning of their summary. What is not here is codeExpression.
var hclCodes = []struct{ summary, code string }{
	{"Unsupported argument", codeUnknownAttr},
	{"Unsupported block type", codeUnknownBlock},
	{"Missing required argument", codeMissingAttr},
	{"Missing dynamic content block", codeMissingBlock},
	{"Missing ", codeLabels}, // followed by the label's name
	{"Extraneous label", codeLabels},
	{"Extraneous dynamic block label", codeLabels},
	{"Insufficient dynamic block labels", codeLabels},
	{"Extraneous dynamic content block", codeBlockTwice},
	{"Unknown variable", codeUnknownName},
	{"Variables not allowed", codeUnknownName},
	{"Unsupported attribute", codeUnknownName},
	{"Call to unknown function", codeUnknownName},
	{summaryTooMuch, codeTooMuch},
	{summaryTooDeep, codeTooDeep},
	{summaryBigNumber, codeTooMuch},
}

func hclCode(summary string) string {
	for _, c := range hclCodes {
		if strings.HasPrefix(summary, c.summary) {
			return c.code
		}
	}
	return codeExpression
}

// hclDiagnostics reports what HCL found.
func (d *decoder) hclDiagnostics(diags hcl.Diagnostics) {
	reportHCL(d.out, place{src: d.src, in: d.frame}, diags, d.expanded)
}

// reportHCL reports what HCL found at a place that is known roughly. In a file whose dynamic blocks were expanded,
// inspect has reported what does not belong there.
func reportHCL(out *decoded, at place, diags hcl.Diagnostics, inspected bool) {
	for i, h := range diags {
		code := hclCode(h.Summary)
		switch {
		case i > 0 && h.Summary == summaryTooMuch: // there is one for each round of each loop
		case inspected && (code == codeUnknownAttr || code == codeUnknownBlock):
		case inspected && code == codeLabels && !strings.Contains(h.Summary, "dynamic"):
		default:
			out.report(translate(at.src, at.in, h, code))
		}
	}
}

// translate makes our diagnostic of one of HCL's.
func translate(src *source, in *frame, h *hcl.Diagnostic, code string) Diagnostic {
	severity := Error
	if h.Severity == hcl.DiagWarning {
		severity = Warning
	}
	p := place{src: src, in: in}
	if h.Subject != nil {
		p = src.place(*h.Subject, in).beforeEnd()
	}
	return p.diagnostic(severity, code, lowerFirst(h.Summary), remedy(h, code, p))
}

// remedy is HCL's detail, which is mostly the cause, with what to do about it; or ours where we know more.
func remedy(h *hcl.Diagnostic, code string, p place) string {
	switch {
	case h.Expression == nil:
	case strings.HasPrefix(h.Summary, "Unknown variable"):
		if word := hcl.ExprAsKeyword(h.Expression); word != "" {
			return fmt.Sprintf("There is nothing named %s. If it is meant as text, write it in quotes: %q.%s", word, word, didYouMean(word, []string{"var", "local"}))
		}
	case strings.HasPrefix(h.Summary, "Call to unknown function"):
		name, _, _ := strings.Cut(string(p.text()), "(")
		name = strings.TrimSpace(name)
		return fmt.Sprintf("There is no function named %q. Use one that docs/policy.md lists.%s", name, didYouMean(name, functionNames()))
	case strings.HasPrefix(h.Summary, "Unsupported attribute"):
		if detail := noSuchName(h); detail != "" {
			return detail
		}
	}
	if code == codeSyntax && strings.HasSuffix(h.Summary, "definition required") && string(p.text()) == "}" {
		return "Nothing is open that this brace could close. Remove it, or add what it is to close before it."
	}
	return ourPosition.ReplaceAllString(h.Detail, ":$1:$2") + " " + whatToDo(h, code)
}

// ourPosition matches a position as HCL writes it, "file:2,3-9"; ours is "file:2:3".
var ourPosition = regexp.MustCompile(`:(\d+),(\d+)-\d+(,\d+)?`)

// whatToDo is the remedy for a code of which HCL says the cause.
func whatToDo(h *hcl.Diagnostic, code string) string {
	if call, ok := hcl.DiagnosticExtra[hclsyntax.FunctionCallDiagExtra](h); ok && call.CalledFunctionName() == "file" {
		return "Give the path of a text file below the policy folder, relative to the file that this stands in."
	}
	switch {
	case h.Summary == "Attribute redefined":
		return "Remove one of them."
	case h.Summary == "Invalid type specification":
		return "Write string, number, bool, list(string), object({ name = string }) or the like."
	case code == codeExpression:
		return "Correct the expression."
	}
	c, _ := Explain(code)
	return c.Remedy
}

// noSuchName explains a reference to a variable or local that does not exist.
func noSuchName(h *hcl.Diagnostic) string {
	e, ok := hcl.UnwrapExpression(h.Expression).(*hclsyntax.ScopeTraversalExpr)
	if !ok || len(e.Traversal) < 2 {
		return ""
	}
	kind := map[string]string{"var": "variable", "local": "local"}[e.Traversal.RootName()]
	step, ok := e.Traversal[1].(hcl.TraverseAttr)
	if kind == "" || !ok {
		return ""
	}
	var known []string
	for ctx := h.EvalContext; ctx != nil; ctx = ctx.Parent() {
		if v, ok := ctx.Variables[e.Traversal.RootName()]; ok && v.Type().IsObjectType() {
			known = slices.Sorted(maps.Keys(v.Type().AttributeTypes()))
			break
		}
	}
	if slices.Contains(known, step.Name) {
		return "" // something further on is missing
	}
	return fmt.Sprintf("There is no %s %q. Declare it, or correct the name.%s", kind, step.Name, didYouMean(step.Name, known))
}

// text is what stands at the place.
func (p place) text() []byte {
	n := len(p.src.data)
	start := min(max(p.start, 0), n)
	return p.src.data[start:min(max(p.end, start), n)]
}

func lowerFirst(s string) string {
	if s == "" {
		return s
	}
	return strings.ToLower(s[:1]) + s[1:]
}
