package consul

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/hashicorp/consul/api"

	"github.com/wattle-mesh/wattle/registry"
)

// entry is one instance of a service as /v1/health/service tells it.
type entry struct {
	Node    *api.Node
	Service *api.AgentService
	Checks  []check
}

// check is what counts of a health check.
type check struct {
	Node        string
	CheckID     string
	Status      string
	ServiceName string
	ModifyIndex uint64
}

// checkKey identifies a check in a datacentre.
type checkKey struct{ node, id string }

// offer is what one part says about a service. Immutable.
type offer struct {
	illegible bool   // its name cannot be asked for; there is nothing else then
	index     uint64 // of the answer
	modified  uint64 // the last index at which an instance was registered or changed
	nodes     []string
	instances []instance
	faults    []registry.Diagnostic
}

// instance is one instance of a service: an endpoint for each of its ports.
type instance struct {
	endpoint registry.Endpoint // without ports
	ports    []namedPort
	id, node string
	created  uint64 // the index at which it was registered
}

// name is what a person calls it.
func (in *instance) name() string {
	return fmt.Sprintf("instance %s on node %s", in.id, in.node)
}

// namedPort is a port; most instances have one, without a name.
type namedPort struct {
	name   string
	number uint16
}

// The labels that tell where an instance comes from.
const (
	labelID         = "consul.id"
	labelNode       = "consul.node"
	labelDatacenter = "consul.datacenter"
	labelTag        = "tag."  // before a tag; its value is "true"
	labelNodeMeta   = "node." // before the key of a node's metadata
)

// offer turns an answer about a service into what is offered; nil if there is no instance that is neither proxy nor
// gateway. Consul answers with services whose names differ in case, too; they are others.
func (c *config) offer(name string, entries []*entry, index uint64) *offer {
	o := &offer{index: index}
	var portless, unresolved []string
	typical := 0
	for _, e := range entries {
		if e == nil || e.Node == nil || e.Service == nil {
			continue
		}
		o.modified = max(o.modified, e.Service.ModifyIndex)
		if e.Service.Kind != api.ServiceKindTypical || e.Service.Service != name || name == "consul" {
			continue
		}
		typical++
		o.nodes = append(o.nodes, e.Node.Node)
		address, port := c.place(e)
		at, err := netip.ParseAddr(address)
		ports := e.ports(port)
		switch {
		case err != nil:
			unresolved = append(unresolved, fmt.Sprintf("%q (%s)", address, e.Service.ID))
		case len(ports) == 0:
			portless = append(portless, e.Service.ID)
		default:
			o.instances = append(o.instances, instance{c.endpoint(e, at.Unmap()), ports, e.Service.ID, e.Node.Node, e.Service.CreateIndex})
		}
	}
	if typical == 0 {
		return nil
	}
	o.fault(unresolved, "their address is no IP address", "Names are not resolved here. Register the instance with an IP address, or choose another one with address_from.")
	o.fault(portless, "they have no port", "Register the instance with a port from 1 to 65535.")
	return o
}

// fault says that instances are left out.
func (o *offer) fault(instances []string, why, remedy string) {
	if len(instances) == 0 {
		return
	}
	slices.Sort(instances)
	more := ""
	if n := len(instances) - 3; n > 0 {
		instances, more = instances[:3], fmt.Sprintf(" and %d more", n)
	}
	o.faults = append(o.faults, registry.Diagnostic{Severity: registry.Error, Code: registry.BadEndpoint, Detail: remedy,
		Summary: clean(fmt.Sprintf("instances %s%s are left out: %s", strings.Join(instances, ", "), more, why), 500)})
}

// clean makes a text fit to be shown.
func clean(s string, most int) string {
	if len(s) > most {
		s = s[:most] + "..."
	}
	return strings.ToValidUTF8(s, "\uFFFD")
}

