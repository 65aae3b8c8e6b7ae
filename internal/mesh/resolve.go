package mesh

import (
	"maps"
	"slices"

	iradix "github.com/hashicorp/go-immutable-radix/v2"

	"github.com/wattle-mesh/wattle/configs"
	"github.com/wattle-mesh/wattle/registry"
)

// Resolve joins a catalog and a policy. The view is always whole: a route to what does not exist is there and
// Missing, an endpoint or instance that cannot be called safely is left out, and the diagnostics say so. What
// only the policy can have caused is an error; what a registry or an agent can cause is a warning.
//
// prev makes it cheap: only what changed since, and what depends on it, is resolved again, and the rest keeps
// its pointer. The result does not depend on prev but for what is Allotted, which is kept. prev may be
// nil, or have only that. Nothing of prev is changed.
func Resolve(prev *View, cat *registry.Catalog, pol *configs.Policy) (*View, configs.Diagnostics) {
	r := newResolver(prev, cat, pol)
	r.catalogChanges()
	r.policyChanges()
	r.placeWorkloads()
	r.placeSlices()
	r.spread()
	r.resolveRoutes()
	r.resolveServices()
	r.resolveReaches()
	r.resolveScopes()
	r.resolveProxies()
	return r.finish()
}

// resolver is one run of Resolve: the new view in the making, and what must be looked at again.
type resolver struct {
	old   *View  // the view to start from; empty if there is none that fits
	was   *state // old's; never nil
	fresh bool   // old is empty
	cat   *registry.Catalog
	pol   *configs.Policy

	services    table[*Service]
	scopes      table[*Scope]
	reaches     table[*Reach]
	proxies     table[*Proxy]
	ports       Allotment
	portsCopied bool // else ports is the old view's
	changed     struct {
		services []registry.Name
		scopes   []string
		reaches  []string
		proxies  []string
	}

	slices          Slices
	slicesCopied    bool
	addresses       Addresses
	addressesCopied bool
	reachers        index[string]
	reachedBy       index[string]
	slicing         map[string]bool // hosts whose slices must be allotted
	rereach         map[string]bool // reaches that workloads joined or left

	amended   table[*registry.Service]
	steered   index[*configs.VirtualService]
	ruled     index[*configs.DestinationRule]
	attached  index[*configs.VirtualService]
	lent      index[registry.Name]
	sources   table[*source]
	users     index[sourceID]
	workloads table[*Workload]
	onHost    index[string]
	atAddress index[string]
	callers   index[string]
	members   index[string]
	outside   index[registry.Name]
	runOn     index[registry.Name]
	notes     table[[]note]
	renamed   bool // a service or host appeared or vanished, so what is suggested for unknown names may differ

	dirty    map[registry.Name]*dirty
	routes   map[registry.Name][]*Routes        // of services that are dirty; by port
	gateways map[registry.Name]*configs.Gateway // dirty; nil if it is gone
	built    map[registry.Name]*Gateway         // dirty gateways that exist
	hosts    map[string]bool                    // host proxies to look at
	seated   map[string]bool                    // hosts whose mesh ports must be allotted
	had      map[string][]formerSeat            // before this run, by host; nil until a port is allotted
	rescope  map[string]bool                    // workloads whose scope must be resolved
	rekeyed  map[string]bool                    // scopes whose members changed
	claims   []claim                            // scratch of bindConflicts
	copied   map[string]*Workload               // workloads that this run made, and may still write to
}

// dirty says what of a service must be resolved again.
type dirty struct {
	surface   bool // its existence or ports: what others see of it
	subsets   bool // the names of its subsets
	routes    bool
	clusters  bool
	endpoints bool
}

