package agent

import (
	"context"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"time"

	"github.com/wattle-mesh/wattle/configs"
	"github.com/wattle-mesh/wattle/internal/api"
	"github.com/wattle-mesh/wattle/internal/systemd"
)

// Units knows whose the host's units are. Its methods may be called from any goroutine.
type Units interface {
	// Owner returns the uid that a service unit's processes run as. It fails if systemd does not know the unit, or
	// cannot be asked.
	Owner(ctx context.Context, unit string) (uid uint32, err error)
	// State returns how a unit is. It fails if systemd cannot be asked.
	State(ctx context.Context, unit string) (systemd.State, error)
	// Watch says how units are, as (systemd.Units).Watch does.
	Watch(ctx context.Context, names func() ([]string, <-chan struct{}), say func(map[string]systemd.State)) error
}

// client is who is at the other end of the socket, as the kernel says.
type client struct {
	uid uint32
}

// root is the user who may do everything.
const root = 0

// address is one that the host has.
type address = netip.Addr

// addresses lists the host's own.
func addresses() ([]address, error) {
	all, err := net.InterfaceAddrs()
	if err != nil {
		return nil, err
	}
	var out []address
	for _, a := range all {
		if p, err := netip.ParsePrefix(a.String()); err == nil {
			out = append(out, p.Addr())
		}
	}
	return out, nil
}

func deny(status int, code, remedy, format string, args ...any) error {
	return &api.Error{Status: status, Code: code, Message: fmt.Sprintf(format, args...), Remedy: remedy}
}

// deregister ends a registration; with a run only if that run was the last to register it: the end of an earlier run
// says nothing of a later one. That there is none changes nothing.
func (d *desk) deregister(who client, key workload, run string) (api.ServiceAnswer, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.mayChange(who, key); err != nil {
		return api.ServiceAnswer{}, err
	}
	e := d.own[key]
	if e == nil {
		return api.ServiceAnswer{ServiceStatus: api.ServiceStatus{ServiceRef: api.ServiceRef{Namespace: key.namespace, Name: key.service, Instance: key.instance}}}, nil
	}
	was := d.status(e)
	if run != "" && run != e.Run {
		return api.ServiceAnswer{ServiceStatus: was}, nil
	}
	if run == "" {
		if err := d.dismiss(d.ended.With(was.ServiceRef, time.Now())); err != nil {
			return api.ServiceAnswer{}, err
		}
	}
	next := maps.Clone(d.own)
	delete(next, key)
	if err := d.save(next); err != nil {
		return api.ServiceAnswer{}, err
	}
	d.own = next
	d.drains.forget(key)
	d.log.Info("workload deregistered", "workload", key.String(), "uid", who.uid)
	d.refresh(time.Now())
	d.look()
	return api.ServiceAnswer{ServiceStatus: was, Changed: true}, nil
}

