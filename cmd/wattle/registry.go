package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/wattle-mesh/wattle/configs"
	"github.com/wattle-mesh/wattle/internal/api"
	"github.com/wattle-mesh/wattle/registry"
)

func newRegistry() *cobra.Command {
	cmd := &cobra.Command{Use: "registry", Short: "Look at registries"}
	cmd.AddCommand(newRegistryStatus(), newRegistryCheck(), newRegistryAccept())
	return cmd
}

func newRegistryStatus() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "status [NAME]",
		Short: "Say how the server's registries are, and what of them is held",
		Long: `Status prints for each registry how it is, what is served of it, how long ago it said so (AGE), since when it cannot be
read (STALE), how often it was read anew, what is held of it and why, and all that is wrong with it. NAME narrows it
down to one. The states:

  synced    what it said last is served
  holding   likewise, and some endpoints that it no longer names, though they live
  stale     it, or a part of it, cannot be read; what it said last is served
  snapshot  it has said nothing since the server started; what it said before is served, from disk
  waiting   it has said nothing yet, and nothing of it is served`,
		Args: args(cobra.MaximumNArgs(1)),
	}
	client := readFlags(cmd)
	asJSON := cmd.Flags().Bool("json", false, "print JSON, the API's /v1/registries")
	cmd.RunE = func(cmd *cobra.Command, a []string) error {
		all, err := client().Registries(cmd.Context())
		if err != nil {
			return err
		}
		if len(a) == 1 {
			if all = slices.DeleteFunc(all, func(s registry.Status) bool { return s.Name != a[0] }); len(all) == 0 {
				return &invalid{fmt.Errorf("no registry %s; wattle registry status lists them", a[0])}
			}
		}
		w := cmd.OutOrStdout()
		if *asJSON {
			return printJSON(w, api.Registries{Registries: all})
		}
		return writeRegistries(w, all)
	}
	return cmd
}

// writeRegistries writes registries for a person: tables, then everything that is wrong.
func writeRegistries(w io.Writer, all []registry.Status) error {
	rows := [][]string{{"REGISTRY", "TYPE", "STATE", "SERVICES", "ENDPOINTS", "AGE", "STALE", "RESTARTS", "HELD", "ERROR"}}
	held := [][]string{{"REGISTRY", "SERVICE", "HELD", "SINCE", "UNTIL", "BECAUSE"}}
	var ds configs.Diagnostics
	for _, r := range all {
		n := 0
		for _, h := range r.Held {
			n += h.Endpoints
			held = append(held, []string{r.Name, h.Service.String(), fmt.Sprintf("%d of %d", h.Endpoints, h.Endpoints+h.Named),
				ago(h.Since), h.Until.Local().Format(time.TimeOnly), h.Reason})
		}
		rows = append(rows, []string{r.Name, dash(r.Type), string(r.State), fmt.Sprint(r.Services), fmt.Sprint(r.Endpoints), since(r.LastPublish),
			since(r.StaleSince), fmt.Sprint(r.Restarts), fmt.Sprint(n), dash(r.Error)})
		for _, d := range r.Diagnostics {
			ds = append(ds, located(d, r.Name))
		}
	}
	if err := table(w, rows); err != nil {
		return err
	}
	if len(held) > 1 {
		fmt.Fprintln(w)
		if err := table(w, held); err != nil {
			return err
		}
	}
	if len(ds) > 0 {
		fmt.Fprintln(w)
	}
	return ds.WriteText(w, colored(w))
}

// since says how long ago a time was, or nothing if there was none.
func since(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return ago(t)
}

func newRegistryAccept() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "accept NAME",
		Short: "Believe a registry that endpoints are gone",
		Long: `Accept has the server let go of all endpoints that it holds of the registry NAME: those that disappeared in a mass while
their agents said that they live. wattle registry status lists them.`,
		Args: args(cobra.ExactArgs(1)),
	}
	client := writeFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, a []string) error {
		n, err := client().Accept(cmd.Context(), a[0])
		if err != nil {
			return err
		}
		if n == 0 {
			fmt.Fprintf(cmd.OutOrStdout(), "%s: nothing was held\n", a[0])
			return nil
		}
		fmt.Fprintf(cmd.OutOrStdout(), "%s: %s held no longer\n", a[0], count(n, "endpoint is", "endpoints are"))
		return nil
	}
	return cmd
}

// checkPoll is how often wattle registry check looks whether the registries have answered.
const checkPoll = 20 * time.Millisecond

