package main

import (
	"errors"
	"fmt"
	"log/slog"
	"os"

	"github.com/spf13/cobra"

	units "github.com/wattle-mesh/wattle/adapters/systemd"
	"github.com/wattle-mesh/wattle/configs"
	"github.com/wattle-mesh/wattle/internal/agent"
	"github.com/wattle-mesh/wattle/internal/capture"
	"github.com/wattle-mesh/wattle/internal/systemd"
)

func newCapture() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "capture",
		Short: "Take back what leads workloads' connections to proxies",
		Args:  args(cobra.NoArgs),
	}
	cmd.AddCommand(&cobra.Command{
		Use:   "remove",
		Short: "Remove the host's rules of capture and guard",
		Long: `Remove removes the table "inet wattle" of nftables: from then on what workloads send goes where they send it, and nothing is
guarded. An agent that runs makes the table again; stop it first, or say guard = false and capture nothing.`,
		Args: args(cobra.NoArgs),
		RunE: func(*cobra.Command, []string) error {
			err := capture.Table{}.Remove()
			if errors.Is(err, os.ErrPermission) {
				return &invalid{fmt.Errorf("%w; run it as root", err)}
			}
			return err
		},
	})
	return cmd
}

// newHostCapture says what an agent may do to this host to capture and guard workloads.
func newHostCapture(log *slog.Logger, cfg *configs.Agent, a *units.Adapter) *agent.Capture {
	c := &agent.Capture{
		Guard: cfg.Guard, Proxies: a.Group(), Service: systemd.Units{}.Service, Follow: systemd.Follow, User: systemd.User, DropIn: a.DropIn,
	}
	if _, err := (capture.Table{}).Has(capture.Rules{}); err != nil {
		c.Denied = err
	} else {
		c.Table = capture.Table{}
	}
	if h, err := capture.Groups(); err == nil {
		c.Group = h.Find
	}
	for _, name := range cfg.GuardAllow {
		uid, err := systemd.User(name)
		if err != nil {
			log.Error("a user in guard_allow is not let in", "error", err)
			continue
		}
		c.Allow = append(c.Allow, uid)
	}
	return c
}
