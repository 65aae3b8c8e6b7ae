package configs

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/hashicorp/go-bexpr"
	"github.com/hashicorp/go-bexpr/grammar"
	"github.com/zclconf/go-cty/cty"
)

// RegistryShape is what the operator changes of what a registry says, whatever its driver. The zero value: nothing.
type RegistryShape struct {
	Priority     uint32            `json:"priority"`
	Failover     bool              `json:"failover,omitempty"`
	Weight       uint32            `json:"weight"`
	Namespaces   map[string]string `json:"namespaces,omitempty"` // "*" for all others
	Rename       map[string]string `json:"rename,omitempty"`     // "name" or "namespace/name", as the registry says it
	Region       string            `json:"region,omitempty"`
	Zone         string            `json:"zone,omitempty"`
	Rack         string            `json:"rack,omitempty"`
	ProtocolFrom []string          `json:"protocol_from,omitempty"` // "port_name", "tag", "meta.KEY"; in this order
	Include      *Selection        `json:"include,omitempty"`       // nil: everything
	Exclude      *Selection        `json:"exclude,omitempty"`       // nil: nothing
}

// Selection picks endpoints of a registry: those for which everything that is set holds.
type Selection struct {
	Names  []string `json:"names,omitempty"`  // patterns: of the service's name, or of "namespace/name"
	Tags   []string `json:"tags,omitempty"`   // one of them
	Filter *Filter  `json:"filter,omitempty"` // nil: all
}

// Filter is an expression of go-bexpr over an endpoint.
type Filter struct {
	text string
	eval *bexpr.Evaluator
}

// Filtered is what a Filter sees of an endpoint.
type Filtered struct {
	Namespace string            `bexpr:"namespace"`
	Name      string            `bexpr:"name"`
	Tags      []string          `bexpr:"tags"`
	Meta      map[string]string `bexpr:"meta"`
}

// maxExpressions bounds what the parser of filters does.
const maxExpressions = 100_000

// NewFilter compiles an expression. A label that an endpoint does not have is the empty text.
func NewFilter(text string) (*Filter, error) {
	tree, err := grammar.Parse("", []byte(text), grammar.MaxExpressions(maxExpressions))
	if err != nil {
		return nil, err
	}
	if err := checkSelectors(tree, []string{"name", "namespace", "tags", "meta"}); err != nil {
		return nil, err
	}
	eval, err := bexpr.CreateEvaluator(text, bexpr.WithUnknownValue(""), bexpr.WithMaxExpressions(maxExpressions))
	if err != nil {
		return nil, err
	}
	// What fails on a whole endpoint fails on all.
	_, err = eval.Evaluate(Filtered{"default", "x", []string{"x"}, map[string]string{"x": "x"}})
	return &Filter{text, eval}, err
}

// checkSelectors checks that an expression asks for nothing but known names.
func checkSelectors(tree any, known []string) error {
	check := func(s grammar.Selector) error {
		if len(s.Path) == 0 || slices.Contains(known, s.Path[0]) {
			return nil
		}
		return fmt.Errorf("endpoints have no %s", s.Path[0])
	}
	switch x := tree.(type) {
	case *grammar.UnaryExpression:
		return checkSelectors(x.Operand, known)
	case *grammar.BinaryExpression:
		return errors.Join(checkSelectors(x.Left, known), checkSelectors(x.Right, known))
	case *grammar.MatchExpression:
		return check(x.Selector)
	case *grammar.CollectionExpression:
		inner := append(slices.Clip(known), x.NameBinding.Default, x.NameBinding.Index, x.NameBinding.Value)
		return errors.Join(check(x.Selector), checkSelectors(x.Inner, inner))
	}
	return nil
}

// MarshalText returns the expression.
func (f *Filter) MarshalText() ([]byte, error) { return []byte(f.text), nil }

// Match reports whether the expression holds.
func (f *Filter) Match(x Filtered) bool {
	ok, err := f.eval.Evaluate(x)
	return ok && err == nil
}

// Match reports whether the selection picks an endpoint.
func (s *Selection) Match(x Filtered) bool {
	if len(s.Names) > 0 && !slices.ContainsFunc(s.Names, func(p string) bool { return matchName(p, x) }) {
		return false
	}
	if len(s.Tags) > 0 && !slices.ContainsFunc(s.Tags, func(t string) bool { return slices.Contains(x.Tags, t) }) {
		return false
	}
	return s.Filter == nil || s.Filter.Match(x)
}

// ByService reports whether the selection depends on nothing but the service's name.
func (s *Selection) ByService() bool { return len(s.Tags) == 0 && s.Filter == nil }

func matchName(pattern string, x Filtered) bool {
	name := x.Name
	if strings.Contains(pattern, "/") {
		name = x.Namespace + "/" + x.Name
	}
	ok, err := path.Match(pattern, name)
	return ok && err == nil
}

