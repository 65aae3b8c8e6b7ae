package main

import (
	"fmt"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/wattle-mesh/wattle/internal/api"
)

func newStatus() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Say how the server is",
		Long:  `Status prints which revision is in force, what is wrong with the policy folder, and how registries and proxies are.`,
		Args:  args(cobra.NoArgs),
	}
	client := apiFlags(cmd)
	asJSON := cmd.Flags().Bool("json", false, "print JSON, the API's /v1/status")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		s, err := client().Status(cmd.Context())
		if err != nil {
			return err
		}
		if *asJSON {
			return printJSON(cmd.OutOrStdout(), s)
		}
		w := cmd.OutOrStdout()
		if err := table(w, statusRows(s)); err != nil {
			return err
		}
		if len(s.Registries) > 0 {
			fmt.Fprintln(w)
			if err := table(w, registryRows(s)); err != nil {
				return err
			}
		}
		if len(s.Diagnostics) > 0 {
			fmt.Fprintln(w)
			return s.Diagnostics.WriteText(w, colored(w))
		}
		return nil
	}
	return cmd
}

func statusRows(s api.Status) [][]string {
	state := "ready"
	switch {
	case !s.Ready:
		state = "not ready: it waits for its registries, or for a first valid policy"
	case s.Rejected:
		state = "ready, but the policy folder was REJECTED; the last good policy is in force"
	}
	revision := fmt.Sprintf("%d of %s", s.Revision, filepath.Clean(s.Policy))
	if !s.Changed.IsZero() {
		revision += ", changed " + ago(s.Changed)
	}
	p := s.Proxies
	proxies := fmt.Sprintf("%d known, %d connected, %d synced", p.Known, p.Connected, p.Synced)
	if p.Nacked > 0 {
		proxies += fmt.Sprintf(", %d REFUSE something (wattle proxy status)", p.Nacked)
	}
	return [][]string{
		{"server", state},
		{"version", s.Version},
		{"trust domain", s.TrustDomain},
		{"revision", revision},
		{"proxies", proxies},
		{"nodes", fmt.Sprint(s.Nodes)},
	}
}

func registryRows(s api.Status) [][]string {
	rows := [][]string{{"REGISTRY", "STATE", "SERVICES", "ENDPOINTS", "CHANGED", "ERROR"}}
	for _, r := range s.Registries {
		state, changed := "waiting", "-"
		if r.Synced {
			state, changed = "synced", ago(r.LastPublish)
		}
		if r.Error != "" && r.Synced {
			state = "stale"
		}
		rows = append(rows, []string{r.Name, state, fmt.Sprint(r.Services), fmt.Sprint(r.Endpoints), changed, dash(r.Error)})
	}
	return rows
}
