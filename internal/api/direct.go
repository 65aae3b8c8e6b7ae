package api

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"iter"
	"maps"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/wattle-mesh/wattle/configs"
	"github.com/wattle-mesh/wattle/internal/store"
	"github.com/wattle-mesh/wattle/registry"
)

// What is taken of services without an agent.
const (
	maxDirect    = 10_000
	maxEndpoints = 64 // of one registration

	leaseStep = 100 * time.Millisecond // how often it is looked who is late, at most
)

// direct is a service without an agent that an operator registered at the server. Immutable but for what others say of it;
// Registrar.mu guards that.
type direct struct {
	*configs.Service
	kept  store.Endpoint
	heard time.Time // the last heartbeat; this server's start at the earliest
	host  string    // that has one of its addresses and an agent; empty: none, and it counts
	late  bool
}

func (d *direct) ref() ServiceRef { return ServiceRef{d.Namespace, d.Name, d.Instance} }

// silent says for how long it has not been heard of.
func (d *direct) silent(since time.Duration) string {
	return fmt.Sprintf("no heartbeat for %s (ttl %s)", since.Truncate(time.Second), time.Duration(d.TTL))
}

// loadDirect takes over what the store has.
func (r *Registrar) loadDirect() error {
	all, err := r.o.Store.Endpoints()
	if err != nil {
		return err
	}
	now := time.Now()
	for _, kept := range all {
		s := new(configs.Service)
		if err := json.Unmarshal(kept.Body, s); err != nil {
			return fmt.Errorf("store: endpoint %s/%s: %w", kept.Namespace, kept.Service, err)
		}
		d := &direct{Service: s, kept: kept, heard: now}
		r.direct[d.ref()] = d
	}
	text, err := r.o.Store.Dismissed()
	if err != nil || text == nil {
		return err
	}
	if err := json.Unmarshal(text, &r.ended); err != nil {
		return fmt.Errorf("store: what was deregistered: %w", err)
	}
	return nil
}

// checkDirect says what of a registration cannot be registered at a server.
func checkDirect(s *configs.Service) error {
	foreign := func(format string, args ...any) error {
		return &Error{http.StatusBadRequest, fmt.Sprintf(format, args...), "give it an address (-address), or register it at the agent of its host", CodeForeign}
	}
	switch {
	case len(s.Endpoints) == 0:
		return foreign("service %s has no endpoint; a server registers what has an address and no agent", s.Name)
	case len(s.Checks)+len(s.Upstreams) > 0 || s.Unit != "":
		return foreign("service %s has checks, upstreams or a unit, which are for workloads of hosts with an agent", s.Name)
	case len(s.Endpoints) > maxEndpoints:
		return malformed(fmt.Sprintf("%d endpoints, at most %d are taken", len(s.Endpoints), maxEndpoints))
	}
	for i, p := range s.Ports {
		if p.Local.IsValid() {
			return foreign("port %d says where it listens on a host", p.Number)
		}
		s.Ports[i].Local = netip.AddrPort{}
	}
	for _, e := range s.Endpoints {
		if e == nil {
			return malformed("an endpoint is empty")
		}
		if e.PortFor == 0 && len(s.Ports) == 1 {
			e.PortFor = s.Ports[0].Number
		}
		e.Port, e.Weight = cmp.Or(e.Port, e.PortFor), cmp.Or(e.Weight, 1)
		switch {
		case !machine(e.Address):
			return malformed(fmt.Sprintf("%s is not the address of a machine", e.Address))
		case !slices.ContainsFunc(s.Ports, func(p configs.ServicePort) bool { return p.Number == e.PortFor }):
			return malformed(fmt.Sprintf("endpoint %s is for port %d, which the service does not have", e.Address, e.PortFor))
		case e.Weight > maxWeight:
			return malformed(fmt.Sprintf("weight %d is not from 1 to %d", e.Weight, maxWeight))
		}
		if err := registry.CheckMeta(e.Meta); err != nil {
			return malformed(fmt.Sprintf("meta of endpoint %s: %v", e.Address, err))
		}
	}
	return nil
}