// heartbeat notes that a workload lives.
func (d *desk) heartbeat(ctx context.Context, who client, key workload) (api.ServiceAnswer, error) {
	d.mu.Lock()
	e := d.find(key)
	d.mu.Unlock()
	switch {
	case e == nil:
		return api.ServiceAnswer{}, unknown(key)
	case e.Service.TTL == 0:
		return api.ServiceAnswer{}, deny(http.StatusConflict, api.CodeNoTTL, "register it with a ttl", "%s needs no heartbeats: it has no ttl", key)
	case e.file:
		if err := d.mayDeclare(ctx, who, e.Service.Unit); err != nil {
			return api.ServiceAnswer{}, err
		}
	case who.uid != root && who.uid != e.UID:
		return api.ServiceAnswer{}, notYours(who, key, e.UID)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if e = d.find(key); e == nil {
		return api.ServiceAnswer{}, unknown(key)
	}
	d.beat(key, time.Now())
	return api.ServiceAnswer{ServiceStatus: d.status(e)}, nil
}

func unknown(key workload) error {
	return deny(http.StatusNotFound, api.CodeUnknown, "wattle service list shows what is", "%s is not registered on this host", key)
}

// beat notes that a workload was heard of, and brings all up to date. The caller holds d.mu.
func (d *desk) beat(key workload, now time.Time) {
	if e := d.find(key); e.Service.TTL > 0 {
		d.heard[key] = now
	}
	d.refresh(now)
	d.look()
}

// look has run look at the clock again.
func (d *desk) look() {
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

// mayDeclare says why a user may not declare workloads of a unit: root and the agent's user may, and the unit's.
func (d *desk) mayDeclare(ctx context.Context, who client, unit string) error {
	switch {
	case d.trusted(who.uid):
		return nil
	case unit == "":
		return deny(http.StatusForbidden, api.CodeUser, "name the unit that runs it, of which you are the user (-unit), or do it as root",
			"uid %d may not register workloads that belong to no unit", who.uid)
	case d.units == nil:
		return deny(http.StatusForbidden, api.CodeUnit, "do it as root", "this agent has no systemd to ask whose unit %s is, and uid %d is neither root nor the agent's", unit, who.uid)
	}
	ctx, cancel := context.WithTimeout(ctx, unitLimit)
	defer cancel()
	owner, err := d.units.Owner(ctx, unit)
	switch {
	case err != nil:
		return deny(http.StatusForbidden, api.CodeUnit, "see systemctl status "+unit+", or do it as root", "uid %d may not: whose unit %s is cannot be told: %v", who.uid, unit, err)
	case owner != who.uid:
		return deny(http.StatusForbidden, api.CodeUser, "register as the unit's user, or as root", "uid %d may not: unit %s runs as uid %d", who.uid, unit, owner)
	}
	return nil
}

// maxSaid is how many bytes a registration may have: 128 of them are half of what the server reads at once.
const maxSaid = 16 << 10

// unitLimit is how long systemd may take to answer.
const unitLimit = 3 * time.Second

// mayChange says why a user may not replace or end what is registered. The caller holds d.mu.
func (d *desk) mayChange(who client, key workload) error {
	if e := d.declared[key]; e != nil {
		return deny(http.StatusConflict, api.CodeFile, "change or remove it there", "%s is declared by %s", key, e.origin())
	}
	if e := d.own[key]; e != nil && who.uid != root && who.uid != e.UID {
		return notYours(who, key, e.UID)
	}
	return nil
}

func notYours(who client, key workload, owner uint32) error {
	return deny(http.StatusForbidden, api.CodeOwner, "do it as that user or as root", "uid %d may not: uid %d registered %s", who.uid, owner, key)
}

// fits says what of a service cannot be on this host, whatever else is registered.
func (d *desk) fits(who client, s *configs.Service) error {
	if len(s.Endpoints) > 0 {
		return deny(http.StatusBadRequest, api.CodeForeign, "register it at the server: -address, or -server", "%s has endpoints elsewhere, and an agent registers the workloads of its own host", s.Name)
	}
	local, err := d.local()
	if err != nil {
		return err
	}
	for _, p := range s.Ports {
		if a := p.Local.Addr(); !a.IsLoopback() && !slices.Contains(local, a) {
			return deny(http.StatusBadRequest, api.CodeForeign, "say where on this host it listens, or register it at the server (-address)", "%s is no address of this host", a)
		}
	}
	if c := s.Capture; c != nil && c.User != "" && !d.trusted(who.uid) {
		return deny(http.StatusForbidden, api.CodeConnections, "leave user out, so that it is the unit's connections, or do it as root",
			"uid %d may not have the connections of user %s redirected", who.uid, c.User)
	}
	for _, u := range s.Upstreams {
		if u.Socket == "" {
			continue
		}
		if !d.trusted(who.uid) {
			return deny(http.StatusForbidden, api.CodeSocket, "bind a loopback address and port, or do it as root",
				"uid %d may not have %s made: the host's Envoy would replace what is there", who.uid, u.Socket)
		}
		if err := checkPipe(u.Socket); err != nil {
			return deny(http.StatusBadRequest, api.CodePipe, pipeRemedy, "upstream %s: %v", u.Service, err)
		}
	}
	return nil
}

// room says why there is no place for a registration beside the others. The caller holds d.mu.
func (d *desk) room(who client, e *entry, fresh bool) error {
	of := 0
	for _, o := range d.own {
		if o.UID == e.UID {
			of++
		}
	}
	switch {
	case fresh && len(d.own) > maxRegistered: // it is among them
		return deny(http.StatusTooManyRequests, api.CodeTooMany, "deregister what is not needed", "%d workloads are registered on this host, there is no room for more", len(d.own)-1)
	case fresh && who.uid != root && of > maxOfUser:
		return deny(http.StatusTooManyRequests, api.CodeTooMany, "deregister what is not needed", "uid %d has registered %d workloads, and may have no more", e.UID, of-1)
	case len(e.wire.GetBody()) > maxSaid:
		return deny(http.StatusRequestEntityTooLarge, api.CodeTooMany, "make it smaller", "the registration has %d bytes, at most %d are taken", len(e.wire.GetBody()), maxSaid)
	}
	mine := claims(e.Service)
	for _, o := range d.all() {
		if o.key() == e.key() || o.barred != "" {
			continue
		}
		for _, c := range claims(o.Service) {
			if slices.Contains(mine, c) {
				return deny(http.StatusConflict, api.CodeTaken, "give one of them another", "%s is taken by %s (%s)", c, o.key(), o.origin())
			}
		}
	}
	return nil
}

// claims lists what a service takes on its host for itself alone.
func claims(s *configs.Service) []string {
	var out []string
	for _, p := range s.Ports {
		out = append(out, p.Local.String())
	}
	for _, u := range s.Upstreams {
		switch {
		case u.Socket != "":
			out = append(out, u.Socket)
		case u.Bound():
			out = append(out, u.Bind.String())
		}
	}
	return out
}
