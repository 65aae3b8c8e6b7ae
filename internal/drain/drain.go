// Package drain knows when callers have left a workload that takes no new requests: when the view says so, and every proxy
// that is connected and has the workload's endpoints in scope has acknowledged them. In come the loop's state and what
// proxies acknowledged, out goes who has yet to leave.
package drain

import (
	"context"
	"sync"

	"github.com/wattle-mesh/wattle/internal/pipeline"
	"github.com/wattle-mesh/wattle/registry"
	"github.com/wattle-mesh/wattle/translator"
)

// Options configure Callers. All fields are required.
type Options struct {
	State func() *pipeline.State // what is in force
	// Lagging is (*xds.Server).Lagging.
	Lagging func(t translator.Type, names []string) (lagging, away []string)
}

// Callers are the proxies that may call workloads. Its methods may be called from any goroutine.
type Callers struct {
	o Options

	mu      sync.Mutex
	changed chan struct{}
}

// New makes Callers. Changed tells of new states only while Run runs.
func New(o Options) *Callers { return &Callers{o: o, changed: make(chan struct{})} }

// Of says which proxies have yet to acknowledge that a workload takes no new requests, and which cannot be told, since they
// are not connected. It reports false while what is in force calls the workload yet.
func (c *Callers) Of(key registry.WorkloadKey) (lagging, away []string, told bool) {
	st := c.o.State()
	if st.View == nil {
		return nil, nil, false
	}
	s := st.View.Service(key.Service)
	if s == nil {
		return nil, nil, true
	}
	var names []string
	for _, p := range s.Ports {
		for _, set := range p.Endpoints {
			for i := range set.Endpoints {
				e := &set.Endpoints[i]
				if e.Workload != key {
					continue
				}
				if e.Health == registry.Healthy {
					return nil, nil, false
				}
				names = append(names, translator.EndpointsNames(st.View, set.ClusterRef)...)
				break
			}
		}
	}
	lagging, away = c.o.Lagging(translator.Endpoint, names)
	return lagging, away, true
}

// Changed is closed when an answer of Of may be another one.
func (c *Callers) Changed() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.changed
}

// Nudge says that proxies may have acknowledged something.
func (c *Callers) Nudge() {
	c.mu.Lock()
	defer c.mu.Unlock()
	close(c.changed)
	c.changed = make(chan struct{})
}

// Run follows what comes into force until ctx is done.
func (c *Callers) Run(ctx context.Context) error {
	for {
		step := c.o.State().Step
		c.Nudge()
		select {
		case <-step.Done():
		case <-ctx.Done():
			return nil
		}
	}
}
