package main

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/wattle-mesh/wattle/configs"
	"github.com/wattle-mesh/wattle/internal/dns"
	"github.com/wattle-mesh/wattle/internal/systemd"
)

// firstViews is how long the resolver's unit, and what is ordered after it, waits for the agent to say what to answer.
const firstViews = 5 * time.Second

// newDNS is what the unit wattle-dns.service runs.
func newDNS() *cobra.Command {
	cmd := &cobra.Command{
		Use:    "dns DIR",
		Short:  "What wattle-dns.service runs: answer captured workloads' questions",
		Hidden: true,
		Args:   args(cobra.ExactArgs(1)),
	}
	cmd.RunE = func(cmd *cobra.Command, a []string) error {
		log := newLog(cmd.OutOrStdout(), "info", "text")
		ready := sync.OnceFunc(func() { tell(log, systemd.Ready) })
		r := dns.New(dns.Options{
			Log: log, Resolvers: []string{"/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"},
			Say: func(s string) { tell(log, systemd.Status("%s", s)) },
		})
		g, ctx := errgroup.WithContext(cmd.Context())
		g.Go(func() error { return r.Run(ctx) })
		g.Go(func() error {
			return configs.WatchFile(ctx, filepath.Join(a[0], dns.File), func() {
				text, err := os.ReadFile(filepath.Join(a[0], dns.File))
				if errors.Is(err, fs.ErrNotExist) {
					return // what was answered is answered on
				}
				var c dns.Config
				if err == nil {
					c, err = dns.Parse(text)
				}
				if err != nil {
					log.Error("what is to be answered cannot all be read", "error", err)
				}
				if err == nil || len(c.Views) > 0 {
					r.Set(ctx, c)
					ready()
				}
			})
		})
		g.Go(func() error {
			select {
			case <-time.After(firstViews):
				ready()
			case <-ctx.Done():
			}
			return nil
		})
		if err := g.Wait(); err != nil && !errors.Is(err, context.Canceled) {
			return err
		}
		return nil
	}
	return cmd
}
