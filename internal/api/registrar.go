package api

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/wattle-mesh/wattle/configs"
	"github.com/wattle-mesh/wattle/internal/spiffe"
	"github.com/wattle-mesh/wattle/internal/store"
	"github.com/wattle-mesh/wattle/registry"
	"github.com/wattle-mesh/wattle/registry/static"
)

// RegistrarOptions configure a Registrar.
type RegistrarOptions struct {
	Log   *slog.Logger // required
	Store *store.Store // required
	// OnHealth is called after Health or Facts has another answer. It must not block. Nil: nobody listens.
	OnHealth func()
	// Report is told what is wrong with what agents declare, whenever that changes. Nil: nobody listens.
	Report func([]registry.Diagnostic)
	// Answers reports whether something listens there, as far as it is known by now; it must not block. Nil: no host whose agent
	// is silent is ever taken for dead.
	Answers func(netip.AddrPort) bool
}

// Registrar is the mesh's own registry: what agents register, as far as it was granted, and what they say of their
// workloads' health; and the services without an agent that operators register here. It is a registry.Source for "mesh". It starts with what the store has, so that a restarted
// server serves the same before any agent is back. Its methods may be called from any goroutine.
type Registrar struct {
	o    RegistrarOptions
	wake chan struct{} // has an element if Run may have something to do

	writing sync.Mutex // held while direct is changed, on disk and then here; before mu
	saving  sync.Mutex // held while what nodes said is written or forgotten; before mu

	mu       sync.Mutex
	policy   *configs.Policy // nil: none is in force yet
	hosts    map[string]*host
	memo     static.Memo
	services []*registry.Service  // replaced, never changed
	health   registry.HealthMap   // likewise
	facts    *static.Facts        // likewise
	unsaved  map[string]bool      // hosts whose report the store does not have
	left     map[string]time.Time // when nodes left that have not been forgotten yet
	untold   bool                 // Report may have to be told something
	direct   map[ServiceRef]*direct
	ended    Dismissed // of direct; writing guards it, not mu
	overlays map[registry.Name]overlay
	streams  uint64            // of reports, that were ever opened
	expel    func(node string) // told of nodes that leave; nil: nobody is
}

// NewRegistrar makes a Registrar with what the store has.
func NewRegistrar(o RegistrarOptions) (*Registrar, error) {
	r := &Registrar{o: o, wake: make(chan struct{}, 1), hosts: map[string]*host{}, health: registry.HealthMap{}, unsaved: map[string]bool{}, direct: map[ServiceRef]*direct{}}
	nodes, err := o.Store.Nodes()
	if err != nil {
		return nil, err
	}
	for _, n := range nodes {
		h := r.host(n.Name)
		h.grant, h.drain = n.Grant, n.Drain
		h.putHealth(r.health) // the word on the host itself
	}
	if err := r.loadLeft(); err != nil {
		return nil, err
	}
	reports, err := o.Store.Reports()
	if err != nil {
		return nil, err
	}
	for _, kept := range reports {
		h := r.host(kept.Node)
		if err := h.restore(kept); err != nil {
			return nil, fmt.Errorf("store: report of node %s: %w", kept.Node, err)
		}
		h.judge(nil)
		h.putHealth(r.health)
	}
	r.learn()
	if err := r.loadDirect(); err != nil {
		return nil, err
	}
	r.rebuild()
	return r, nil
}

// host returns what is known of a node, which is made if need be. The caller holds r.mu, or is NewRegistrar.
func (r *Registrar) host(node string) *host {
	h := r.hosts[node]
	if h == nil {
		h = &host{name: node, changed: make(chan struct{}), left: time.Now()}
		r.hosts[node] = h
	}
	return h
}

