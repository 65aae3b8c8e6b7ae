package configs

import (
	"fmt"
	"slices"
	"strings"

	"github.com/zclconf/go-cty/cty"
)

// serviceDefaultsFields is the block as it is written.
type serviceDefaultsFields struct {
	ServiceDefaults
	locality map[string]string
}

var serviceDefaultsBlock = through(newBlock(block[serviceDefaultsFields]{
	doc: "What the policy says of a service where its registries do not, and which of their words count. A service has at most one.",
	labels: []label[serviceDefaultsFields]{
		named("name", dnsName(), func(s *serviceDefaultsFields) *string { return &s.Name }, "The service."),
	},
	attrs: []attr[serviceDefaultsFields]{
		namespaceAttr(func(s *serviceDefaultsFields) *Block { return &s.Block }),
		field("protocol", protocolKind, func(s *serviceDefaultsFields) *string { return &s.Protocol }, protocolDoc+" For the ports whose protocol no registry says.").orText("`\"tcp\"`"),
		field("labels", dict(anyText(), "", textKey), func(s *serviceDefaultsFields) *map[string]string { return &s.Labels }, "Labels of the endpoints that do not have them."),
		field("locality", dict(text(), "region, zone, rack", localityKey), func(s *serviceDefaultsFields) *map[string]string { return &s.locality }, "Where endpoints run that have no locality."),
		field("registries", dict(whole[uint32](0, 10_000), "`{ consul-dc1 = 90, nomad = 10 }`; 0 to 10000", registryKey), func(s *serviceDefaultsFields) *map[string]uint32 { return &s.Registries }, "How the calls are shared between the registries that know the service, whatever the numbers of their endpoints. Of a registry that is not named, or has the share 0, nothing is called. An endpoint that several know has a part of each share. A registry without healthy endpoints leaves its share to the others. Unless a destination_rule says otherwise the endpoints are then taken by `round_robin`; with `least_request` the shares hold only roughly.").orText("all endpoints by their weights"),
		identitiesAttr(),
		field("healthy_if", oneOf("registry and agent", "registry or agent", "registry", "agent"), func(s *serviceDefaultsFields) *string { return &s.HealthyIf }, "Whose word on the health of an endpoint counts: that of the registries, or of its host's agent, or of the active check where there is no agent; each where there is one. An endpoint drains if anybody says so.").or(cty.StringVal("registry and agent")),
	},
	blocks: []child[serviceDefaultsFields]{
		many("check", checkBlock, func(s *serviceDefaultsFields) *[]*Check { return &s.Checks }, "An active check: the server runs it, for endpoints whose host has no agent, at their own address. It stands for the agent's word in `healthy_if`. The port is the service's, and leads to where the endpoint listens."),
	},
	origin: func(s *serviceDefaultsFields) *string { return &s.Origin },
	finish: func(d *decoder, s *serviceDefaultsFields) {
		d.setNamespace(&s.Block)
		d.unique("service_defaults", s.Namespace, s.Name)
		s.Region, s.Zone, s.Rack = s.locality["region"], s.locality["zone"], s.locality["rack"]
		sum := uint32(0)
		for _, share := range s.Registries {
			sum += share
		}
		if s.Registries != nil && sum == 0 && d.clean() {
			d.report(d.at(d.frame, "registries"), Error, codeWeightSum, fmt.Sprintf("no registry has a share of the calls to %q", s.Name), "Give at least one of them a share above 0: registries = { consul-dc1 = 90, nomad = 10 }.")
		}
	},
}), func(s *serviceDefaultsFields) *ServiceDefaults { return &s.ServiceDefaults })

// identitiesAttr resolves the names of services, each once and none the block's own.
func identitiesAttr() attr[serviceDefaultsFields] {
	k := list(serviceRef(), 1)
	a := field("identities", k, func(s *serviceDefaultsFields) *[]ServiceRef { return &s.Identities }, "Services whose identity endpoints may have besides the service's own. An endpoint at the address and port of a workload is called over mTLS, as the workload's own callers do, if the workload has one of them; with any other identity it is left out.")
	a.set = func(d *decoder, s *serviceDefaultsFields, val cty.Value) {
		refs, _ := k.parse(d, val)
		for i, ref := range refs {
			if ref == (ServiceRef{}) { // it was reported
				continue
			}
			d.inside(cty.NumberIntVal(int64(i)), func() {
				switch {
				case slices.Contains(s.Identities, ref):
					d.fail(codeDuplicate, fmt.Sprintf("service %s is given twice in identities", ref), "Remove one of them.")
				case ref == ServiceRef{d.namespace, s.Name}:
					d.fail(codeDuplicate, fmt.Sprintf("identities of service %s name the service itself", ref), "Remove it: its own identity may always be had.")
				default:
					s.Identities = append(s.Identities, ref)
				}
			})
		}
		slices.SortFunc(s.Identities, func(a, b ServiceRef) int { return strings.Compare(a.String(), b.String()) })
	}
	return a.orText("its own only")
}

// registryKey accepts the name of a registry.
func registryKey(d *decoder, s string) (string, bool) {
	if labelName.MatchString(s) {
		return s, true
	}
	d.failName(s)
	return s, false
}
