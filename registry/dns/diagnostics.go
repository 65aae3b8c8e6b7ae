package dns

import (
	"cmp"
	"fmt"
	"slices"

	wire "github.com/miekg/dns"

	"github.com/wattle-mesh/wattle/registry"
)

const (
	srvType = wire.TypeSRV
	// notAvailable is the target of an SRV record that says that there is no service (RFC 2782).
	notAvailable = "."
	// maxTold bounds how much is reported.
	maxTold = 100
)

// diagnostics lists what is wrong, in order.
func (r *run) diagnostics() []registry.Diagnostic {
	var out []registry.Diagnostic
	for e := range r.uneasy {
		out = append(out, e.diagnostic(r.config))
	}
	for s := range r.noted {
		out = append(out, s.notes...)
	}
	slices.SortFunc(out, func(a, b registry.Diagnostic) int {
		return cmp.Or(cmp.Compare(a.Severity, b.Severity), cmp.Compare(a.Code, b.Code), cmp.Compare(a.Summary, b.Summary))
	})
	if more := len(out) - maxTold; more > 0 {
		out = append(out[:maxTold], registry.Diagnostic{Severity: out[maxTold].Severity, Code: out[maxTold].Code,
			Summary: fmt.Sprintf("%d more names or services have faults", more)})
	}
	return out
}

// diagnostic says what is wrong with one question.
func (e *entry) diagnostic(c *config) registry.Diagnostic {
	var user *service
	for s := range e.users {
		if user == nil || s.Name.Compare(user.Name) < 0 {
			user = s
		}
	}
	d := registry.Diagnostic{Severity: registry.Warning, Origin: user.origin}
	what := fmt.Sprintf("service %s: %s", user.Name, e.question)
	switch {
	case e.err != nil && e.known != nil:
		d.Code, d.Summary = registry.NameUnreadable, fmt.Sprintf("%s cannot be read: %v", what, e.err)
		d.Detail = "Its last answer is kept, and it is asked again. See whether the resolvers can be reached and know the zone."
	case e.err != nil:
		d.Severity, d.Code, d.Summary = registry.Error, registry.NameUnreadable, fmt.Sprintf("%s could not be read yet: %v", what, e.err)
		d.Detail = "It is asked again. See whether the resolvers can be reached and know the zone; write family = \"ipv4\" if they fail at AAAA."
	case e.held():
		d.Code, d.Summary = registry.NameGone, fmt.Sprintf("%s has no records any more; the last ones are kept for %s", what, c.negativeHold)
		d.Detail = "If it is gone on purpose there is nothing to do. Else put the records back."
	default:
		d.Code, d.Summary = registry.ResolversDisagree, fmt.Sprintf("%s: resolver %s says that there are no such records, but another one has some", what, e.objection)
		d.Detail = "They are used. Let all resolvers of the registry know the same names, or list only those that do."
	}
	return d
}