// Run publishes the services that agents registered, and keeps their reports in the store. It implements
// registry.Source: it fails when the store does, but goes on from memory while that is merely full.
func (r *Registrar) Run(ctx context.Context, publish func([]*registry.Service)) error {
	var leases sync.WaitGroup
	defer leases.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	leases.Go(func() { r.keepLeases(ctx) })
	last, first, unkept := []*registry.Service(nil), true, false
	for {
		next, leased, full := r.lease(time.Now())
		if full != nil && !errors.Is(full, store.ErrUnwritable) {
			return full
		}
		var due <-chan time.Time
		if leased {
			due = time.After(max(time.Until(next), leaseStep))
		}
		now, problems, news := r.news()
		if first || !same(now, last) {
			publish(now)
			last, first = now, false
		}
		if news && r.o.Report != nil {
			r.o.Report(problems)
		}
		var again <-chan time.Time
		switch err := cmp.Or(r.save(), full); {
		case err == nil:
			unkept = false
		case !errors.Is(err, store.ErrUnwritable):
			return err
		default:
			if again = time.After(saveAgain); !unkept {
				r.o.Log.Error("what has changed is not kept: after a restart the server has an older state until agents report again", "error", err)
			}
			unkept = true
		}
		select {
		case <-r.wake:
		case <-due:
		case <-again:
		case <-ctx.Done():
			return r.save()
		}
	}
}

// saveAgain is how long after a failure it is tried to write again.
const saveAgain = 5 * time.Second

// news returns the services, and what is wrong with what agents declare if that may have changed since the last call.
func (r *Registrar) news() (services []*registry.Service, problems []registry.Diagnostic, news bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.untold {
		r.untold, news, problems = false, true, r.problems()
	}
	return r.services, problems, news
}

func same(a, b []*registry.Service) bool {
	return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0])
}

// save writes the reports that the store does not have.
func (r *Registrar) save() error {
	r.saving.Lock()
	defer r.saving.Unlock()
	r.mu.Lock()
	names := r.unsaved
	r.unsaved = map[string]bool{}
	reports := make([]store.Report, 0, len(names))
	for _, name := range slices.Sorted(maps.Keys(names)) {
		if h := r.hosts[name]; h != nil { // nil: it left
			reports = append(reports, h.kept)
		}
	}
	r.mu.Unlock()
	if len(reports) == 0 {
		return nil
	}
	err := r.o.Store.SaveReports(reports)
	if err != nil {
		r.mu.Lock()
		defer r.mu.Unlock()
		maps.Copy(r.unsaved, names)
	}
	return err
}

func (r *Registrar) poke() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// Health returns what the agents say of their workloads. Immutable.
func (r *Registrar) Health() registry.HealthMap {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.health
}

// Facts returns what the agents say of their hosts. Immutable.
func (r *Registrar) Facts() *static.Facts {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.facts
}

// learn gathers what hosts are. The caller holds r.mu, or is NewRegistrar.
func (r *Registrar) learn() {
	of := make(map[string]registry.Labels, len(r.hosts))
	for name, h := range r.hosts {
		if h.said.labels != "" {
			of[name] = h.said.labels
		}
	}
	r.facts = &static.Facts{Of: of}
}

// silence is how long the last word of an agent counts that is no longer connected: it may be starting anew.
const silence = time.Minute

// Alive reports whether an agent says that a workload lives: it is healthy, and its agent is connected, or was a moment
// ago.
func (r *Registrar) Alive(key registry.WorkloadKey) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	h := r.hosts[key.Host]
	return h != nil && r.health[key].Health == registry.Healthy && (h.end != nil || time.Since(h.left) < silence)
}

// Ready lists the proxies of a workload's host that could serve it, as the host's agent says.
func (r *Registrar) Ready(key registry.WorkloadKey) []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	h := r.hosts[key.Host]
	if h == nil {
		return nil
	}
	want := store.Health{Namespace: key.Service.Namespace, Service: key.Service.Name, Instance: key.Instance}
	i, ok := slices.BinarySearchFunc(h.said.health, want, compareHealth)
	if !ok {
		return nil
	}
	return strings.Fields(h.said.health[i].Ready)
}

