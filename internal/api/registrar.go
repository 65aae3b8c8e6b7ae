package api

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"unicode/utf8"

	"github.com/wattle-mesh/wattle/configs"
	"github.com/wattle-mesh/wattle/internal/api/apipb"
	"github.com/wattle-mesh/wattle/internal/spiffe"
	"github.com/wattle-mesh/wattle/internal/store"
	"github.com/wattle-mesh/wattle/registry"
	"github.com/wattle-mesh/wattle/registry/static"
)

// Bounds of one report.
const (
	maxRegistrations = 1000
	maxRegistration  = 64 << 10 // bytes
	maxReason        = 200      // characters
)

// RegistrarOptions configure a Registrar. All fields are required unless they say otherwise.
type RegistrarOptions struct {
	Log   *slog.Logger
	Store *store.Store
	// Declared returns what the operator's policy declares of a host: its address is the operator's word.
	Declared func(node string) (registry.Host, bool)
	// OnHealth is called when the health that agents report has changed; must not block.
	OnHealth func()
}

// Registrar is the mesh registry: the workloads that agents registered, and the health they report of all
// workloads of their hosts. It is a registry.Source. What was reported last stays, over lost streams and restarts of
// the server.
type Registrar struct {
	o RegistrarOptions

	mu      sync.Mutex
	hosts   map[string]*configs.Host // nodes with registrations
	reports map[string]store.Report
	memo    static.Memo
	health  registry.HealthMap
	publish func([]*registry.Service) // nil while no Run is on
}

// NewRegistrar loads what was reported before.
func NewRegistrar(o RegistrarOptions) (*Registrar, error) {
	r := &Registrar{o: o, hosts: map[string]*configs.Host{}, health: registry.HealthMap{}}
	var err error
	if r.reports, err = o.Store.Reports(); err != nil {
		return nil, err
	}
	for node, rep := range r.reports {
		var services []*configs.Service
		for _, reg := range rep.Registrations {
			s := new(configs.Service)
			if err := json.Unmarshal(reg.Body, s); err != nil {
				return nil, fmt.Errorf("registration of node %s in the store: %w", node, err)
			}
			services = append(services, s)
		}
		r.setHost(node, rep, services)
		addHealth(r.health, node, rep)
	}
	return r, nil
}

// Run publishes the registered services until ctx is done.
func (r *Registrar) Run(ctx context.Context, publish func([]*registry.Service)) error {
	r.mu.Lock()
	r.publish = publish
	publish(r.services())
	r.mu.Unlock()
	<-ctx.Done()
	r.mu.Lock()
	r.publish = nil
	r.mu.Unlock()
	return nil
}

// Health returns what agents say of their workloads. The map is never changed.
func (r *Registrar) Health() registry.HealthMap {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.health
}

// services turns the hosts into services; r.mu is held.
func (r *Registrar) services() []*registry.Service {
	hosts := slices.SortedFunc(maps.Values(r.hosts), func(a, b *configs.Host) int { return cmp.Compare(a.Name, b.Name) })
	return r.memo.Services(&configs.Policy{Hosts: hosts})
}

// report takes in what node says, from the address it says it from, and returns what is refused of it. The error is
// the store's: nothing of the report is in force then.
func (r *Registrar) report(node string, from netip.Addr, req *apipb.ReportRequest) ([]*apipb.Refusal, error) {
	host, refused := r.place(node, from, req)
	grant, err := r.grant(node)
	if err != nil {
		return nil, err
	}
	rep := store.Report{Address: host.Address, MeshPort: host.MeshPort}
	var services []*configs.Service
	if host.Address.IsValid() {
		for _, reg := range req.GetRegistrations() {
			s, err := accept(reg, grant, len(services))
			if err != nil {
				refused = append(refused, refusal(reg, err))
				continue
			}
			body, err := json.Marshal(s)
			if err != nil {
				return nil, err
			}
			services = append(services, s)
			rep.Registrations = append(rep.Registrations, store.Registration{Body: body, Origin: s.Origin})
		}
	}
	for _, h := range req.GetHealth() {
		word := registry.HealthWord{Health: registry.Healthy, Reason: printable(h.GetReason())}
		if !h.GetHealthy() {
			word.Health = registry.Unhealthy
		}
		name := registry.Name{Namespace: h.GetNamespace(), Name: h.GetService()}
		rep.Health = append(rep.Health, store.Health{Service: name, Instance: h.GetInstance(), HealthWord: word})
	}
	return refused, r.take(node, rep, services)
}

// place decides under which address the node is reached.
func (r *Registrar) place(node string, from netip.Addr, req *apipb.ReportRequest) (registry.Host, []*apipb.Refusal) {
	host := registry.Host{Name: node, Address: from, MeshPort: uint16(req.GetMeshPort())}
	if declared, ok := r.o.Declared(node); ok {
		return declared, nil
	}
	claim, err := netip.ParseAddr(req.GetAddress())
	if req.GetAddress() == "" || (err == nil && claim.Unmap() == from) {
		return host, nil
	}
	reason := fmt.Sprintf("the address %q is not the one the agent connects from (%s) and no host block declares it", req.GetAddress(), from)
	r.o.Log.Warn("report refused", "node", node, "reason", reason)
	host.Address = netip.Addr{}
	var refused []*apipb.Refusal
	for _, reg := range req.GetRegistrations() {
		refused = append(refused, refusal(reg, errors.New(reason)))
	}
	return host, refused
}