// newResolver starts from prev if it was resolved under the same mesh settings, else from nothing.
func newResolver(prev *View, cat *registry.Catalog, pol *configs.Policy) *resolver {
	r := &resolver{old: prev, cat: cat, pol: pol}
	switch {
	case prev == nil:
		r.old = &View{}
	case prev.s == nil || !sameSettings(prev.Mesh, pol.Mesh):
		r.old = &View{Allotted: prev.Allotted, Gen: prev.Gen}
	}
	r.was = r.old.s
	r.ports, r.slices, r.addresses = r.old.Ports, r.old.Slices, r.old.Addresses
	if r.was == nil {
		r.fresh = true
		r.ports, r.slices, r.addresses = nil, nil, nil
		r.was = &state{catalog: &registry.Catalog{Services: iradix.New[*registry.Service]()}, policy: &configs.Policy{}}
	}
	r.services, r.scopes, r.proxies = tableOf(r.old.Services), tableOf(r.old.Scopes), tableOf(r.old.Proxies)
	r.reaches = tableOf(r.old.Reaches)
	r.reachers, r.reachedBy = stringIndex(r.was.reachers), stringIndex(r.was.reachedBy)
	r.amended = tableOf(r.was.amended)
	r.steered = indexOf(r.was.steered, compareVirtualServices)
	r.ruled = indexOf(r.was.ruled, compareRules)
	r.attached = indexOf(r.was.attached, compareVirtualServices)
	r.sources, r.users = tableOf(r.was.sources), indexOf(r.was.users, compareSources)
	r.workloads = tableOf(r.was.workloads)
	r.onHost, r.atAddress = stringIndex(r.was.onHost), stringIndex(r.was.atAddress)
	r.callers, r.members = stringIndex(r.was.callers), stringIndex(r.was.members)
	r.lent = nameIndex(r.was.lent)
	r.outside, r.runOn = nameIndex(r.was.outside), nameIndex(r.was.runOn)
	r.notes = tableOf(r.was.notes)
	r.dirty = map[registry.Name]*dirty{}
	r.routes = map[registry.Name][]*Routes{}
	r.gateways = map[registry.Name]*configs.Gateway{}
	r.built = map[registry.Name]*Gateway{}
	r.hosts = map[string]bool{}
	r.seated = map[string]bool{}
	r.rescope, r.rekeyed = map[string]bool{}, map[string]bool{}
	r.slicing, r.rereach = map[string]bool{}, map[string]bool{}
	r.copied = map[string]*Workload{}
	if !r.fresh {
		for _, k := range r.old.advanced {
			r.seated[k.Host] = true
		}
	}
	return r
}

// sameSettings reports whether two mesh blocks say the same; where they stand in the files does not count.
func sameSettings(a, b *configs.Mesh) bool {
	x, y := *a, *b
	x.Origin, y.Origin = "", ""
	x.Envoy, y.Envoy = nil, nil
	return x == y && sameEnvoy(a.Envoy, b.Envoy)
}

// sameEnvoy reports whether two blocks name one binary.
func sameEnvoy(a, b *configs.Envoy) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.Version == b.Version && a.Path == b.Path
}

// mark returns what is dirty of service n, to be added to.
func (r *resolver) mark(n registry.Name) *dirty {
	d := r.dirty[n]
	if d == nil {
		d = &dirty{}
		r.dirty[n] = d
	}
	return d
}

// spread marks what depends on services that others see differently now.
func (r *resolver) spread() {
	for _, n := range slices.Collect(maps.Keys(r.dirty)) {
		d := r.dirty[n]
		if d.surface {
			d.routes, d.clusters, d.endpoints = true, true, true
			for _, w := range r.callers.get(n.String()) {
				r.rescope[w] = true
			}
		}
		if !d.surface && !d.subsets {
			continue
		}
		for _, user := range r.users.get(n.String()) {
			r.markSource(user)
		}
	}
}

// markSource has the routes of a service or gateway resolved.
func (r *resolver) markSource(id sourceID) {
	if !id.gateway {
		r.mark(id.Name).routes = true
		return
	}
	if g, ok := find(r.pol.Gateways, id.Name, blockOfGateway); ok {
		r.gateways[id.Name] = g
	}
}

// finish makes the view of what the stages came to.
func (r *resolver) finish() (*View, configs.Diagnostics) {
	v := &View{
		Mesh:     r.pol.Mesh,
		Services: r.services.done(),
		Scopes:   r.scopes.done(),
		Proxies:  r.proxies.done(),
		Reaches:  r.reaches.done(),
		Allotted: Allotted{Ports: r.ports, Slices: r.slices, Addresses: r.addresses},
		Gen:      r.old.Gen + 1,
		Changed:  Changed{Services: r.changed.services, Scopes: r.changed.scopes, Reaches: r.changed.reaches, Proxies: r.changed.proxies},
	}
	if !r.fresh {
		v.PrevGen = r.old.Gen
	}
	if v.Ports == nil {
		v.Ports = Allotment{}
	}
	if v.Slices == nil {
		v.Slices = Slices{}
	}
	if v.Addresses == nil {
		v.Addresses = Addresses{}
	}
	slices.SortFunc(v.Changed.Services, registry.Name.Compare)
	slices.Sort(v.Changed.Scopes)
	slices.Sort(v.Changed.Reaches)
	slices.Sort(v.Changed.Proxies)
	v.s = &state{
		catalog: r.cat, amended: r.amended.done(), policy: r.pol,
		steered: r.steered.done(), ruled: r.ruled.done(), attached: r.attached.done(), lent: r.lent.done(),
		sources: r.sources.done(), users: r.users.done(),
		workloads: r.workloads.done(), onHost: r.onHost.done(), atAddress: r.atAddress.done(),
		callers: r.callers.done(), members: r.members.done(), outside: r.outside.done(), runOn: r.runOn.done(),
		reachers: r.reachers.done(), reachedBy: r.reachedBy.done(),
		notes: r.notes.done(), list: r.was.list,
	}
	if r.fresh || r.renamed || v.s.notes != r.was.notes {
		v.s.list = r.diagnose(v.s.notes)
	}
	return v, slices.Clone(v.s.list)
}
