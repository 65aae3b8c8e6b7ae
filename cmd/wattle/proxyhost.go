package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/wattle-mesh/wattle/configs"
	"github.com/wattle-mesh/wattle/internal/admin"
	"github.com/wattle-mesh/wattle/internal/envoys"
	"github.com/wattle-mesh/wattle/internal/systemd"
)

// runDirFlags adds the flags that say where the Envoys of this host are, and returns their folder.
func runDirFlags(cmd *cobra.Command) func() string {
	dir := cmd.Flags().String("run-dir", "", "the agent's run_dir, a `FOLDER` (default that of its configuration, or /run/wattle)")
	file := cmd.Flags().String("config", agentFile, "the agent's configuration `FILE`")
	return func() string {
		if *dir != "" {
			return *dir
		}
		if cfg, _ := configs.LoadAgent(*file); cfg != nil {
			return cfg.RunDir
		}
		return "/run/wattle"
	}
}

// here finds the proxies of this host.
func here(runDir string) ([]envoys.Proxy, error) {
	all, err := envoys.Find(runDir)
	if errors.Is(err, os.ErrPermission) {
		return nil, fmt.Errorf("%w; the Envoys of this host are root's to look at: use sudo", err)
	}
	if err != nil {
		return nil, fmt.Errorf("%w; is this a host of the mesh? -run-dir says where its agent has its sockets", err)
	}
	return all, nil
}

// hereOf finds the proxy of that name.
func hereOf(runDir, name string) (envoys.Proxy, error) {
	all, err := here(runDir)
	if err != nil {
		return envoys.Proxy{}, err
	}
	var names []string
	for _, p := range all {
		if p.Name == name {
			return p, nil
		}
		names = append(names, p.Name)
	}
	has := "it has none"
	if len(names) > 0 {
		has = "it has " + strings.Join(names, ", ")
	}
	return envoys.Proxy{}, &invalid{fmt.Errorf("this host has no proxy %q; %s", name, has)}
}

func newProxyList() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the Envoys of this host, and how they are",
		Long: `List says of each Envoy of this host how its unit or process is, what the Envoy says of itself, and how many
connections it has. It asks the host, not the server; it needs root where Envoys are units of systemd.`,
		Args: args(cobra.NoArgs),
	}
	dir := runDirFlags(cmd)
	asJSON := cmd.Flags().Bool("json", false, "print JSON")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		all, err := here(dir())
		if err != nil {
			return err
		}
		states := []envoys.State{}
		for _, p := range all {
			states = append(states, p.Look(cmd.Context()))
		}
		w := cmd.OutOrStdout()
		if *asJSON {
			return printJSON(w, states)
		}
		rows := [][]string{{"PROXY", "STATE", "PID", "EPOCH", "ENVOY", "SINCE", "MEMORY", "CONNECTIONS"}}
		for _, s := range states {
			row := []string{s.Name, s.State, "-", "-", "-", "-", "-", "-"}
			if s.PID != 0 {
				row[2], row[6] = fmt.Sprint(s.PID), fmt.Sprintf("%d MB", s.Memory>>20)
			}
			if s.Version != "" {
				row[3], row[4], row[7] = fmt.Sprint(s.Epoch), s.Version, fmt.Sprint(s.Connections)
			}
			if !s.Since.IsZero() {
				row[5] = ago(s.Since)
			}
			rows = append(rows, row)
		}
		if err := table(w, rows); err != nil {
			return err
		}
		for _, s := range states {
			if s.Error != "" {
				fmt.Fprintf(w, "\n%s: %s\n", s.Name, s.Error)
			}
		}
		return nil
	}
	return cmd
}

func newProxyRestart() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "restart NAME",
		Short: "Restart an Envoy of this host",
		Long: `Restart has everybody leave the Envoy who is connected, ends it and starts it again: for a moment the host's workloads
can neither be called nor call. With -reload a new Envoy takes over from the old one, and nobody notices; systemd has
to run it. It needs root.`,
		Args: args(cobra.ExactArgs(1)),
	}
	dir := runDirFlags(cmd)
	reload := cmd.Flags().Bool("reload", false, "have a new Envoy take over instead (hot restart)")
	limit := cmd.Flags().Duration("timeout", 2*time.Minute, "how long it may take")
	cmd.RunE = func(cmd *cobra.Command, a []string) error {
		p, err := hereOf(dir(), a[0])
		if err != nil {
			return err
		}
		ctx, cancel := context.WithTimeoutCause(cmd.Context(), *limit, fmt.Errorf("it takes longer than %s", *limit))
		defer cancel()
		switch {
		case p.Unit == "" && *reload:
			return &invalid{errors.New("this Envoy is a process of the agent's, without hot restart; systemd can (wattle agent -adapter systemd)")}
		case p.Unit == "":
			err = restartProcess(ctx, p)
		case *reload:
			err = systemd.Do(ctx, systemd.Reload, p.Unit)
		default:
			err = systemd.Do(ctx, systemd.Restart, p.Unit)
		}
		if err != nil {
			return err
		}
		s := p.Look(ctx)
		fmt.Fprintf(cmd.OutOrStdout(), "%s: %s, process %d, epoch %d\n", s.Name, s.State, s.PID, s.Epoch)
		return nil
	}
	return cmd
}

