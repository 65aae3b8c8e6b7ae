// Package configs is the language: HCL files in, a typed, defaulted and validated Policy out, with a
// diagnostic (file, line, column, code, remedy) for everything a person got wrong. It knows no services
// beyond those the files declare, and none of Wattle's other packages.
package configs

import (
	"encoding/json"
	"net/netip"
	"time"
)

// Policy is one whole, valid set of policy files. It and everything below it is immutable. A block whose
// text, variables and locals are unchanged since the previous load keeps its pointer.
type Policy struct {
	Mesh             *Mesh              `json:"mesh"`
	VirtualServices  []*VirtualService  `json:"virtual_services,omitempty"`  // sorted by namespace, name
	DestinationRules []*DestinationRule `json:"destination_rules,omitempty"` // sorted by namespace, name
	ServiceDefaults  []*ServiceDefaults `json:"service_defaults,omitempty"`  // sorted by namespace, name
	Gateways         []*Gateway         `json:"gateways,omitempty"`          // sorted by namespace, name
	Hosts            []*Host            `json:"hosts,omitempty"`             // sorted by name
	Services         []*Service         `json:"services,omitempty"`          // services outside the mesh; sorted by namespace, name
}

// Block is what every named block has.
type Block struct {
	Namespace string `json:"namespace"`        // "default" if not said
	Name      string `json:"name"`             // the block's label
	Origin    string `json:"origin,omitempty"` // "policy/reviews.hcl:12", relative to the loaded folder
}

// Mesh is what holds for the whole mesh. There is at most one mesh block; without one the defaults hold.
type Mesh struct {
	Domain      string `json:"domain"`          // default "mesh"
	TrustDomain string `json:"trust_domain"`    // default "mesh.local"; the SPIFFE trust domain
	MTLS        string `json:"mtls"`            // "strict" (default): endpoints in the mesh are called over mTLS only
	Plaintext   bool   `json:"plaintext"`       // default true: endpoints outside the mesh may be called in plaintext
	Envoy       *Envoy `json:"envoy,omitempty"` // that hosts run; nil: what each agent's file says
	// OutboundTrafficPolicy is "allow_any" (default): what transparent capture redirects and no service answers to goes
	// where it was sent; or "registry_only": it is refused.
	OutboundTrafficPolicy string `json:"outbound_traffic_policy"`
	Origin                string `json:"origin,omitempty"`
}

// Duration is a time.Duration that is written with its unit.
type Duration time.Duration

// MarshalJSON writes "1.5s".
func (d Duration) MarshalJSON() ([]byte, error) { return json.Marshal(time.Duration(d).String()) }

// UnmarshalJSON reads what MarshalJSON writes.
func (d *Duration) UnmarshalJSON(b []byte) error {
	var s string
	if err := json.Unmarshal(b, &s); err != nil {
		return err
	}
	v, err := time.ParseDuration(s)
	*d = Duration(v)
	return err
}

// ServiceRef names a service from a policy: a short name resolves in the namespace of the block it stands in
// and is stored resolved here.
type ServiceRef struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
}

// VirtualService says how requests to its hosts are routed.
type VirtualService struct {
	Block
	Hosts    []ServiceRef `json:"hosts,omitempty"`    // services whose callers it steers; resolved from names of services
	Domains  []string     `json:"domains,omitempty"`  // hosts entries that contain a dot or "*": matched against Host at gateways
	Gateways []string     `json:"gateways,omitempty"` // names of gateways ("namespace/name") it attaches to; "mesh" stands for all workloads; default ["mesh"]
	HTTP     []*HTTPRoute `json:"http,omitempty"`     // first match wins
}

