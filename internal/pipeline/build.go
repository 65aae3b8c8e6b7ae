package pipeline

import (
	"fmt"
	"slices"

	"github.com/wattle-mesh/wattle/configs"
	"github.com/wattle-mesh/wattle/internal/mesh"
	"github.com/wattle-mesh/wattle/registry"
	"github.com/wattle-mesh/wattle/registry/static"
	"github.com/wattle-mesh/wattle/translator"
)

// PolicySet names the services that the policy folder itself declares.
const PolicySet = "policy"

// Built is what one folder comes to, without a server: the stages' values, each nil from the first one that
// could not be made.
type Built struct {
	Policy      *configs.Policy
	Catalog     *registry.Catalog
	View        *mesh.View
	Output      *translator.Output
	Diagnostics configs.Diagnostics
}

// Build takes the folder dir through all stages, with the services that the folder declares as the only
// registry. It is what validate, dump and dev run; the loop runs the same stages.
func Build(dir string, o configs.Options) Built {
	var b Built
	loader := configs.NewLoader(o)
	b.Policy, b.Diagnostics = loader.Load(dir)
	if b.Diagnostics.HasErrors() {
		return b
	}
	var own static.Memo
	set := registry.Set{Name: PolicySet, Services: own.Services(b.Policy)}
	b.Catalog = registry.Merge(nil, []registry.Set{set}, nil)
	view, diags := mesh.Resolve(nil, b.Catalog, b.Policy)
	b.View = view
	b.Diagnostics = append(b.Diagnostics, loader.Locate(append(disputes(own.Diagnostics(), b.Catalog), diags...))...)
	if b.Diagnostics.HasErrors() {
		return b
	}
	out, err := translator.Translate(nil, b.View)
	if err != nil {
		b.Diagnostics = append(b.Diagnostics, untranslatable(err))
		return b
	}
	b.Output = out
	return b
}

// untranslatable makes a diagnostic of what the translator refused to encode: a fault of ours, not the user's.
func untranslatable(err error) configs.Diagnostic {
	return configs.NewDiagnostic(configs.Error, "W3001", "", "the policy cannot be translated for Envoy", err.Error())
}

// foreign says that a policy names another trust domain than the CA's.
func foreign(m *configs.Mesh, trustDomain string) configs.Diagnostic {
	return configs.NewDiagnostic(configs.Error, "W3002", m.Origin,
		fmt.Sprintf("the trust domain is %s, but the server's CA was made for %s", m.TrustDomain, trustDomain),
		"The trust domain of a mesh cannot be changed. Write trust_domain = \""+trustDomain+"\", or start a new server with an empty state_dir.")
}

// disputes lists what the blocks of the policy folder disagree about, and what the registries do. One word of each
// dispute is in force, so these are warnings.
func disputes(own configs.Diagnostics, c *registry.Catalog) configs.Diagnostics {
	out := slices.Clone(own)
	for _, d := range c.Diagnostics() {
		out = append(out, configs.NewDiagnostic(configs.Warning, d.Code, d.Origin, d.Summary, d.Detail))
	}
	return warnings(out)
}

// warnings lowers errors to warnings: what was wrong with a policy that is in force all the same.
func warnings(ds configs.Diagnostics) configs.Diagnostics {
	out := slices.Clone(ds)
	for i := range out {
		out[i].Severity = configs.Warning
	}
	return out
}
