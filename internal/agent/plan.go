package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"path/filepath"
	"slices"
	"sync"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/wattle-mesh/wattle/adapters"
	"github.com/wattle-mesh/wattle/internal/api"
	"github.com/wattle-mesh/wattle/internal/launch"
	"github.com/wattle-mesh/wattle/internal/lkg"
	"github.com/wattle-mesh/wattle/internal/mesh/planpb"
	"github.com/wattle-mesh/wattle/translator"
)

// hostProxy is the name of the proxy that serves the host's workloads. Its stream brings the plan.
const hostProxy = "host"

// readPlan decodes the resource that says what the host runs.
func readPlan(r *translator.Resource) (*planpb.HostPlan, error) {
	var resource discoveryv3.Resource
	plan := new(planpb.HostPlan)
	if err := proto.Unmarshal(r.Wire, &resource); err != nil {
		return nil, fmt.Errorf("plan %s: %w", r.Name, err)
	}
	if err := resource.GetResource().UnmarshalTo(plan); err != nil {
		return nil, fmt.Errorf("plan %s: %w", r.Name, err)
	}
	return plan, nil
}

// proxies keeps a relay for every proxy of the plan, and the adapter informed of what it must run.
type proxies struct {
	log     *slog.Logger
	adapter adapters.Adapter
	runDir  string
	envoys  Envoys
	keep    *lkg.Store
	proven  *lkg.Store
	barred  *lkg.Store
	crashes <-chan adapters.Crash
	disk    *disk
	linger  time.Duration        // relayOptions.Linger
	ask     <-chan chan struct{} // answered to show that the work goes on
	conn    grpc.ClientConnInterface
	node    *value[*credential]
	plan    *value[*planpb.HostPlan]
	certs   *value[holdings]
	serving value[map[string]serving] // by the proxies' names; each map is immutable
	// workloads is what workloads get; nil: nothing is known of that.
	workloads *value[*adapters.Workloads]
	progress  *value[map[workload]progress] // of drains
	bound     *value[map[workload]string]   // units of what is registered on the host itself; nil: there is no systemd

	mu sync.Mutex // serving is being changed
}

// setServing says how the Envoy of a proxy is.
func (p *proxies) setServing(name string, now serving) {
	p.mu.Lock()
	defer p.mu.Unlock()
	was := p.serving.Now()
	if was[name] == now {
		return
	}
	next := maps.Clone(was)
	if next == nil {
		next = map[string]serving{}
	}
	if next[name] = now; now == servingUnknown {
		delete(next, name)
	}
	p.serving.Set(next)
}

// run follows the plan until ctx is done. The host's own proxy has its relay from the start, since the plan comes
// through it. Without a plan nothing is started, and nothing that runs is ended.
func (p *proxies) run(ctx context.Context) error {
	host := p.node.Now().id.Name
	type task struct {
		cancel  context.CancelFunc
		done    chan struct{}
		crashes chan adapters.Crash
	}
	tasks := map[string]task{}
	defer func() {
		for _, t := range tasks {
			t.cancel()
			<-t.done
		}
	}()
	for {
		plan, changed := p.plan.Load()
		var settled <-chan struct{}
		if p.workloads != nil {
			_, settled = p.workloads.Load()
		}
		var moved <-chan struct{}
		if p.bound != nil {
			_, moved = p.bound.Load()
		}
		want := p.names(host, plan)
		for name, t := range tasks {
			if !slices.Contains(want, name) && name != hostProxy {
				t.cancel()
				<-t.done
				delete(tasks, name)
				p.setServing(name, servingUnknown)
			}
		}
		for _, name := range append([]string{hostProxy}, want...) {
			if _, ok := tasks[name]; ok {
				continue
			}
			tctx, cancel := context.WithCancel(ctx)
			t := task{cancel, make(chan struct{}), make(chan adapters.Crash, crashLimit)}
			tasks[name] = t
			go func() {
				defer close(t.done)
				p.relay(tctx, host, name, t.crashes)
			}()
		}
		var again <-chan time.Time
		if plan != nil {
			p.forget(want)
			if err := p.apply(ctx, plan, host, want); err != nil {
				p.log.Error("cannot run the proxies", "error", err, "again_in", maxRetry)
				again = time.After(maxRetry)
			}
		}
		select {
		case <-changed:
		case <-settled:
		case <-moved:
		case <-again:
		case done := <-p.ask:
			close(done)
		case c := <-p.crashes:
			if t, ok := tasks[c.Name]; ok {
				select {
				case t.crashes <- c:
				default: // it has enough of them
				}
			}
		case <-ctx.Done():
			return nil
		}
	}
}

