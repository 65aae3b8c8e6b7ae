package agent

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/wattle-mesh/wattle/adapters"
	"github.com/wattle-mesh/wattle/internal/admin"
	"github.com/wattle-mesh/wattle/internal/lkg"
	"github.com/wattle-mesh/wattle/internal/mesh/planpb"
	"github.com/wattle-mesh/wattle/internal/xds"
	"github.com/wattle-mesh/wattle/translator"
)

// settleLimit is how long an Envoy that starts is made to wait for certificates that take long: until then it
// would get its inbound listener in pieces, after that it must.
const settleLimit = 500 * time.Millisecond

// types are what the server has for an Envoy. Its secrets are made here.
var types = []translator.Type{translator.Cluster, translator.Endpoint, translator.Listener, translator.Route}

// relayOptions configure a relay. All fields are required unless they say otherwise.
type relayOptions struct {
	Log *slog.Logger
	ID  string // of the proxy: "h1/host"
	Dir string // of its socket
	// Owner returns the uid that alone may connect, and Group may open the socket; nil: the agent's own user.
	Owner func(context.Context) (uint32, error)
	Group int
	Conn  grpc.ClientConnInterface
	Node  *value[*credential]
	Plan  *value[*planpb.HostPlan]
	Certs *value[holdings]
	// Drains says which workloads' requests are turned away.
	Drains *value[map[workload]progress]
	// Keep holds what the server sends, on disk.
	Keep *lkg.Store
	// Proven and Barred hold, on disk, the last state that an Envoy was well with, and what is in quarantine.
	Proven, Barred *lkg.Store
	Admin          string                      // socket of the Envoy's
	Crashes        <-chan adapters.Crash       // of this proxy's Envoy
	Kill           func(context.Context) error // ends an Envoy that hangs; nil: that cannot be
	Disk           *disk
	// SetPlan, if set, makes this the relay that fetches the host's plan.
	SetPlan func(*planpb.HostPlan)
	// Linger is how long what the server takes back of a caller's way stays for connections that live on.
	Linger time.Duration
	// SetServing is told how the proxy's Envoy is.
	SetServing func(serving)
}

// relay stands between the server and one Envoy. It keeps a delta stream to the server for the proxy and serves
// what comes, with secrets added, over a unix socket. An answer of Envoy's is passed on to the server, so that
// the server's view and its order of things are true to the end; while no Envoy is connected, what is stored is
// acknowledged. Envoy gets no answer at all before the first complete state is there: an agent that starts again
// takes nothing away from an Envoy that runs.
type relay struct {
	o     relayOptions
	seats *seats
	table *table
	local *xds.Server
	inbox chan *xds.Response
	ready chan struct{} // closed when Envoy may be answered
	// arrivals are Envoys that connect: they get no listener before the loop has closed what it was sent.
	arrivals chan chan struct{}

	kept      *kept
	horizon   horizon
	plan      *translator.Resource // the plan as it came; nil: this relay does not fetch it, or it is empty
	unkept    bool                 // something came since the state was last handed to kept
	seen      [translator.NumTypes]bool
	settled   bool
	last      sources
	lingering lingering
	guard     guard
	answers   *answers
}

func newRelay(o relayOptions) *relay {
	r := &relay{
		o: o, seats: newSeats(o.ID),
		inbox: make(chan *xds.Response), ready: make(chan struct{}), arrivals: make(chan chan struct{}), lingering: lingering{limit: o.Linger},
	}
	r.table = newTable(r.seats.ids)
	r.kept = &kept{log: o.Log, store: o.Keep, disk: o.Disk, id: o.Node.Now().id.String() + " " + o.ID, name: filepath.Base(o.Dir)}
	r.guard = newGuard()
	r.horizon = horizon{log: o.Log.With("proxy", o.ID), alarms: o.Disk.alarms}
	r.answers = newAnswers(o.Log, o.ID, r.seats)
	r.local = xds.New(xds.Options{Authorize: r.authorize, OnConverged: r.answers.converged})
	r.seats.local = r.local
	r.answers.version = r.table.version
	return r
}

// socket is where Envoy finds its agent.
func socket(dir string) string { return filepath.Join(dir, "xds.sock") }

