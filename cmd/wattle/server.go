package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/wattle-mesh/wattle/configs"
	"github.com/wattle-mesh/wattle/internal/api"
	"github.com/wattle-mesh/wattle/internal/ca"
	"github.com/wattle-mesh/wattle/internal/drain"
	"github.com/wattle-mesh/wattle/internal/pipeline"
	"github.com/wattle-mesh/wattle/internal/seal"
	"github.com/wattle-mesh/wattle/internal/spiffe"
	"github.com/wattle-mesh/wattle/internal/store"
	"github.com/wattle-mesh/wattle/internal/systemd"
	"github.com/wattle-mesh/wattle/internal/xds"
	"github.com/wattle-mesh/wattle/registry"
)

func newServer() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "server -config FILE",
		Short: "Run the control plane",
		Long: `Server is the control plane: it reads the policy folder and the registries, makes certificates, and serves the
agents what their Envoys need. Its HTTP API answers on loopback or a unix socket only.

The FILE is watched: registry blocks that are added, changed or removed take effect while the server runs, the rest
with a restart. A file that is wrong changes nothing; wattle status says what is wrong with it.`,
		Args: args(cobra.NoArgs),
	}
	file := cmd.Flags().String("config", "/etc/wattle/server.hcl", "the server's configuration `FILE`")
	var over configs.Server // what is set here is used instead of the file's
	cmd.Flags().StringVar(&over.StateDir, "state-dir", "", "the `FOLDER` of keys, tokens and revisions, instead of the file's state_dir")
	cmd.Flags().StringVar(&over.Policy, "policy", "", "the `FOLDER` of policy files, instead of the file's policy")
	cmd.Flags().StringVar(&over.HTTP, "http", "", "where the HTTP API listens, `ADDRESS:PORT` or unix:PATH, instead of the file's http")
	cmd.Flags().StringVar(&over.Agents, "agents", "", "where agents connect, `ADDRESS:PORT`, instead of the file's agents")
	options := varFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		vars, err := options()
		if err != nil {
			return err
		}
		if over.HTTP != "" && !strings.HasPrefix(over.HTTP, "unix:") {
			if err := onLoopback("-http", over.HTTP); err != nil {
				return err
			}
		}
		load := func() (*configs.Server, configs.Diagnostics) {
			cfg, diags := configs.LoadServer(*file)
			if cfg != nil {
				cfg.StateDir, cfg.Policy = cmp.Or(over.StateDir, cfg.StateDir), cmp.Or(over.Policy, cfg.Policy)
				cfg.HTTP, cfg.Agents = cmp.Or(over.HTTP, cfg.HTTP), cmp.Or(over.Agents, cfg.Agents)
			}
			return cfg, diags
		}
		cfg, diags := load()
		if err := refuse(cmd.ErrOrStderr(), diags); err != nil {
			return err
		}
		log := newLog(cmd.OutOrStdout(), cfg.LogLevel, cfg.LogFormat)
		s, err := openServer(log, cmd, cfg, &serverFile{log: log, path: *file, load: load, started: cfg}, vars)
		if err != nil {
			return err
		}
		defer s.store.Close()
		return s.run(cmd.Context())
	}
	return cmd
}

// server is the parts of a running server.
type server struct {
	log       *slog.Logger
	cfg       *configs.Server
	store     *store.Store
	ca        *ca.CA
	nodes     *api.Node
	registrar *api.Registrar
	registry  *registry.Aggregator
	file      *serverFile
	prober    *prober
	checker   *checker
	loop      *pipeline.Loop
	xds       *xds.Server
	callers   *drain.Callers
	metrics   *prometheus.Registry
}

// pace is the least time between two changes of a service's endpoints.
const pace = time.Second

// agentNames is how many names of a type an agent may ask for on one stream. Ours asks for none: it takes all in scope.
const agentNames = 1024