// HTTPRoute is one rule of a virtual service.
type HTTPRoute struct {
	Name     string         `json:"name,omitempty"`
	Origin   string         `json:"origin,omitempty"`
	Match    []*HTTPMatch   `json:"match,omitempty"` // any of them; none: every request
	Route    []*Destination `json:"route,omitempty"` // exactly one of Route and Redirect is set
	Redirect *Redirect      `json:"redirect,omitempty"`
	Rewrite  *Rewrite       `json:"rewrite,omitempty"`
	Timeout  *Duration      `json:"timeout,omitempty"` // zero disables; nil: none
	Retries  *Retries       `json:"retries,omitempty"` // nil: the default (2 attempts on connect-failure, refused-stream, unavailable)
	Fault    *Fault         `json:"fault,omitempty"`
}

// HTTPMatch matches a request when everything set in it matches.
type HTTPMatch struct {
	Origin      string                  `json:"origin,omitempty"`
	URI         *StringMatch            `json:"uri,omitempty"`
	Method      *StringMatch            `json:"method,omitempty"`
	Headers     map[string]*StringMatch `json:"headers,omitempty"`      // lower-case names
	QueryParams map[string]*StringMatch `json:"query_params,omitempty"` //
}

// StringMatch has exactly one field set.
type StringMatch struct {
	Exact  *string `json:"exact,omitempty"`
	Prefix *string `json:"prefix,omitempty"`
	Regex  *string `json:"regex,omitempty"` // RE2, the whole value
}

// Destination is one place that a route sends requests to.
type Destination struct {
	Origin string     `json:"origin,omitempty"`
	Host   ServiceRef `json:"host"`
	Subset string     `json:"subset,omitempty"`
	Port   uint16     `json:"port,omitempty"` // zero: the port the request came for, or the service's only port
	Weight uint32     `json:"weight"`         // relative; 1 if a single destination says none
}

// Redirect answers with a redirection.
type Redirect struct {
	URI       string `json:"uri,omitempty"`       // replaces the path
	Authority string `json:"authority,omitempty"` // replaces host and port
	Scheme    string `json:"scheme,omitempty"`    // "http" or "https"
	Code      int    `json:"code"`                // 301 (default), 302, 303, 307, 308
}

// Rewrite changes a request before it is sent on.
type Rewrite struct {
	URI       string `json:"uri,omitempty"` // replaces the matched prefix ("/" if there is no uri match), or the whole path if the match was exact or a regex
	Authority string `json:"authority,omitempty"`
}

// Retries says when a request is tried again.
type Retries struct {
	Attempts      uint32    `json:"attempts"`                  // 0 turns policy retries off
	PerTryTimeout *Duration `json:"per_try_timeout,omitempty"` //
	RetryOn       []string  `json:"retry_on,omitempty"`        // Envoy's conditions, or status codes; default connect-failure, refused-stream, unavailable
}

// Fault injects delays and aborts.
type Fault struct {
	Delay *FaultDelay `json:"delay,omitempty"`
	Abort *FaultAbort `json:"abort,omitempty"`
}

// FaultDelay holds a share of the requests back.
type FaultDelay struct {
	FixedDelay Duration `json:"fixed_delay"`
	Percentage float64  `json:"percentage"` // 0..100, default 100
}

// FaultAbort answers a share of the requests with an error. Exactly one status is set.
type FaultAbort struct {
	HTTPStatus uint32  `json:"http_status,omitempty"` // 200..599
	GRPCStatus string  `json:"grpc_status,omitempty"` // "UNAVAILABLE", ...
	Percentage float64 `json:"percentage"`            // 0..100, default 100
}

// DestinationRule says how a service's callers treat it. At most one per service.
type DestinationRule struct {
	Block
	Host    ServiceRef    `json:"host"`
	Traffic TrafficPolicy `json:"traffic_policy"` // written flat in the block
	Subsets []*Subset     `json:"subsets,omitempty"`
}

