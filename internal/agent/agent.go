// Package agent is the daemon on each host: towards the server a client that joins, fetches what the host's
// proxies need and reports what runs here; towards the host's Envoys the xDS server, with certificates for keys
// that are made here and never leave. In come a configuration and the server's streams, out go resources to
// Envoys over unix sockets, a plan to the adapter and reports to the server.
package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/wattle-mesh/wattle/adapters"
	"github.com/wattle-mesh/wattle/configs"
	"github.com/wattle-mesh/wattle/internal/admin"
	"github.com/wattle-mesh/wattle/internal/api/apipb"
	"github.com/wattle-mesh/wattle/internal/launch"
	"github.com/wattle-mesh/wattle/internal/lkg"
	"github.com/wattle-mesh/wattle/internal/mesh/planpb"
)

// keptFolder is where in the state folder the last known good of each proxy is.
const keptFolder = "proxies"

// The last state of each proxy that its Envoy was well with, and what it was not well with.
const (
	provenFolder = "proven"
	barredFolder = "quarantine"
)

// certsFolder is where in the state folder workloads' keys and certificates are.
const certsFolder = "certs"

// maxSocketPath is what the kernel allows for a unix socket's path, in bytes.
const maxSocketPath = 107

// Options configure an Agent. All fields are required unless they say otherwise.
type Options struct {
	Config  *configs.Agent
	Log     *slog.Logger
	Adapter adapters.Adapter      // runs the Envoys; its own Run, if it has one, is the caller's to call
	Units   Units                 // nil: there is no systemd, and only root and the agent's user may register workloads
	Envoys  Envoys                // optional
	Crashes <-chan adapters.Crash // of Envoys; nil: nobody tells of them
	Capture *Capture              // nil: no workload is captured or guarded
	Socket  net.Listener          // agent.sock in run_dir, if another has opened it; nil: the agent opens it
	OnReady func()                // called when the agent's sockets are open and what it kept is loaded; optional
	Say     func(string)          // called with a line that says how the host is, when that changes; optional
	Version string                // of this program, for people; optional
	Now     func() time.Time      // the host's clock; nil: time.Now. Tests have one that is wrong

	// Credentials is the folder of the unit's credentials, with Credential in it if private keys are to be sealed; optional.
	Credentials string
}

// Envoys says how the Envoys that the adapter runs and this agent reach each other. The zero value: they are processes of
// the agent's own user, and all sockets lie in run_dir/NAME.
type Envoys struct {
	AdminDir string // ADMINDIR/NAME/admin.sock; empty: run_dir
	// Owner returns the uid of a proxy's Envoy; no other may connect to its agent. nil: whom the file's mode lets in.
	Owner func(ctx context.Context, name string) (uint32, error)
	Group int // that may open the sockets for Envoys; with Owner
}

// Agent is one host's daemon. Its parts share values, each of which one part writes and others follow.
type Agent struct {
	o              Options
	node           *node
	files          *services
	desk           *desk
	drain          *drains
	units          *units
	plan           value[*planpb.HostPlan] // written by the relay of the host's proxy
	keep           *lkg.Store              // of what the server sends
	proven, barred *lkg.Store
	ask            chan chan struct{} // Alive
	disk           *disk
	facts          *ownFacts
	host           *host // what is shown of it
	leaver         leaver
}