// openServer makes the parts and wires them. Nothing runs or listens yet.
func openServer(log *slog.Logger, cmd *cobra.Command, cfg *configs.Server, file *serverFile, vars configs.Options) (s *server, err error) {
	if err := os.MkdirAll(cfg.StateDir, 0o700); err != nil {
		return nil, err
	}
	s = &server{log: log, cfg: cfg, metrics: prometheus.NewRegistry(), prober: newProber(cmd.Context())}
	s.metrics.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	kept, err := openStore(log, cfg.StateDir)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, kept.Close())
		}
	}()
	s.store = kept
	if s.ca, err = openCA(cmd, cfg, vars, kept); err != nil {
		return nil, err
	}
	s.registry = registry.NewAggregator(registry.Options{
		Log: log, OnChange: func() { s.loop.Nudge() }, Alive: s.alive, Snapshots: filepath.Join(cfg.StateDir, snapshotFolder),
	})
	s.metrics.MustRegister(s.registry.Collector())
	s.registrar, err = api.NewRegistrar(api.RegistrarOptions{
		Log: log, Store: s.store, OnHealth: func() { s.loop.Nudge() },
		Report:  func(ds []registry.Diagnostic) { s.registry.Report(meshRegistry, ds) },
		Answers: s.prober.alive,
	})
	if err != nil {
		return nil, err
	}
	s.file = file
	s.file.registry, s.file.mesh = s.registry, s.registrar
	if diags, _ := s.file.apply(cfg, time.Time{}); diags.HasErrors() {
		return nil, refuse(cmd.ErrOrStderr(), diags)
	}
	streams := xds.Options{
		Log: log, Metrics: s.metrics, MaxNames: agentNames, Stamp: s.stamp,
		OnConverged: func(gen uint64, proxies int, took time.Duration, nacked int) {
			s.loop.Converged(gen, proxies, nacked, took)
			s.callers.Nudge()
		},
	}
	s.checker = newChecker(log, func() *pipeline.State { return s.loop.State() }, s.registrar.Health, func() { s.loop.Nudge() })
	streams.Authorize = api.AuthorizeProxy // its type says which node
	s.xds = xds.New(streams)
	s.loop = pipeline.New(pipeline.Options{
		Log: log, Dir: cfg.Policy, Config: vars, TrustDomain: s.ca.TrustDomain,
		Revisions: s.store, Registries: s.registry, Health: s.checker.Health, Facts: s.registrar.Facts,
		OnPolicy: s.registrar.SetPolicy, Publish: s.xds.Apply, Pace: pace,
		Moved: (&drain.Moves{Lagging: s.xds.Lagging, Ready: s.registrar.Ready}).Done,
	})
	s.callers = drain.New(drain.Options{State: s.loop.State, Lagging: s.xds.Lagging})
	s.nodes = api.NewNode(api.NodeOptions{Log: log, CA: s.ca, Store: s.store, Registrar: s.registrar, Holds: s.holds, Callers: s.callers})
	s.metrics.MustRegister(s.nodes.Collector())
	return s, nil
}

// The folders of the CA and of the registries' snapshots and the store's file in the state folder, and the file with which an operator says that the
// store is lost for good.
const (
	caFolder       = "ca"
	snapshotFolder = "registries"
	storeFile      = "wattle.db"
	lostFile       = "store-is-lost"
	olderFile      = "store-is-older"
)