// ServiceDefaults says of the service that its block is named after what the registries do not say, and which of
// their words count.
type ServiceDefaults struct {
	Block
	Protocol   string            `json:"protocol,omitempty"` // of ports whose protocol nobody says
	Labels     map[string]string `json:"labels,omitempty"`   // of endpoints that do not have them
	Region     string            `json:"region,omitempty"`   // with Zone and Rack: of endpoints without a locality
	Zone       string            `json:"zone,omitempty"`
	Rack       string            `json:"rack,omitempty"`
	Registries map[string]uint32 `json:"registries,omitempty"` // shares of the calls, at least one above 0; nil: by the endpoints' weights
	Identities []ServiceRef      `json:"identities,omitempty"` // services whose identity its endpoints may have, besides its own; sorted
	Checks     []*Check          `json:"checks,omitempty"`     // that the server runs of endpoints without an agent
	HealthyIf  string            `json:"healthy_if"`           // "registry and agent" (default), "registry or agent", "registry", "agent"
}

// Subset is a named part of a service's endpoints, with a traffic policy that overrides the rule's block by block.
type Subset struct {
	Name    string            `json:"name"`
	Labels  map[string]string `json:"labels"`
	Traffic TrafficPolicy     `json:"traffic_policy"`
	Origin  string            `json:"origin,omitempty"`
}

// TrafficPolicy is how connections and requests to a destination are made. A nil part means Envoy's or the rule's default.
type TrafficPolicy struct {
	LoadBalancer     *LoadBalancer     `json:"load_balancer,omitempty"`
	ConnectionPool   *ConnectionPool   `json:"connection_pool,omitempty"`
	OutlierDetection *OutlierDetection `json:"outlier_detection,omitempty"`
}

// LoadBalancer picks an endpoint. At most one of Simple and ConsistentHash is set.
type LoadBalancer struct {
	Simple         string          `json:"simple,omitempty"` // "round_robin", "least_request", "random"; default least_request for HTTP, round_robin for TCP
	ConsistentHash *ConsistentHash `json:"consistent_hash,omitempty"`
}

// ConsistentHash has exactly one key set.
type ConsistentHash struct {
	HTTPHeaderName         string      `json:"http_header_name,omitempty"`
	HTTPQueryParameterName string      `json:"http_query_parameter_name,omitempty"`
	UseSourceIP            bool        `json:"use_source_ip,omitempty"`
	HTTPCookie             *HTTPCookie `json:"http_cookie,omitempty"`
	MinimumRingSize        uint64      `json:"minimum_ring_size,omitempty"` // default 1024
}

// HTTPCookie is the cookie that is hashed, made if the request has none and TTL is set.
type HTTPCookie struct {
	Name string    `json:"name"`
	Path string    `json:"path,omitempty"`
	TTL  *Duration `json:"ttl,omitempty"` // zero: a session cookie
}

// ConnectionPool bounds what a proxy opens to a destination. What is nil has no bound, unless it says otherwise.
type ConnectionPool struct {
	TCP  *TCPPool  `json:"tcp,omitempty"`
	HTTP *HTTPPool `json:"http,omitempty"`
}

// TCPPool bounds connections.
type TCPPool struct {
	MaxConnections *uint32   `json:"max_connections,omitempty"`
	ConnectTimeout *Duration `json:"connect_timeout,omitempty"` // default 5s
	IdleTimeout    *Duration `json:"idle_timeout,omitempty"`    // default 1h
}

// HTTPPool bounds requests.
type HTTPPool struct {
	MaxPendingRequests       *uint32   `json:"max_pending_requests,omitempty"`
	MaxRequests              *uint32   `json:"max_requests,omitempty"`
	MaxRequestsPerConnection *uint32   `json:"max_requests_per_connection,omitempty"`
	MaxRetries               *uint32   `json:"max_retries,omitempty"`
	IdleTimeout              *Duration `json:"idle_timeout,omitempty"`
}

