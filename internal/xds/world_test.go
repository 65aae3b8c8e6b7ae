package xds

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/wattle-mesh/wattle/translator"
)

// world is a small mesh in the form of the translator's output. A resource's version says what it refers to:
// "7>a,b" is the seventh version of something that refers to the clusters a and b.
type world struct {
	resources map[translator.Key]string    // version
	scopes    map[string]*translator.Scope // without sorting
	proxies   map[string][]string
}

func newWorld() *world {
	return &world{map[translator.Key]string{}, map[string]*translator.Scope{}, map[string][]string{}}
}

// references returns the clusters that a version refers to.
func references(version string) []string {
	_, list, _ := strings.Cut(version, ">")
	if list == "" {
		return nil
	}
	return strings.Split(list, ",")
}

func resource(k translator.Key, version string) *translator.Resource {
	body := appendString(nil, 1, k.Type.URL())
	wire := appendString(nil, 1, version)
	wire = appendString(wire, 3, k.Name)
	wire = protowire.AppendTag(wire, 2, protowire.BytesType)
	wire = protowire.AppendBytes(wire, body)
	return &translator.Resource{Key: k, Version: version, Wire: wire, Origin: "policy.hcl:" + fmt.Sprint(len(version))}
}

func byKey(a, b translator.Key) int {
	return cmp.Or(cmp.Compare(a.Type, b.Type), strings.Compare(a.Name, b.Name), strings.Compare(a.Variant, b.Variant))
}

func (w *world) clone() *world {
	return &world{maps.Clone(w.resources), maps.Clone(w.scopes), maps.Clone(w.proxies)}
}

// since returns the changes from an older world to this one.
func (w *world) since(old *world) translator.Changes {
	var c translator.Changes
	for _, k := range slices.SortedFunc(maps.Keys(w.resources), byKey) {
		if v := w.resources[k]; v != old.resources[k] {
			c.Resources = append(c.Resources, resource(k, v))
		}
	}
	for k := range old.resources {
		if _, ok := w.resources[k]; !ok {
			c.Removed = append(c.Removed, k)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(w.scopes)) {
		s, o := w.scopes[name], old.scopes[name]
		if o == nil || !slices.Equal(s.Keys, o.Keys) || !slices.Equal(s.Uses, o.Uses) {
			c.Scopes = append(c.Scopes, s)
		}
	}
	for name := range old.scopes {
		if w.scopes[name] == nil {
			c.GoneScopes = append(c.GoneScopes, name)
		}
	}
	for _, id := range slices.Sorted(maps.Keys(w.proxies)) {
		if o, ok := old.proxies[id]; !ok || !slices.Equal(o, w.proxies[id]) {
			c.Proxies = append(c.Proxies, &translator.Proxy{ID: id, Scopes: w.proxies[id]})
		}
	}
	for id := range old.proxies {
		if _, ok := w.proxies[id]; !ok {
			c.GoneProxies = append(c.GoneProxies, id)
		}
	}
	return c
}

// inScope returns what a proxy should hold: names to versions.
func (w *world) inScope(id string) [translator.NumTypes]map[string]string {
	var out [translator.NumTypes]map[string]string
	for t := range out {
		out[t] = map[string]string{}
	}
	seen := map[string]bool{}
	var walk func(string)
	walk = func(name string) {
		s := w.scopes[name]
		if s == nil || seen[name] {
			return
		}
		seen[name] = true
		for _, k := range s.Keys {
			if v, ok := w.resources[k]; ok {
				out[k.Type][k.Name] = v
			}
		}
		for _, u := range s.Uses {
			walk(u)
		}
	}
	for _, s := range w.proxies[id] {
		walk(s)
	}
	return out
}
