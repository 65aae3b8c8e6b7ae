package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/wattle-mesh/wattle/internal/launch"
)

// newEnvoy holds what the unit wattle-envoy@.service runs; people have systemctl and wattle proxy.
func newEnvoy() *cobra.Command {
	cmd := &cobra.Command{
		Use:    "envoy",
		Short:  "What wattle-envoy@.service runs",
		Hidden: true,
	}
	dir := cmd.PersistentFlags().String("run-dir", "/run/wattle", "the agent's `DIR`")
	add := func(use, short string, do func(context.Context, launch.Unit, []string) error) {
		sub := &cobra.Command{Use: use, Short: short, Args: args(cobra.ExactArgs(strings.Count(use, " ")))}
		sub.RunE = func(cmd *cobra.Command, a []string) error {
			run := os.Getenv("RUNTIME_DIRECTORY")
			if run == "" {
				return &invalid{errors.New("systemd runs this: use systemctl start, reload or stop wattle-envoy@NAME")}
			}
			self, err := os.Executable()
			if err != nil {
				return err
			}
			again := func(command string) []string { return []string{"envoy", command, "--run-dir", *dir, a[0]} }
			return do(cmd.Context(), launch.Unit{
				Dir: filepath.Join(*dir, a[0]), Run: run, Self: self, Announcer: again("announce"), Successor: again("next"),
				Say: func(format string, args ...any) { fmt.Fprintf(cmd.OutOrStdout(), format+"\n", args...) },
			}, a[1:])
		}
		cmd.AddCommand(sub)
	}
	type unit = launch.Unit
	add("start NAME", "Become the Envoy of a proxy", func(ctx context.Context, u unit, _ []string) error { return u.Start(ctx) })
	add("announce NAME", "Tell systemd when the Envoy serves", func(ctx context.Context, u unit, _ []string) error { return u.Announce(ctx) })
	add("reload NAME", "Replace the Envoy without losing a request", func(ctx context.Context, u unit, _ []string) error { return u.Reload(ctx) })
	add("drain NAME", "Have all connections to the Envoy end", func(ctx context.Context, u unit, _ []string) error { return u.Drain(ctx) })
	add("next NAME EPOCH", "Become the Envoy that takes over", func(ctx context.Context, u unit, a []string) error {
		epoch, err := strconv.ParseUint(a[0], 10, 32)
		if err != nil {
			return &invalid{err}
		}
		return u.Next(ctx, uint32(epoch))
	})
	return cmd
}
