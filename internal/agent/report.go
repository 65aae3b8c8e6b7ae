package agent

import (
	"cmp"
	"context"
	"encoding/json"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/wattle-mesh/wattle/configs"
	"github.com/wattle-mesh/wattle/internal/api/apipb"
	"github.com/wattle-mesh/wattle/internal/mesh/planpb"
	"github.com/wattle-mesh/wattle/internal/xds"
)

// firstReport is how long an agent that has just connected for the first time waits for its plan before it reports:
// a host that has none yet gets it by reporting.
const firstReport = time.Second

// facts are what a report is made of.
type facts struct {
	plan    *planpb.HostPlan
	local   *registrations
	checked map[workload]health
	silent  map[workload]health
	held    holdings
	serving map[string]serving // by proxy
	faults  configs.Diagnostics
	waited  bool              // the first plan has had its time
	host    map[string]string // what it is
	alarms  []*apipb.Alarm
	ahead   time.Duration // of the host's clock before the server's
	drains  map[workload]drain
	at      map[workload]progress
	states  *unitStates
	unitOf  map[workload]string
}

// reporter tells the server what runs on this host and how it is.
type reporter struct {
	log      *slog.Logger
	address  string // as the configuration claims it
	client   apipb.NodeClient
	plan     *value[*planpb.HostPlan]
	services *value[*registrations]
	beats    *value[map[workload]health] // of those that lack a heartbeat
	health   *value[map[workload]health]
	certs    *value[holdings]
	serving  *value[map[string]serving]
	faults   *value[configs.Diagnostics] // of capture; nil: there is none
	drains   *value[map[workload]drain]
	progress *value[map[workload]progress]
	told     *value[told] // written here
	units    *value[*unitStates]
	unitOf   *value[map[workload]string] // of what is registered on the host itself

	judged   *value[map[workload]health] // what was reported; written here
	answered *value[answered]            // what the server said of it; written here

	facts     *value[map[string]string]
	alarms    *value[[]*apipb.Alarm]
	clock     *clock
	now       func() time.Time
	connected *value[bool] // written here

	begun   bool // something was reported
	refused []*apipb.Refusal
}