// openStore opens the store, or makes it at the first start, before the CA. One that is missing beside a CA was lost:
// it is made anew only if the operator says so, once.
func openStore(log *slog.Logger, dir string) (*store.Store, error) {
	authority, file, lost := filepath.Join(dir, caFolder), filepath.Join(dir, storeFile), filepath.Join(dir, lostFile)
	agreed := os.Remove(lost) == nil // whatever comes: it must not count another time
	_, noCA := os.Lstat(authority)
	_, noStore := os.Stat(file)
	if noCA == nil && errors.Is(noStore, fs.ErrNotExist) {
		if !agreed {
			return nil, fmt.Errorf("the store %s is gone, and with it the nodes, grants, tokens and mesh ports of the mesh whose CA is in %s; restore it from a backup, "+
				"or make an empty file %s to let the hosts go on with a new store, or move all of %s away to begin a new mesh", file, authority, lost, dir)
		}
		log.Warn("the store is made anew; what join tokens granted has to be granted again", "store", file)
	}
	kept, err := store.Open(file)
	if err != nil {
		return nil, err
	}
	if err := renew(log, kept, filepath.Join(dir, olderFile)); err != nil {
		return nil, errors.Join(err, kept.Close())
	}
	return kept, nil
}

// renew gives the store another id if the operator's file says so, and then removes that: until then it can be done again.
func renew(log *slog.Logger, kept *store.Store, older string) error {
	if _, err := os.Lstat(older); err != nil {
		return nil
	}
	if err := kept.Renew(); err != nil {
		return fmt.Errorf("have hosts take what the store says, as %s asks for: %w", older, err)
	}
	log.Warn("hosts take what this store says from now on, though some may have had more of it", "asked_for_by", older)
	return os.Remove(older)
}

// stamp says how late it is in the store's life, for agents.
func (s *server) stamp() xds.Stamp {
	policy, writes, err := s.store.Stamp()
	if err != nil {
		return xds.Stamp{} // the file is closed
	}
	return xds.Stamp{Store: s.store.ID(), Policy: policy, Registrations: writes}
}

// serverCredential is the name of the systemd credential that the CA's keys are sealed with, if there is one.
const serverCredential = "wattle-server-key"

// openCA opens the CA, or makes it at the first start, for the trust domain that the policy names. A store that knows
// a CA is used with no other: a new root would lock every host out.
func openCA(cmd *cobra.Command, cfg *configs.Server, vars configs.Options, kept *store.Store) (*ca.CA, error) {
	dir := filepath.Join(cfg.StateDir, caFolder)
	trustDomain := "" // the one it was made for
	if _, err := os.Lstat(dir); errors.Is(err, fs.ErrNotExist) {
		if has, err := kept.HasCA(); err != nil || has {
			return nil, cmp.Or(err, fmt.Errorf("the CA in %s is gone, and no host would believe a new one; restore the folder from a backup, or move all of %s away to begin a new mesh", dir, cfg.StateDir))
		}
		policy, diags := configs.NewLoader(vars).Load(cfg.Policy)
		if err := refuse(cmd.ErrOrStderr(), diags); err != nil {
			return nil, err
		}
		trustDomain = policy.Mesh.TrustDomain
	}
	now, err := clock()
	if err != nil {
		return nil, err
	}
	sealed, err := seal.Open(os.Getenv("CREDENTIALS_DIRECTORY"), serverCredential, "wattle server CA keys")
	if err != nil {
		return nil, err
	}
	c, err := ca.OpenSealed(dir, trustDomain, sealed, now)
	if err != nil {
		return nil, err
	}
	return c.WithWorkloadLife(time.Duration(cfg.WorkloadLife)), kept.SetCA(c.Pin())
}

// holds reports whether the view in force has a workload or a gateway of that identity on the node.
func (s *server) holds(node string, id spiffe.ID) bool {
	view := s.loop.State().View
	if view == nil {
		return false
	}
	for _, px := range view.On(node) {
		if px.Gateway != nil && px.Gateway.Identity == id.String() {
			return true
		}
		for _, w := range px.Workloads {
			if w.Identity == id.String() {
				return true
			}
		}
	}
	return false
}

