// Package registry holds what the registries say: services and their endpoints. Sources (one per
// configured registry) publish complete sets; the Aggregator keeps each source's last good set and
// merges all sets into one immutable Catalog.
package registry

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"time"
)

// A Source watches one registry. Run calls publish with the complete set of services, sorted by namespace
// and name, first when it is known, then whenever it may have changed. Published services are immutable, and
// one that has not changed keeps its pointer. publish does not block. Run returns nil when ctx is done, else
// why it cannot go on; the Aggregator keeps the last set and runs the Source again with back-off.
type Source interface {
	Run(ctx context.Context, publish func([]*Service)) error
}

// Name identifies a service in the mesh.
type Name struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
}

// String returns "namespace/name".
func (n Name) String() string { return n.Namespace + "/" + n.Name }

// Compare orders by namespace, then name.
func (n Name) Compare(o Name) int {
	if c := strings.Compare(n.Namespace, o.Namespace); c != 0 {
		return c
	}
	return strings.Compare(n.Name, o.Name)
}

// Protocol is what an application speaks on a port.
type Protocol string

// The protocols. The empty protocol is unknown: the merge fills it from another source, the policy's service_defaults
// from there, or it is TCP.
const (
	HTTP  Protocol = "http"  // HTTP/1.1
	HTTP2 Protocol = "http2" // HTTP/2 with prior knowledge
	GRPC  Protocol = "grpc"  // HTTP/2 with gRPC's conventions
	TCP   Protocol = "tcp"   // bytes
)

// IsHTTP reports whether routes on HTTP's terms apply.
func (p Protocol) IsHTTP() bool { return p == HTTP || p == HTTP2 || p == GRPC }

// Service is one service as one registry, or the merge of all, sees it. Immutable once published.
type Service struct {
	Name
	Ports     []Port      `json:"ports"`             // sorted by number; what clients may call
	Endpoints []*Endpoint `json:"endpoints"`         // sorted by address, port, then workload
	Sources   []string    `json:"sources,omitempty"` // who named it, sorted; set by the merge
	Origin    string      `json:"origin,omitempty"`  // "file:line" or another place a person can look
}

// Port is one port of a service, as clients see it.
type Port struct {
	Number   uint16   `json:"number"`
	Name     string   `json:"name,omitempty"`
	Protocol Protocol `json:"protocol,omitempty"`
}

// Health is one voice's word on an endpoint.
type Health string

// The states of health. The zero value says nothing and counts as healthy.
const (
	Healthy   Health = "healthy"
	Unhealthy Health = "unhealthy"
	Draining  Health = "draining"
)

// Endpoint is one address and port that serve one port of a service. Immutable once published.
type Endpoint struct {
	Address     netip.Addr `json:"address"`
	Port        uint16     `json:"port"`               // where it listens
	ServicePort uint16     `json:"service_port"`       // which of the service's ports it serves
	Meta        Labels     `json:"meta,omitempty"`     // labels that subsets select on
	Priority    uint32     `json:"priority,omitempty"` // lower is tried first: the others serve while there are too few healthy ones before them
	Weight      uint32     `json:"weight,omitempty"`   // among those of its priority; zero means 1
	Locality    Locality   `json:"locality,omitzero"`  //
	Health      Health     `json:"health,omitempty"`   // a registry's word; in a catalog what follows of Words by the default rule
	Reason      string     `json:"reason,omitempty"`   // why the health is what it is
	Words       []Word     `json:"words,omitempty"`    // what each voice says of its health, registries first, by name; set by the merge
	Sources     []string   `json:"sources,omitempty"`  // who named it, sorted; set by the merge
	Workload    *Workload  `json:"workload,omitempty"` // set if it runs on a host with an agent
}

// Locality is where an endpoint runs.
type Locality struct {
	Region string `json:"region,omitempty"`
	Zone   string `json:"zone,omitempty"`
	Rack   string `json:"rack,omitempty"`
}