// shapeAttrs are the attributes of a registry block that are the same for all drivers.
var shapeAttrs = []attr[Registry]{
	field("priority", whole[uint32](0, 1000), func(r *Registry) *uint32 { return &r.Shape.Priority }, "Where registries disagree about a service or an endpoint, the word of the one with the lower number holds; of equal ones, that of the earlier block. The policy folder comes first, then what agents register.").or(cty.NumberIntVal(100)),
	field("failover", boolean(), func(r *Registry) *bool { return &r.Shape.Failover }, "Its endpoints are called only while there are too few healthy ones of registries with a lower priority, or without failover.").or(cty.False),
	field("weight", whole[uint32](1, 1000), func(r *Registry) *uint32 { return &r.Shape.Weight }, "How many times the weight that the registry gives them its endpoints get. For shares of the calls to one service see `registries` of service_defaults.").or(cty.NumberIntVal(1)),
	field("namespaces", dict(dnsName(), "the registry's namespace to the mesh's; `\"*\"` for all others", textKey), func(r *Registry) *map[string]string { return &r.Shape.Namespaces }, "Which namespace of the mesh the services of each of its namespaces are in.").orText("the same"),
	field("rename", dict(dnsName(), "`name` or `\"namespace/name\"`, as the registry says it, to the name in the mesh", textKey), func(r *Registry) *map[string]string { return &r.Shape.Rename }, "Services that have another name in the mesh. Several may become one."),
	field("locality", dict(text(), "region, zone, rack", localityKey), func(r *Registry) *map[string]string { return &r.locality }, "Where its endpoints run, as far as it does not say so itself."),
	field("protocol_from", list(protocolSource(), 1), func(r *Registry) *[]string { return &r.Shape.ProtocolFrom }, "Where the protocol of a port stands that the registry does not say: in the port's name (`grpc` or `grpc-web`), in a tag (`http`), in a label (`meta.protocol`). The first that says one counts."),
}

// shapeBlocks are its blocks.
var shapeBlocks = []child[Registry]{
	one("include", selectionBlock, func(r *Registry) **Selection { return &r.Shape.Include }, "The endpoints that are taken over; without the block all. A service of which none is taken over is left out."),
	one("exclude", selectionBlock, func(r *Registry) **Selection { return &r.Shape.Exclude }, "Endpoints that are left out, of those that are included."),
}

var selectionBlock = newBlock(block[Selection]{
	doc: "Picks endpoints: those for which all that is given holds. Services have the names that the registry gives them. Tags are those of the registry; they are also the labels `tag.NAME = \"true\"`.",
	attrs: []attr[Selection]{
		field("names", list(namePattern(), 1), func(s *Selection) *[]string { return &s.Names }, "The service has one of these names; `*` stands for any characters but a slash, `?` for one."),
		field("tags", list(text(), 1), func(s *Selection) *[]string { return &s.Tags }, "The endpoint has one of these tags."),
		field("filter", filter(), func(s *Selection) **Filter { return &s.Filter }, "An expression of [go-bexpr](https://github.com/hashicorp/go-bexpr) over `name`, `namespace`, `tags` and `meta`. A label that an endpoint does not have is the empty text."),
	},
	finish: func(d *decoder, s *Selection) {
		if s.Names == nil && s.Tags == nil && s.Filter == nil && d.clean() {
			d.failFrame(d.frame, codeEmpty, d.frame.head.typ+" picks nothing", "Give it names, tags or a filter.")
		}
	},
})

// namePattern is a pattern of services' names.
func namePattern() kind[string] {
	return checked("pattern", `"web-*" or "shop/*"`, func(d *decoder, s string) bool {
		if _, err := path.Match(s, ""); err != nil || s == "" || strings.Count(s, "/") > 1 {
			d.fail(codePattern, fmt.Sprintf("%s is no pattern of names: %q", d.what(), short(s)), `Write a name, or "namespace/name", in which * and ? stand for others: "web-*", "shop/*".`)
			return false
		}
		return true
	})
}

// filter is an expression over endpoints.
func filter() kind[*Filter] {
	return kind[*Filter]{"expression", "`\"meta.version != v1\"`", func(d *decoder, v cty.Value) (*Filter, bool) {
		if v.Type() != cty.String || v.IsNull() {
			d.wrongType(v, "a string")
			return nil, false
		}
		f, err := NewFilter(v.AsString())
		if err != nil {
			d.fail(codeFilter, d.what()+" is no expression over endpoints", fmt.Sprintf("%s. Write it over name, namespace, tags and meta: \"mesh in tags and meta.version != v1\".", strings.TrimSuffix(short(err.Error()), ".")))
			return nil, false
		}
		return f, true
	}}
}

// protocolSource is a place where a protocol stands.
func protocolSource() kind[string] {
	return checked("place", `"port_name", "tag", "meta.KEY"`, func(d *decoder, s string) bool {
		key, isMeta := strings.CutPrefix(s, "meta.")
		if s == "port_name" || s == "tag" || isMeta && key != "" {
			return true
		}
		d.fail(codeWord, fmt.Sprintf("%s cannot be %q", d.what(), short(s)), `Write "port_name", "tag", or "meta." and the name of a label.`)
		return false
	})
}

// localityKey accepts the parts of a locality.
func localityKey(d *decoder, s string) (string, bool) {
	parts := []string{"region", "zone", "rack"}
	if slices.Contains(parts, s) {
		return s, true
	}
	d.fail(codeUnknownAttr, fmt.Sprintf("unknown attribute %q", short(s)), "A locality has region, zone and rack."+didYouMean(s, parts))
	return s, false
}
