package nomad

import (
	"cmp"
	"context"
	"maps"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/wattle-mesh/wattle/registry"
)

// registration is one instance of a service as Nomad lists it. Immutable.
type registration struct {
	ID          string
	ServiceName string
	Namespace   string
	NodeID      string
	Datacenter  string
	JobID       string
	AllocID     string
	Tags        []string
	Address     string
	Port        int
	CreateIndex uint64
	ModifyIndex uint64
}

// alloc is what counts of an allocation. Immutable.
type alloc struct {
	ID               string
	Namespace        string
	NodeID           string
	NodeName         string
	JobID            string
	JobVersion       uint64
	TaskGroup        string
	DesiredStatus    string
	ClientStatus     string
	DeploymentStatus *struct {
		Healthy *bool
		Canary  bool
	}
	AllocatedResources *struct {
		Shared struct {
			Ports []portMapping
		}
	}
	CreateIndex uint64
	ModifyIndex uint64
}

// portMapping leads from a port of a node to one in an allocation's network.
type portMapping struct {
	Label  string
	Value  int
	To     int
	HostIP string
}

// node is what counts of a client node. Immutable.
type node struct {
	ID          string
	Name        string
	Address     string
	Datacenter  string
	NodePool    string
	Status      string
	ModifyIndex uint64
	Meta        map[string]string // nil until it was read
}

// found is what is known of one service.
type found struct {
	registrations []*registration   // sorted by ID
	dropped       map[string]bool   // IDs of those that Nomad no longer lists, though their allocations run
	service       *registry.Service // as published; nil: nothing of it can be called
	faults        []registry.Diagnostic
}

// table joins registrations, allocations, deployments and nodes. It outlives runs. Its work grows with what changed.
type table struct {
	config  *config
	now     func() time.Time
	changed chan struct{} // has an element if there may be something new

	mu          sync.Mutex
	services    map[registry.Name]*found
	allocs      map[string]*alloc
	nodes       map[string]*node
	deployments map[deployed]*deployment          // those in progress
	onAlloc     map[string]map[registry.Name]bool // which services have registrations of an allocation
	onNode      map[string]map[registry.Name]bool
	dead        map[string]time.Time // registrations of allocations that have ended or are unknown, since when
	beyond      int                  // services that are left out because there are too many
	sorted      []*registry.Service  // replaced, not changed; nil: to be made anew
}

func newTable(c *config) *table {
	return &table{
		config: c, now: time.Now, changed: make(chan struct{}, 1), services: map[registry.Name]*found{}, allocs: map[string]*alloc{}, nodes: map[string]*node{},
		onAlloc: map[string]map[registry.Name]bool{}, onNode: map[string]map[registry.Name]bool{}, dead: map[string]time.Time{},
	}
}

func (t *table) nudge() {
	select {
	case t.changed <- struct{}{}:
	default:
	}
}

// set returns the services, sorted.
func (t *table) set() []*registry.Service {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.sorted == nil {
		t.sorted = []*registry.Service{}
		for _, f := range t.services {
			if f.service != nil {
				t.sorted = append(t.sorted, f.service)
			}
		}
		slices.SortFunc(t.sorted, func(a, b *registry.Service) int { return a.Name.Compare(b.Name) })
	}
	return t.sorted
}

// serves returns which services can be called.
func (t *table) serves() func(registry.Name) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := make(map[registry.Name]bool, len(t.services))
	for n, f := range t.services {
		now[n] = f.service != nil
	}
	return func(n registry.Name) bool { return now[n] }
}

// names lists the services that are known, in some order.
func (t *table) names() []registry.Name {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Collect(maps.Keys(t.services))
}

// registered returns what was listed of a service last, and of it what Nomad no longer lists.
func (t *table) registered(n registry.Name) []*registration {
	t.mu.Lock()
	defer t.mu.Unlock()
	if f := t.services[n]; f != nil {
		return f.registrations
	}
	return nil
}

// put takes in the registrations of a service, those in dropped of which Nomad no longer lists.
func (t *table) put(ctx context.Context, n registry.Name, all []*registration, dropped map[string]bool) {
	slices.SortFunc(all, func(a, b *registration) int { return cmp.Compare(a.ID, b.ID) })
	t.mu.Lock()
	defer t.mu.Unlock()
	if ctx.Err() != nil {
		return
	}
	f := t.services[n]
	if f == nil {
		f = &found{}
		t.services[n] = f
	}
	for _, r := range f.registrations {
		unlink(t.onAlloc, r.AllocID, n)
		unlink(t.onNode, r.NodeID, n)
		if !slices.ContainsFunc(all, func(now *registration) bool { return now.ID == r.ID }) {
			delete(t.dead, r.ID)
		}
	}
	f.registrations, f.dropped = all, dropped
	for _, r := range all {
		link(t.onAlloc, r.AllocID, n)
		link(t.onNode, r.NodeID, n)
	}
	t.build(n)
	if len(all) == 0 {
		delete(t.services, n)
	}
	t.nudge()
}

func link(m map[string]map[registry.Name]bool, key string, n registry.Name) {
	if m[key] == nil {
		m[key] = map[registry.Name]bool{}
	}
	m[key][n] = true
}

