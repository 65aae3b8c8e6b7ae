package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/proto"

	"github.com/wattle-mesh/wattle/adapters"
	"github.com/wattle-mesh/wattle/configs"
	"github.com/wattle-mesh/wattle/internal/capture"
	"github.com/wattle-mesh/wattle/internal/dns"
	"github.com/wattle-mesh/wattle/internal/launch"
	"github.com/wattle-mesh/wattle/internal/mesh/planpb"
	"github.com/wattle-mesh/wattle/internal/systemd"
)

// Capture is what the agent needs of its host to capture and guard workloads. All fields are required unless they say
// otherwise.
type Capture struct {
	// Table is the kernel's; nil: the agent may not use nftables, and Denied says why.
	Table  capture.Kernel
	Denied error
	Guard  bool
	// Proxies is the group of the Envoys and the resolver.
	Proxies int
	// Allow are users whose processes may connect to applications' ports of this host.
	Allow []uint32
	// Service asks systemd about a unit, and Follow calls changed when one has changed, until ctx is done.
	Service func(ctx context.Context, unit string) (systemd.Service, error)
	Follow  func(ctx context.Context, ready func(), changed func(unit string)) error
	// Group finds a control group of version 2 by systemd's path; nil: there are none.
	Group func(path string) (capture.Cgroup, error)
	User  func(name string) (uint32, error)
	// DropIn returns when the drop-in of a workload's unit was written.
	DropIn func(unit string) (time.Time, bool)
}

const (
	resolverFolder = "dns"            // in run_dir
	resolvFolder   = "resolv"         // in state_dir
	lookAtUnits    = 30 * time.Second // what systemd does not tell of is noticed so soon
)

// capturer captures and guards the workloads of the plan.
type capturer struct {
	log    *slog.Logger
	o      *Capture
	cfg    *configs.Agent
	plan   *value[*planpb.HostPlan]
	faults value[configs.Diagnostics] // what the server is told
	// workloads is what units get; nil until the first plan was looked at.
	workloads value[*adapters.Workloads]

	registered *value[map[workload]string] // units, by workload; of what is registered on the host itself

	keeper *capture.Keeper
	state  value[capture.State]
	poked  chan struct{}
	units  value[[]string]            // whose changes matter
	known  map[string]systemd.Service // what systemd said last
	said   map[captureFault]bool      // in the log
}

func newCapturer(log *slog.Logger, o *Capture, cfg *configs.Agent, plan *value[*planpb.HostPlan], registered *value[map[workload]string]) *capturer {
	c := &capturer{
		log: log, o: o, cfg: cfg, plan: plan, registered: registered, poked: make(chan struct{}, 1), known: map[string]systemd.Service{}, said: map[captureFault]bool{},
	}
	if o.Table != nil {
		c.keeper = capture.NewKeeper(capture.Options{Log: log, Table: o.Table, Reach: func(ctx context.Context) error { return reach(ctx, cfg) }, Changed: func(s capture.State) { c.state.Set(s); c.poke() }})
	}
	return c
}

func (c *capturer) poke() {
	select {
	case c.poked <- struct{}{}:
	default:
	}
}

// run follows the plan and the units of its workloads until ctx is done. Rules, files and names stay as they are then.
func (c *capturer) run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	if c.keeper != nil {
		g.Go(func() error { return c.keeper.Run(ctx) })
	} else {
		c.log.Info("nothing is guarded and nothing redirected: nftables may not be used", "error", c.o.Denied)
	}
	g.Go(func() error { return c.follow(ctx) })
	g.Go(func() error {
		ticker := time.NewTicker(lookAtUnits)
		defer ticker.Stop()
		for {
			plan, changed := c.plan.Load()
			registered, moved := c.registered.Load()
			if plan != nil {
				c.match(ctx, named(plan, registered))
			}
			select {
			case <-changed:
			case <-moved:
			case <-c.poked:
			case <-ticker.C:
			case <-ctx.Done():
				return nil
			}
		}
	})
	return g.Wait()
}

// follow hears of units that change, again if that ends.
func (c *capturer) follow(ctx context.Context) error {
	pause := newPause()
	for {
		err := c.o.Follow(ctx, c.poke, func(unit string) {
			if slices.Contains(c.units.Now(), unit) {
				c.poke()
			}
		})
		if ctx.Err() != nil {
			return nil
		}
		wait := pause.NextBackOff()
		c.log.Warn("systemd does not say which units change", "error", err, "again_in", wait.Round(time.Millisecond))
		if !sleep(ctx, wait) {
			return nil
		}
	}
}

// named returns the plan with the units that were registered at this agent, which keeps them to itself.
func named(plan *planpb.HostPlan, registered map[workload]string) *planpb.HostPlan {
	out := proto.CloneOf(plan)
	bound := boundUnits(plan, registered)
	for _, w := range out.GetWorkloads() {
		w.Unit = bound[workloadOf(w)]
	}
	return out
}