// Enroll registers services without an agent, all or none. One that is the same changes nothing, and is a heartbeat.
func (r *Registrar) Enroll(all []*configs.Service, run Run) ([]ServiceAnswer, error) {
	r.writing.Lock()
	defer r.writing.Unlock()
	now := time.Now()
	var changed []*direct
	news, refused := map[ServiceRef]bool{}, map[ServiceRef]ServiceAnswer{}
	for _, s := range all {
		d, err := newDirect(s, run, now)
		if err != nil {
			return nil, Of(s, all, err)
		}
		old, same, err := r.place(d, changed)
		if err != nil {
			return nil, Of(s, all, err)
		}
		if answer, ended := r.ended.Refuse(s, now); ended && run.Renew && old == nil {
			refused[d.ref()] = answer
			continue
		}
		if run.Renew && old != nil && old.kept.Run != run.ID || same && (run.ID == "" || run.ID == old.kept.Run) {
			continue // a later run, or somebody's hand, has it now; or nothing is new
		}
		changed, news[d.ref()] = append(changed, d), !same
	}
	if !run.Renew {
		if err := r.dismiss(r.ended.Without(refsOf(all)...)); err != nil {
			return nil, err
		}
	}
	if len(changed) > 0 {
		kept := make([]store.Endpoint, 0, len(changed))
		for _, d := range changed {
			kept = append(kept, d.kept)
		}
		if err := r.o.Store.SaveEndpoints(kept); err != nil {
			return nil, err
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, d := range changed {
		r.direct[d.ref()] = d
		if news[d.ref()] {
			r.o.Log.Info("service registered", "service", d.ref().String(), "endpoints", len(d.Endpoints))
		}
	}
	moved := len(changed) > 0
	out := make([]ServiceAnswer, 0, len(all))
	for _, s := range all {
		if answer, ok := refused[refOf(s)]; ok {
			out = append(out, answer)
			continue
		}
		d := r.direct[refOf(s)]
		if d.kept.Run == "" || d.kept.Run == run.ID || !run.Renew { // of a later run the life of an earlier one says nothing
			moved, d.heard, d.late = moved || d.late, now, false
		}
		out = append(out, ServiceAnswer{ServiceStatus: d.status(now), Changed: news[d.ref()]})
	}
	if moved {
		r.rebuild()
	}
	return out, nil
}

func newDirect(s *configs.Service, run Run, now time.Time) (*direct, error) {
	if err := checkDirect(s); err != nil {
		return nil, err
	}
	if s.Origin == "" {
		s.Origin = "wattle service register at the server"
	}
	body, err := json.Marshal(s)
	return &direct{Service: s, heard: now, kept: store.Endpoint{
		Namespace: s.Namespace, Service: s.Name, Instance: s.Instance, Body: body, Registered: now.UTC().Truncate(time.Second), Run: run.ID,
	}}, err
}

// place says why there is no place for a registration beside the others and those that come with it, what is there already, nil if
// nothing, and whether that is the same.
func (r *Registrar) place(d *direct, with []*direct) (old *direct, same bool, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if old = r.direct[d.ref()]; old != nil {
		d.kept.Registered = old.kept.Registered
		same = bytes.Equal(old.kept.Body, d.kept.Body)
	}
	if host := d.hostAmong(r.addresses()); host != "" {
		return nil, false, &Error{http.StatusConflict, onHost(d.ref(), host), "register it on that host", CodeHost}
	}
	if old == nil && len(r.direct)+len(with) >= maxDirect {
		return nil, false, &Error{http.StatusTooManyRequests, fmt.Sprintf("%d services are registered here, there is no room for more", len(r.direct)), "deregister what is not needed", CodeTooMany}
	}
	for o := range r.beside(with) {
		if o.Namespace != d.Namespace || o.Name != d.Name || o.Instance == d.Instance {
			continue
		}
		for _, e := range o.Endpoints {
			if d.has(e) {
				return nil, false, &Error{http.StatusConflict, fmt.Sprintf("%s has %s already", o.ref(), netip.AddrPortFrom(e.Address, e.Port)), "deregister that, or change it", CodeTaken}
			}
		}
	}
	return old, same, nil
}

// beside goes through what is registered, with those that come in the place of what they replace. The caller holds r.mu.
func (r *Registrar) beside(with []*direct) iter.Seq[*direct] {
	return func(yield func(*direct) bool) {
		come := map[ServiceRef]bool{}
		for _, d := range with {
			if come[d.ref()] = true; !yield(d) {
				return
			}
		}
		for ref, d := range r.direct {
			if !come[ref] && !yield(d) {
				return
			}
		}
	}
}

func onHost(ref ServiceRef, host string) string {
	return fmt.Sprintf("%s is at an address of host %s, which has an agent", ref, host)
}

// has reports whether one of the endpoints is at e's place.
func (d *direct) has(e *configs.Endpoint) bool {
	return slices.ContainsFunc(d.Endpoints, func(o *configs.Endpoint) bool { return o.Address == e.Address && o.Port == e.Port })
}

// addresses lists where hosts with agents are: as the server verified it, or as the policy says. The caller holds r.mu.
func (r *Registrar) addresses() map[netip.Addr]string {
	out := map[netip.Addr]string{}
	if r.policy != nil {
		for _, h := range r.policy.Hosts {
			out[h.Address] = h.Name
		}
	}
	for _, h := range r.hosts {
		if h.address.IsValid() {
			out[h.address] = h.name
		}
	}
	delete(out, netip.Addr{})
	return out
}

// hostAmong returns the host that has one of the addresses.
func (d *direct) hostAmong(hosts map[netip.Addr]string) string {
	for _, e := range d.Endpoints {
		if host, ok := hosts[e.Address]; ok {
			return host
		}
	}
	return ""
}

// Deregister ends a registration; with a run only if that run was the last to register it. That there is none is no error.
func (r *Registrar) Deregister(ref ServiceRef, run string) (ServiceAnswer, error) {
	r.writing.Lock()
	defer r.writing.Unlock()
	r.mu.Lock()
	d := r.direct[ref]
	r.mu.Unlock()
	if d == nil {
		return ServiceAnswer{ServiceStatus: ServiceStatus{ServiceRef: ref}}, nil
	}
	if run != "" && run != d.kept.Run {
		r.mu.Lock()
		defer r.mu.Unlock()
		return ServiceAnswer{ServiceStatus: d.status(time.Now())}, nil
	}
	if run == "" {
		if err := r.dismiss(r.ended.With(ref, time.Now())); err != nil {
			return ServiceAnswer{}, err
		}
	}
	if err := r.o.Store.DeleteEndpoints([]store.Endpoint{d.kept}); err != nil {
		return ServiceAnswer{}, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.direct, ref)
	r.rebuild()
	r.o.Log.Info("service deregistered", "service", ref.String())
	return ServiceAnswer{ServiceStatus: d.status(time.Now()), Changed: true}, nil
}

// Heartbeat notes that a service lives. It must have a ttl if that is needed.
func (r *Registrar) Heartbeat(ref ServiceRef, needed bool) (ServiceAnswer, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	d := r.direct[ref]
	if d == nil {
		return ServiceAnswer{}, notRegistered(ref)
	}
	if needed && d.TTL == 0 {
		return ServiceAnswer{}, &Error{http.StatusConflict, ref.String() + " needs no heartbeats: it has no ttl", "register it with a ttl", CodeNoTTL}
	}
	now := time.Now()
	d.heard = now
	if d.late {
		d.late = false
		r.rebuild()
	}
	return ServiceAnswer{ServiceStatus: d.status(now)}, nil
}

func notRegistered(ref ServiceRef) error {
	return &Error{http.StatusNotFound, ref.String() + " is not registered at the server", "wattle service list -server shows what is", CodeUnknown}
}

// Direct returns what is registered without an agent, sorted.
func (r *Registrar) Direct() []ServiceStatus {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := []ServiceStatus{}
	for _, d := range r.sortedDirect() {
		out = append(out, d.status(time.Now()))
	}
	return out
}

// DirectOne returns one of them.
func (r *Registrar) DirectOne(ref ServiceRef) (ServiceStatus, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	d := r.direct[ref]
	if d == nil {
		return ServiceStatus{}, notRegistered(ref)
	}
	return d.status(time.Now()), nil
}

func (r *Registrar) sortedDirect() []*direct {
	return slices.SortedFunc(maps.Values(r.direct), func(a, b *direct) int {
		return cmp.Or(strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Name, b.Name), strings.Compare(a.Instance, b.Instance))
	})
}

func (d *direct) status(now time.Time) ServiceStatus {
	out := ServiceStatus{
		ServiceRef: d.ref(), Service: d.Service, Origin: d.Origin, Registered: d.kept.Registered, State: StateAccepted,
		Health: "unknown", HealthReason: "nobody checks it",
	}
	if d.host != "" {
		out.State, out.Reason = StateRefused, onHost(d.ref(), d.host)
	}
	if d.TTL > 0 {
		out.Heartbeat, out.Health, out.HealthReason = d.heard, string(registry.Healthy), ""
	}
	if d.late {
		out.Health, out.HealthReason = string(registry.Unhealthy), d.silent(now.Sub(d.heard))
	}
	return out
}

// standing lists the services without an agent that count, and notes of the others why not. The caller holds r.mu.
func (r *Registrar) standing() []*configs.Service {
	if len(r.direct) == 0 {
		return nil
	}
	hosts := r.addresses()
	var out []*configs.Service
	for _, d := range r.sortedDirect() {
		if d.host = d.hostAmong(hosts); d.host == "" {
			out = append(out, d.Service)
		}
	}
	return out
}

// displaced says which registrations do not count any more. The caller holds r.mu.
func (r *Registrar) displaced() []registry.Diagnostic {
	var out []registry.Diagnostic
	for _, d := range r.sortedDirect() {
		if d.host != "" {
			out = append(out, registry.Diagnostic{Severity: registry.Error, Code: CodeHost, Summary: onHost(d.ref(), d.host), Origin: d.Origin,
				Detail: "It is left out. Register it on that host, and remove it here: wattle service deregister -server."})
		}
	}
	return out
}