// SetPolicy says which policy is in force: its host blocks and gateways are grants, and the operator's word on
// addresses. What was registered is judged anew. Until the first call, what the store has counts as granted. It is
// cheap when hosts and gateways are the same, and does not block.
func (r *Registrar) SetPolicy(p *configs.Policy) {
	r.mu.Lock()
	defer r.mu.Unlock()
	old := r.policy
	r.policy = p
	if old != nil && slices.Equal(old.Hosts, p.Hosts) && slices.Equal(old.Gateways, p.Gateways) {
		return
	}
	moved := len(r.direct) > 0
	for _, h := range r.hosts {
		moved = r.judge(h) || moved
	}
	if moved {
		r.rebuild()
	}
}

// regrant reads a node's grant again.
func (r *Registrar) regrant(node string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	n, ok, err := r.o.Store.Node(node)
	if err != nil || !ok {
		return err
	}
	h := r.host(node)
	h.grant = n.Grant
	if r.judge(h) {
		r.rebuild()
	}
	return nil
}

// judge decides again what of a host's report counts. It reports whether the services may have changed. The caller
// holds r.mu.
func (r *Registrar) judge(h *host) (changed bool) {
	was, at := h.block, h.address
	if h.judge(r.policy) {
		r.unsaved[h.name] = true
		r.poke()
	}
	return h.block != was || h.address != at && len(r.direct) > 0
}

// rebuild makes the services of what counts now. The caller holds r.mu.
func (r *Registrar) rebuild() {
	var p configs.Policy
	for _, h := range r.hosts {
		if h.block != nil {
			p.Hosts = append(p.Hosts, h.block)
		}
	}
	slices.SortFunc(p.Hosts, func(a, b *configs.Host) int { return strings.Compare(a.Name, b.Name) })
	p.Services = r.standing()
	r.memo.Facts = r.facts
	r.services = r.dim(r.memo.Services(&p))
	r.untold = true
	r.poke()
}

// refusals returns what is refused of the node's report now, and a channel that is closed when that changes.
func (r *Registrar) refusals(node string) ([]refusal, <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	h := r.host(node)
	return h.refused, h.changed
}

// holds reports whether the node was granted an identity, and whether it is known to have a use for it: the policy
// places a workload or gateway there, or the agent registered one. What has a use is granted.
func (r *Registrar) holds(node string, id spiffe.ID) (granted, has bool, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	name := registry.Name{Namespace: id.Namespace, Name: id.Name}
	switch id.Kind {
	case spiffe.Gateway:
		if r.policy == nil {
			return false, false, errNoPolicy
		}
		if runsGateway(r.policy, node, name) {
			return true, true, nil
		}
		return false, false, fmt.Errorf("no gateway %s runs on node %s; its run_on in the policy would say so", name, node)
	case spiffe.Service:
		h := r.host(node)
		has = declares(r.policy, node, name) || h.registered(name)
		granted = has || h.grant.Service(name.Namespace, name.Name)
		if r.policy == nil && !has {
			err = errNoPolicy
		}
		return granted, has, err
	}
	return false, false, fmt.Errorf("node %s may not hold the identity of another %s", node, id.Kind)
}

// errNoPolicy is the answer to what only the policy could grant, while the server has none in force yet.
var errNoPolicy = errors.New("the server has just started and has no policy in force yet")

// notGranted is what a node hears that asks for more than it has.
func notGranted(node, namespace, service string) error {
	return fmt.Errorf("node %s was not granted service %s/%s; a host block in the policy, or the grant in a join token, would do so", node, namespace, service)
}

// describe adds to a node what is known of it now.
func (r *Registrar) describe(n store.Node) NodeStatus {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := NodeStatus{Node: n}
	h := r.hosts[n.Name]
	if h == nil {
		return out
	}
	if h.address.IsValid() {
		out.Address = h.address.String()
	}
	out.MeshPort, out.Reporting = h.said.meshPort, h.end != nil
	if h.block != nil {
		out.Registrations = len(h.block.Services)
	}
	for _, x := range h.refused {
		out.Refused = append(out.Refused, x.shown(n.Name))
	}
	out.Facts, out.ClockAhead, out.Alarms = h.said.facts, configs.Duration(h.said.ahead), h.said.alarms
	return out
}
