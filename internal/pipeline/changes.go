package pipeline

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"github.com/wattle-mesh/wattle/configs"
)

// maxNamed bounds how many changed things a line names.
const maxNamed = 3

// named is a policy block as a person knows it.
type named struct {
	kind, namespace, name, origin string
}

func (n named) String() string {
	name := n.name
	if n.namespace != "" && n.namespace != "default" {
		name = n.namespace + "/" + name
	}
	if n.origin == "" {
		return fmt.Sprintf("%s %s", n.kind, name)
	}
	return fmt.Sprintf("%s %s (%s)", n.kind, name, n.origin)
}

// Same reports whether two policies are equal.
func Same(a, b *configs.Policy) bool {
	return a != nil && b != nil && *a.Mesh == *b.Mesh &&
		slices.EqualFunc(a.VirtualServices, b.VirtualServices, equal) && slices.EqualFunc(a.DestinationRules, b.DestinationRules, equal) &&
		slices.EqualFunc(a.ServiceDefaults, b.ServiceDefaults, equal) &&
		slices.EqualFunc(a.Gateways, b.Gateways, equal) && slices.EqualFunc(a.Hosts, b.Hosts, equal) && slices.EqualFunc(a.Services, b.Services, equal)
}

// equal compares blocks. Those that did not change between two loads keep their pointer, but a block that was missing
// from a load comes back as another one: a policy that is never put in force is a load, too.
func equal[T any](a, b *T) bool { return a == b || reflect.DeepEqual(a, b) }

// hash identifies a policy's content across restarts.
func hash(p *configs.Policy) (string, error) {
	text, err := json.Marshal(p)
	if err != nil {
		return "", fmt.Errorf("encode the policy: %w", err)
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:]), nil
}

// describe says in a line what differs between two policies: "virtual_service reviews (policy/reviews.hcl:12)".
func describe(old, now *configs.Policy) string {
	if old == nil {
		return "the first policy"
	}
	var all []named
	if *old.Mesh != *now.Mesh {
		all = append(all, named{kind: "mesh", origin: now.Mesh.Origin})
	}
	all = append(all, diff("virtual_service", old.VirtualServices, now.VirtualServices, func(v *configs.VirtualService) configs.Block { return v.Block })...)
	all = append(all, diff("service_defaults", old.ServiceDefaults, now.ServiceDefaults, func(d *configs.ServiceDefaults) configs.Block { return d.Block })...)
	all = append(all, diff("destination_rule", old.DestinationRules, now.DestinationRules, func(d *configs.DestinationRule) configs.Block { return d.Block })...)
	all = append(all, diff("gateway", old.Gateways, now.Gateways, func(g *configs.Gateway) configs.Block { return g.Block })...)
	all = append(all, diff("host", old.Hosts, now.Hosts, func(h *configs.Host) configs.Block { return configs.Block{Name: h.Name, Origin: h.Origin} })...)
	all = append(all, diff("service", old.Services, now.Services, func(s *configs.Service) configs.Block { return s.Block })...)
	if len(all) == 0 {
		return "the same policy at other lines"
	}
	return list(all)
}

// onlyMoved reports whether two blocks differ in nothing but where they stand.
func onlyMoved[T any](a, b *T) bool {
	x, errX := content(a)
	y, errY := content(b)
	return errX == nil && errY == nil && reflect.DeepEqual(x, y)
}

// position is what the origin of a block looks like.
var position = regexp.MustCompile(`\.(hcl|json):[0-9]+$`)

// content returns a block as JSON has it, without positions.
func content(block any) (out any, err error) {
	text, err := json.Marshal(block)
	if err == nil {
		err = json.Unmarshal(text, &out)
	}
	strip(out)
	return out, err
}

func strip(v any) {
	switch v := v.(type) {
	case map[string]any:
		if at, ok := v["origin"].(string); ok && position.MatchString(at) {
			delete(v, "origin")
		}
		for _, x := range v {
			strip(x)
		}
	case []any:
		for _, x := range v {
			strip(x)
		}
	}
}

// diff walks two slices that are sorted by namespace and name.
func diff[T any](kind string, old, now []*T, block func(*T) configs.Block) []named {
	var out []named
	i, j := 0, 0
	for i < len(old) || j < len(now) {
		var c int
		switch {
		case i == len(old):
			c = 1
		case j == len(now):
			c = -1
		case equal(old[i], now[j]):
			i, j = i+1, j+1
			continue
		default:
			a, b := block(old[i]), block(now[j])
			c = cmp.Or(strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Name, b.Name))
		}
		if c < 0 {
			b := block(old[i])
			out = append(out, named{kind: kind, namespace: b.Namespace, name: b.Name, origin: "removed"})
			i++
			continue
		}
		if c > 0 || !onlyMoved(old[i], now[j]) {
			b := block(now[j])
			out = append(out, named{kind, b.Namespace, b.Name, b.Origin})
		}
		j++
		if c == 0 {
			i++
		}
	}
	return out
}

func list[T fmt.Stringer](all []T) string {
	var b strings.Builder
	for i, n := range all {
		if i == maxNamed {
			fmt.Fprintf(&b, " and %d more", len(all)-i)
			break
		}
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(n.String())
	}
	return b.String()
}