// OutlierDetection takes endpoints that fail out of rotation for a while.
type OutlierDetection struct {
	Consecutive5xxErrors     *uint32   `json:"consecutive_5xx_errors,omitempty"`
	ConsecutiveGatewayErrors *uint32   `json:"consecutive_gateway_errors,omitempty"`
	Interval                 *Duration `json:"interval,omitempty"`
	BaseEjectionTime         *Duration `json:"base_ejection_time,omitempty"`
	MaxEjectionPercent       *uint32   `json:"max_ejection_percent,omitempty"`
	MinHealthPercent         *uint32   `json:"min_health_percent,omitempty"`
}

// Gateway is an Envoy of its own, on each of the hosts it runs on, that lets requests into the mesh.
type Gateway struct {
	Block
	RunOn   []string         `json:"run_on"` // names of hosts
	Servers []*GatewayServer `json:"servers"`
	Proxy   *ProxyResources  `json:"proxy,omitempty"` // of each of its Envoys; nil: what their unit says
}

// ProxyResources bound what one Envoy may use of its host. Zero: what its unit says.
type ProxyResources struct {
	MemoryHigh uint64 `json:"memory_high,omitempty"` // bytes
	CPUWeight  uint64 `json:"cpu_weight,omitempty"`  // 1 to 10000
	TasksMax   uint64 `json:"tasks_max,omitempty"`
	Origin     string `json:"origin,omitempty"`
}

// Envoy says which Envoy a host with systemd runs.
type Envoy struct {
	Version string `json:"version"`        // "1.40.0"
	Path    string `json:"path,omitempty"` // of the binary on the hosts; empty: what the agent's file says
	Origin  string `json:"origin,omitempty"`
}

// GatewayServer is one listening address of a gateway.
type GatewayServer struct {
	Name     string         `json:"name"`     // the block's label
	Bind     netip.AddrPort `json:"bind"`     // bind = "127.0.0.1", port = 8080
	Protocol string         `json:"protocol"` // "http"
	Hosts    []string       `json:"hosts"`    // Host headers it answers to; "*" for all
	Origin   string         `json:"origin,omitempty"`
}

// Host declares a machine with an agent, and the workloads the operator places on it. Declaring a workload
// here is also the grant that lets the host hold its identity.
type Host struct {
	Name     string          `json:"name"`
	Address  netip.Addr      `json:"address"`
	MeshPort uint16          `json:"mesh_port"` // default 7443: first port of the mesh range of 32
	Region   string          `json:"region,omitempty"`
	Zone     string          `json:"zone,omitempty"`
	Rack     string          `json:"rack,omitempty"`
	Mode     string          `json:"mode,omitempty"`     // of its workloads that say none: "host" or "sidecar"; default "host"
	Services []*Service      `json:"services,omitempty"` // in the order of the file
	Proxy    *ProxyResources `json:"proxy,omitempty"`    // of the host's own Envoy; nil: what its unit says
	Envoy    *Envoy          `json:"envoy,omitempty"`    // nil: the mesh's
	Origin   string          `json:"origin,omitempty"`
}

// Service is a workload when it stands in a host block or in an agent's services.d, and a set of endpoints
// outside the mesh when it stands alone with endpoint blocks.
type Service struct {
	Block
	Instance  string            `json:"instance,omitempty"` // must differ between several instances on one host
	Ports     []ServicePort     `json:"ports"`              // sorted by number; port = 9080, or ports = { http = { number = 9080 } }
	Meta      map[string]string `json:"meta,omitempty"`
	Weight    uint32            `json:"weight"` // default 1
	Checks    []*Check          `json:"checks,omitempty"`
	Upstreams []*Upstream       `json:"upstreams,omitempty"`
	Capture   *Capture          `json:"capture,omitempty"`   // nil: by upstreams only
	Command   []string          `json:"command,omitempty"`   // what wattle dev runs; a relative program is relative to the folder
	Env       map[string]string `json:"env,omitempty"`       // for Command
	Endpoints []*Endpoint       `json:"endpoints,omitempty"` // only outside a host
	Mode      string            `json:"mode,omitempty"`      // "host": the host's Envoy serves it; "sidecar": one of its own; default the host's
	Isolate   bool              `json:"isolate,omitempty"`   // its calls share no limits, pools and ejections with those of others

	// What a registration on the host says to its agent, which tells no server of it.
	Unit            string   `json:"unit,omitempty"`            // systemd's; whose user may register the workload
	TTL             Duration `json:"ttl,omitzero"`              // how long a heartbeat counts; zero: none are needed
	DeregisterAfter Duration `json:"deregister_after,omitzero"` // how long it may be silent; zero: for ever. Not less than TTL
}