// run listens and works until ctx is done.
func (s *server) run(ctx context.Context) error {
	token, err := api.AdminToken(filepath.Join(s.cfg.StateDir, "admin.token"))
	if err != nil {
		return err
	}
	agents, local, err := s.listen()
	if err != nil {
		return err
	}
	s.log.Info("server listens", "agents", agents.Addr().String(), "http", s.cfg.HTTP, "policy", s.cfg.Policy, "trust_domain", s.ca.TrustDomain)

	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return hurry(ctx, s.log, s.registry.Ready(), s.loop.Ready()) })
	g.Go(func() error { return s.registry.Run(ctx) })
	g.Go(func() error { return s.store.Run(ctx) })
	g.Go(func() error { return s.loop.Run(ctx) })
	g.Go(func() error { return s.checker.run(ctx) })
	g.Go(func() error { return s.callers.Run(ctx) })
	g.Go(func() error { return s.file.watch(ctx) })
	g.Go(func() error { return s.serveAgents(ctx, agents) })
	g.Go(func() error { return s.serveHTTP(ctx, local, token) })
	g.Go(func() error { return systemd.Watch(ctx, s.loop.Alive) })
	g.Go(func() error { announce(ctx, s); return nil })
	return g.Wait()
}

// listen opens what agents and people connect to, or takes what systemd has opened.
func (s *server) listen() (agents, local net.Listener, err error) {
	sockets, err := systemd.Activated()
	if err != nil {
		return nil, nil, err
	}
	defer func() { unused(s.log, sockets, "wattle-server.socket") }()
	if agents = sockets.Take(s.cfg.Agents); agents == nil {
		if agents, err = net.Listen("tcp", s.cfg.Agents); err != nil {
			return nil, nil, fmt.Errorf("listen for agents: %w; end what uses the address (ss -ltnp shows it) or change agents in the server's file", err)
		}
	}
	if local = sockets.Take(strings.TrimPrefix(s.cfg.HTTP, "unix:")); local == nil {
		if local, err = api.Listen(s.cfg.HTTP); err != nil {
			return nil, nil, errors.Join(err, agents.Close())
		}
	}
	return agents, local, nil
}

// How far the heap may grow until the server is ready, in percent of what is in use: freely while everything is read, of
// which little stays, and hardly while that is made into what stays, so that it lies close together.
const (
	readGC = 400
	makeGC = 50
)

// hurry collects less garbage until everything is read: a fifth of the time went there. What that took is given back
// when the server is ready. An operator's GOGC is left alone.
func hurry(ctx context.Context, log *slog.Logger, read, ready <-chan struct{}) error {
	if os.Getenv("GOGC") != "" {
		return nil
	}
	was := debug.SetGCPercent(readGC)
	for _, stage := range []struct {
		done    <-chan struct{}
		percent int
	}{{read, makeGC}, {ready, was}} {
		select {
		case <-stage.done:
		case <-ctx.Done():
		}
		debug.SetGCPercent(stage.percent)
	}
	giveBack(log)
	return nil
}

// serveAgents serves joins, certificates, reports and xDS. Agents wait until there is something to serve: an empty
// world must not replace what their Envoys have.
func (s *server) serveAgents(ctx context.Context, l net.Listener) error {
	select {
	case <-s.loop.Ready():
	case <-ctx.Done():
		return l.Close()
	}
	return api.NewPort(api.PortOptions{Log: s.log, CA: s.ca, Names: s.cfg.Names, Node: s.nodes, XDS: s.xds}).Serve(ctx, l)
}

func (s *server) serveHTTP(ctx context.Context, l net.Listener, token string) error {
	return api.Serve(ctx, l, api.NewHandler(api.HTTPOptions{
		Log: s.log, AdminToken: token, Version: version, Node: s.nodes,
		State: s.loop.State, AcceptPolicy: s.loop.Accept, PolicyDir: s.cfg.Policy, Proxies: s.xds.Proxies,
		Registries: s.registry.Status, Accept: s.registry.Accept, Holds: s.registry, ServerFile: s.diagnostics,
		Metrics: promhttp.HandlerFor(s.metrics, promhttp.HandlerOpts{}),
	}))
}