func newRegistryCheck() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "check [-config FILE] [NAME...]",
		Short: "Try the registries of a server's file",
		Long: `Check reads each registry of the server's file once, from here and without a server, and prints what it could read, how
long that took, and what is wrong with it. NAMEs narrow it down. It changes nothing. Exit code 1 says that a registry
could not be read within the timeout, 2 that the file is wrong. Entries that are faulty are printed, and are no failure.`,
		Args: args(cobra.ArbitraryArgs),
	}
	file := cmd.Flags().String("config", "/etc/wattle/server.hcl", "the server's configuration `FILE`")
	timeout := cmd.Flags().Duration("timeout", 10*time.Second, "how long a registry may take to answer")
	asJSON := cmd.Flags().Bool("json", false, "print JSON, as of wattle registry status")
	cmd.RunE = func(cmd *cobra.Command, a []string) error {
		if *timeout <= 0 {
			return &invalid{fmt.Errorf("-timeout %s: it has to be more than nothing", *timeout)}
		}
		cfg, diags := configs.LoadServer(*file)
		if err := refuse(cmd.ErrOrStderr(), diags); err != nil {
			return err
		}
		c := &check{timeout: *timeout, began: time.Now(), took: map[string]time.Duration{}}
		if err := c.open(cmd.ErrOrStderr(), cfg, filepath.Dir(*file), a); err != nil {
			return err
		}
		all, err := c.run(cmd.Context())
		if err != nil {
			return err
		}
		w := cmd.OutOrStdout()
		if *asJSON {
			err = printJSON(w, api.Registries{Registries: all})
		} else {
			err = c.write(w, all)
		}
		for _, s := range all {
			if !s.Synced && err == nil {
				err = errors.New("not all registries could be read")
			}
		}
		return err
	}
	return cmd
}

// check is one try of registries.
type check struct {
	timeout  time.Duration
	began    time.Time
	registry *registry.Aggregator
	took     map[string]time.Duration // by registry, until it answered or failed
}

// open makes the sources of the registries that are named; of all if none is.
func (c *check) open(stderr io.Writer, cfg *configs.Server, base string, names []string) error {
	for _, n := range names {
		if !slices.ContainsFunc(cfg.Registries, func(r configs.Registry) bool { return r.Name == n }) {
			return &invalid{fmt.Errorf("the file has no registry %s", n)}
		}
	}
	log := slog.New(slog.DiscardHandler)
	c.registry = registry.NewAggregator(registry.Options{Log: log})
	var entries []registry.Entry
	for _, r := range cfg.Registries {
		if len(names) > 0 && !slices.Contains(names, r.Name) {
			continue
		}
		s, diags := openRegistry(r, base, log, c.registry.Report)
		if err := refuse(stderr, diags); err != nil {
			return err
		}
		entries = append(entries, registry.Entry{Name: r.Name, Type: r.Type, Source: s})
	}
	return c.registry.Configure(entries)
}

// run reads until every registry has answered or failed, or the time is up.
func (c *check) run(ctx context.Context) ([]registry.Status, error) {
	run, stop := context.WithTimeout(ctx, c.timeout)
	defer stop()
	done := make(chan error, 1)
	go func() { done <- c.registry.Run(run) }()
	poll := time.NewTicker(checkPoll)
	defer poll.Stop()
	for run.Err() == nil && !c.answered() {
		select {
		case <-poll.C:
		case <-run.Done():
		}
	}
	stop()
	if err := errors.Join(<-done, ctx.Err()); err != nil {
		return nil, err
	}
	return c.registry.Status(), nil // after the end: what sources say of their sets comes after them
}

// answered reports whether every registry has answered or failed.
func (c *check) answered() bool {
	all := true
	for _, s := range c.registry.Status() {
		done := s.Synced || slices.ContainsFunc(s.Diagnostics, func(d registry.Diagnostic) bool { return d.Severity == registry.Error })
		if _, known := c.took[s.Name]; done && !known {
			c.took[s.Name] = time.Since(c.began)
		}
		all = all && done
	}
	return all
}

func (c *check) write(w io.Writer, all []registry.Status) error {
	rows := [][]string{{"REGISTRY", "TYPE", "RESULT", "SERVICES", "ENDPOINTS", "TOOK"}}
	var ds configs.Diagnostics
	for _, s := range all {
		result, took := "read", c.took[s.Name].Round(time.Millisecond).String()
		if !s.Synced {
			result = "NOT READ"
		}
		if _, answered := c.took[s.Name]; !answered {
			result, took = "NO ANSWER", c.timeout.String()
		}
		rows = append(rows, []string{s.Name, s.Type, result, fmt.Sprint(s.Services), fmt.Sprint(s.Endpoints), took})
		for _, d := range s.Diagnostics {
			ds = append(ds, located(d, s.Name))
		}
	}
	if err := table(w, rows); err != nil {
		return err
	}
	if len(ds) > 0 {
		fmt.Fprintln(w)
	}
	return ds.WriteText(w, colored(w))
}