// ServicePort is one port of a service.
type ServicePort struct {
	Name     string         `json:"name,omitempty"`
	Number   uint16         `json:"number"`
	Protocol string         `json:"protocol"`       // http (default), http2, grpc, tcp; empty outside the mesh: others know it
	Local    netip.AddrPort `json:"local,omitzero"` // workloads: where the application listens; default 127.0.0.1:Number
}

// Endpoint is one endpoint outside the mesh.
type Endpoint struct {
	Address netip.Addr        `json:"address"`
	Port    uint16            `json:"port,omitempty"`     // default: the service's port number
	PortFor uint16            `json:"port_for,omitempty"` // which of the service's ports it serves; default its only one
	Meta    map[string]string `json:"meta,omitempty"`
	Weight  uint32            `json:"weight"` // default 1

	Priority uint32 `json:"priority,omitempty"` // lower is called first
	Region   string `json:"region,omitempty"`
	Zone     string `json:"zone,omitempty"`
	Rack     string `json:"rack,omitempty"`
	Health   string `json:"health,omitempty"` // healthy, unhealthy, draining; empty: nothing is known
	Reason   string `json:"reason,omitempty"` // of the health
	Origin   string `json:"origin,omitempty"`
}

// Check is a health check that the host's agent runs. The block's label is its type.
type Check struct {
	Type      string   `json:"type"`                // "http" or "tcp"
	Port      uint16   `json:"port"`                // default: the service's first port
	Path      string   `json:"path,omitempty"`      // http, default "/"
	Interval  Duration `json:"interval"`            // default 5s, at least 100ms
	Timeout   Duration `json:"timeout"`             // default 2s
	Healthy   uint32   `json:"healthy_threshold"`   // default 1
	Unhealthy uint32   `json:"unhealthy_threshold"` // default 2
	Origin    string   `json:"origin,omitempty"`
}

// Upstream is a service that a workload calls. The block's label is the service's name, or "namespace/name".
type Upstream struct {
	Service ServiceRef     `json:"service"`
	Port    uint16         `json:"port,omitempty"`   // zero: the service's only port
	Bind    netip.AddrPort `json:"bind,omitzero"`    // bind = "127.0.0.1:9081"
	Socket  string         `json:"socket,omitempty"` // or bind = "unix:/run/x.sock"; neither with capture: by name
	Origin  string         `json:"origin,omitempty"`
}

// Bound reports whether the upstream has an address or socket of its own.
func (u *Upstream) Bound() bool { return u.Bind.IsValid() || u.Socket != "" }

// Capture is how calls of a workload by name reach its proxy.
type Capture struct {
	Mode             string         `json:"mode"`                        // CaptureLoopback or CaptureTransparent
	Services         []ServiceRef   `json:"services"`                    // sorted; the name Any stands for all of the namespace, the namespace Any beside it for all
	User             string         `json:"user,omitempty"`              // transparent; empty: the unit's connections
	ExcludeAddresses []netip.Prefix `json:"exclude_addresses,omitempty"` // transparent; sorted
	ExcludePorts     []uint16       `json:"exclude_ports,omitempty"`     // transparent; sorted
	Origin           string         `json:"origin,omitempty"`
}