// run relays until ctx is done.
func (r *relay) run(ctx context.Context) error {
	l, err := listen(r.o)
	if err != nil {
		return err
	}
	asked := types
	if r.o.SetPlan != nil {
		asked = append([]translator.Type{translator.HostPlan}, types...)
	}
	g, ctx := errgroup.WithContext(ctx)
	client := xds.NewClient(xds.ClientOptions{
		Log: r.o.Log, Conn: r.o.Conn, Node: &corev3.Node{Id: r.o.ID}, Types: asked, Known: r.restore(),
		Handle: func(resp *xds.Response) error {
			select {
			case r.inbox <- resp:
				return xds.ErrLater
			case <-ctx.Done():
				return ctx.Err()
			}
		},
	})
	r.answers.again = client.Again
	server := grpc.NewServer(xds.ServerOptions()...)
	r.local.Register(server)
	g.Go(func() error { return client.Run(ctx) })
	g.Go(func() error { return server.Serve(l) })
	g.Go(func() error { <-ctx.Done(); server.Stop(); return nil })
	g.Go(func() error { return r.loop(ctx) })
	g.Go(func() error { return r.kept.run(ctx) })
	g.Go(func() error { return r.guard.watch(ctx, admin.New(r.o.Admin)) })
	err = g.Wait()
	r.horizon.close()
	if r.complete() && r.unkept {
		r.kept.save(r.state())
	}
	return err
}

// authorize lets the Envoy in when there is something to tell it.
func (r *relay) authorize(ctx context.Context, node *corev3.Node) (string, error) {
	if node.GetId() != r.o.ID {
		return "", status.Errorf(codes.PermissionDenied, "this socket is for proxy %s, not %q", r.o.ID, node.GetId())
	}
	select {
	case <-r.ready:
		r.lookAgain(ctx.Done())
		return r.seats.take(), nil
	case <-ctx.Done():
		return "", status.FromContextError(ctx.Err()).Err()
	}
}

// loop is the one goroutine that changes what Envoy is served. Seven things can happen:
//  1. the server sends something: it goes into the table and on to Envoy;
//  2. plan, certificates, roots or drains change: secrets, inbound chains and local clusters follow;
//  3. Envoy answers: the server is told;
//  4. the certificates took too long: Envoy gets what there is;
//  5. what came in the last second is put on the disk;
//  6. Envoy crashes, or says how it is: what it cannot live with is taken back;
//  7. Envoy connects, or time passes: what is at the paths of unix sockets is looked at again.
func (r *relay) loop(ctx context.Context) error {
	var settle, gathered <-chan time.Time
	for {
		plan, planned := r.o.Plan.Load()
		held, certified := r.o.Certs.Load()
		cred, renewed := r.o.Node.Load()
		at, drained := r.o.Drains.Load()
		r.secrets(plan, held, cred)
		r.turnAway(plan, at)
		if plan != nil && settle == nil {
			settle = time.After(settleLimit)
		}
		r.open(plan, held)
		r.answers.expect(plan == nil || len(r.identities(plan)) > 0)
		r.o.SetServing(r.answers.serving())
		if r.unkept && gathered == nil && r.complete() {
			gathered = time.After(gather)
		}
		select {
		case resp := <-r.inbox:
			r.receive(resp)
		case <-gathered:
			gathered, r.unkept = nil, false
			r.kept.next.Set(r.state())
		case <-r.lingering.next(time.Now()):
			r.letGo()
		case looked := <-r.arrivals:
			r.arrived(looked)
		case <-r.blocked():
			r.freed()
		case c := <-r.o.Crashes:
			r.crashed(ctx, c)
		case p := <-r.guard.pulses:
			r.pulse(ctx, p)
		case <-r.answers.came:
			r.answers.pass()
		case <-r.answers.poll():
			r.answers.look()
		case <-planned:
		case <-certified:
		case <-renewed:
		case <-drained:
		case <-settle:
			r.settled = true
			settle = make(chan time.Time)
		case <-ctx.Done():
			return nil
		}
	}
}

