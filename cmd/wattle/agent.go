package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/wattle-mesh/wattle/adapters"
	"github.com/wattle-mesh/wattle/adapters/process"
	units "github.com/wattle-mesh/wattle/adapters/systemd"
	"github.com/wattle-mesh/wattle/configs"
	"github.com/wattle-mesh/wattle/internal/agent"
	"github.com/wattle-mesh/wattle/internal/systemd"
)

func newAgent() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "agent -config FILE",
		Short: "Run the host's daemon",
		Long: `Agent is the daemon on each host. It joins the mesh with a token (wattle token create) or with certificates that
wattle ca issue made, keeps the host's keys and certificates, serves the host's Envoys their configuration,
checks the workloads' health and reports it. It needs no server to go on with what it has.`,
		Args: args(cobra.NoArgs),
	}
	file := cmd.Flags().String("config", agentFile, "the agent's configuration `FILE`")
	adapter := cmd.Flags().String("adapter", "process", "what runs the Envoys: `KIND` process, or systemd with units")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, diags := configs.LoadAgent(*file)
		if err := refuse(cmd.ErrOrStderr(), diags); err != nil {
			return err
		}
		return runAgent(cmd.Context(), cmd, cfg, *adapter)
	}
	cmd.AddCommand(newAgentJoin(), newAgentLeave())
	return cmd
}

// envoyAdapter is an adapter with work of its own.
type envoyAdapter interface {
	adapters.Adapter
	Run(context.Context) error
}

// newAdapter makes the adapter of that kind, and says how its Envoys and the agent reach each other.
func newAdapter(log *slog.Logger, cfg *configs.Agent, kind string, crashed func(adapters.Crash)) (envoyAdapter, agent.Envoys, error) {
	envoy, err := process.FindEnvoy(cfg.Envoy)
	if err != nil {
		return nil, agent.Envoys{}, err
	}
	switch kind {
	case "process":
		return process.New(process.Options{
			Log: log, Envoy: envoy, Dir: cfg.RunDir, Concurrency: cfg.Concurrency, Stop: cfg.StopProxies, Output: os.Stdout, Drain: time.Duration(cfg.DrainTime), Crashed: crashed,
		}), agent.Envoys{}, nil
	case "systemd":
		a, err := units.New(units.Options{Log: log, Envoy: envoy, Dir: cfg.RunDir, Concurrency: cfg.Concurrency, Drain: time.Duration(cfg.DrainTime), Crashed: crashed})
		if err != nil {
			return nil, agent.Envoys{}, err
		}
		return a, agent.Envoys{AdminDir: units.EnvoyFolder, Owner: a.Owner, Group: a.Group()}, nil
	}
	return nil, agent.Envoys{}, &invalid{fmt.Errorf("there is no adapter %q; there are process and systemd", kind)}
}

func runAgent(ctx context.Context, cmd *cobra.Command, cfg *configs.Agent, kind string) error {
	log := newLog(cmd.OutOrStdout(), cfg.LogLevel, cfg.LogFormat)
	crashes := make(chan adapters.Crash, 64)
	envoys, reach, err := newAdapter(log, cfg, kind, func(c adapters.Crash) {
		select {
		case crashes <- c:
		default: // there are enough of them
		}
	})
	if err != nil {
		return err
	}
	sockets, err := systemd.Activated()
	if err != nil {
		return err
	}
	ready := make(chan struct{})
	now, err := clock()
	if err != nil {
		return err
	}
	o := agent.Options{
		Config: cfg, Version: version, Now: now, Log: log, Adapter: envoys, Units: systemd.Units{}, Envoys: reach, Crashes: crashes, Credentials: os.Getenv("CREDENTIALS_DIRECTORY"), Socket: sockets.Take(agent.Socket(cfg)),
		OnReady: func() { tell(log, systemd.Ready); close(ready) },
		Say:     func(line string) { tell(log, systemd.Status("%s", line)) },
	}
	if a, ok := envoys.(*units.Adapter); ok {
		o.Capture = newHostCapture(log, cfg, a)
	}
	unused(log, sockets, "wattle-agent.socket")
	a, err := agent.New(o)
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return envoys.Run(ctx) })
	g.Go(func() error {
		err := a.Run(ctx)
		if errors.Is(err, agent.ErrNotJoined) {
			return &invalid{err}
		}
		return err
	})
	g.Go(func() error { return systemd.Watch(ctx, a.Alive) })
	g.Go(func() error { <-ctx.Done(); tell(log, systemd.Stopping); return nil })
	g.Go(func() error { settle(ctx, log, ready); return nil })
	if err := g.Wait(); !errors.Is(err, agent.ErrLeft) {
		return err
	}
	log.Info("the host has left the mesh, and its agent ends")
	return nil
}

// settling is how long after an agent is ready its Envoys have what they need, as a rule: that is a part of its start.
const settling = 5 * time.Second

// settle gives back what the start needed.
func settle(ctx context.Context, log *slog.Logger, ready <-chan struct{}) {
	select {
	case <-ready:
	case <-ctx.Done():
		return
	}
	select {
	case <-time.After(settling):
		giveBack(log)
	case <-ctx.Done():
	}
}

// tell says something to systemd.
func tell(log *slog.Logger, lines ...string) {
	if err := systemd.Notify(lines...); err != nil {
		log.Error("notify systemd", "error", err)
	}
}

// unused says which of the unit's sockets nobody asked for.
func unused(log *slog.Logger, sockets *systemd.Sockets, unit string) {
	if left := sockets.Left(); len(left) > 0 {
		log.Error("systemd listens where the configuration says nothing of; what connects there gets no answer", "addresses", left, "remedy", "systemctl edit "+unit)
	}
}
