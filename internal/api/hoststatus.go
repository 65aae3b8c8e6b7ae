package api

import (
	"context"
	"time"

	"github.com/wattle-mesh/wattle/configs"
)

// HostStatus is the answer of GET /v1/status at an agent's socket: how the host is.
type HostStatus struct {
	Node         string            `json:"node"`                   // empty: it has not joined
	TrustDomain  string            `json:"trust_domain,omitempty"` //
	Version      string            `json:"version"`                // of the agent
	PID          int               `json:"pid"`                    // of the agent
	Servers      []string          `json:"servers"`                // of the configuration
	Connected    bool              `json:"connected"`              // a server answers reports
	Planned      bool              `json:"planned"`                // it is known what the host runs
	Time         time.Time         `json:"time"`                   // by the host's clock
	ClockAhead   configs.Duration  `json:"clock_ahead,omitempty"`  // of the server's; zero: by less than 2 s
	Proxies      []string          `json:"proxies,omitempty"`      // that should run, by their names on the host
	MeshPorts    []uint32          `json:"mesh_ports,omitempty"`   // on which their workloads are reached; sorted
	Certificates []HeldCertificate `json:"certificates,omitempty"` // the node's first
	Facts        map[string]string `json:"facts,omitempty"`
	Alarms       []Alarm           `json:"alarms,omitempty"` // sorted by name
}

// HeldCertificate is one that the host has, or waits for.
type HeldCertificate struct {
	Identity string    `json:"identity"` // a SPIFFE id
	NotAfter time.Time `json:"not_after,omitzero"`
	Waiting  string    `json:"waiting,omitempty"` // why there is none yet
}

// Host asks an agent how its host is.
func (c *Client) Host(ctx context.Context) (HostStatus, error) {
	return get[HostStatus](ctx, c, "/v1/status")
}

// ReachResult is what came of the server's attempt to connect to a mesh port of the host.
type ReachResult struct {
	Port    uint32 `json:"port"`
	Address string `json:"address"`         // that was tried
	Error   string `json:"error,omitempty"` // why it was not reached
}

// Reachable has an agent ask the server to connect to the host's mesh ports, the first of them if they are many.
func (c *Client) Reachable(ctx context.Context) ([]ReachResult, error) {
	return post[[]ReachResult](ctx, c, "/v1/reach", nil)
}
