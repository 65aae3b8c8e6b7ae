package configs

import (
	"reflect"
	"slices"
)

// keep replaces blocks by equal ones of an earlier policy, whose pointers consumers know. Where a block differs,
// its parts that are equal keep theirs.
func (p *Policy) keep(o *decoded) {
	if p == nil {
		return
	}
	keepAll(o.virtualServices, p.VirtualServices, func(a, b *VirtualService) int { return a.Block.compare(&b.Block) }, func(now, old *VirtualService) {
		keepParts(now.HTTP, old.HTTP)
	})
	keepAll(o.destinationRules, p.DestinationRules, func(a, b *DestinationRule) int { return a.Block.compare(&b.Block) }, func(now, old *DestinationRule) {
		keepParts(now.Subsets, old.Subsets)
	})
	keepAll(o.serviceDefaults, p.ServiceDefaults, func(a, b *ServiceDefaults) int { return a.Block.compare(&b.Block) }, func(_, _ *ServiceDefaults) {})
	keepAll(o.gateways, p.Gateways, func(a, b *Gateway) int { return a.Block.compare(&b.Block) }, func(now, old *Gateway) {
		keepParts(now.Servers, old.Servers)
	})
	keepAll(o.hostBlocks, p.Hosts, compareHosts, func(now, old *Host) {
		keepParts(now.Services, old.Services)
	})
	keepAll(o.services, p.Services, compareServices, func(now, old *Service) {
		keepParts(now.Endpoints, old.Endpoints)
	})
}

// keepAll is keep for one kind of block; old is sorted by compare.
func keepAll[T any](now, old []*T, compare func(a, b *T) int, parts func(now, old *T)) {
	for i, b := range now {
		at, ok := slices.BinarySearchFunc(old, b, compare)
		switch {
		case !ok:
		case reflect.DeepEqual(b, old[at]):
			now[i] = old[at]
		default:
			parts(b, old[at])
		}
	}
}

// keepParts is keep for parts, which are told apart by their order.
func keepParts[T any](now, old []*T) {
	for i := range min(len(now), len(old)) {
		if reflect.DeepEqual(now[i], old[i]) {
			now[i] = old[i]
		}
	}
}
