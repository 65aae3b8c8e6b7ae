package registry

import (
	"fmt"
	"net/netip"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// service returns a service with one HTTP port, 80, and the endpoints.
func service(name string, endpoints ...*Endpoint) *Service {
	return &Service{Name: Name{"default", name}, Ports: []Port{{Number: 80, Protocol: HTTP}}, Endpoints: endpoints}
}

// outside returns an endpoint without a workload.
func outside(address string, meta ...string) *Endpoint {
	e := &Endpoint{Address: netip.MustParseAddr(address), Port: 8080, ServicePort: 80}
	for i := 0; i < len(meta); i += 2 {
		e.Meta = e.Meta.Or(map[string]string{meta[i]: meta[i+1]})
	}
	return e
}

// inside returns the endpoint of a workload of the service on a host.
func inside(name, host, address, instance string) *Endpoint {
	a := netip.MustParseAddr(address)
	port := Port{Number: 80, Protocol: HTTP}
	return &Endpoint{Address: a, Port: 80, ServicePort: 80, Workload: &Workload{
		Host: Host{Name: host, Address: a}, Service: Name{"default", name}, Instance: instance,
		Ports: []WorkloadPort{{Port: port, Local: netip.MustParseAddrPort("127.0.0.1:80")}},
	}}
}

// many returns n services with three endpoints each, sorted.
func many(n int) []*Service {
	all := make([]*Service, n)
	for i := range all {
		s := service(fmt.Sprintf("svc-%05d", i))
		for j := range byte(3) {
			s.Endpoints = append(s.Endpoints, outside(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), j + 1}).String(), "version", "v1"))
		}
		all[i] = s
	}
	return all
}

// without returns a copy of the services in which one has an endpoint less.
func without(services []*Service, i int) []*Service {
	s := *services[i]
	s.Endpoints = s.Endpoints[1:]
	out := append([]*Service(nil), services...)
	out[i] = &s
	return out
}
