// Package api is how Wattle is spoken to: the gRPC service between agents and server, and the HTTP API with its
// client. It decides who may say what; what is done about it is the other packages' work.
package api

import (
	"time"

	"github.com/wattle-mesh/wattle/configs"
	"github.com/wattle-mesh/wattle/internal/store"
	"github.com/wattle-mesh/wattle/internal/xds"
	"github.com/wattle-mesh/wattle/registry"
)

// Status is what GET /v1/status answers.
type Status struct {
	Ready       bool                `json:"ready"`    // a policy and a catalog are in force
	Revision    uint64              `json:"revision"` // of the policy in force
	Rejected    bool                `json:"rejected"` // the folder holds a policy that is not in force; diagnostics say why
	Changed     time.Time           `json:"changed,omitzero"`
	Version     string              `json:"version"`
	TrustDomain string              `json:"trust_domain"`
	Policy      string              `json:"policy"` // the folder
	Diagnostics configs.Diagnostics `json:"diagnostics"`
	Registries  []registry.Status   `json:"registries"`
	Services    int                 `json:"services"`
	Endpoints   int                 `json:"endpoints"`
	Proxies     ProxyCounts         `json:"proxies"`
}

// ProxyCounts sums the proxies up.
type ProxyCounts struct {
	Known     int `json:"known"`
	Connected int `json:"connected"`
	Synced    int `json:"synced"`
	Refusing  int `json:"refusing"` // with a resource that Envoy does not accept
}

// Proxies is what GET /v1/proxies answers.
type Proxies struct {
	Proxies []xds.ProxyStatus `json:"proxies"`
}

// Nodes is what GET /v1/nodes answers.
type Nodes struct {
	Nodes []store.Node `json:"nodes"`
}

// TokenRequest is the body of POST /v1/tokens.
type TokenRequest struct {
	Node     string        `json:"node"`
	Services []string      `json:"services,omitempty"` // the grant: "namespace/name", "namespace/*", "*/*", or a name in namespace default
	TTL      time.Duration `json:"ttl,omitempty"`      // nanoseconds; zero means 10 minutes, 24 hours at most
}

// TokenResponse is its answer.
type TokenResponse struct {
	Token   string    `json:"token"`
	Node    string    `json:"node"`
	Expires time.Time `json:"expires"`
}

// CertificateRequest is the body of POST /v1/nodes/NAME/certificate.
type CertificateRequest struct {
	CSR      []byte   `json:"csr"` // PKCS #10, DER; only its key is used
	Services []string `json:"services,omitempty"`
}

// CertificateResponse is its answer.
type CertificateResponse struct {
	Identity string    `json:"identity"`
	Chain    [][]byte  `json:"chain"` // DER, leaf first
	Roots    [][]byte  `json:"roots"` // DER
	NotAfter time.Time `json:"not_after"`
}

// Failure is the body of every answer that is not 2xx.
type Failure struct {
	Error  string `json:"error"`
	Remedy string `json:"remedy,omitempty"`
}