// match brings into force what a plan means.
func (c *capturer) match(ctx context.Context, plan *planpb.HostPlan) {
	c.units.Set(unitsOf(plan)) // before they are asked about: a change after that is heard
	h := hostFacts{
		services: c.services(ctx, unitsOf(plan)), group: c.o.Group, user: c.o.User, stateDir: c.cfg.StateDir, proxies: uint32(c.o.Proxies),
		guard: c.o.Guard, rules: c.o.Table != nil, denied: c.o.Denied, allow: c.o.Allow,
		drop: func(unit string) (int64, bool) { at, ok := c.o.DropIn(unit); return at.UnixNano(), ok },
	}
	now := planCapture(plan, h)
	if c.keeper != nil {
		c.keeper.Set(now.rules)
		if s := c.state.Now(); s.Err != nil {
			now.faults = append(now.faults, captureFault{what: "capture and guard are not in force: " + s.Err.Error(), remedy: "See the agent's log: journalctl -u wattle-agent."})
		}
	}
	if err := c.write(now); err != nil {
		c.log.Error("names of captured workloads cannot be written", "error", err, "again_in", lookAtUnits)
		now.faults = append(now.faults, captureFault{what: "names are not up to date: " + err.Error(), remedy: "Make room on the disk, or see its permissions."})
	}
	if w := now.workloads(c.cfg.StateDir); !reflect.DeepEqual(w, c.workloads.Now()) {
		c.workloads.Set(w)
	}
	c.tell(now.faults)
}

// workloads is what the units of workloads get.
func (c captured) workloads(stateDir string) *adapters.Workloads {
	out := &adapters.Workloads{Resolver: len(c.views.Views) > 0}
	for _, unit := range c.units {
		if path := resolvFile(stateDir, unit); c.resolv[path].For != "" {
			out.Units = append(out.Units, adapters.Unit{Name: unit, Resolv: path})
		}
	}
	return out
}

// reach connects to a server anew.
func reach(ctx context.Context, cfg *configs.Agent) error {
	var d net.Dialer
	if cfg.SourceAddress.IsValid() {
		d.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(cfg.SourceAddress, 0))
	}
	var errs []error
	for _, server := range cfg.Servers {
		conn, err := d.DialContext(ctx, "tcp", server)
		if err == nil {
			return conn.Close()
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// services asks systemd about units. Where it cannot be asked, what it said last holds.
func (c *capturer) services(ctx context.Context, units []string) map[string]serviceFact {
	out := map[string]serviceFact{}
	for _, u := range units {
		s, err := c.o.Service(ctx, u)
		last, ok := c.known[u]
		switch {
		case err == nil:
			if s.Dynamic && !s.UIDSet && ok && last.Dynamic { // it has stopped; the next one mostly gets the same
				s.UID, s.UIDSet = last.UID, last.UIDSet
			}
			c.known[u] = s
		case ok:
			s, err = last, nil
		}
		out[u] = serviceFact{s, err}
	}
	maps.DeleteFunc(c.known, func(u string, _ systemd.Service) bool { return !slices.Contains(units, u) })
	return out
}

// write puts the names where the resolver and the workloads' units find them.
func (c *capturer) write(now captured) error {
	dir := filepath.Join(c.cfg.RunDir, resolverFolder)
	text, err := now.views.Marshal()
	if err == nil {
		err = launch.Folder(dir, c.o.Proxies)
	}
	if err == nil {
		_, err = launch.Place(filepath.Join(dir, dns.File), append(text, '\n'))
	}
	errs := []error{err}
	for path, v := range now.resolv {
		errs = append(errs, placeResolv(path, dns.Conf(v, "/etc/resolv.conf")))
	}
	old, err := filepath.Glob(resolvFile(c.cfg.StateDir, "*"))
	errs = append(errs, err)
	for _, path := range old {
		if _, ok := now.resolv[path]; !ok {
			if err := os.Remove(path); !errors.Is(err, fs.ErrNotExist) {
				errs = append(errs, err)
			}
		}
	}
	return errors.Join(errs...)
}

// placeResolv writes a workload's resolv.conf, if it differs. A unit that runs has the file itself, not its name: it is
// written over, in one go.
func placeResolv(path, text string) error {
	if now, err := os.ReadFile(path); err == nil && string(now) == text {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE, 0o644)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Truncate(int64(len(text))), f.Chmod(0o644), f.Close()) // whatever the umask
}

// codeCapture is of workloads that are not captured or guarded as they should be.
const codeCapture = "W5020"

// tell says what falls short: once in the log, and to the server as long as it is so.
func (c *capturer) tell(faults []captureFault) {
	now := map[captureFault]bool{}
	var ds configs.Diagnostics
	for _, f := range faults {
		if now[f] {
			continue
		}
		now[f] = true
		summary := f.what
		if f.workload != (workload{}) {
			summary = fmt.Sprintf("workload %s: %s", f.workload, f.what)
		}
		if !c.said[f] {
			c.log.Warn("capture falls short", "fault", summary, "remedy", f.remedy)
		}
		ds = append(ds, configs.NewDiagnostic(configs.Warning, codeCapture, "the host's agent", strings.TrimSpace(summary), f.remedy))
	}
	c.said = now
	if !slices.EqualFunc(ds, c.faults.Now(), func(a, b configs.Diagnostic) bool { return a.Summary == b.Summary && a.Detail == b.Detail }) {
		c.faults.Set(ds)
	}
}