// forget removes what is kept of proxies that are not wanted. None of them has a relay.
func (p *proxies) forget(want []string) {
	var err error
	for _, store := range []*lkg.Store{p.keep, p.proven, p.barred} {
		names, wrong := store.Names()
		err = errors.Join(err, wrong)
		for _, name := range names {
			if name != hostProxy && !slices.Contains(want, name) {
				err = errors.Join(err, store.Remove(name))
			}
		}
	}
	p.disk.forgive(func(what string) bool {
		folder, name := filepath.Split(what)
		return folder == keptFolder+"/" && name != hostProxy && !slices.Contains(want, name)
	})
	if err != nil {
		p.log.Error("remove what was kept of proxies that are not wanted any more", "error", err)
	}
}

// names lists the proxies of the plan by their names on the host, sorted.
func (p *proxies) names(host string, plan *planpb.HostPlan) []string {
	var out []string
	for _, x := range plan.GetProxies() {
		node, name, ok := api.SplitProxy(x.GetId())
		if !ok || node != host {
			p.log.Error("the plan has a proxy that this host cannot have", "proxy", x.GetId())
			continue
		}
		out = append(out, name)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// relay runs the relay of one proxy, again if it ends.
func (p *proxies) relay(ctx context.Context, host, name string, crashes <-chan adapters.Crash) {
	o := relayOptions{
		Log: p.log, ID: host + "/" + name, Dir: filepath.Join(p.runDir, name), Conn: p.conn,
		Node: p.node, Plan: p.plan, Certs: p.certs, Drains: p.progress, Keep: p.keep, Disk: p.disk, Linger: p.linger,
		Proven: p.proven, Barred: p.barred, Admin: filepath.Join(cmp.Or(p.envoys.AdminDir, p.runDir), name, launch.AdminSocket), Crashes: crashes,
	}
	if k, ok := p.adapter.(adapters.Killer); ok {
		o.Kill = func(ctx context.Context) error { return k.Kill(ctx, name) }
	}
	if p.envoys.Owner != nil {
		o.Group, o.Owner = p.envoys.Group, func(ctx context.Context) (uint32, error) { return p.envoys.Owner(ctx, name) }
	}
	o.SetServing = func(now serving) { p.setServing(name, now) }
	if name == hostProxy {
		o.SetPlan = p.plan.Set
	}
	pause := newPause()
	for {
		err := newRelay(o).run(ctx)
		if ctx.Err() != nil {
			return
		}
		wait := pause.NextBackOff()
		p.log.Error("cannot serve a proxy", "proxy", o.ID, "error", err, "again_in", wait.Round(time.Millisecond))
		if !sleep(ctx, wait) {
			return
		}
	}
}

// apply has the adapter run the Envoys of the plan.
func (p *proxies) apply(ctx context.Context, wanted *planpb.HostPlan, host string, names []string) error {
	of := map[string]*planpb.Proxy{}
	for _, x := range wanted.GetProxies() {
		of[x.GetId()] = x
	}
	var plan adapters.Plan
	if p.workloads != nil {
		plan.Workloads = p.workloads.Now()
	} else if p.bound != nil {
		plan.Workloads = new(adapters.Workloads)
	}
	if plan.Workloads != nil && p.bound != nil {
		plan.Workloads = withUnits(plan.Workloads, wanted, p.bound.Now())
	}
	for _, name := range names {
		id := host + "/" + name
		text, err := bootstrap(id, host, filepath.Join(p.runDir, name), filepath.Join(cmp.Or(p.envoys.AdminDir, p.runDir), name))
		if err != nil {
			return err
		}
		res := of[id].GetResources()
		plan.Proxies = append(plan.Proxies, adapters.Proxy{
			ID: id, Name: name, Bootstrap: text, LowPorts: of[id].GetLowPorts(),
			Version: wanted.GetEnvoy().GetVersion(), Envoy: wanted.GetEnvoy().GetPath(),
			Resources: adapters.Resources{MemoryHigh: res.GetMemoryHigh(), CPUWeight: res.GetCpuWeight(), TasksMax: res.GetTasksMax()},
		})
	}
	return p.adapter.Apply(ctx, plan)
}