// run keeps the report stream open, with back-off, until ctx is done.
func (r *reporter) run(ctx context.Context) error {
	pause := newPause()
	for {
		began := time.Now()
		err := r.stream(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if time.Since(began) > maxRetry {
			pause.Reset()
		}
		wait := pause.NextBackOff()
		level := slog.LevelWarn
		if xds.Aged(err) {
			level = slog.LevelDebug
		}
		r.log.Log(ctx, level, "the report stream ended", "error", err, "again_in", wait.Round(time.Millisecond))
		if !sleep(ctx, wait) {
			return nil
		}
	}
}

// stream reports everything once, and again whenever it has changed, until the stream ends.
func (r *reporter) stream(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer r.hear(told{})
	stream, err := r.client.Report(ctx, grpc.WaitForReady(true))
	if err != nil {
		cancel()
		return err
	}
	answers, ended := make(chan *apipb.ReportResponse), make(chan error, 1)
	go func() {
		for {
			resp, err := stream.Recv()
			if err != nil {
				ended <- err
				return
			}
			select {
			case answers <- resp:
			case <-ctx.Done():
				ended <- ctx.Err()
				return
			}
		}
	}()
	defer func() { cancel(); <-ended }()
	ask := time.NewTicker(clockEvery)
	defer ask.Stop()
	defer r.connected.Set(false)
	var sent *apipb.ReportRequest
	patience := time.After(firstReport)
	var f facts
	for {
		var planned, registered, checked, beaten, certified, served, drained, advanced, changed, known, alarmed, clocked <-chan struct{}
		f.plan, planned = r.plan.Load()
		f.local, registered = r.services.Load()
		f.checked, checked = r.health.Load()
		f.silent, beaten = r.beats.Load()
		f.held, certified = r.certs.Load()
		f.serving, served = r.serving.Load()
		var fell <-chan struct{}
		if r.faults != nil {
			f.faults, fell = r.faults.Load()
		}
		f.host, known = r.facts.Load()
		f.alarms, alarmed = r.alarms.Load()
		f.ahead, clocked = r.clock.held.Load()
		f.drains, drained = r.drains.Load()
		f.at, advanced = r.progress.Load()
		f.states, changed = r.units.Load()
		f.unitOf = r.unitOf.Now()
		if r.complete(f) {
			if now := r.report(f); sent == nil || !proto.Equal(now, sent) {
				sent = proto.CloneOf(now)
				now.Number = r.clock.ask(r.now())
				if stream.Send(now) != nil {
					err := <-ended // only Recv knows why
					ended <- err
					return err
				}
				r.begun = true
			}
		}
		select {
		case <-planned:
		case <-registered:
		case <-checked:
		case <-beaten:
		case <-certified:
		case <-served:
		case <-fell:
		case <-known:
		case <-alarmed:
		case <-clocked:
		case <-ask.C:
			sent = nil // the same again, to hear the time
		case <-drained:
		case <-advanced:
		case <-changed:
		case <-patience:
			f.waited = true
		case resp := <-answers:
			r.connected.Set(true)
			if resp.GetTime() != nil {
				r.clock.hear(resp.GetNumber(), resp.GetTime().AsTime(), r.now())
			}
			r.answer(resp)
		case err := <-ended:
			ended <- err
			return err
		}
	}
}

// complete reports whether there is enough to tell. A report is the whole truth: an agent that has just started
// must not take back what the one before it said, so it waits until it knows its services, the first result of
// every check, which takes no longer than their timeouts, which certificates it has, and how its Envoy is.
func (r *reporter) complete(f facts) bool {
	if f.local == nil || f.host == nil {
		return false
	}
	if r.begun {
		return true
	}
	if f.plan == nil {
		return f.waited
	}
	if f.states == nil {
		return false
	}
	for _, w := range f.plan.GetWorkloads() {
		if _, tried := f.held[w.GetIdentity()]; !tried || f.serving[proxyOf(w)] == servingUnknown {
			return false
		}
		if len(probes(w)) > 0 && !f.checked[workloadOf(w)].Known {
			return false
		}
	}
	return true
}

// report makes the whole report, with every workload of the plan.
func (r *reporter) report(f facts) *apipb.ReportRequest {
	out := &apipb.ReportRequest{Address: r.address, Registrations: f.local.list, Unknown: f.local.unknown, Problems: withFaults(f.local.problems, append(f.states.diagnostics(), f.faults...)), Revision: f.local.revision,
		Facts: f.host, Alarms: f.alarms, ClockAhead: int64(f.ahead / time.Second)}
	now := map[workload]health{}
	for _, w := range f.plan.GetWorkloads() {
		key := workloadOf(w)
		h := r.judge(w, f)
		now[key] = h
		x, at := f.drains[key], f.at[key]
		if x.number != 0 { // first why it drains: that its process is away by then is no news
			h.Reason = strings.TrimSuffix(x.reason+"; "+h.Reason, "; ")
		}
		out.Health = append(out.Health, &apipb.HealthReport{
			Namespace: key.namespace, Service: key.service, Instance: key.instance,
			Healthy: h.Healthy, Reason: h.Reason, Ready: ready(w, f), Drain: x.number, Idle: x.number != 0 && at.number == x.number && at.stage == done,
		})
	}
	if !maps.Equal(now, r.judged.Now()) {
		r.judged.Set(now)
	}
	slices.SortFunc(out.Health, func(a, b *apipb.HealthReport) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Service, b.Service), cmp.Compare(a.Instance, b.Instance))
	})
	return out
}