// place returns where an instance is called: its own address, else its node's, and the port that goes with it.
func (c *config) place(e *entry) (string, int) {
	own := cmp.Or(e.Service.Address, e.Node.Address)
	switch c.addressFrom {
	case "service":
		return own, e.Service.Port
	case "node":
		return e.Node.Address, e.Service.Port
	}
	if a, ok := e.Service.TaggedAddresses[c.addressFrom]; ok && a.Address != "" {
		return a.Address, cmp.Or(a.Port, e.Service.Port)
	}
	if a := e.Node.TaggedAddresses[c.addressFrom]; a != "" && e.Service.Address == "" {
		return a, e.Service.Port
	}
	return own, e.Service.Port
}

// ports returns the ports of an instance: those that have names, or the one that goes with its address.
func (e *entry) ports(port int) []namedPort {
	var out []namedPort
	for _, p := range e.Service.Ports {
		if p.Port > 0 && p.Port <= 65535 {
			out = append(out, namedPort{p.Name, uint16(p.Port)})
		}
	}
	if len(out) == 0 && port > 0 && port <= 65535 {
		out = append(out, namedPort{"", uint16(port)})
	}
	return out
}

func (c *config) endpoint(e *entry, at netip.Addr) registry.Endpoint {
	out := registry.Endpoint{Address: at, Meta: registry.LabelsOf(c.labels(e)), Locality: registry.Locality{Region: e.Node.Datacenter}}
	for _, l := range []*api.Locality{e.Service.Locality, e.Node.Locality} {
		if l != nil && l.Region != "" {
			out.Locality = registry.Locality{Region: l.Region, Zone: l.Zone}
			break
		}
	}
	weight := e.Service.Weights.Passing
	status, maintained, worst := e.health()
	switch {
	case status == api.HealthPassing, status == api.HealthWarning && !c.onlyPassing:
		out.Health = registry.Healthy
		if status == api.HealthWarning {
			weight = e.Service.Weights.Warning
			if weight == 0 && e.Service.Weights.Passing > 0 {
				out.Health, out.Reason = registry.Unhealthy, clean(fmt.Sprintf("check %s is warning, for which its weight is 0", worst), 200)
			}
		}
	default:
		out.Health, out.Reason = registry.Unhealthy, clean(fmt.Sprintf("check %s is %s", worst, status), 200)
	}
	if maintained && out.Health == registry.Healthy {
		out.Health, out.Reason = registry.Draining, "in maintenance mode"
	}
	out.Weight = uint32(max(weight, 0))
	return out
}

// health returns the worst status of the checks and which check has it, maintenance mode apart.
func (e *entry) health() (status string, maintained bool, id string) {
	order := []string{api.HealthPassing, api.HealthWarning, api.HealthCritical}
	worst := 0
	for _, c := range e.Checks {
		if c.CheckID == api.NodeMaint || strings.HasPrefix(c.CheckID, api.ServiceMaintPrefix) {
			maintained = true
			continue
		}
		how := slices.Index(order, c.Status)
		if how < 0 {
			how = len(order) - 1 // a status that Consul does not have
		}
		if how > worst || how == worst && how > 0 && c.CheckID < id {
			worst, id = how, c.CheckID
		}
	}
	return order[worst], maintained, id
}

// labels are the instance's metadata, its tags, the chosen metadata of its node, and where it comes from.
func (c *config) labels(e *entry) map[string]string {
	m := make(map[string]string, len(e.Service.Meta)+len(e.Service.Tags)+len(c.nodeMeta)+3)
	for _, t := range e.Service.Tags {
		if t != "" {
			m[labelTag+t] = "true"
		}
	}
	for _, k := range c.nodeMeta {
		if v, ok := e.Node.Meta[k]; ok {
			m[labelNodeMeta+k] = v
		}
	}
	m[labelID], m[labelNode], m[labelDatacenter] = e.Service.ID, e.Node.Node, e.Node.Datacenter
	for k, v := range e.Service.Meta {
		if !registry.Given(k, "consul") {
			m[k] = v
		}
	}
	return m
}
