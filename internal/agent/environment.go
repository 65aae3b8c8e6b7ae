package agent

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/wattle-mesh/wattle/adapters"
	"github.com/wattle-mesh/wattle/internal/mesh/planpb"
	"github.com/wattle-mesh/wattle/internal/systemd"
)

// withUnits adds to what workloads get what their units do: an order after their proxies, a companion that drains them, and
// where upstreams are.
func withUnits(w *adapters.Workloads, plan *planpb.HostPlan, registered map[workload]string) *adapters.Workloads {
	units := map[string]*adapters.Unit{}
	for _, u := range w.Units {
		units[u.Name] = &u
	}
	bound := boundUnits(plan, registered)
	for _, x := range plan.GetWorkloads() {
		name := bound[workloadOf(x)]
		if name == "" || systemd.Template(name) { // a drop-in of a template is one of all its instances
			continue
		}
		u := units[name]
		if u == nil {
			u = &adapters.Unit{Name: name}
			units[name] = u
		}
		if proxy := proxyOf(x); !slices.Contains(u.Proxies, proxy) {
			u.Proxies = append(u.Proxies, proxy)
		}
		for _, e := range environment(x) {
			key, _, _ := strings.Cut(e, "=")
			if !slices.ContainsFunc(u.Env, func(o string) bool { return strings.HasPrefix(o, key+"=") }) { // the first workload's word holds
				u.Env = append(u.Env, e)
			}
		}
	}
	out := &adapters.Workloads{Resolver: w.Resolver}
	for _, name := range slices.Sorted(maps.Keys(units)) {
		slices.Sort(units[name].Proxies)
		slices.Sort(units[name].Env)
		out.Units = append(out.Units, *units[name])
	}
	return out
}

// environment lists where a workload finds its upstreams, sorted: WATTLE_UPSTREAM_REVIEWS for the service of its own namespace,
// WATTLE_UPSTREAM_SHOP__REVIEWS for one of another. An upstream whose service has another one with another port has only the name
// with its port, WATTLE_UPSTREAM_REVIEWS_9080, which every one has.
func environment(w *planpb.Workload) []string {
	named := map[string][]*planpb.Upstream{}
	for _, u := range w.GetUpstreams() {
		name := variable(u.GetService())
		if u.GetNamespace() != w.GetNamespace() {
			name = variable(u.GetNamespace()) + "__" + name
		}
		named[name] = append(named[name], u)
	}
	out := map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(named)) {
		for _, u := range named[name] {
			keys := []string{fmt.Sprintf("WATTLE_UPSTREAM_%s_%d", name, u.GetPort())}
			if len(named[name]) == 1 {
				keys = append(keys, "WATTLE_UPSTREAM_"+name)
			}
			for _, key := range keys {
				if out[key] == "" {
					out[key] = u.GetBind()
				}
			}
		}
	}
	var lines []string
	for _, key := range slices.Sorted(maps.Keys(out)) {
		lines = append(lines, key+"="+out[key])
	}
	return lines
}

// variable is a name as part of that of a variable.
func variable(name string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z':
			return r - 'a' + 'A'
		case r >= 'A' && r <= 'Z', r >= '0' && r <= '9':
			return r
		}
		return '_'
	}, name)
}