func unlink(m map[string]map[registry.Name]bool, key string, n registry.Name) {
	delete(m[key], n)
	if len(m[key]) == 0 {
		delete(m, key)
	}
}

// anew is the index of allocations that replace whatever was known: Nomad may have been made anew since.
const anew = math.MaxUint64

// putAllocs takes in all allocations of a namespace, as they were at an index: what is known of one since then, by another
// way, stays. It returns the services that lack a registration whose allocation has changed.
func (t *table) putAllocs(namespace string, all []*alloc, index uint64) (recheck []registry.Name) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := make(map[string]*alloc, len(all))
	for _, a := range all {
		if a != nil { // what is no allocation says nothing
			now[a.ID] = a
		}
	}
	dirty := map[registry.Name]bool{}
	for id, was := range t.allocs {
		if namespace != everyNamespace && was.Namespace != namespace || was.ModifyIndex > index {
			continue
		}
		if now[id] == nil {
			delete(t.allocs, id)
			maps.Copy(dirty, t.onAlloc[id])
		}
	}
	for id, a := range now {
		was := t.allocs[id]
		if was != nil && was.ModifyIndex >= a.ModifyIndex && index != anew {
			continue
		}
		t.allocs[id] = a
		maps.Copy(dirty, t.onAlloc[id])
	}
	for n := range dirty {
		if f := t.services[n]; len(f.dropped) > 0 {
			recheck = append(recheck, n)
		}
		t.build(n)
	}
	t.nudge()
	return recheck
}

// putAlloc takes in one allocation; nil: there is none of that ID.
func (t *table) putAlloc(id string, a *alloc) {
	t.mu.Lock()
	defer t.mu.Unlock()
	was := t.allocs[id]
	switch {
	case a == nil:
		delete(t.allocs, id)
	case was != nil && was.ModifyIndex >= a.ModifyIndex:
		return
	default:
		t.allocs[id] = a
	}
	for n := range t.onAlloc[id] {
		t.build(n)
	}
	t.nudge()
}

// unknown returns which allocations of registrations are not known.
func (t *table) unknown(all []*registration) []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	var out []string
	for _, r := range all {
		if t.allocs[r.AllocID] == nil && !slices.Contains(out, r.AllocID) {
			out = append(out, r.AllocID)
		}
	}
	return out
}

// alloc returns an allocation, nil if it is not known.
func (t *table) alloc(id string) *alloc {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.allocs[id]
}

// putNodes takes in all nodes. It returns those whose metadata must be read.
func (t *table) putNodes(all []*node) (unread []string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := make(map[string]*node, len(all))
	dirty := map[registry.Name]bool{}
	for _, n := range all {
		if n == nil { // what is no node says nothing
			continue
		}
		was := t.nodes[n.ID]
		if was != nil && was.ModifyIndex == n.ModifyIndex && was.Status == n.Status && was.Address == n.Address {
			n = was
		} else {
			if was != nil {
				n.Meta = was.Meta
			}
			maps.Copy(dirty, t.onNode[n.ID])
		}
		if len(t.config.nodeMeta) > 0 && (was == nil || was != n || n.Meta == nil) {
			unread = append(unread, n.ID)
		}
		now[n.ID] = n
	}
	for id := range t.nodes {
		if now[id] == nil {
			maps.Copy(dirty, t.onNode[id])
		}
	}
	t.nodes = now
	for n := range dirty {
		t.build(n)
	}
	t.nudge()
	return unread
}

// putMeta takes in the metadata of a node.
func (t *table) putMeta(id string, meta map[string]string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	was := t.nodes[id]
	if was == nil {
		return
	}
	kept := make(map[string]string, len(t.config.nodeMeta))
	for _, k := range t.config.nodeMeta {
		if v, ok := meta[k]; ok {
			kept[k] = v
		}
	}
	if was.Meta != nil && maps.Equal(was.Meta, kept) {
		return
	}
	n := *was
	n.Meta = kept
	t.nodes[id] = &n
	for s := range t.onNode[id] {
		t.build(s)
	}
	t.nudge()
}

// exceed notes how many services are left out because there are too many.
func (t *table) exceed(n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.beyond != n {
		t.beyond = n
		t.nudge()
	}
}

// build makes a service of what is known. One that comes out as it was keeps its pointer. t.mu is held.
func (t *table) build(n registry.Name) {
	f := t.services[n]
	now, faults := t.join(n, f)
	f.faults = faults
	if same(f.service, now) {
		return
	}
	f.service, t.sorted = now, nil
}

// same reports whether two services, either of which may be nil, are equal.
func same(a, b *registry.Service) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.Origin == b.Origin && slices.Equal(a.Ports, b.Ports) && slices.EqualFunc(a.Endpoints, b.Endpoints, func(a, b *registry.Endpoint) bool {
		return a.Address == b.Address && a.Port == b.Port && a.ServicePort == b.ServicePort && a.Locality == b.Locality &&
			a.Health == b.Health && a.Reason == b.Reason && a.Meta == b.Meta
	})
}
