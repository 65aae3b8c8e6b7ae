package configs

import (
	"cmp"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/ext/dynblock"
	"github.com/zclconf/go-cty/cty"
)

// file decodes all blocks of a file.
func (d *decoder) file(tree *parsed) {
	d.namespace = d.env.namespaceOf(d.src.path)
	var body hcl.Body = tree.body
	if d.expanded = tree.dynamic; d.expanded {
		d.inspect(header{body: tree.body}, fileBlock.shape)
		body = dynblock.Expand(body, d.ctx, dynblock.OptCheckForEach(d.checkForEach))
	}
	d.frame = &frame{}
	d.frame.reader = d.read(body, fileBlock.shape)
	decodeBlocks(d, fileBlock, d.out)
	d.frame.forgetChildren()
}

// checkForEach bounds what dynamic blocks make, before they make it.
func (d *decoder) checkForEach(v cty.Value, expr hcl.Expression, _ *hcl.EvalContext) hcl.Diagnostics {
	if !v.IsKnown() || v.IsNull() || !v.CanIterateElements() || d.blocks+v.LengthInt() <= maxBlocks {
		return nil
	}
	r := expr.Range()
	return hcl.Diagnostics{{
		Severity: hcl.DiagError, Summary: summaryTooMuch, Subject: &r,
		Detail: fmt.Sprintf("A file may make %d blocks, and this for_each has %d elements.", maxBlocks, v.LengthInt()),
	}}
}

// assemble makes one policy of all files and checks what they say about each other.
func (r *run) assemble(files []*file, mesh *Mesh) (*Policy, Diagnostics) {
	p := &Policy{Mesh: mesh}
	diags := slices.Clone(r.shared.diags)
	var all []*decoded
	for _, f := range files {
		if f.diag != nil {
			diags = append(diags, *f.diag)
		}
		if f.out == nil {
			continue
		}
		if f.fresh {
			r.last.keep(f.out)
		}
		diags = append(diags, f.out.diags...)
		all = append(all, f.out)
		p.VirtualServices = append(p.VirtualServices, f.out.virtualServices...)
		p.DestinationRules = append(p.DestinationRules, f.out.destinationRules...)
		p.ServiceDefaults = append(p.ServiceDefaults, f.out.serviceDefaults...)
		p.Gateways = append(p.Gateways, f.out.gateways...)
		p.Hosts = append(p.Hosts, f.out.hostBlocks...)
		p.Services = append(p.Services, f.out.services...)
	}
	if r.last != nil && reflect.DeepEqual(r.last.Mesh, mesh) {
		p.Mesh = r.last.Mesh
	}
	// What a file with errors would have declared is not missed.
	complete := !diags.HasErrors()
	var cross decoded
	checkNames(&cross, all)
	checkHosts(&cross, all, p)
	if complete {
		checkReferences(&cross, all, p)
	}
	diags = append(diags, cross.diags...).Sort()
	if diags.HasErrors() {
		return nil, diags
	}
	slices.SortFunc(p.VirtualServices, func(a, b *VirtualService) int { return a.Block.compare(&b.Block) })
	slices.SortFunc(p.DestinationRules, func(a, b *DestinationRule) int { return a.Block.compare(&b.Block) })
	slices.SortFunc(p.ServiceDefaults, func(a, b *ServiceDefaults) int { return a.Block.compare(&b.Block) })
	slices.SortFunc(p.Gateways, func(a, b *Gateway) int { return a.Block.compare(&b.Block) })
	slices.SortFunc(p.Hosts, compareHosts)
	slices.SortFunc(p.Services, compareServices)
	return p, diags
}

// compare orders by namespace, then name.
func (b *Block) compare(o *Block) int {
	return cmp.Or(strings.Compare(b.Namespace, o.Namespace), strings.Compare(b.Name, o.Name))
}

func compareHosts(a, b *Host) int { return strings.Compare(a.Name, b.Name) }

func compareServices(a, b *Service) int {
	return cmp.Or(a.Block.compare(&b.Block), strings.Compare(a.Instance, b.Instance))
}

// checkNames finds names that are given twice.
func checkNames(out *decoded, all []*decoded) {
	seen := map[uniqueName]place{}
	rules := map[string]place{}
	for _, o := range all {
		for _, n := range o.names {
			key := uniqueName{kind: n.kind, name: n.name}
			if first, twice := seen[key]; twice {
				out.report(duplicate(n.kind, n.name, first, n.place))
				continue
			}
			seen[key] = n.place
		}
		for _, n := range o.ruleHosts {
			if first, twice := rules[n.name]; twice {
				out.report(n.place.diagnostic(Error, codeTwoRules, fmt.Sprintf("service %s has two destination rules", n.name), fmt.Sprintf("The first is at %s. Put both into one block.", first.origin())))
				continue
			}
			rules[n.name] = n.place
		}
	}
}

