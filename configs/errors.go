package configs

import (
	"fmt"
	"strings"

	"github.com/hashicorp/hcl/v2"
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
	for i, h := range diags {
		if h.Summary == summaryTooMuch && i > 0 {
			continue // one for each round of each loop
		}
		d.out.report(translate(d.src, d.frame, h, hclCode(h.Summary)))
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
		p = src.place(*h.Subject, in)
	}
	detail := h.Detail
	if h.Expression != nil {
		switch {
		case strings.HasPrefix(h.Summary, "Unknown variable"):
			if word := hcl.ExprAsKeyword(h.Expression); word != "" {
				detail = fmt.Sprintf("There is nothing named %s. If it is meant as text, write it in quotes: %q.%s", word, word, didYouMean(word, []string{"var", "local"}))
			}
		case strings.HasPrefix(h.Summary, "Call to unknown function"):
			if at, _, ok := strings.Cut(string(p.text()), "("); ok || at != "" {
				name := strings.TrimSpace(at)
				detail = fmt.Sprintf("There is no function named %q.%s", name, didYouMean(name, functionNames()))
			}
		}
	}
	return p.diagnostic(severity, code, lowerFirst(h.Summary), detail)
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
