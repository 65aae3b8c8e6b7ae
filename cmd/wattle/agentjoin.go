package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/wattle-mesh/wattle/configs"
	"github.com/wattle-mesh/wattle/internal/agent"
)

func newAgentJoin() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "join -server HOST:7501 -token-file FILE",
		Short: "Make this host a member of the mesh",
		Long: `Join trades a token of wattle token create for the host's certificate, once, and writes the servers into the agent's
configuration file. The token says which server to believe: it holds the hash of the CA's key. The host's own key is made
here and stays here. After that start the agent; the token file is of no use any more. A host that is a member has to leave
first, wattle agent leave.`,
		Args: args(cobra.NoArgs),
	}
	file := cmd.Flags().String("config", agentFile, "the agent's configuration `FILE`")
	servers := cmd.Flags().StringSlice("server", nil, "the servers, `HOST:PORT`, separated by commas (default those of the configuration)")
	token := cmd.Flags().String("token-file", "", "the `FILE` with the join token (default that of the configuration)")
	limit := cmd.Flags().Duration("timeout", 30*time.Second, "how long to try")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		text, err := os.ReadFile(*file)
		if err != nil {
			return err
		}
		if cfg, diags := configs.LoadAgent(*file); !diags.HasErrors() {
			if node, td, err := agent.Member(cfg); err == nil && node != "" {
				return &invalid{agent.Joined(node, td)}
			}
		}
		if len(*servers) > 0 {
			next, err := configs.WithServers(text, *servers)
			if err != nil {
				return &invalid{err}
			}
			if err := replaceFile(*file, next); err != nil {
				return err
			}
		}
		cfg, diags := configs.LoadAgent(*file)
		if err := refuse(cmd.ErrOrStderr(), diags); err != nil {
			return errors.Join(err, replaceFile(*file, text))
		}
		if *token != "" {
			cfg.Token, cfg.TokenFile = "", *token
		}
		now, err := clock()
		if err != nil {
			return err
		}
		a, err := agent.New(agent.Options{Config: cfg, Now: now, Log: newLog(cmd.ErrOrStderr(), cfg.LogLevel, cfg.LogFormat)})
		if err != nil {
			return err
		}
		ctx, cancel := context.WithTimeoutCause(cmd.Context(), *limit, fmt.Errorf("no server has answered within %s", *limit))
		defer cancel()
		name, err := a.Join(ctx)
		switch {
		case errors.Is(err, agent.ErrNotJoined), errors.Is(err, agent.ErrJoined):
			return &invalid{err}
		case err != nil && ctx.Err() != nil:
			return context.Cause(ctx)
		case err != nil:
			return err
		}
		fmt.Fprintf(cmd.OutOrStdout(), "%s is a member of the mesh; start its agent: systemctl enable --now wattle.target wattle-agent\n", name)
		return nil
	}
	return cmd
}

// replaceFile replaces a file's text, whole or not at all, and keeps its mode and owner, unless it is that text already.
func replaceFile(path string, text []byte) error {
	old, err := os.ReadFile(path)
	if err != nil || bytes.Equal(old, text) {
		return err
	}
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real
	}
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-")
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	if of, ok := info.Sys().(*syscall.Stat_t); ok {
		err = errors.Join(err, f.Chown(int(of.Uid), int(of.Gid)))
	}
	err = errors.Join(err, f.Chmod(info.Mode().Perm()), f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}
