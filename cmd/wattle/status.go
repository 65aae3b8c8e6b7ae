package main

import (
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/wattle-mesh/wattle/configs"
	"github.com/wattle-mesh/wattle/internal/api"
	"github.com/wattle-mesh/wattle/registry"
)

func newStatus() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Say how the server is",
		Long: `Status prints which revision is in force, how registries, proxies and nodes are, and all that is wrong with the
policy folder, with what registries say and with what agents register.`,
		Args: args(cobra.NoArgs),
	}
	client := readFlags(cmd)
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
		return writeStatus(w, s, colored(w))
	}
	return cmd
}

// writeStatus writes a status for a person: tables, then everything that is wrong, in full.
func writeStatus(w io.Writer, s api.Status, color bool) error {
	if err := table(w, statusRows(s)); err != nil {
		return err
	}
	if len(s.Registries) > 0 {
		fmt.Fprintln(w)
		if err := table(w, registryRows(s)); err != nil {
			return err
		}
	}
	ds := allDiagnostics(s)
	if len(ds)+len(s.Refused)+len(s.Alarms)+len(s.Drains) > 0 {
		fmt.Fprintln(w)
	}
	if err := ds.WriteText(w, color); err != nil {
		return err
	}
	for _, r := range s.Refused {
		fmt.Fprintln(w, refusalLine(r))
	}
	for _, a := range s.Alarms {
		fmt.Fprintln(w, alarmLine(a))
	}
	for _, line := range drainLines(s.Drains) {
		fmt.Fprintln(w, line)
	}
	return nil
}

// drainLines say what takes no new requests, and why.
func drainLines(all []api.NodeDrains) []string {
	var out []string
	for _, n := range all {
		if n.Drain != nil && len(n.Drains) == 0 {
			out = append(out, fmt.Sprintf("host %s: in maintenance since %s", n.Node, ago(n.Drain.Since)))
		}
		for _, d := range n.Drains {
			out = append(out, fmt.Sprintf("host %s: %s drains, %s: %s", n.Node, d.ServiceRef, drainState(d), d.Reason))
		}
	}
	return out
}

// allDiagnostics returns those of the server's own file, then those of the policy, then those of the registries.
func allDiagnostics(s api.Status) configs.Diagnostics {
	ds := slices.Concat(s.ServerFile, s.Diagnostics)
	for _, r := range s.Registries {
		for _, d := range r.Diagnostics {
			ds = append(ds, located(d, r.Name))
		}
	}
	return ds
}

// located is a registry's diagnostic in the form of a policy's.
func located(d registry.Diagnostic, name string) configs.Diagnostic {
	e := d.Excerpt
	out := configs.Diagnostic{Severity: configs.Severity(d.Severity), Code: d.Code, Summary: d.Summary, Detail: d.Detail,
		File: d.Origin, Context: fmt.Sprintf("registry %q", name)}
	if d.Origin == "" {
		out.File, out.Context = out.Context, ""
	}
	if e.Text == "" {
		return out
	}
	out.Line, out.Column, out.Length, out.Snippet, out.SnippetColumn = e.Line, e.Column, e.Length, e.Text, e.TextColumn
	out.File = strings.TrimSuffix(d.Origin, strings.TrimPrefix(out.Origin(), out.File))
	return out
}

// refusalLine says what is refused of a node's registrations, and why.
func refusalLine(r api.Refusal) string {
	what := r.Namespace + "/" + r.Service
	if r.Instance != "" {
		what += "/" + r.Instance
	}
	return fmt.Sprintf("%s: the registration of %s does not count: %s", r.Origin, what, r.Reason)
}

// alarmLine says what a person has to mend, and where.
func alarmLine(a api.Alarm) string {
	where := "host " + a.Node
	if a.Node == "" {
		where = "this server"
	}
	return fmt.Sprintf("ALARM %s, %s: %s", a.Name, where, a.Text)
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
	catalog := count(s.Services, "service", "services") + ", " + count(s.Endpoints, "endpoint", "endpoints")
	if s.Unreported > 0 {
		catalog += fmt.Sprintf(", %d of them not reported by their agents yet", s.Unreported)
	}
	nodes := fmt.Sprint(s.Nodes)
	if n := len(s.Refused); n > 0 {
		nodes += fmt.Sprintf(", %s REFUSED", count(n, "registration", "registrations"))
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
		{"catalog", catalog},
		{"proxies", proxies},
		{"nodes", nodes},
	}
}

func registryRows(s api.Status) [][]string {
	rows := [][]string{{"REGISTRY", "STATE", "SERVICES", "ENDPOINTS", "PUBLISHED", "ERROR"}}
	for _, r := range s.Registries {
		state, published := string(r.State), "-"
		if !r.LastPublish.IsZero() {
			published = ago(r.LastPublish)
		}
		state += faults(r.Diagnostics)
		rows = append(rows, []string{r.Name, state, fmt.Sprint(r.Services), fmt.Sprint(r.Endpoints), published, dash(r.Error)})
	}
	return rows
}

// faults says how many errors and warnings there are: ", 2 errors, 1 warning".
func faults(ds []registry.Diagnostic) string {
	errors, warnings, out := 0, 0, ""
	for _, d := range ds {
		if d.Severity == registry.Error {
			errors++
		} else {
			warnings++
		}
	}
	if errors > 0 {
		out += ", " + count(errors, "error", "errors")
	}
	if warnings > 0 {
		out += ", " + count(warnings, "warning", "warnings")
	}
	return out
}
