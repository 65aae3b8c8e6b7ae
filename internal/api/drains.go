package api

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/wattle-mesh/wattle/configs"
	"github.com/wattle-mesh/wattle/internal/spiffe"
	"github.com/wattle-mesh/wattle/internal/store"
	"github.com/wattle-mesh/wattle/registry"
)

// The states of a workload that drains, in their order.
const (
	DrainLeaving = "callers leave" // proxies have yet to acknowledge it
	DrainEnding  = "requests end"  // all that can be told have; what they sent before is under way
	DrainDone    = "drained"       // nothing is under way
	maxWhy       = 200             // bytes of a reason for maintenance
	maxLagging   = 5               // proxies that are named
)

// DrainStatus is how far a workload that takes no new requests is.
type DrainStatus struct {
	ServiceRef
	State  string `json:"state"`
	Detail string `json:"detail,omitempty"` // whom it waits for
	Reason string `json:"reason"`           // why it drains
	Busy   int    `json:"busy,omitempty"`   // requests and connections that its host's agent saw under way last
}

// DrainWorkload is the body of a request to an agent to drain workloads.
type DrainWorkload struct {
	Reason string `json:"reason,omitempty"` // for people
	// Wait is how long the agent may wait until nothing is under way: "5s", at most 30 s.
	Wait configs.Duration `json:"wait,omitzero"`
}

// DrainAnswer is the answer: how far the workloads are.
type DrainAnswer struct {
	Workloads []DrainStatus `json:"workloads"`
	Changed   bool          `json:"changed"`        // by this request
	Note      string        `json:"note,omitempty"` // why nothing was to be drained
}

// Done reports whether nothing is under way to any of the workloads.
func (a DrainAnswer) Done() bool {
	return !slices.ContainsFunc(a.Workloads, func(d DrainStatus) bool { return d.State != DrainDone })
}

// ParseDrainRequest reads the body of a request to drain, which may be empty.
func ParseDrainRequest(r *http.Request) (*DrainWorkload, error) {
	req := new(DrainWorkload)
	if r.Method == http.MethodPut {
		if err := decode(http.MaxBytesReader(nil, r.Body, maxRequest), req); err != nil {
			return nil, malformed(err.Error())
		}
	}
	if err := checkWait(req.Wait); err != nil {
		return nil, malformed(err.Error())
	}
	req.Reason = printable(clip(req.Reason, maxWhy))
	return req, nil
}

// DrainService has an agent drain a workload of its host until that is taken back.
func (c *Client) DrainService(ctx context.Context, ref ServiceRef, r DrainWorkload) (DrainAnswer, error) {
	return send[DrainAnswer](ctx, c, http.MethodPut, ref.path()+"/drain", r)
}

// UndrainService takes that back.
func (c *Client) UndrainService(ctx context.Context, ref ServiceRef) (DrainAnswer, error) {
	return send[DrainAnswer](ctx, c, http.MethodDelete, ref.path()+"/drain", nil)
}

// DrainUnit has an agent drain the workloads of a unit for as long as the unit's present run lasts.
func (c *Client) DrainUnit(ctx context.Context, unit string, r DrainWorkload) (DrainAnswer, error) {
	return send[DrainAnswer](ctx, c, http.MethodPut, "/v1/units/"+url.PathEscape(unit)+"/drain", r)
}

// UndrainUnit takes that back.
func (c *Client) UndrainUnit(ctx context.Context, unit string) (DrainAnswer, error) {
	return send[DrainAnswer](ctx, c, http.MethodDelete, "/v1/units/"+url.PathEscape(unit)+"/drain", nil)
}

// DrainRequest is the body of PUT /v1/nodes/{name}/drain.
type DrainRequest struct {
	Reason string `json:"reason,omitempty"` // for people
}

// SetDrain takes a node into maintenance, or with nil out of it. It reports false if the node was never let in.
func (r *Registrar) SetDrain(node string, d *store.Drain) (ok bool, err error) {
	r.writing.Lock() // what is in the store and here change in the same order
	defer r.writing.Unlock()
	if ok, err = r.o.Store.SetDrain(node, d); err != nil || !ok {
		return ok, err
	}
	r.mu.Lock()
	h := r.host(node)
	next := maps.Clone(r.health)
	h.dropHealth(next)
	h.drain = d
	h.putHealth(next)
	r.health = next
	r.mu.Unlock()
	if r.o.OnHealth != nil {
		r.o.OnHealth()
	}
	return true, nil
}

