package registry

import (
	"cmp"
	"encoding/json"
	"iter"
	"net/netip"
	"slices"
	"strings"

	iradix "github.com/hashicorp/go-immutable-radix/v2"
)

// Set is everything one source says: the last good set that it published. Immutable.
type Set struct {
	Name     string     `json:"name"`     // the source; unique among the sets that are merged
	Services []*Service `json:"services"` // sorted by name, without repeats
	Standing `json:"-"` // how its word counts beside the others'
}

// HealthWord is what the agent of a host says about one workload.
type HealthWord struct {
	Health Health `json:"health"`
	Reason string `json:"reason,omitempty"`
}

// HealthMap is what all agents say about their workloads. A workload of which no agent has spoken yet counts as
// unhealthy: its proxy may not even run. Nil is the map of a world without agents, where all are healthy. Immutable: a
// change is a new map.
type HealthMap map[WorkloadKey]HealthWord

// CheckKey is where a HealthMap has what the server's active check says of an endpoint that is no workload. CheckedKey(n) is
// there, too, if a service has any.
func CheckKey(n Name, e *Endpoint) WorkloadKey {
	return WorkloadKey{Service: n, Instance: netip.AddrPortFrom(e.Address, e.Port).String()}
}

// CheckedKey is in a HealthMap if it has a CheckKey of the service.
func CheckedKey(n Name) WorkloadKey { return WorkloadKey{Service: n} }

// HostKey is where a HealthMap has the operator's word on a host: Draining, if it is in maintenance. Each of its workloads
// has a word of its own besides.
func HostKey(host string) WorkloadKey { return WorkloadKey{Host: host} }

// Unreported is the reason why a workload of which no agent has spoken is unhealthy.
const Unreported = "its agent has not reported it yet"

// word returns what the agents say of a workload.
func (m HealthMap) word(k WorkloadKey) HealthWord {
	w, ok := m[k]
	if !ok && m != nil {
		return HealthWord{Unhealthy, Unreported}
	}
	return w
}

// Catalog is the merged set of services of all registries at one moment. Immutable and persistent: a service
// whose inputs have not changed since the catalog it was merged from keeps its pointer.
type Catalog struct {
	Services *iradix.Tree[*Service] // by Name.String()

	// Changed lists, sorted, the services that were added, changed or removed since the catalog that was given
	// to Merge, whose Gen was PrevGen. The first catalog of a line has PrevGen 0 and lists all.
	Changed      []Name
	Gen, PrevGen uint64
	// Drained lists, sorted, the hosts that are in maintenance. A catalog that was merged from another one shares the list
	// if it is the same.
	Drained []string

	conflicts *iradix.Tree[[]Diagnostic] // by Name.String(), only services on which the sets disagree
	hosts     *iradix.Tree[[]claim]      // by name, where each host is
	inputs    inputs
}

// Service returns the service of that name, or nil.
func (c *Catalog) Service(n Name) *Service {
	s, _ := c.Services.Get([]byte(n.String()))
	return s
}

// Len returns the number of services.
func (c *Catalog) Len() int { return c.Services.Len() }

// ByPrecedence puts names of registries in the order in which they are asked: the one whose word holds first. It does
// not change names. One that the catalog was not merged from comes last.
func (c *Catalog) ByPrecedence(names []string) []string {
	rank := func(name string) int {
		i := slices.IndexFunc(c.inputs.sets, func(s Set) bool { return s.Name == name })
		if i < 0 {
			return len(c.inputs.sets)
		}
		return i
	}
	out := slices.Clone(names)
	slices.SortStableFunc(out, func(a, b string) int {
		if d := rank(a) - rank(b); d != 0 {
			return d
		}
		return strings.Compare(a, b)
	})
	return out
}

// All yields the services in the order of their keys.
func (c *Catalog) All() iter.Seq[*Service] {
	return func(yield func(*Service) bool) {
		it := c.Services.Root().Iterator()
		for _, s, ok := it.Next(); ok; _, s, ok = it.Next() {
			if !yield(s) {
				return
			}
		}
	}
}

// Diagnostics lists what the sets disagree about: in the order of the services, then of the hosts.
func (c *Catalog) Diagnostics() []Diagnostic {
	var out []Diagnostic
	it := c.conflicts.Root().Iterator()
	for _, ds, ok := it.Next(); ok; _, ds, ok = it.Next() {
		out = append(out, ds...)
	}
	return append(out, hostDisputes(c.hosts)...)
}

// MarshalJSON writes the services sorted by name, and what the sets disagree about. Equal inputs give equal
// bytes, by whatever steps the catalog came about.
func (c *Catalog) MarshalJSON() ([]byte, error) {
	services := slices.AppendSeq(make([]*Service, 0, c.Len()), c.All())
	slices.SortFunc(services, func(a, b *Service) int { return a.Name.Compare(b.Name) })
	return json.Marshal(struct {
		Services    []*Service   `json:"services"`
		Diagnostics []Diagnostic `json:"diagnostics,omitempty"`
	}{services, c.Diagnostics()})
}

// compare orders endpoints as they stand in a service.
func (e *Endpoint) compare(o *Endpoint) int {
	if c := cmp.Or(e.Address.Compare(o.Address), cmp.Compare(e.Port, o.Port)); c != 0 {
		return c
	}
	if c := compareWorkloads(e.Workload, o.Workload); c != 0 {
		return c
	}
	return cmp.Compare(e.ServicePort, o.ServicePort)
}

// compareWorkloads orders endpoints without a workload first.
func compareWorkloads(a, b *Workload) int {
	switch {
	case a == b:
		return 0
	case a == nil:
		return -1
	case b == nil:
		return 1
	}
	return a.Key().Compare(b.Key())
}

// Compare orders by host, service and instance.
func (k WorkloadKey) Compare(o WorkloadKey) int {
	return cmp.Or(cmp.Compare(k.Host, o.Host), k.Service.Compare(o.Service), cmp.Compare(k.Instance, o.Instance))
}