// restore brings into force what an earlier agent kept, as if the server had sent it, and returns its versions.
func (r *relay) restore() map[translator.Type]map[string]string {
	known := map[translator.Type]map[string]string{}
	byType := map[translator.Type]*xds.Response{}
	held, stamp := r.kept.load()
	r.horizon.stamp = stamp
	for _, x := range held {
		if byType[x.Type] == nil {
			byType[x.Type], known[x.Type] = &xds.Response{Type: x.Type}, map[string]string{}
		}
		byType[x.Type].Resources = append(byType[x.Type].Resources, x)
		known[x.Type][x.Name] = x.Version
	}
	if len(known) == 0 {
		return nil
	}
	r.restoreTrial(known)
	for _, t := range types {
		r.seen[t] = true // a state is kept only when all have come
		if byType[t] == nil {
			continue
		}
		changes, err := r.table.receive(byType[t])
		if err != nil {
			r.o.Log.Error("what was kept cannot all be used", "proxy", r.o.ID, "error", err)
		}
		r.local.Apply(changes)
	}
	if changes, err := r.table.pin(r.table.pins); err == nil { // what is gone in the server's state, too
		r.local.Apply(changes)
	}
	if p := byType[translator.HostPlan]; p != nil && r.o.SetPlan != nil {
		if err := r.takePlan(p); err != nil {
			return nil
		}
	}
	r.o.Log.Info("serving what was kept until a server says otherwise", "proxy", r.o.ID)
	return known
}

// complete reports whether the server has sent something of every type.
func (r *relay) complete() bool {
	for _, t := range types {
		if !r.seen[t] {
			return false
		}
	}
	return true
}

// state is all that the server has sent, to be kept.
func (r *relay) state() *state {
	all := sorted(r.table.received)
	if r.plan != nil {
		all = append(all, r.plan)
	}
	return &state{all, r.horizon.stamp}
}

// receive brings a response of the server into force.
func (r *relay) receive(resp *xds.Response) {
	if err := r.horizon.pass(resp.Stamp); err != nil {
		resp.Break(err)
		return
	}
	r.seen[resp.Type], r.unkept = true, true
	if resp.Type == translator.HostPlan {
		resp.Answer(r.takePlan(resp))
		return
	}
	lifts := r.table.pins.news(resp)
	changes, err := r.table.receive(r.lingering.hold(resp, time.Now()))
	if lifts {
		r.local.Apply(changes)
		var wrong error
		changes, wrong = r.lift()
		err = errors.Join(err, wrong)
	}
	if err != nil {
		r.o.Log.Error("the server sent what cannot be used", "proxy", r.o.ID, "error", err)
	}
	r.guard.busy.Store(true)
	if changes.Empty() {
		r.answers.unchanged(resp, err)
		return
	}
	r.answers.await(r.local.Apply(changes), resp, err)
}

// takePlan takes in the host's plan.
func (r *relay) takePlan(resp *xds.Response) error {
	for _, x := range resp.Resources {
		p, err := readPlan(x)
		if err != nil {
			r.o.Log.Error("the server sent a plan that cannot be used", "error", err)
			return err
		}
		r.plan = x
		r.o.SetPlan(p)
	}
	if len(resp.Removed) > 0 && len(resp.Resources) == 0 {
		r.plan = nil
		r.o.SetPlan(&planpb.HostPlan{})
	}
	return nil
}

// turnAway closes the ways to workloads whose drain has come so far, and opens the others.
func (r *relay) turnAway(plan *planpb.HostPlan, at map[workload]progress) {
	changes, err := r.table.turnAway(turnAway(plan, at))
	if err != nil {
		r.o.Log.Error("cannot turn requests away", "proxy", r.o.ID, "error", err)
	}
	if !changes.Empty() {
		r.local.Apply(changes)
	}
}

// open lets Envoy in once a complete state is there.
func (r *relay) open(plan *planpb.HostPlan, held holdings) {
	select {
	case <-r.ready:
		return
	default:
	}
	if plan == nil || !r.complete() {
		return
	}
	for _, id := range r.identities(plan) {
		if _, tried := held[id]; !tried && !r.settled {
			return
		}
	}
	close(r.ready)
}
