package main

import (
	"context"
	"os"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/wattle-mesh/wattle/adapters/process"
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
	file := cmd.Flags().String("config", "/etc/wattle/agent.hcl", "the agent's configuration `FILE`")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, diags := configs.LoadAgent(*file)
		if err := refuse(cmd.ErrOrStderr(), diags); err != nil {
			return err
		}
		return runAgent(cmd.Context(), cmd, cfg)
	}
	return cmd
}

func runAgent(ctx context.Context, cmd *cobra.Command, cfg *configs.Agent) error {
	log := newLog(cmd.OutOrStdout(), cfg.LogLevel, cfg.LogFormat)
	envoy, err := process.FindEnvoy(cfg.Envoy)
	if err != nil {
		return err
	}
	envoys := process.New(process.Options{
		Log: log, Envoy: envoy, Dir: cfg.RunDir, Concurrency: cfg.Concurrency, Stop: cfg.StopProxies, Output: os.Stdout,
	})
	a, err := agent.New(agent.Options{Config: cfg, Log: log, Adapter: envoys, Units: systemd.Units{}})
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return envoys.Run(ctx) })
	g.Go(func() error { return a.Run(ctx) })
	return g.Wait()
}