// checkHosts finds what is taken twice on one host, and hosts that share addresses.
func checkHosts(out *decoded, all []*decoded, p *Policy) {
	onHost := map[string][]taken{} // of hosts that gateways run on
	for _, o := range all {
		for _, b := range o.binds {
			onHost[b.host] = nil
		}
	}
	known := map[string]int{} // how many of them were checked with the host's block
	byAddress := map[string][]taken{}
	folder := hostScope{workloads: map[string]place{}, sockets: map[string]place{}}
	for _, o := range all {
		for _, h := range o.hosts {
			if _, ok := onHost[h.name]; ok {
				onHost[h.name] = append(onHost[h.name], h.taken...)
				known[h.name] = len(onHost[h.name])
			}
			if len(h.taken) > 0 { // the mesh ports come first
				a := h.taken[0].addr.Addr().String()
				for _, other := range byAddress[a] {
					if t := h.taken[0]; t.overlaps(other) && t.what != other.what {
						out.report(t.place.diagnostic(Error, codeHostAddress, fmt.Sprintf("%s wants %s, which is taken", t.what, t.addr),
							fmt.Sprintf("%s is at %s. Give one of them another mesh_port, at least %d away.", other.what, other.place.origin(), MeshPorts)))
						break
					}
				}
				byAddress[a] = append(byAddress[a], h.taken[0])
			}
		}
		folder.merge(out, &o.folder)
	}
	for _, o := range all {
		for _, b := range o.binds {
			onHost[b.host] = append(onHost[b.host], b.taken)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(onHost)) {
		reportTaken(out, onHost[name], known[name])
	}
	reportTaken(out, folder.taken, 0)
}

// merge adds what the workloads of one file of a folder of services take.
func (s *hostScope) merge(out *decoded, o *hostScope) {
	for _, key := range slices.Sorted(maps.Keys(o.workloads)) {
		if first, twice := s.workloads[key]; twice {
			out.report(workloadTwice(key, first, o.workloads[key]))
			continue
		}
		s.workloads[key] = o.workloads[key]
	}
	for _, path := range slices.Sorted(maps.Keys(o.sockets)) {
		if first, twice := s.sockets[path]; twice {
			out.report(socketTaken(path, "an upstream", first, o.sockets[path]))
			continue
		}
		s.sockets[path] = o.sockets[path]
	}
	s.taken = append(s.taken, o.taken...)
}

// checkReferences finds names that nothing declares.
func checkReferences(out *decoded, all []*decoded, p *Policy) {
	rules := make(map[ServiceRef]*DestinationRule, len(p.DestinationRules))
	for _, r := range p.DestinationRules {
		rules[r.Host] = r
	}
	gateways := make(map[string]bool, len(p.Gateways))
	for _, g := range p.Gateways {
		gateways[g.Namespace+"/"+g.Name] = true
	}
	hosts := make(map[string]bool, len(p.Hosts))
	for _, h := range p.Hosts {
		hosts[h.Name] = true
	}
	declared := map[ServiceRef]bool{}
	for _, s := range p.Services {
		declared[ServiceRef{s.Namespace, s.Name}] = true
	}
	for _, h := range p.Hosts {
		for _, s := range h.Services {
			declared[ServiceRef{s.Namespace, s.Name}] = true
		}
	}
	for _, o := range all {
		for _, ref := range o.subsetRefs {
			// Of a service that these files do not know, only the catalog can tell whether its name is right.
			if rule := rules[ref.host]; rule != nil || declared[ref.host] {
				checkSubset(out, ref, rule)
			}
		}
		for _, ref := range o.gatewayRefs {
			if !gateways[ref.name] {
				out.report(ref.place.diagnostic(Error, codeNoGateway, fmt.Sprintf("there is no gateway %q", strings.TrimPrefix(ref.name, "default/")),
					"Declare it with a gateway block, or write \"namespace/name\" for one of another namespace."+didYouMean(ref.name, slices.Sorted(maps.Keys(gateways)))))
			}
		}
		for _, ref := range o.hostRefs {
			if len(hosts) > 0 && !hosts[ref.name] {
				out.report(ref.place.diagnostic(Error, codeNoHost, fmt.Sprintf("there is no host %q", ref.name),
					"Declare it with a host block."+didYouMean(ref.name, slices.Sorted(maps.Keys(hosts)))))
			}
		}
	}
}

func checkSubset(out *decoded, ref subsetRef, rule *DestinationRule) {
	if rule == nil {
		out.report(ref.place.diagnostic(Error, codeNoSubset, fmt.Sprintf("service %s has no subset %q", ref.host, ref.subset),
			fmt.Sprintf("Declare it: a destination_rule with host = %q and a block subset %q.", ref.host, ref.subset)))
		return
	}
	names := make([]string, 0, len(rule.Subsets))
	for _, s := range rule.Subsets {
		if s.Name == ref.subset {
			return
		}
		names = append(names, s.Name)
	}
	out.report(ref.place.diagnostic(Error, codeNoSubset, fmt.Sprintf("service %s has no subset %q", ref.host, ref.subset),
		fmt.Sprintf("The destination_rule at %s declares %s.%s", rule.Origin, cmp.Or(quoted(names), "none"), didYouMean(ref.subset, names))))
}