// New checks the configuration, makes the folders, and the host's key if there is none yet.
func New(o Options) (*Agent, error) {
	cfg := o.Config
	if o.Now == nil {
		o.Now = time.Now
	}
	if cfg.StateDir == "" || cfg.RunDir == "" {
		return nil, errors.New("state_dir and run_dir must be set")
	}
	open, err := passable(cfg.RunDir)
	if err := errors.Join(err, os.MkdirAll(cfg.StateDir, 0o700)); err != nil {
		return nil, err
	}
	if !open {
		o.Log.Info("run_dir is closed to other users, who cannot register workloads at the agent", "run_dir", cfg.RunDir, "remedy", "chmod o+x "+cfg.RunDir)
	}
	if err := private(cfg.StateDir); err != nil {
		return nil, err
	}
	if n := len(socket(filepath.Join(cfg.RunDir, "gw-default"))); n > maxSocketPath {
		return nil, fmt.Errorf("run_dir %s is too long for unix sockets, by %d characters at least; choose a shorter one", cfg.RunDir, n-maxSocketPath)
	}
	sealed, err := openSeal(o.Credentials)
	if err != nil {
		return nil, err
	}
	state := newDisk(cfg.StateDir, &alarms{log: o.Log})
	state.seal = sealed
	n, err := openNode(o.Log, state, cfg.Node, o.Now)
	if err != nil {
		return nil, err
	}
	files := newServices(o.Log, state, cfg.ServicesDir)
	drains, err := newDrains(o.Log, cfg.StateDir)
	if err != nil {
		return nil, err
	}
	d, err := newDesk(deskOptions{log: o.Log, disk: state, units: o.Units, grants: cfg.Units, files: &files.held, drains: drains})
	if err != nil {
		return nil, err
	}
	keep, err := lkg.Open(filepath.Join(cfg.StateDir, keptFolder))
	if err != nil {
		return nil, err
	}
	proven, errProven := lkg.Open(filepath.Join(cfg.StateDir, provenFolder))
	barred, errBarred := lkg.Open(filepath.Join(cfg.StateDir, barredFolder))
	if err := errors.Join(errProven, errBarred); err != nil {
		return nil, err
	}
	a := &Agent{o: o, node: n, files: files, desk: d, drain: drains, keep: keep, proven: proven, barred: barred, ask: make(chan chan struct{}), disk: state,
		facts: &ownFacts{log: o.Log, dir: cfg.FactsDir}, leaver: leaver{ended: make(chan struct{}, 1)}}
	a.host = &host{a: a}
	d.host = a.host
	a.units = &units{log: o.Log, systemd: o.Units, plan: &a.plan, registered: &d.bound}
	drains.plan, drains.registered, drains.states, drains.known = &a.plan, &d.bound, &a.units.held, d.known
	drains.admin = func(proxy string) *admin.Client {
		return admin.New(filepath.Join(cmp.Or(o.Envoys.AdminDir, cfg.RunDir), proxy, launch.AdminSocket))
	}
	return a, nil
}

// Join joins the mesh and returns the host's name in it. Its error matches ErrJoined if the host has joined before. No agent
// may run meanwhile.
func (a *Agent) Join(ctx context.Context) (name string, err error) {
	if c := a.node.held.Now(); c != nil {
		return "", Joined(c.id.Name, c.id.TrustDomain)
	}
	lock, err := lock(a.o.Config.RunDir)
	if err != nil {
		return "", err
	}
	defer lock.Close()
	t, err := a.ticket()
	if err != nil {
		return "", err
	}
	if err := a.keepable(); err != nil {
		return "", err
	}
	if err := a.join(ctx, t); err != nil {
		return "", err
	}
	return a.node.held.Now().id.Name, nil
}

