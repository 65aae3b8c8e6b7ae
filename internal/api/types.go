package api

import (
	"time"

	"github.com/wattle-mesh/wattle/configs"
	"github.com/wattle-mesh/wattle/internal/store"
	"github.com/wattle-mesh/wattle/internal/xds"
	"github.com/wattle-mesh/wattle/registry"
)

// Status is the answer of GET /v1/status: how the server is.
type Status struct {
	Ready       bool                `json:"ready"`    // a revision has been published
	Revision    uint64              `json:"revision"` // of the policy in force
	Rejected    bool                `json:"rejected"` // the policy folder holds something else, which Diagnostics says what is wrong with
	Changed     time.Time           `json:"changed,omitzero"`
	Policy      string              `json:"policy"` // the folder
	Diagnostics configs.Diagnostics `json:"diagnostics"`
	ServerFile  configs.Diagnostics `json:"server_file,omitempty"` // what is wrong with the server's own file, since it started
	Registries  []registry.Status   `json:"registries"`
	Proxies     ProxyCounts         `json:"proxies"`
	Services    int                 `json:"services"` // in the catalog
	Endpoints   int                 `json:"endpoints"`
	Unreported  int                 `json:"unreported"`        // endpoints in the mesh of which no agent has spoken yet
	Nodes       int                 `json:"nodes"`             // that were let into the mesh
	Refused     []Refusal           `json:"refused,omitempty"` // of what their agents registered; sorted by node
	Alarms      []Alarm             `json:"alarms,omitempty"`  // of the server, then those of the nodes, sorted by node
	Drains      []NodeDrains        `json:"drains,omitempty"`  // what takes no new requests; sorted by node
	TrustDomain string              `json:"trust_domain"`
	Store       string              `json:"store"` // its id
	Version     string              `json:"version"`
}

// AcceptedPolicy is the answer of POST /v1/policy/accept: what is in force now.
type AcceptedPolicy struct {
	Revision    uint64              `json:"revision"`
	Rejected    bool                `json:"rejected"` // the policy folder has other errors, which Diagnostics says
	Diagnostics configs.Diagnostics `json:"diagnostics"`
}

// NodeDrains are the workloads of a node that take no new requests.
type NodeDrains struct {
	Node   string        `json:"node"`
	Drain  *store.Drain  `json:"drain,omitempty"` // nil: the node itself is not in maintenance
	Drains []DrainStatus `json:"drains,omitempty"`
}

// ProxyCounts says how the proxies are, all in all.
type ProxyCounts struct {
	Known     int `json:"known"`
	Connected int `json:"connected"`
	Synced    int `json:"synced"` // have acknowledged everything
	Nacked    int `json:"nacked"` // refused something
}

// Proxies is the answer of GET /v1/proxies: what each proxy has acknowledged, and what it refused; sorted by id.
type Proxies struct {
	Proxies []xds.ProxyStatus `json:"proxies"`
}

func countProxies(all []xds.ProxyStatus) ProxyCounts {
	var c ProxyCounts
	for _, p := range all {
		c.Known++
		if p.Connected {
			c.Connected++
		}
		if p.Synced {
			c.Synced++
		}
		for _, t := range p.Types {
			if t.Nack != nil {
				c.Nacked++
				break
			}
		}
	}
	return c
}

// NodeStatus is one entry of GET /v1/nodes.
type NodeStatus struct {
	store.Node
	Address       string `json:"address,omitempty"` // as the server verified it when the agent reported
	MeshPort      uint16 `json:"mesh_port,omitempty"`
	Reporting     bool   `json:"reporting"`     // the agent is connected
	Registrations int    `json:"registrations"` // accepted ones
	// Refused is what does not count of what the agent registered last.
	Refused []Refusal `json:"refused,omitempty"`
	// Facts are what the host is, by name, without the "host." that they have as labels.
	Facts map[string]string `json:"facts,omitempty"`
	// ClockAhead is how far the host's clock is ahead of the server's; negative: behind. Zero: by less than 2 s.
	ClockAhead configs.Duration `json:"clock_ahead,omitempty"`
	Alarms     []Alarm          `json:"alarms,omitempty"` // sorted by name
	// Drains are the workloads that take no new requests, by their agent's word or because the node is in maintenance.
	Drains []DrainStatus `json:"drains,omitempty"`
}

// Alarm is something that a person has to mend. It lasts as long as its cause.
type Alarm struct {
	Node string `json:"node,omitempty"` // where; empty: the server itself
	Name string `json:"name"`           // "disk", "clock", ...
	Text string `json:"text"`           // with the remedy
}

// Refusal is a registration that does not count, and why.
type Refusal struct {
	Node      string `json:"node"`
	Namespace string `json:"namespace"`
	Service   string `json:"service"`
	Instance  string `json:"instance,omitempty"`
	Origin    string `json:"origin"` // where the agent read it: "h1:/etc/wattle/services.d/web.hcl:3"
	Reason    string `json:"reason"` // and what to do about it
}

// shown is a refusal as people see it. What an agent calls its registrations may be anything.
func (r refusal) shown(node string) Refusal {
	return Refusal{node, printable(r.namespace), printable(r.service), printable(r.instance), printable(r.origin), printable(r.reason)}
}

// Nodes is the answer of GET /v1/nodes, sorted by name.
type Nodes struct {
	Nodes []NodeStatus `json:"nodes"`
}

// Registries is the answer of GET /v1/registries, in the order of the server's file.
type Registries struct {
	Registries []registry.Status `json:"registries"`
}

// Accepted is the answer of POST /v1/registries/{name}/accept.
type Accepted struct {
	Endpoints int `json:"endpoints"` // that were held
}

// TokenRequest is the body of POST /v1/tokens.
type TokenRequest struct {
	Node     string           `json:"node"`
	Services []string         `json:"services,omitempty"` // the grant: "shop/reviews", "ops/*", "*/*"; a name alone is one of the namespace default
	TTL      configs.Duration `json:"ttl,omitempty"`      // "10m0s"; zero: 10 minutes; at most a week
}

// TokenResponse is its answer. The token is shown this once.
type TokenResponse struct {
	Token   string    `json:"token"`
	Node    string    `json:"node"`
	Expires time.Time `json:"expires"`
}

// CertificateRequest is the body of POST /v1/nodes/{name}/certificate. The node is let in without a token.
type CertificateRequest struct {
	CSR      []byte   `json:"csr"`                // PKCS #10, DER; only its key is used
	Services []string `json:"services,omitempty"` // the grant, as in TokenRequest; none: the node keeps the one it has
}

// CertificateResponse is its answer.
type CertificateResponse struct {
	Identity string    `json:"identity"`
	Chain    [][]byte  `json:"chain"` // DER, leaf first, then intermediates
	Roots    [][]byte  `json:"roots"` // DER
	NotAfter time.Time `json:"not_after"`
}

// Error is the body of every answer that is no success. The client returns it as error.
type Error struct {
	Status  int    `json:"-"` // of HTTP
	Message string `json:"error"`
	Remedy  string `json:"remedy,omitempty"`
	Code    string `json:"code,omitempty"` // wattle explain knows it
}

// Error returns the message, the remedy and the code.
func (e *Error) Error() string {
	text := e.Message
	if e.Remedy != "" {
		text += "; " + e.Remedy
	}
	if e.Code != "" {
		text += " (" + e.Code + ")"
	}
	return text
}
