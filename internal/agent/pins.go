package agent

import (
	"maps"
	"slices"

	"github.com/wattle-mesh/wattle/internal/xds"
	"github.com/wattle-mesh/wattle/translator"
)

// pin keeps a resource as it was in a state to which the agent went back.
type pin struct {
	good *translator.Resource // nil: it was not there
	bad  string               // the version that is not served; empty: that it is gone
}

// pins are what is in quarantine: the server's word of these does not count until it says something else.
type pins map[translator.Key]pin

// pinsTo returns the pins that lead from what was received back to a good state. What registries say of endpoints goes on,
// as long as anything else differs: it is not what breaks an Envoy, and what was known of them is soon wrong.
func pinsTo(good snapshot, received map[translator.Key]*translator.Resource) pins {
	out := pins{}
	for k, g := range good {
		if r := received[k]; r == nil {
			out[k] = pin{good: g}
		} else if r.Version != g.Version {
			out[k] = pin{g, r.Version}
		}
	}
	for k, r := range received {
		if good[k] == nil {
			out[k] = pin{nil, r.Version}
		}
	}
	if out.onlyEndpoints() {
		return out
	}
	maps.DeleteFunc(out, func(k translator.Key, p pin) bool { return k.Type == translator.Endpoint && p.bad != "" })
	return out
}

func (p pins) onlyEndpoints() bool {
	for k := range p {
		if k.Type != translator.Endpoint {
			return false
		}
	}
	return true
}

// news reports whether a response says something else of what is pinned than that which was bad.
func (p pins) news(resp *xds.Response) bool {
	differs := func(k translator.Key, version string) bool {
		x, ok := p[k]
		return ok && x.bad != version && (k.Type != translator.Endpoint || p.onlyEndpoints())
	}
	return slices.ContainsFunc(resp.Resources, func(r *translator.Resource) bool { return differs(r.Key, r.Version) }) ||
		slices.ContainsFunc(resp.Removed, func(name string) bool { return differs(translator.Key{Type: resp.Type, Name: name}, "") })
}