// drainsOf lists the workloads of a node that drain.
func (r *Registrar) drainsOf(node string) []store.Health {
	r.mu.Lock()
	defer r.mu.Unlock()
	h := r.hosts[node]
	if h == nil {
		return nil
	}
	var out []store.Health
	for _, w := range h.said.health {
		switch {
		case h.drain != nil:
			w.Reason = h.maintenance()
			out = append(out, w)
		case w.Drain != 0:
			out = append(out, w)
		}
	}
	return out
}

// describeDrains adds how far the workloads of a node are that drain.
func (n *Node) describeDrains(out *NodeStatus) {
	for _, w := range n.o.Registrar.drainsOf(out.Name) {
		d := DrainStatus{ServiceRef: ServiceRef{w.Namespace, w.Service, w.Instance}, State: DrainDone, Reason: w.Reason}
		key := registry.WorkloadKey{Host: out.Name, Service: registry.Name{Namespace: w.Namespace, Name: w.Service}, Instance: w.Instance}
		lagging, away, told := n.o.Callers.Of(key)
		switch {
		case !told:
			d.State, d.Detail = DrainLeaving, "callers have yet to be told"
		case len(lagging) > 0:
			d.State, d.Detail = DrainLeaving, "not acknowledged by "+few(lagging)
		case !w.Idle && out.Reporting && w.Healthy:
			d.State = DrainEnding
		}
		if len(away) > 0 {
			d.Detail = strings.TrimPrefix(d.Detail+"; ", "; ") + "not connected, and so not told: " + few(away)
		}
		out.Drains = append(out.Drains, d)
	}
}

// few lists names, not too many.
func few(names []string) string {
	if n := len(names) - maxLagging; n > 0 {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:maxLagging], ", "), n)
	}
	return strings.Join(names, ", ")
}

// setDrain takes the node of a request into maintenance, or out of it.
func (h *handler) setDrain(r *http.Request, d *store.Drain) (any, error) {
	name := r.PathValue("name")
	if err := spiffe.CheckName(name); err != nil {
		return nil, fmt.Errorf("%w: node: %w", ErrInput, err)
	}
	ok, err := h.registrar().SetDrain(name, d)
	if err == nil && !ok {
		err = noHost(name)
	}
	if err != nil {
		return nil, err
	}
	h.o.Log.Info("maintenance of a host", "host", name, "drains", d != nil)
	return h.node(r)
}

func (h *handler) drain(r *http.Request) (any, error) {
	var req DrainRequest
	if err := decode(r.Body, &req); err != nil {
		return nil, err
	}
	return h.setDrain(r, &store.Drain{Since: time.Now().UTC().Truncate(time.Second), Reason: printable(clip(req.Reason, maxWhy))})
}

func (h *handler) undrain(r *http.Request) (any, error) { return h.setDrain(r, nil) }

// node returns the node that the path names.
func (h *handler) node(r *http.Request) (any, error) {
	n, ok, err := h.o.Node.o.Store.Node(r.PathValue("name"))
	switch {
	case err != nil:
		return nil, err
	case !ok:
		return nil, noHost(clip(r.PathValue("name"), 64))
	}
	out := h.o.Node.o.Registrar.describe(n)
	h.o.Node.describeDrains(&out)
	return out, nil
}

func noHost(name string) error {
	return &Error{http.StatusNotFound, fmt.Sprintf("there is no host %q", name), "wattle host list shows those that joined", ""}
}

// DrainNode takes a host into maintenance: its workloads get no new requests.
func (c *Client) DrainNode(ctx context.Context, node string, r DrainRequest) (NodeStatus, error) {
	return send[NodeStatus](ctx, c, http.MethodPut, "/v1/nodes/"+url.PathEscape(node)+"/drain", r)
}

// UndrainNode takes a host out of maintenance.
func (c *Client) UndrainNode(ctx context.Context, node string) (NodeStatus, error) {
	return send[NodeStatus](ctx, c, http.MethodDelete, "/v1/nodes/"+url.PathEscape(node)+"/drain", nil)
}

// Node returns one node that was let into the mesh.
func (c *Client) Node(ctx context.Context, node string) (NodeStatus, error) {
	return get[NodeStatus](ctx, c, "/v1/nodes/"+url.PathEscape(node))
}
