package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/wattle-mesh/wattle/adapters/process"
	units "github.com/wattle-mesh/wattle/adapters/systemd"
	"github.com/wattle-mesh/wattle/configs"
	"github.com/wattle-mesh/wattle/internal/agent"
	"github.com/wattle-mesh/wattle/internal/api"
	"github.com/wattle-mesh/wattle/internal/capture"
	"github.com/wattle-mesh/wattle/internal/systemd"
)

const (
	agentFile     = "/etc/wattle/agent.hcl" // of the unit
	agentUnit     = "wattle-agent.service"
	leaveAskLimit = 5 * time.Second // for an agent to answer, which may be starting
	endedAgain    = 50 * time.Millisecond
)

func newAgentLeave() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "leave [-force]",
		Short: "Take this host out of the mesh",
		Long: `Leave drains the host's workloads, tells the server, which from then on lets the host in no more, and ends the agent and
the Envoys. It disables the agent's units and removes what the agent wrote: the host's key and certificates, what it kept of
the server, drop-ins of workloads' units, the table of nftables. Configuration stays: the host may join again with a new token.

If no server answers, the host stays as it is. With -force it leaves all the same; an operator has to tell a server then,
with wattle host remove. It can be run again if it was interrupted. It needs root where the agent is a unit of systemd.`,
		Args: args(cobra.NoArgs),
	}
	file := cmd.Flags().String("config", agentFile, "the agent's configuration `FILE`")
	force := cmd.Flags().Bool("force", false, "leave though no server, or not even the agent, answers")
	wait := cmd.Flags().Duration("wait", 20*time.Second, "how long workloads' requests may take to end, at most 30s")
	limit := cmd.Flags().Duration("timeout", 3*time.Minute, "how long it may take in all")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if *wait < 0 || *wait > api.MaxWait {
			return &invalid{fmt.Errorf("-wait is from 0s to %s", api.MaxWait)}
		}
		cfg, diags := configs.LoadAgent(*file)
		if err := refuse(cmd.ErrOrStderr(), diags); err != nil {
			return err
		}
		ctx, cancel := context.WithTimeoutCause(cmd.Context(), *limit, fmt.Errorf("it takes longer than %s; run it again", *limit))
		defer cancel()
		l := &leave{cfg: cfg, standard: *file == agentFile, force: *force, wait: *wait, out: cmd.OutOrStdout(), log: newLog(cmd.ErrOrStderr(), "warn", cfg.LogFormat)}
		return l.run(ctx)
	}
	return cmd
}

// leave takes a host out of its mesh. Every step can be done again.
type leave struct {
	cfg      *configs.Agent
	standard bool // it is the configuration of the unit
	force    bool
	wait     time.Duration
	out      io.Writer
	log      *slog.Logger
}

func (l *leave) run(ctx context.Context) error {
	node, td, err := agent.Member(l.cfg)
	switch {
	case err != nil && !l.force:
		return fmt.Errorf("%w; with -force the host leaves all the same", err)
	case err == nil && node == "":
		return &invalid{errors.New("this host has not joined a mesh, or has left it")}
	}
	asks := api.NewClient(api.ClientOptions{Address: "unix:" + agent.Socket(l.cfg), Agent: true})
	defer asks.Close()
	short, cancel := context.WithTimeout(ctx, leaveAskLimit)
	defer cancel()
	host, dead := asks.Host(short)
	if dead != nil && !l.force {
		return fmt.Errorf("%w; start it, so that it drains the host and tells the server; or leave with -force", dead)
	}
	unit, err := systemd.Look(ctx, agentUnit)
	managed := err == nil && unit.Load == "loaded" && (host.PID != 0 && host.PID == unit.MainPID || dead != nil && l.standard)
	if managed && os.Geteuid() != 0 {
		return &invalid{errors.New("the agent is a unit of systemd: run this as root")}
	}
	why := dead
	if dead == nil {
		left, err := asks.LeaveMesh(ctx, api.HostLeave{Wait: configs.Duration(l.wait), Force: l.force, End: !managed})
		if err != nil {
			return err
		}
		if !left.Told {
			why = errors.New(left.Error)
		}
		for _, d := range left.Drains {
			if d.State != api.DrainDone {
				fmt.Fprintf(l.out, "%s: %s\n", d.ServiceRef, drainState(d))
			}
		}
	}
	var restart []string
	if managed {
		restart, err = l.endUnits(ctx)
	} else {
		err = l.endProcesses(ctx)
	}
	if err == nil {
		err = agent.Forget(l.cfg)
	}
	if err != nil {
		return fmt.Errorf("%w; mend that and run this again", err)
	}
	fmt.Fprintf(l.out, "%s has left %s\n", node, td)
	if why != nil {
		fmt.Fprintf(l.out, "no server was told: %v\nsay on a server: wattle host remove %s\n", why, node)
	}
	if len(restart) > 0 {
		fmt.Fprintf(l.out, "these still run with what they had of the mesh: systemctl restart %s\n", strings.Join(restart, " "))
	}
	return nil
}

// endUnits ends what systemd runs, and returns which units of workloads have to be restarted.
func (l *leave) endUnits(ctx context.Context) ([]string, error) {
	a, err := units.New(units.Options{Log: l.log, Dir: l.cfg.RunDir, Drain: time.Duration(l.cfg.DrainTime)})
	if err != nil {
		return nil, err
	}
	if err := a.Dismiss(ctx); err != nil {
		l.log.Warn("units that drain workloads", "error", err)
	}
	ours := []string{agentUnit, "wattle-agent.socket"}
	if server, err := systemd.Look(ctx, "wattle-server.service"); err == nil && server.File != "enabled" && server.MainPID == 0 { // nothing else of the mesh is here
		ours = append(ours, "wattle.target")
	}
	if err := systemd.Disable(ctx, ours...); err != nil {
		return nil, err
	}
	for _, unit := range slices.Backward(ours) { // the agent after its socket, which would start it
		if err := systemd.Do(ctx, systemd.Stop, unit); err != nil {
			return nil, err
		}
	}
	// Before the Envoys end, to whom it leads.
	if err := (capture.Table{}).Remove(); err != nil && !errors.Is(err, os.ErrPermission) && !errors.Is(err, syscall.EOPNOTSUPP) {
		return nil, err
	}
	return a.Clear(ctx)
}

// endProcesses ends what an agent without systemd runs, when that has ended.
func (l *leave) endProcesses(ctx context.Context) error {
	for {
		running, err := agent.Running(l.cfg)
		if err != nil {
			return err
		}
		if !running {
			break
		}
		select {
		case <-time.After(endedAgain):
		case <-ctx.Done():
			return fmt.Errorf("the agent has not ended: %w", context.Cause(ctx))
		}
	}
	return process.New(process.Options{Log: l.log, Dir: l.cfg.RunDir, Drain: time.Duration(l.cfg.DrainTime)}).Clear(ctx)
}
