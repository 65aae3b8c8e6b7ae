package agent

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/wattle-mesh/wattle/configs"
	"github.com/wattle-mesh/wattle/internal/api"
	"github.com/wattle-mesh/wattle/internal/api/apipb"
)

// What the server takes of one host, and what is taken through the socket: together it is far less than the server reads.
const (
	maxReported   = 256
	maxRegistered = 128
	maxOfUser     = 32 // root has no limit of its own
)

// desk is where the workloads of this host are registered: by the files of services.d and, through the socket, by the
// host's users. What both say is reported as one. Its methods may be called from any goroutine.
type desk struct {
	log    *slog.Logger
	keep   string // path of what was registered through the socket
	kept   []byte // what it says; nil: there is none
	disk   *disk
	uid    uint32 // of the agent
	units  Units  // nil: no systemd
	grants unitGrants
	local  func() ([]address, error)
	files  *value[*registrations]
	answer *value[answered]            // what the server said last
	judged *value[map[workload]health] // what was reported last
	host   *host                       // nil: nothing is said of it
	wake   chan struct{}               // has an element if run should look again

	held  value[*registrations]      // what is reported; nil until the files are known
	beats value[map[workload]health] // of those that lack a heartbeat
	bound value[map[workload]string] // units, by workload

	drains *drains

	mu       sync.Mutex
	own      map[workload]*entry // through the socket
	ended    api.Dismissed       // of own
	declared map[workload]*entry // by files
	since    map[workload]uint64 // the revision that brought a registration, of what is in held
	heard    map[workload]time.Time
	revision uint64
	paces    paces
}

// entry is one registration. Immutable but for what others say of it.
type entry struct {
	Service    *configs.Service `json:"service"`
	UID        uint32           `json:"uid"`
	Registered time.Time        `json:"registered"`
	Trusted    bool             `json:"trusted,omitempty"` // who wrote it last may register everything, though it may be another's
	Run        string           `json:"run,omitempty"`     // of wattle service run, which registered it last; empty: another command did
	file       bool             // UID and Registered mean nothing
	barred     string           // why it does not count though it is kept; empty: it does
	wire       *apipb.Registration
}

// answered is what the server said of a report.
type answered struct {
	revision uint64 // of the registrations in that report
	refused  []*apipb.Refusal
}

func (e *entry) key() workload {
	return workload{e.Service.Namespace, e.Service.Name, e.Service.Instance}
}

// finish makes what the server is told: what is between the host and its agent is left out.
func (e *entry) finish() *entry {
	s := *e.Service
	s.Unit, s.TTL, s.DeregisterAfter = "", 0, 0
	body, _ := json.Marshal(&s) // plain data: it cannot fail
	e.wire = &apipb.Registration{Namespace: s.Namespace, Service: s.Name, Instance: s.Instance, Body: body, Origin: e.origin()}
	return e
}

// origin says where a registration comes from.
func (e *entry) origin() string {
	switch {
	case e.file:
		return e.Service.Origin
	case e.Service.Origin == "":
		return fmt.Sprintf("wattle service register by uid %d", e.UID)
	}
	return fmt.Sprintf("wattle service register by uid %d of %s", e.UID, e.Service.Origin)
}

// deskOptions are what a desk is made with.
type deskOptions struct {
	log    *slog.Logger
	disk   *disk
	units  Units // nil: no systemd
	grants unitGrants
	files  *value[*registrations]
	drains *drains
}

// newDesk loads what was registered before.
func newDesk(o deskOptions) (*desk, error) {
	keep := filepath.Join(o.disk.dir, registeredFile)
	d := &desk{
		log: o.log, keep: keep, drains: o.drains, disk: o.disk, uid: uint32(os.Geteuid()), units: o.units, grants: o.grants, local: addresses, files: o.files,
		answer: new(value[answered]), judged: new(value[map[workload]health]), wake: make(chan struct{}, 1),
		own: map[workload]*entry{}, declared: map[workload]*entry{}, since: map[workload]uint64{}, heard: map[workload]time.Time{},
		paces: paces{users: map[uint32]*pace{}},
	}
	if err := d.load(); err != nil {
		return nil, err
	}
	return d, nil
}

