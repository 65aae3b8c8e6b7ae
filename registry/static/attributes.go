package static

import (
	"cmp"
	"maps"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"time"

	"github.com/hashicorp/hcl/v2/hclwrite"
	"github.com/zclconf/go-cty/cty"

	"github.com/wattle-mesh/wattle/registry"
)

func setCapture(b *hclwrite.Body, c *registry.Capture) {
	services := make([]cty.Value, len(c.Services))
	for i, n := range c.Services {
		services[i] = cty.StringVal(n.String())
	}
	b.SetAttributeValue("services", cty.TupleVal(services))
	setText(b, "user", c.User)
	var addresses, ports []cty.Value
	for _, a := range c.ExcludeAddresses {
		addresses = append(addresses, cty.StringVal(a.String()))
	}
	for _, p := range c.ExcludePorts {
		ports = append(ports, cty.NumberUIntVal(uint64(p)))
	}
	if len(addresses) > 0 {
		b.SetAttributeValue("exclude_addresses", cty.TupleVal(addresses))
	}
	if len(ports) > 0 {
		b.SetAttributeValue("exclude_ports", cty.TupleVal(ports))
	}
}

func setCheck(b *hclwrite.Body, c registry.Check) {
	setNumber(b, "port", uint64(c.Port))
	if c.Type == "http" {
		setText(b, "path", c.Path)
	}
	setText(b, "interval", time.Duration(c.Interval).String())
	setText(b, "timeout", time.Duration(c.Timeout).String())
	setNumber(b, "healthy_threshold", uint64(c.Healthy))
	setNumber(b, "unhealthy_threshold", uint64(c.Unhealthy))
}

func setText(b *hclwrite.Body, name, value string) {
	if value != "" {
		b.SetAttributeValue(name, cty.StringVal(value))
	}
}

func setNumber(b *hclwrite.Body, name string, value uint64) {
	b.SetAttributeValue(name, cty.NumberUIntVal(value))
}

func setNamespace(b *hclwrite.Body, namespace string) {
	if namespace != "default" {
		setText(b, "namespace", namespace)
	}
}

func setLocality(b *hclwrite.Body, l registry.Locality) {
	setText(b, "region", l.Region)
	setText(b, "zone", l.Zone)
	setText(b, "rack", l.Rack)
}

func setMeta(b *hclwrite.Body, meta map[string]string) {
	if len(meta) == 0 {
		return
	}
	values := make(map[string]cty.Value, len(meta))
	for k, v := range meta {
		values[k] = cty.StringVal(v)
	}
	b.SetAttributeRaw("meta", object(values))
}

// plainWord matches keys that need no quotes, but for the words of the language.
var plainWord = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_-]*$`)

// object writes an object. hclwrite's own leaves the key "for" without quotes, which at the beginning is a for expression.
func object(values map[string]cty.Value) hclwrite.Tokens {
	var all []hclwrite.ObjectAttrTokens
	for _, k := range slices.Sorted(maps.Keys(values)) {
		name := hclwrite.TokensForValue(cty.StringVal(k))
		if plainWord.MatchString(k) && k != "for" {
			name = hclwrite.TokensForIdentifier(k)
		}
		all = append(all, hclwrite.ObjectAttrTokens{Name: name, Value: hclwrite.TokensForValue(values[k])})
	}
	return hclwrite.TokensForObject(all)
}

// setPorts writes one port without a name flat, and others by name; local is where workloads listen.
func setPorts(b *hclwrite.Body, ports []registry.Port, local map[uint16]netip.AddrPort) {
	protocol := func(p registry.Port) string { return cmp.Or(string(p.Protocol), "unknown") }
	if len(ports) == 1 && ports[0].Name == "" {
		setNumber(b, "port", uint64(ports[0].Number))
		setText(b, "protocol", protocol(ports[0]))
		if at, ok := local[ports[0].Number]; ok {
			setText(b, "local", at.String())
		}
		return
	}
	values, names := map[string]cty.Value{}, map[string]int{}
	for _, p := range ports {
		names[p.Name]++
	}
	for _, p := range ports {
		fields := map[string]cty.Value{"number": cty.NumberUIntVal(uint64(p.Number)), "protocol": cty.StringVal(protocol(p))}
		if at, ok := local[p.Number]; ok {
			fields["local"] = cty.StringVal(at.String())
		}
		key := p.Name
		if number := strconv.Itoa(int(p.Number)); key == "" || names[key] > 1 || names[number] > 0 && key != number || isNumber(key) && key != number {
			key = number // numbers are one of a kind
			fields["name"] = cty.StringVal(p.Name)
		}
		values[key] = cty.ObjectVal(fields)
	}
	b.SetAttributeRaw("ports", object(values))
}

func isNumber(s string) bool {
	_, err := strconv.Atoi(s)
	return err == nil
}
