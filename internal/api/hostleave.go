package api

import (
	"context"
	"net/http"
	"net/url"

	"github.com/wattle-mesh/wattle/configs"
)

// HostLeave is the body of POST /v1/leave at an agent's socket.
type HostLeave struct {
	// Wait is how long the workloads' requests may take to end, at most 30 s. They are drained in any case.
	Wait configs.Duration `json:"wait,omitzero"`
	// Force has the host leave though no server can be told.
	Force bool `json:"force,omitempty"`
	// End has the agent end when it has answered: it is not one that systemd stops.
	End bool `json:"end,omitempty"`
}

// HostLeft is the answer: the server, if it was told, lets the host in no more.
type HostLeft struct {
	Node          string        `json:"node"`
	Drains        []DrainStatus `json:"drains"`          // how far the workloads were
	Told          bool          `json:"told"`            // the server was, now or before
	Registrations uint32        `json:"registrations"`   // that were the host's and are gone
	Error         string        `json:"error,omitempty"` // why the server was not told
}

// LeaveMesh has an agent drain its host and tell the server that it leaves the mesh.
func (c *Client) LeaveMesh(ctx context.Context, r HostLeave) (HostLeft, error) {
	return post[HostLeft](ctx, c, "/v1/leave", r)
}

// ParseHostLeave reads the body of a request to leave.
func ParseHostLeave(r *http.Request) (*HostLeave, error) {
	req := new(HostLeave)
	if err := decode(http.MaxBytesReader(nil, r.Body, maxRequest), req); err != nil {
		return nil, malformed(err.Error())
	}
	if err := checkWait(req.Wait); err != nil {
		return nil, malformed(err.Error())
	}
	return req, nil
}

// ForgetNode has the server forget a host that is gone for good.
func (c *Client) ForgetNode(ctx context.Context, node string) (Forgotten, error) {
	return send[Forgotten](ctx, c, http.MethodDelete, "/v1/nodes/"+url.PathEscape(node), nil)
}
