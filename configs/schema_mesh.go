package configs

import (
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/ext/typeexpr"
	"github.com/zclconf/go-cty/cty"
)

const (
	defaultDomain      = "mesh"
	defaultTrustDomain = "mesh.local"
	mtlsStrict         = "strict"
)

// The outbound traffic policies.
const (
	AllowAny     = "allow_any"
	RegistryOnly = "registry_only"
)

var trustDomain = regexp.MustCompile(`^[a-z0-9._-]{1,255}$`) // SPIFFE-ID, section 2.1

var meshBlock = newBlock(block[Mesh]{
	doc: "What holds for the whole mesh. There is at most one mesh block in a policy.",
	attrs: []attr[Mesh]{
		field("domain", meshDomain(), func(m *Mesh) *string { return &m.Domain }, "The suffix of services' names: `reviews.mesh` is the service `reviews` of the block's namespace, `reviews.shop.mesh` that of the namespace `shop`.").or(cty.StringVal(defaultDomain)),
		field("trust_domain", checked("name", "lower-case letters, digits, dots, hyphens, underscores", func(d *decoder, s string) bool {
			if !trustDomain.MatchString(s) {
				d.fail(codeName, fmt.Sprintf("trust_domain cannot be %q", short(s)), "Use lower-case letters, digits, dots, hyphens and underscores, as in a domain of yours: \"corp.example\".")
				return false
			}
			return true
		}), func(m *Mesh) *string { return &m.TrustDomain }, "The first part of every identity: `spiffe://TRUST_DOMAIN/ns/NAMESPACE/svc/NAME`. A change of it gives everything a new identity.").or(cty.StringVal(defaultTrustDomain)),
		field("mtls", oneOf(mtlsStrict), func(m *Mesh) *string { return &m.MTLS }, "`strict`: endpoints in the mesh are called over mTLS only.").or(cty.StringVal(mtlsStrict)),
		field("plaintext", boolean(), func(m *Mesh) *bool { return &m.Plaintext }, "Whether endpoints outside the mesh may be called, which is in plaintext.").or(cty.True),
		field("outbound_traffic_policy", oneOf(AllowAny, RegistryOnly), func(m *Mesh) *string { return &m.OutboundTrafficPolicy }, "What workloads with transparent capture may call besides their services: `allow_any`, anything, as if there were no mesh; `registry_only`, nothing.").or(cty.StringVal(AllowAny)),
	},
	blocks: []child[Mesh]{
		one("envoy", envoyBlock, func(m *Mesh) **Envoy { return &m.Envoy }, "Which Envoy the hosts run."),
	},
	origin: func(m *Mesh) *string { return &m.Origin },
})

var variableBlock = newBlock(block[variable]{
	doc: "A value from outside, `var.NAME` in expressions: given with `-var NAME=VALUE`, or the default.",
	labels: []label[variable]{
		named("name", wordName(), func(v *variable) *string { return &v.name }, "Its name; one of a kind in the folder."),
	},
	attrs: []attr[variable]{
		{fieldDoc: fieldDoc{name: "type", kind: "type", hint: "`string`, `number`, `bool`, `list(string)`, `object({ name = string })`, ...", doc: "What it must be. The value is converted to it.", keyword: true, absent: "the type of the default"},
			expr: func(d *decoder, v *variable, e hcl.Expression) {
				typ, diags := typeexpr.TypeConstraint(e)
				for _, h := range diags {
					d.out.report(translate(d.src, d.frame, h, codeType))
				}
				if !diags.HasErrors() {
					v.typ, v.typed = typ, true
				}
			}},
		field("default", anyValue(), func(v *variable) *cty.Value { return &v.deflt }, "What it is if no value is given.").orText("a value must be given"),
		field("description", anyText(), func(v *variable) *string { return &v.comment }, "What it is for."),
	},
	finish: func(d *decoder, v *variable) {
		v.place, v.broken = d.src.place(d.frame.head.rng, nil), !d.clean()
	},
})

// meshDomain is a domain without a wildcard.
func meshDomain() kind[string] {
	return checked("domain", "", func(d *decoder, s string) bool {
		if !isDomain(s) || strings.Contains(s, "*") {
			d.failDomain(s)
			return false
		}
		return true
	})
}

// anyValue is a value of any type.
func anyValue() kind[cty.Value] {
	return kind[cty.Value]{"any", "", func(_ *decoder, v cty.Value) (cty.Value, bool) { return v, true }}
}

// wordName is a name as expressions write it.
func wordName() kind[string] {
	return checked("name", "letters, digits, underscores, hyphens", func(d *decoder, s string) bool {
		if !word.MatchString(s) {
			d.fail(codeName, fmt.Sprintf("%s cannot be %q", d.what(), short(s)), "It is written without quotes in expressions: use letters, digits, underscores and hyphens, a letter first.")
			return false
		}
		return true
	})
}

// localsBlock has no table: its attributes are what it defines.
var localsBlock = func() *block[localsMarker] {
	b := newBlock(block[localsMarker]{doc: "Names for expressions: each attribute is `local.NAME` in expressions of the whole folder. They may refer to variables and to each other."})
	b.shape.open = true
	return b
}()

// localsMarker is the Go value of a locals block.
type localsMarker struct{}

var namespaceBlock = newBlock(block[namespace]{
	doc: "Gives a folder to a namespace: blocks of the files in it, and below, that name no namespace belong to this one.",
	labels: []label[namespace]{
		named("name", dnsName(), func(n *namespace) *string { return &n.name }, "The namespace."),
	},
	attrs: []attr[namespace]{
		field("path", checked("path", "relative to the policy folder", func(d *decoder, s string) bool {
			if !fs.ValidPath(strings.TrimPrefix(path.Clean(s), "./")) {
				d.fail(codePath, fmt.Sprintf("path is no folder of the policy: %q", short(s)), "Write it relative to the policy folder, without a slash in front: \"shop\".")
				return false
			}
			return true
		}), func(n *namespace) *string { return &n.path }, "The folder.").must(),
	},
	finish: func(d *decoder, n *namespace) { n.place = d.src.place(d.frame.head.rng, nil) },
})