// Run joins the mesh if the host has not yet, and serves the host until ctx is done. It returns nil then, else why
// the agent cannot go on: a token that the server refuses, another agent on the same folders, ErrLeft.
func (a *Agent) Run(ctx context.Context) error {
	lock, err := lock(a.o.Config.RunDir)
	if err != nil {
		return err
	}
	defer lock.Close()
	t, err := a.ticket()
	if err != nil {
		return err
	}
	door, err := openDoor(a.o.Socket, Socket(a.o.Config), a.desk.uid)
	if err != nil {
		return err
	}
	g, inner := errgroup.WithContext(ctx)
	g.Go(func() error { return a.disk.run(inner) })
	g.Go(func() error { return a.facts.run(inner) })
	g.Go(func() error { return a.files.run(inner) })
	g.Go(func() error { return a.desk.run(inner) })
	g.Go(func() error { return a.units.run(inner) })
	g.Go(func() error { return a.drain.run(inner) })
	g.Go(func() error { return a.desk.serve(inner, door) })
	g.Go(func() error {
		if t != nil {
			if err := a.joinAlive(inner, t); err != nil {
				return err
			}
		}
		return a.serve(inner)
	})
	g.Go(func() error {
		select {
		case <-a.leaver.ended:
			return ErrLeft
		case <-inner.Done():
			return nil
		}
	})
	if a.o.OnReady != nil {
		a.o.OnReady()
	}
	err = g.Wait()
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// joinAlive joins; until then Alive is answered here.
func (a *Agent) joinAlive(ctx context.Context, t *ticket) error {
	if a.o.Say != nil {
		a.o.Say("not a member of a mesh yet: it joins")
	}
	joined := make(chan error, 1)
	go func() { joined <- a.join(ctx, t) }()
	for {
		select {
		case err := <-joined:
			return err
		case done := <-a.ask:
			close(done)
		}
	}
}

// Alive returns nil once the goroutine that runs the host's proxies has answered: one that hangs never does.
func (a *Agent) Alive(ctx context.Context) error {
	done := make(chan struct{})
	select {
	case a.ask <- done:
		<-done
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// serve runs the parts of an agent that has joined.
func (a *Agent) serve(ctx context.Context) error {
	cfg, log := a.o.Config, a.o.Log
	conn, err := dial(cfg, a.node.tls(), a.node.expired)
	if err != nil {
		return err
	}
	defer conn.Close()
	client := apipb.NewNodeClient(conn)
	a.leaver.tell.Set(departure(client))
	defer a.leaver.tell.Set(nil)

	plan := &a.plan
	certs := &certs{log: log, dir: filepath.Join(cfg.StateDir, certsFolder), disk: a.disk, node: a.node, sign: client.Sign}
	checks := &checks{log: log}
	proxies := &proxies{
		log: log, adapter: a.o.Adapter, runDir: cfg.RunDir, conn: conn, envoys: a.o.Envoys, keep: a.keep, disk: a.disk, ask: a.ask,
		proven: a.proven, barred: a.barred, crashes: a.o.Crashes,
		node: &a.node.held, plan: plan, certs: &certs.held, linger: time.Duration(cfg.DrainTime), progress: &a.drain.at,
	}
	var capturer *capturer
	if a.o.Capture != nil {
		capturer = newCapturer(log, a.o.Capture, cfg, plan, &a.desk.bound)
		proxies.workloads = &capturer.workloads
	}
	if a.o.Units != nil {
		proxies.bound = &a.desk.bound
	}
	reporter := &reporter{
		log: log, client: client,
		plan: plan, services: &a.desk.held, beats: &a.desk.beats, health: &checks.held, certs: &certs.held, serving: &proxies.serving,
		drains: &a.drain.held, progress: &a.drain.at, told: &a.drain.told, units: &a.units.held, unitOf: &a.desk.bound,
		judged: a.desk.judged, answered: a.desk.answer,
		facts: &a.facts.held, alarms: &a.disk.alarms.held, clock: &clock{alarms: a.disk.alarms, held: &a.host.ahead}, now: a.o.Now, connected: &a.host.connected,
	}
	if capturer != nil {
		reporter.faults = &capturer.faults
	}
	a.host.joined.Set(joined{&certs.held, plan, client})
	if cfg.Address.IsValid() {
		reporter.address = cfg.Address.String()
	}

	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return a.node.renew(ctx, a.renewer(client)) })
	g.Go(func() error { return certs.run(ctx, plan) })
	g.Go(func() error { return proxies.run(ctx) })
	g.Go(func() error { return checks.run(ctx, plan) })
	g.Go(func() error { return reporter.run(ctx) })
	if a.o.Say != nil {
		g.Go(func() error {
			return (&teller{node: &a.node.held, plan: plan, certs: &certs.held, conn: conn, say: a.o.Say}).run(ctx)
		})
	}
	if capturer != nil {
		g.Go(func() error { return capturer.run(ctx) })
	}
	return g.Wait()
}
