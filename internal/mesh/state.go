package mesh

import (
	"cmp"
	"slices"
	"strings"

	iradix "github.com/hashicorp/go-immutable-radix/v2"

	"github.com/wattle-mesh/wattle/configs"
	"github.com/wattle-mesh/wattle/registry"
)

// state is what a view remembers of its inputs, and the inverted indexes over them. Immutable. Keys of
// services and gateways are "namespace/name", those of workloads WorkloadKey.String().
type state struct {
	catalog *registry.Catalog
	amended *iradix.Tree[*registry.Service] // services as service_defaults leave them, those that have some
	policy  *configs.Policy

	steered  *iradix.Tree[[]*configs.VirtualService]  // service -> those that route its callers' requests
	ruled    *iradix.Tree[[]*configs.DestinationRule] // service -> those for it
	attached *iradix.Tree[[]*configs.VirtualService]  // gateway -> those it serves
	lent     *iradix.Tree[[]registry.Name]            // service -> those whose endpoints may have its identity

	sources *iradix.Tree[*source]    // source.key -> what its routes refer to
	users   *iradix.Tree[[]sourceID] // service -> the sources whose routes refer to it

	workloads *iradix.Tree[*Workload]
	onHost    *iradix.Tree[[]string]        // host -> workloads
	atAddress *iradix.Tree[[]string]        // address -> workloads that can be reached there, see addressesOf
	callers   *iradix.Tree[[]string]        // service -> workloads that name it as one that they call
	members   *iradix.Tree[[]string]        // scope -> workloads
	outside   *iradix.Tree[[]registry.Name] // address -> services with an endpoint there that no workload stands for
	runOn     *iradix.Tree[[]registry.Name] // host -> gateways

	reachers  *iradix.Tree[[]string] // reach -> workloads
	reachedBy *iradix.Tree[[]string] // service, or pattern -> reaches that want it

	notes *iradix.Tree[[]note] // what is wrong, by the thing that was resolved
	list  configs.Diagnostics  // of notes, as Resolve returned it
}

// sourceID is what has routes of its own: a service with a virtual service, or a gateway.
type sourceID struct {
	gateway bool
	registry.Name
}

func (id sourceID) key() string {
	if id.gateway {
		return "gateway " + id.Name.String()
	}
	return "service " + id.Name.String()
}

func compareSources(a, b sourceID) int {
	if a.gateway != b.gateway {
		if a.gateway {
			return 1
		}
		return -1
	}
	return a.Name.Compare(b.Name)
}

// source is what the routes of one of them refer to.
type source struct {
	targets []registry.Name // services, known or not; sorted
	subsets []ClusterRef    // those that exist and have a subset; sorted
}

// equal reports whether two sources, which may be nil, refer to the same.
func (s *source) equal(o *source) bool {
	if s == nil || o == nil {
		return s == o
	}
	return slices.Equal(s.targets, o.targets) && slices.Equal(s.subsets, o.subsets)
}

// wants returns the subsets of service n that the source uses.
func (s *source) wants(n registry.Name) []ClusterRef {
	if s == nil {
		return nil
	}
	lo := 0
	for lo < len(s.subsets) && s.subsets[lo].Service.Compare(n) < 0 {
		lo++
	}
	hi := lo
	for hi < len(s.subsets) && s.subsets[hi].Service == n {
		hi++
	}
	return s.subsets[lo:hi]
}

// Compare orders by service, port and subset.
func (c ClusterRef) Compare(o ClusterRef) int {
	return cmp.Or(c.Service.Compare(o.Service), cmp.Compare(c.Port, o.Port), strings.Compare(c.Subset, o.Subset))
}

func compareBlocks(a, b configs.Block) int {
	return cmp.Or(strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Name, b.Name))
}

func compareVirtualServices(a, b *configs.VirtualService) int {
	return compareBlocks(a.Block, b.Block)
}
func compareRules(a, b *configs.DestinationRule) int    { return compareBlocks(a.Block, b.Block) }
func compareDefaults(a, b *configs.ServiceDefaults) int { return compareBlocks(a.Block, b.Block) }
func compareGateways(a, b *configs.Gateway) int         { return compareBlocks(a.Block, b.Block) }
func compareHosts(a, b *configs.Host) int               { return strings.Compare(a.Name, b.Name) }

// blockName is the name of a block as services and gateways have it.
func blockName(b configs.Block) registry.Name {
	return registry.Name{Namespace: b.Namespace, Name: b.Name}
}