func (r *Registrar) grant(node string) (store.Grant, error) {
	n, _, err := r.o.Store.Node(node)
	return n.Grant, err
}

func refusal(reg *apipb.Registration, err error) *apipb.Refusal {
	return &apipb.Refusal{Namespace: reg.GetNamespace(), Service: reg.GetService(), Instance: reg.GetInstance(), Reason: err.Error()}
}

// accept checks one registration: it must be granted and make sense.
func accept(reg *apipb.Registration, grant store.Grant, before int) (*configs.Service, error) {
	if before >= maxRegistrations {
		return nil, fmt.Errorf("a host may register %d workloads at most", maxRegistrations)
	}
	if len(reg.GetBody()) > maxRegistration {
		return nil, fmt.Errorf("%d bytes; a registration may have %d at most", len(reg.GetBody()), maxRegistration)
	}
	s := new(configs.Service)
	d := json.NewDecoder(bytes.NewReader(reg.GetBody()))
	d.DisallowUnknownFields()
	if err := d.Decode(s); err != nil {
		return nil, fmt.Errorf("the registration does not decode: %w", err)
	}
	name := registry.Name{Namespace: s.Namespace, Name: s.Name}
	if name.Namespace != reg.GetNamespace() || name.Name != reg.GetService() || s.Instance != reg.GetInstance() {
		return nil, errors.New("the registration's body is of another service")
	}
	if !grant.Allows(name) {
		return nil, fmt.Errorf("the node was not granted %s: make its join token with -services %s, or declare it in a host block", name, name)
	}
	if err := spiffe.ForService("check.invalid", s.Namespace, s.Name).Check(); err != nil {
		return nil, err
	}
	if len(s.Endpoints) > 0 {
		return nil, errors.New("a workload has no endpoint blocks; its endpoint is the host")
	}
	if len(s.Ports) == 0 {
		return nil, errors.New("a workload needs a port")
	}
	for _, p := range s.Ports {
		if p.Number == 0 || !p.Local.IsValid() || p.Local.Port() == 0 {
			return nil, fmt.Errorf("port %d at %s: both need a port number", p.Number, p.Local)
		}
	}
	s.Origin = reg.GetOrigin()
	s.Command, s.Env = nil, nil
	return s, nil
}

// take stores a report and brings it into force.
func (r *Registrar) take(node string, rep store.Report, services []*configs.Service) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	old := r.reports[node]
	if equalReports(old, rep) {
		return nil
	}
	if err := r.o.Store.SetReport(node, rep); err != nil {
		return err
	}
	r.reports[node] = rep
	if !equalReports(store.Report{Address: old.Address, MeshPort: old.MeshPort, Registrations: old.Registrations},
		store.Report{Address: rep.Address, MeshPort: rep.MeshPort, Registrations: rep.Registrations}) {
		r.setHost(node, rep, services)
		if r.publish != nil {
			r.publish(r.services())
		}
	}
	if !slices.Equal(old.Health, rep.Health) {
		r.setHealth(node)
		r.o.OnHealth()
	}
	return nil
}

func equalReports(a, b store.Report) bool {
	return a.Address == b.Address && a.MeshPort == b.MeshPort && slices.Equal(a.Health, b.Health) &&
		slices.EqualFunc(a.Registrations, b.Registrations, func(a, b store.Registration) bool {
			return a.Origin == b.Origin && bytes.Equal(a.Body, b.Body)
		})
}

// setHost replaces a node's host. A service that did not change keeps its pointer.
func (r *Registrar) setHost(node string, rep store.Report, services []*configs.Service) {
	if len(services) == 0 || !rep.Address.IsValid() {
		delete(r.hosts, node)
		return
	}
	old := r.hosts[node]
	h := &configs.Host{Name: node, Address: rep.Address, MeshPort: rep.MeshPort, Services: services, Origin: "node " + node}
	if old != nil && old.Address == h.Address && old.MeshPort == h.MeshPort {
		for i, s := range h.Services {
			for _, o := range old.Services {
				if sameService(o, s) {
					h.Services[i] = o
				}
			}
		}
	}
	r.hosts[node] = h
}

func sameService(a, b *configs.Service) bool {
	x, errX := json.Marshal(a)
	y, errY := json.Marshal(b)
	return errX == nil && errY == nil && bytes.Equal(x, y)
}

// setHealth replaces what one node says in a new map.
func (r *Registrar) setHealth(node string) {
	next := make(registry.HealthMap, len(r.health))
	for k, w := range r.health {
		if k.Host != node {
			next[k] = w
		}
	}
	addHealth(next, node, r.reports[node])
	r.health = next
}

func addHealth(m registry.HealthMap, node string, rep store.Report) {
	for _, h := range rep.Health {
		m[registry.WorkloadKey{Host: node, Service: h.Service, Instance: h.Instance}] = h.HealthWord
	}
}

// printable bounds a text from elsewhere.
func printable(s string) string {
	if !utf8.ValidString(s) {
		return "(not UTF-8)"
	}
	if r := []rune(s); len(r) > maxReason {
		return string(r[:maxReason])
	}
	return s
}