// restartProcess drains and ends an Envoy that an agent keeps running, and waits for the next one.
func restartProcess(ctx context.Context, p envoys.Proxy) error {
	was := p.Look(ctx)
	if was.PID == 0 {
		return fmt.Errorf("no Envoy of %s runs; its agent starts one, see its log", p.Name)
	}
	client := admin.New(p.Admin)
	if err := client.Drain(ctx); err != nil {
		return fmt.Errorf("have it drain: %w", err)
	}
	leaving, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	if _, err := idle(leaving, client); err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err := unix.Kill(was.PID, unix.SIGTERM); err != nil {
		return fmt.Errorf("end process %d: %w", was.PID, err)
	}
	return until(ctx, func() bool {
		s := p.Look(ctx)
		return s.PID != 0 && s.PID != was.PID && strings.HasSuffix(s.State, admin.Live)
	})
}

// until waits for something.
func until(ctx context.Context, ok func() bool) error {
	tick := time.NewTicker(lookAgain)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// idle waits until nobody is connected to an Envoy or nothing is under way, and returns how many are connected then.
func idle(ctx context.Context, client *admin.Client) (connected int, err error) {
	var failed error
	quiet := 0
	err = until(ctx, func() bool {
		active := 0
		if connected, failed = client.Connections(ctx); failed == nil && connected > 0 {
			active, failed = client.Active(ctx)
		}
		if active > 0 {
			quiet = 0
		} else {
			quiet++
		}
		// Idle connections may carry a request again: they get two seconds to go.
		return failed != nil || connected == 0 || quiet > int(2*time.Second/lookAgain)
	})
	return connected, errors.Join(err, failed)
}

func newProxyDrain() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "drain NAME",
		Short: "Have those who are connected leave an Envoy of this host",
		Long: `Drain has the Envoy fail its health checks and tell everybody on HTTP connections to go, and waits until nothing is under
way. New connections are taken still: to have callers go elsewhere first, drain the host at the server. -undo takes it
back. With -close the Envoy also closes its listeners, once its drain time is over, which only wattle proxy restart
takes back. It needs root where Envoys are units of systemd.`,
		Args: args(cobra.ExactArgs(1)),
	}
	dir := runDirFlags(cmd)
	undo := cmd.Flags().Bool("undo", false, "take a drain back")
	closing := cmd.Flags().Bool("close", false, "close the listeners, too")
	limit := cmd.Flags().Duration("timeout", 30*time.Second, "how long to wait")
	cmd.MarkFlagsMutuallyExclusive("undo", "close")
	cmd.RunE = func(cmd *cobra.Command, a []string) error {
		p, err := hereOf(dir(), a[0])
		if err != nil {
			return err
		}
		client := admin.New(p.Admin)
		if *undo {
			if err := client.PassHealth(cmd.Context()); err != nil {
				return asksEnvoy(err)
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s takes requests as before\n", p.Name)
			return nil
		}
		err = client.FailHealth(cmd.Context())
		if err == nil && *closing {
			err = client.Drain(cmd.Context())
		}
		if err != nil {
			return asksEnvoy(err)
		}
		return awaitIdle(cmd.Context(), cmd.OutOrStdout(), p.Name, client, *limit)
	}
	return cmd
}

// awaitIdle waits for the end of a drain and says how it went.
func awaitIdle(ctx context.Context, w io.Writer, name string, client *admin.Client, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	connected, err := idle(ctx, client)
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("%s has %s yet after %s; it drains on", name, count(connected, "connection", "connections"), limit)
	case err != nil:
		return asksEnvoy(err)
	}
	fmt.Fprintf(w, "%s has drained: nothing is under way, %s\n", name, count(connected, "connection is idle", "connections are idle"))
	return nil
}

// asksEnvoy says why an Envoy's admin socket could not be used.
func asksEnvoy(err error) error {
	if errors.Is(err, os.ErrPermission) {
		return fmt.Errorf("%w; an Envoy's admin socket is its user's and root's: use sudo", err)
	}
	return fmt.Errorf("%w; does it run? wattle proxy list says so", err)
}