// bar has what was registered before count only if it may be registered now: root may have taken a grant back.
func (d *desk) bar(e *entry) {
	if e.Trusted || d.trusted(e.UID) {
		return
	}
	if err := d.grants.check(e.UID, e.Service.Unit, e.Service); err != nil {
		e.barred = err.Error()
		d.log.Warn("what was registered does not count any more", "workload", e.key().String(), "why", e.barred)
	}
}

// run follows the files and the clock until ctx is done.
func (d *desk) run(ctx context.Context) error {
	for {
		files, changed := d.files.Load()
		d.mu.Lock()
		d.take(files)
		next, any := d.refresh(time.Now())
		d.mu.Unlock()
		var due <-chan time.Time
		if any {
			due = time.After(time.Until(next))
		}
		select {
		case <-changed:
		case <-d.wake:
		case <-due:
		case <-ctx.Done():
			return nil
		}
	}
}

// take brings in what the files declare. The caller holds d.mu.
func (d *desk) take(files *registrations) {
	if files == nil {
		return
	}
	next := make(map[workload]*entry, len(files.list))
	for _, r := range files.list {
		key := workload{r.GetNamespace(), r.GetService(), r.GetInstance()}
		s := new(configs.Service)
		if err := json.Unmarshal(r.GetBody(), s); err != nil {
			d.log.Error("a registration of a file cannot be read", "place", r.GetOrigin(), "error", err)
			continue
		}
		s.Origin = r.GetOrigin()
		s.Command, s.Env = nil, nil // for wattle dev; the environment may hold secrets, and everybody may list
		e := (&entry{Service: s, file: true}).finish()
		if old := d.declared[key]; old != nil && proto.Equal(old.wire, e.wire) && sameLease(old.Service, s) {
			e = old
		}
		next[key] = e
	}
	d.declared = next
}

func sameLease(a, b *configs.Service) bool {
	return a.Unit == b.Unit && a.TTL == b.TTL && a.DeregisterAfter == b.DeregisterAfter
}

// all returns the registrations, those of files first for one workload. Sorted by workload.
func (d *desk) all() []*entry {
	out := slices.AppendSeq(slices.Collect(maps.Values(d.declared)), maps.Values(d.own))
	slices.SortFunc(out, func(a, b *entry) int {
		x, y := a.key(), b.key()
		file := func(e *entry) int {
			if e.file {
				return 0
			}
			return 1
		}
		return cmp.Or(cmp.Compare(x.namespace, y.namespace), cmp.Compare(x.service, y.service), cmp.Compare(x.instance, y.instance), cmp.Compare(file(a), file(b)))
	})
	return out
}

// refresh brings heartbeats and what is reported up to date, and returns when time alone changes something again. The
// caller holds d.mu.
func (d *desk) refresh(now time.Time) (next time.Time, any bool) {
	late, gone, next, any := d.lease(now)
	for _, e := range gone {
		d.log.Warn("a workload that was silent is deregistered", "workload", e.key().String(), "after", time.Duration(e.Service.DeregisterAfter))
		delete(d.own, e.key())
		delete(d.heard, e.key())
	}
	if len(gone) > 0 {
		if err := d.save(d.own); err != nil {
			d.log.Error("keep the registrations on disk", "error", err)
		}
	}
	if !maps.Equal(late, d.beats.Now()) {
		d.beats.Set(late)
	}
	d.lay(d.files.Now(), now)
	d.bind()
	return next, any
}

// bind lists which unit runs which workload. The caller holds d.mu.
func (d *desk) bind() {
	bound, seen := map[workload]string{}, map[workload]bool{}
	for _, e := range d.all() {
		if !seen[e.key()] && e.Service.Unit != "" && e.barred == "" {
			bound[e.key()] = e.Service.Unit
		}
		seen[e.key()] = true
	}
	if !maps.Equal(bound, d.bound.Now()) {
		d.bound.Set(bound)
	}
}

// known returns which workloads are registered, and whether that is all.
func (d *desk) known() (map[workload]bool, bool) {
	files := d.files.Now()
	d.mu.Lock()
	defer d.mu.Unlock()
	out := map[workload]bool{}
	for _, e := range d.all() {
		out[e.key()] = true
	}
	return out, files != nil && !files.unknown
}

