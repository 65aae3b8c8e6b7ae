package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/wattle-mesh/wattle/internal/admin"
	"github.com/wattle-mesh/wattle/internal/doctor"
	"github.com/wattle-mesh/wattle/internal/envoys"
	"github.com/wattle-mesh/wattle/internal/launch"
	"github.com/wattle-mesh/wattle/internal/systemd"
)

func newProxyUpgrade() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "upgrade {NAME... | -host}",
		Short: "Have Envoys of this host go over to another binary",
		Long: `Upgrade has Envoys of this host, or with -host all of them, go over to the Envoy that is installed now, or to the one in
the file that -envoy names, which it puts in its place. They go in waves, each by hot restart, so that no request is lost. A wave is
watched for a while before the next: an Envoy that does not serve, ends, lacks listeners of the one before, or answers far more
requests with 5xx fails it. Then the binary of before is put back, all that went over go back to it, and the exit code is 1.

An Envoy that the policy names by a path of its own (envoy { version, path }) is put in that path's place; one of another
hot restart version cannot take over, which is said before anything is done. systemd has to run the Envoys. It needs root.`,
	}
	dir := runDirFlags(cmd)
	host := cmd.Flags().Bool("host", false, "all Envoys of this host")
	from := cmd.Flags().String("envoy", "", "the `FILE` of the new Envoy (default the one that is installed)")
	wave := cmd.Flags().Int("wave", 1, "how many Envoys at a time")
	soak := cmd.Flags().Duration("soak", 10*time.Second, "how long a wave is watched before the next")
	cmd.RunE = func(cmd *cobra.Command, names []string) error {
		if *host == (len(names) > 0) {
			return &invalid{errors.New("say which Envoys: their names, or -host for all of this host; wattle proxy list lists them")}
		}
		if *wave < 1 || *soak < 0 {
			return &invalid{errors.New("a wave is one Envoy at least, and -soak not negative")}
		}
		all, err := here(dir())
		if err == nil && !*host {
			all = all[:0]
			for _, name := range names {
				p, e := hereOf(dir(), name)
				all, err = append(all, p), errors.Join(err, e)
			}
		}
		if err != nil {
			return err
		}
		binary, err := upgradable(cmd.Context(), dir(), all, *from)
		if err != nil {
			return err
		}
		w := cmd.OutOrStdout()
		n, err := envoys.Upgrade{
			Binary: binary, From: *from, Wave: *wave, Soak: *soak,
			Reload: func(ctx context.Context, p envoys.Proxy) error { return systemd.Do(ctx, systemd.Reload, p.Unit) },
			Look:   func(ctx context.Context, p envoys.Proxy) envoys.Health { return p.Examine(ctx) },
			Say:    func(format string, a ...any) { fmt.Fprintf(w, format+"\n", a...) },
		}.Run(cmd.Context(), all)
		if err != nil {
			return err
		}
		fmt.Fprintf(w, "%s went over\n", count(n, "Envoy", "Envoys"))
		return nil
	}
	return cmd
}

// upgradable returns the file that these Envoys start from, or why they cannot go over to the one in from.
func upgradable(ctx context.Context, runDir string, all []envoys.Proxy, from string) (binary string, err error) {
	if len(all) == 0 {
		return "", errors.New("this host has no Envoys")
	}
	for _, p := range all {
		if p.Unit == "" {
			return "", &invalid{fmt.Errorf("%s is a process of the agent's, without hot restart; systemd can (wattle agent -adapter systemd)", p.Name)}
		}
		spec, err := launch.Read(filepath.Join(runDir, p.Name))
		if err != nil {
			return "", err
		}
		if binary != "" && spec.Envoy != binary {
			return "", &invalid{fmt.Errorf("%s starts from %s, others from %s: upgrade them apart", p.Name, spec.Envoy, binary)}
		}
		binary = spec.Envoy
	}
	next := cmp.Or(from, binary)
	switch e := doctor.LookAt(ctx, next); {
	case e.Err != nil:
		return "", &invalid{e.Err}
	case e.Release == "":
		return "", &invalid{fmt.Errorf("%s is no Envoy that runs on this host; it needs glibc %s, wattle doctor says what the host has", next, e.Needs)}
	}
	will, err := launch.HotVersion(ctx, next)
	if err != nil {
		return "", err
	}
	for _, p := range all {
		is, err := admin.New(p.Admin).HotRestartVersion(ctx)
		if err != nil {
			return "", asksEnvoy(err)
		}
		if !strings.EqualFold(is, will) {
			return "", fmt.Errorf("%s cannot take over from %s by hot restart (version %s, not %s): install it, drain the host at the server (wattle host drain), then wattle proxy restart %s", next, p.Name, will, is, p.Name)
		}
	}
	return binary, nil
}
