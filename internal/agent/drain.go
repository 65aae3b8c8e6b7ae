package agent

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/wattle-mesh/wattle/internal/admin"
	"github.com/wattle-mesh/wattle/internal/mesh/planpb"
)

// drainsFile keeps which workloads somebody drains.
const drainsFile = "drains.json"

const (
	// leaveLimit is how long callers may take to leave. A second is more than it ever takes while all is well.
	leaveLimit = 5 * time.Second
	// offlineLimit is how long a server may be away until it is not waited for.
	offlineLimit = time.Second
	// quiet is for how long nothing may be under way until nothing counts as under way: what callers sent before they left
	// may be on its way.
	quiet = 200 * time.Millisecond
	// How often Envoy is asked what is under way: often at first.
	askFirst = 20 * time.Millisecond
	askMost  = time.Second
)

// drain is a workload that takes no new requests. Immutable.
type drain struct {
	number uint64 // grows with each
	reason string
	since  time.Time
}

// told is what the server says of callers. Immutable.
type told struct {
	online bool                // the server answers
	left   map[workload]uint64 // which drain callers have left
}

// stage is how far a drain is.
type stage uint8

const (
	leaving stage = iota // callers have yet to be told
	ending               // new requests are turned away; older ones are under way
	done                 // nothing is under way
)

// progress is how far a workload's drain is. Comparable.
type progress struct {
	number uint64
	stage  stage
	busy   int    // requests and connections under way
	note   string // what did not go as it should
}

// drains knows which workloads take no new requests, and why, and sees to it that nothing is under way to them any more. A
// drain goes through three stages. The server is told, and tells callers. When they have left, or cannot be told, the
// workload's own Envoy turns new requests away, so that callers try another instance. Then what is under way has to end. Its
// methods may be called from any goroutine.
type drains struct {
	log        *slog.Logger
	keep       string
	admin      func(proxy string) *admin.Client
	plan       *value[*planpb.HostPlan]
	registered *value[map[workload]string] // units, by workload; of what is registered on the host itself
	known      func() (map[workload]bool, bool)
	states     *value[*unitStates]
	told       value[told]                  // written by the reporter
	held       value[map[workload]drain]    // what drains
	at         value[map[workload]progress] // how far; an entry for each that drains
	wake       chan struct{}

	mu      sync.Mutex
	own     map[workload]*ownDrain
	stops   map[string]string // unit: the run of it that is being stopped
	departs bool              // the host leaves the mesh
	number  uint64

	// Used by run alone:
	began time.Time // of run
	polls map[workload]*poll
}

// ownDrain is what somebody asked for, until it is taken back.
type ownDrain struct {
	Namespace string    `json:"namespace"`
	Service   string    `json:"service"`
	Instance  string    `json:"instance,omitempty"`
	UID       uint32    `json:"uid"`
	Since     time.Time `json:"since"`
	Reason    string    `json:"reason,omitempty"`
}

// poll is how Envoy is asked what is under way to a workload.
type poll struct {
	number uint64
	next   time.Time
	pause  time.Duration
	zero   time.Time // since when nothing is
}

func newDrains(log *slog.Logger, dir string) (*drains, error) {
	d := &drains{
		log: log, keep: filepath.Join(dir, drainsFile), wake: make(chan struct{}, 1), own: map[workload]*ownDrain{}, stops: map[string]string{},
		polls: map[workload]*poll{}, admin: func(string) *admin.Client { return nil }, known: func() (map[workload]bool, bool) { return nil, false },
		plan: new(value[*planpb.HostPlan]), registered: new(value[map[workload]string]), states: new(value[*unitStates]),
	}
	text, err := os.ReadFile(d.keep)
	if errors.Is(err, fs.ErrNotExist) {
		return d, nil
	}
	var all []*ownDrain
	if err == nil {
		err = json.Unmarshal(text, &all)
	}
	if err != nil {
		return nil, fmt.Errorf("what was drained with wattle service drain: %s: %w; restore it, or remove it and drain again", d.keep, err)
	}
	for _, o := range all {
		if o != nil {
			d.own[workload{o.Namespace, o.Service, o.Instance}] = o
		}
	}
	return d, nil
}

// save writes what somebody drains. The caller holds d.mu.
func (d *drains) save(own map[workload]*ownDrain) error {
	all := []*ownDrain{}
	for _, key := range sortedWorkloads(own) {
		all = append(all, own[key])
	}
	text, err := json.Marshal(all)
	if err != nil {
		return err
	}
	return writeFile(d.keep, text)
}

// run follows what drains until ctx is done.
func (d *drains) run(ctx context.Context) error {
	d.began = time.Now()
	for {
		plan, planned := d.plan.Load()
		registered, bound := d.registered.Load()
		states, changed := d.states.Load()
		said, heard := d.told.Load()
		d.settle(plan, registered, states)
		var again <-chan time.Time
		if wait, any := d.advance(ctx, plan, said); any {
			again = time.After(wait)
		}
		select {
		case <-planned:
		case <-bound:
		case <-changed:
		case <-heard:
		case <-again:
		case <-d.wake:
		case <-ctx.Done():
			return nil
		}
	}
}

func (d *drains) poke() {
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

// settle decides what drains now.
func (d *drains) settle(plan *planpb.HostPlan, registered map[workload]string, states *unitStates) {
	there, known := d.known()
	d.mu.Lock()
	defer d.mu.Unlock()
	if plan != nil && known {
		d.prune(plan, there)
	}
	why := map[workload]string{}
	for w, o := range d.own {
		why[w] = o.why()
	}
	for w, unit := range boundUnits(plan, registered) {
		if run, stops := d.stops[unit]; stops && states != nil && states.of[unit].Invocation == run && states.of[unit].Runs() {
			why[w] = cmp.Or(why[w], "its unit "+unit+" is being stopped")
		}
	}
	for _, w := range plan.GetWorkloads() {
		switch key := workloadOf(w); {
		case plan.GetDraining():
			why[key] = cmp.Or(why[key], "the host is in maintenance")
		case d.departs:
			why[key] = cmp.Or(why[key], "the host leaves the mesh")
		}
	}
	old := d.held.Now()
	next := make(map[workload]drain, len(why))
	for w, reason := range why {
		x, already := old[w]
		if !already {
			d.number++
			x = drain{number: d.number, since: time.Now()}
			d.log.Info("a workload drains", "workload", w.String(), "reason", reason)
		}
		x.reason = reason
		next[w] = x
	}
	for w := range old {
		if _, still := next[w]; !still {
			d.log.Info("a workload drains no more", "workload", w.String())
		}
	}
	if !maps.Equal(old, next) {
		d.held.Set(next)
	}
}

// prune forgets the drains of workloads that are no more, once it is known which there are. The caller holds d.mu.
func (d *drains) prune(plan *planpb.HostPlan, there map[workload]bool) {
	for _, w := range plan.GetWorkloads() {
		there[workloadOf(w)] = true
	}
	next := maps.Clone(d.own)
	maps.DeleteFunc(next, func(w workload, _ *ownDrain) bool { return !there[w] })
	if len(next) == len(d.own) {
		return
	}
	if err := d.save(next); err != nil {
		d.log.Error("keep the drains on disk", "error", err)
	}
	d.own = next
}

func (o *ownDrain) why() string {
	text := fmt.Sprintf("drained by uid %d", o.UID)
	if o.Reason != "" {
		text += ": " + o.Reason
	}
	return text
}