// Workload is a service instance on a host with an agent. All endpoints of one instance share the pointer.
type Workload struct {
	Host      Host           `json:"host"`
	Service   Name           `json:"service"`
	Instance  string         `json:"instance,omitempty"` // tells several instances of one service on a host apart
	Ports     []WorkloadPort `json:"ports"`              // sorted by number
	Upstreams []Upstream     `json:"upstreams,omitempty"`
	Capture   *Capture       `json:"capture,omitempty"` // nil: it calls its upstreams where they are bound
	Checks    []Check        `json:"checks,omitempty"`
	Unit      string         `json:"unit,omitempty"`    // of systemd, that runs it
	Sidecar   bool           `json:"sidecar,omitempty"` // it has an Envoy of its own, instead of its host's
	Isolate   bool           `json:"isolate,omitempty"` // its calls share no limits, pools and ejections with others'
	Origin    string         `json:"origin,omitempty"`
}

// Key identifies the workload in the mesh: host, namespace/service and instance.
func (w *Workload) Key() WorkloadKey {
	return WorkloadKey{Host: w.Host.Name, Service: w.Service, Instance: w.Instance}
}

// WorkloadKey identifies a workload in the mesh.
type WorkloadKey struct {
	Host     string
	Service  Name
	Instance string
}

// String returns "host/namespace/service" or "host/namespace/service/instance".
func (k WorkloadKey) String() string {
	s := k.Host + "/" + k.Service.String()
	if k.Instance != "" {
		s += "/" + k.Instance
	}
	return s
}

// Host is a machine with an agent. Address is the operator's word or the address the server verified,
// never the host's mere claim.
type Host struct {
	Name     string     `json:"name"`
	Address  netip.Addr `json:"address"`
	Locality Locality   `json:"locality,omitzero"`
	MeshPort uint16     `json:"mesh_port,omitempty"` // first port of the mesh range; zero means 7443
}

// WorkloadPort is one port of a workload on its host.
type WorkloadPort struct {
	Port
	Local netip.AddrPort `json:"local"` // where the application listens
}

// Upstream is one service that a workload calls, and where the workload finds it.
type Upstream struct {
	Service Name           `json:"service"`
	Port    uint16         `json:"port,omitempty"` // zero: the service's only port
	Bind    netip.AddrPort `json:"bind,omitzero"`  // one of Bind and Socket is set; with Capture neither may be
	Socket  string         `json:"socket,omitempty"`
	Origin  string         `json:"origin,omitempty"`
}

// Check is a health check that the host's agent runs against a workload.
type Check struct {
	Type      string        `json:"type"`           // "http" or "tcp"
	Port      uint16        `json:"port"`           // the workload's port number that is checked, at its local address
	Path      string        `json:"path,omitempty"` // http; "/" if empty
	Interval  time.Duration `json:"interval"`       // always set
	Timeout   time.Duration `json:"timeout"`        // always set
	Healthy   uint32        `json:"healthy"`        // successes in a row until healthy; always set
	Unhealthy uint32        `json:"unhealthy"`      // failures in a row until unhealthy; always set
}

// MarshalJSON writes durations with their units.
func (c Check) MarshalJSON() ([]byte, error) {
	type plain Check
	return json.Marshal(struct {
		plain
		Interval string `json:"interval"`
		Timeout  string `json:"timeout"`
	}{plain(c), c.Interval.String(), c.Timeout.String()})
}

// UnmarshalJSON reads what MarshalJSON wrote.
func (c *Check) UnmarshalJSON(text []byte) error {
	type plain Check
	in := struct {
		*plain
		Interval string `json:"interval"`
		Timeout  string `json:"timeout"`
	}{plain: (*plain)(c)}
	err := json.Unmarshal(text, &in)
	if err == nil {
		c.Interval, err = time.ParseDuration(in.Interval)
	}
	if err == nil {
		c.Timeout, err = time.ParseDuration(in.Timeout)
	}
	return err
}

// String returns "address:port".
func (e *Endpoint) String() string {
	return fmt.Sprint(netip.AddrPortFrom(e.Address, e.Port))
}