// withFaults adds what is wrong with capture to what is wrong with the declarations.
func withFaults(declared []byte, faults configs.Diagnostics) []byte {
	if len(faults) == 0 {
		return declared
	}
	var ds configs.Diagnostics
	if len(declared) > 0 {
		_ = json.Unmarshal(declared, &ds) // it was made here
	}
	for _, d := range faults[:min(len(faults), maxProblems)] {
		ds = append(ds, d.Bounded())
	}
	out, _ := json.Marshal(ds) // plain data: it cannot fail
	return out
}

// proxyOf is the name of the proxy that callers of a workload are sent to.
func proxyOf(w *planpb.Workload) string { return cmp.Or(w.GetProxy(), hostProxy) }

// envoyOf names its Envoy for people.
func envoyOf(w *planpb.Workload) string {
	if name := proxyOf(w); name != hostProxy {
		return "its own Envoy, " + name + ","
	}
	return "the host's Envoy"
}

// ready lists the proxies that have a workload's identity and whose Envoys do what they were told. It may have two while it
// moves from one to the other.
func ready(w *planpb.Workload, f facts) []string {
	var out []string
	for _, x := range f.plan.GetProxies() {
		_, name, _ := strings.Cut(x.GetId(), "/")
		if f.serving[name] == servingYes && slices.Contains(x.GetIdentities(), w.GetIdentity()) {
			out = append(out, name)
		}
	}
	return out
}

// judge says how a workload is: what its checks say, unless nobody could reach it anyway. Until a check that is new has
// its first result, what was reported before holds.
func (r *reporter) judge(w *planpb.Workload, f facts) health {
	held, checked := f.held[w.GetIdentity()], f.checked[workloadOf(w)]
	last, reported := r.judged.Now()[workloadOf(w)]
	silent, late := f.silent[workloadOf(w)]
	sick := f.states.sick(cmp.Or(f.unitOf[workloadOf(w)], w.GetUnit()))
	switch {
	case held.leaf == nil:
		return health{Reason: strings.TrimSuffix("waiting for certificate: "+held.waiting, ": ")}
	case f.serving[proxyOf(w)] == servingUnknown:
		return health{Reason: "waiting for " + envoyOf(w)}
	case f.serving[proxyOf(w)] == servingNo:
		return health{Reason: envoyOf(w) + " does not run"}
	case late:
		return health{Reason: silent.Reason}
	case sick != "" && (len(probes(w)) == 0 || !checked.Known || checked.Healthy):
		return health{Reason: sick}
	case len(probes(w)) == 0:
		return health{Healthy: true}
	case !checked.Known && reported:
		return last
	case !checked.Known:
		return health{Reason: "its first check is under way"}
	}
	return checked
}

// answer logs what the server refuses, once.
func (r *reporter) answer(resp *apipb.ReportResponse) {
	now := resp.GetRefused()
	for _, x := range now {
		if !slices.ContainsFunc(r.refused, func(o *apipb.Refusal) bool { return proto.Equal(o, x) }) {
			r.log.Error("the server refuses a registration", "service", x.GetNamespace()+"/"+x.GetService(), "instance", x.GetInstance(), "place", x.GetOrigin(), "reason", x.GetReason())
		}
	}
	r.refused = now
	r.hear(told{online: true, left: leftOf(resp)})
	r.answered.Set(answered{resp.GetRevision(), now})
}

// hear takes in what the server says of callers.
func (r *reporter) hear(now told) {
	if old := r.told.Now(); old.online != now.online || !maps.Equal(old.left, now.left) {
		r.told.Set(now)
	}
}

// leftOf lists which workloads callers have left, for which drain.
func leftOf(resp *apipb.ReportResponse) map[workload]uint64 {
	out := map[workload]uint64{}
	for _, x := range resp.GetLeft() {
		out[workload{x.GetNamespace(), x.GetService(), x.GetInstance()}] = x.GetDrain()
	}
	return out
}
