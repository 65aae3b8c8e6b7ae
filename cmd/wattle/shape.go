package main

import (
	"github.com/wattle-mesh/wattle/configs"
	"github.com/wattle-mesh/wattle/registry"
)

// shapeOf is what a registry's block changes of what its driver says.
func shapeOf(c *configs.RegistryShape) registry.Shape {
	out := registry.Shape{
		Standing:   registry.Standing{Priority: c.Priority, Failover: c.Failover, Weight: c.Weight},
		Namespaces: c.Namespaces, Rename: c.Rename, ProtocolFrom: c.ProtocolFrom,
		Locality: registry.Locality{Region: c.Region, Zone: c.Zone, Rack: c.Rack},
	}
	if c.Include == nil && c.Exclude == nil {
		return out
	}
	out.PicksService = func(s *registry.Service) bool {
		x := configs.Filtered{Namespace: s.Namespace, Name: s.Name.Name}
		return (c.Include == nil || !c.Include.ByService() || c.Include.Match(x)) &&
			(c.Exclude == nil || !c.Exclude.ByService() || !c.Exclude.Match(x))
	}
	out.Picks = func(s *registry.Service, e *registry.Endpoint) bool {
		x := configs.Filtered{Namespace: s.Namespace, Name: s.Name.Name, Tags: e.Tags(), Meta: e.Meta.Map()}
		return (c.Include == nil || c.Include.Match(x)) && (c.Exclude == nil || !c.Exclude.Match(x))
	}
	return out
}
