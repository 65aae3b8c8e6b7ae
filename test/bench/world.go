package main

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	"github.com/wattle-mesh/wattle/registry"
)

// The size of the mesh that is measured.
const (
	proxies   = 1000
	services  = 1000
	endpoints = 3  // of each service
	narrow    = 20 // services in scope of each proxy, unless all are
)

// Two services matter: all proxies use the one, and few use the other.
const (
	hot   = 0
	cold  = 1
	users = 20 // of cold
)

func serviceName(i int) registry.Name {
	return registry.Name{Namespace: "default", Name: fmt.Sprintf("s%04d", i)}
}

// marker returns an address that no other change brings and that is part of no other such address.
func marker(change int) netip.Addr {
	return netip.AddrFrom4([4]byte{10, byte(100 + change/10000), byte(100 + change/100%100), byte(100 + change%100)})
}

// service makes service i with one endpoint at first and the rest where they always are.
func service(i int, first netip.Addr) *registry.Service {
	s := &registry.Service{Name: serviceName(i), Ports: []registry.Port{{Number: 80, Protocol: registry.HTTP}}}
	for j := range endpoints {
		addr := netip.AddrFrom4([4]byte{10, byte(200 + j), byte(i >> 8), byte(i)})
		if j == 0 && first.IsValid() {
			addr = first
		}
		s.Endpoints = append(s.Endpoints, &registry.Endpoint{Address: addr, Port: 8080, ServicePort: 80})
	}
	slices.SortFunc(s.Endpoints, func(a, b *registry.Endpoint) int { return a.Address.Compare(b.Address) })
	return s
}

// upstreams returns what host i calls: all services, or narrow of them, of which hot is one.
func upstreams(i int, all bool) []registry.Upstream {
	var of []int
	if all {
		for j := range services {
			of = append(of, j)
		}
	} else {
		of = append(of, hot)
		if i < users {
			of = append(of, cold)
		}
		for j := 0; len(of) < narrow; j++ {
			of = append(of, 2+(i*(narrow-1)+j)%(services-2))
		}
		slices.Sort(of)
	}
	out := make([]registry.Upstream, len(of))
	for k, j := range of {
		out[k] = registry.Upstream{Service: serviceName(j), Port: 80,
			Bind: netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), uint16(20000+j))}
	}
	return out
}

// world returns every service of the mesh, sorted by name: n hosts with one caller each, and what they call. The callers
// of a mesh in which everything is in every scope are one service; else each is its own.
func world(n int, all bool) []*registry.Service {
	var out []*registry.Service
	shared := &registry.Service{Name: registry.Name{Namespace: "default", Name: "app"}}
	everything := upstreams(0, true) // what the source itself holds shall not be most of the memory that is measured
	for i := range n {
		w := &registry.Workload{
			Host:    registry.Host{Name: nodeName(i), Address: netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)})},
			Service: shared.Name,
			Ports:   []registry.WorkloadPort{{Port: registry.Port{Number: 9000, Protocol: registry.HTTP}, Local: netip.MustParseAddrPort("127.0.0.1:9000")}},

			Upstreams: everything,
		}
		s := shared
		if !all {
			s = &registry.Service{Name: registry.Name{Namespace: "default", Name: fmt.Sprintf("app%04d", i)}}
			w.Service, w.Upstreams = s.Name, upstreams(i, false)
		}
		s.Ports = []registry.Port{{Number: 9000, Protocol: registry.HTTP}}
		s.Endpoints = append(s.Endpoints, &registry.Endpoint{Address: w.Host.Address, Port: 9000, ServicePort: 9000, Workload: w})
		if !all {
			out = append(out, s)
		}
	}
	if all {
		out = append(out, shared)
	}
	for i := range services {
		out = append(out, service(i, netip.Addr{}))
	}
	return out
}

// memorySource is a registry in this process.
type memorySource struct {
	set     []*registry.Service
	publish func([]*registry.Service)
	up      chan struct{} // closed once publish is set
}

func (m *memorySource) Run(ctx context.Context, publish func([]*registry.Service)) error {
	m.publish = publish
	publish(m.set)
	close(m.up)
	<-ctx.Done()
	return nil
}

// change gives service i another endpoint.
func (m *memorySource) change(i int, to netip.Addr) {
	at, _ := slices.BinarySearchFunc(m.set, serviceName(i), func(s *registry.Service, n registry.Name) int { return s.Compare(n) })
	m.set = slices.Clone(m.set)
	m.set[at] = service(i, to)
	m.publish(m.set)
}