// lay makes what is reported. The caller holds d.mu.
func (d *desk) lay(files *registrations, now time.Time) {
	if files == nil {
		return
	}
	out := &registrations{unknown: files.unknown, problems: files.problems}
	since := make(map[workload]uint64, len(d.since))
	old := d.held.Now()
	before := map[workload]*apipb.Registration{}
	if old != nil {
		for _, r := range old.list {
			before[workload{r.GetNamespace(), r.GetService(), r.GetInstance()}] = r
		}
	}
	for _, e := range d.all() {
		key := e.key()
		if _, twice := since[key]; twice || e.barred != "" || len(out.list) == maxReported || e.file && d.expired(e, now) {
			continue
		}
		out.list = append(out.list, e.wire)
		since[key] = d.revision + 1
		if proto.Equal(before[key], e.wire) {
			since[key] = d.since[key]
		}
	}
	if out.equal(old) {
		d.since = since
		return
	}
	d.revision++
	out.revision = d.revision
	d.since = since
	d.held.Set(out)
}

// find returns the registration of a workload that counts, nil if there is none. The caller holds d.mu.
func (d *desk) find(key workload) *entry {
	if e := d.declared[key]; e != nil {
		return e
	}
	return d.own[key]
}

// list returns all registrations and how they are.
func (d *desk) list() []api.ServiceStatus {
	d.mu.Lock()
	defer d.mu.Unlock()
	out := []api.ServiceStatus{}
	for _, e := range d.all() {
		out = append(out, d.status(e))
	}
	return out
}

// status says how a registration is. The caller holds d.mu.
func (d *desk) status(e *entry) api.ServiceStatus {
	key := e.key()
	out := api.ServiceStatus{
		ServiceRef: api.ServiceRef{Namespace: key.namespace, Name: key.service, Instance: key.instance},
		Service:    e.Service, Origin: e.origin(), Heartbeat: d.heard[key],
	}
	if !e.file {
		out.UID, out.Registered = &e.UID, e.Registered
	}
	out.State, out.Reason = d.state(e)
	out.Health, out.HealthReason = "unknown", "the server has given it no place yet"
	if h, ok := d.judged.Now()[key]; ok {
		out.Health, out.HealthReason = "unhealthy", h.Reason
		if h.Healthy {
			out.Health = "healthy"
		}
	}
	if x, drains := d.drains.held.Now()[key]; drains {
		out.Drain = d.drains.status(key, x)
		if out.Health == "healthy" {
			out.Health, out.HealthReason = "draining", x.reason
		}
	}
	if _, late := d.beats.Now()[key]; late {
		out.Health, out.HealthReason = "unhealthy", silent(time.Since(d.heard[key]), e)
	}
	return out
}

// state says what became of a registration. The caller holds d.mu.
func (d *desk) state(e *entry) (state, reason string) {
	key := e.key()
	if first := d.find(key); first != e {
		return api.StateRefused, fmt.Sprintf("%s declares it too, and counts", first.origin())
	}
	if e.barred != "" {
		return api.StateRefused, e.barred
	}
	since, reported := d.since[key]
	held, said := d.held.Now(), d.answer.Now()
	switch {
	case held == nil:
		return api.StatePending, "the files of services.d have not been read yet"
	case held.unknown:
		return api.StatePending, "the files of services.d cannot be read, and until they can the server keeps what it has"
	case !reported && e.file && d.expired(e, time.Now()):
		return api.StateRefused, silent(time.Since(d.heard[key]), e) + ", it is deregistered until the next one"
	case !reported:
		return api.StateRefused, fmt.Sprintf("the host has more than %d registrations", maxReported)
	case said.revision < since:
		return api.StatePending, "the server has not answered yet"
	}
	for _, x := range said.refused {
		if (workload{x.GetNamespace(), x.GetService(), x.GetInstance()}) == key {
			return api.StateRefused, x.GetReason()
		}
	}
	return api.StateAccepted, ""
}

// await waits until the server has spoken of a registration, at most so long, and says how it is then. A registration that
// goes meanwhile is as it was.
func (d *desk) await(ctx context.Context, key workload, was api.ServiceStatus, limit time.Duration) api.ServiceStatus {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	for {
		_, moved := d.held.Load()
		_, said := d.answer.Load()
		d.mu.Lock()
		e := d.own[key]
		if e != nil {
			was = d.status(e)
		}
		d.mu.Unlock()
		if e == nil || was.State != api.StatePending {
			return was
		}
		select {
		case <-moved:
		case <-said:
		case <-timer.C:
			return was
		case <-ctx.Done():
			return was
		}
	}
}
