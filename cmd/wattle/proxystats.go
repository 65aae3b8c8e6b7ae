package main

import (
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/wattle-mesh/wattle/internal/admin"
)

func newProxyStats() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "stats NAME",
		Short: "Say what an Envoy of this host has carried",
		Long: `Stats prints what an Envoy of this host counted since it started, by workload and upstream: "in/shop/web:8080" is what
others asked of the workload, "out/shop/web/db.shop:5432" what the workload asked of an upstream, and an upstream's own
row says how its endpoints are. -filter picks by a regular expression of Envoy's names. With it, and with -json, counters are printed
as Envoy names them. It needs root where Envoys are units of systemd.`,
		Args: args(cobra.ExactArgs(1)),
	}
	dir := runDirFlags(cmd)
	filter := cmd.Flags().String("filter", "", "only counters whose names match, a `REGEXP`")
	asJSON := cmd.Flags().Bool("json", false, "print JSON")
	cmd.RunE = func(cmd *cobra.Command, a []string) error {
		if _, err := regexp.Compile(*filter); err != nil {
			return &invalid{fmt.Errorf("-filter: %w", err)}
		}
		p, err := hereOf(dir(), a[0])
		if err != nil {
			return err
		}
		all, err := admin.New(p.Admin).Stats(cmd.Context(), *filter)
		if err != nil {
			return asksEnvoy(err)
		}
		w := cmd.OutOrStdout()
		if *asJSON {
			if all == nil {
				all = []admin.Stat{}
			}
			return printJSON(w, all)
		}
		if *filter != "" {
			rows := [][]string{{"COUNTER", "VALUE"}}
			for _, s := range all {
				rows = append(rows, []string{s.Name, fmt.Sprint(s.Value)})
			}
			return table(w, rows)
		}
		return writeStats(w, all)
	}
	return cmd
}

// tally is what was counted of one thing, by the ends of the counters' names.
type tally map[string]uint64

// carriedBy gathers counters by what they are of: "http.in/shop/web_8080.downstream_rq_total" is of "in/shop/web:8080". Envoy
// writes "_" for ":" in these names.
func carriedBy(all []admin.Stat) (listeners, upstreams map[string]tally) {
	listeners, upstreams = map[string]tally{}, map[string]tally{}
	for _, s := range all {
		kind, rest, _ := strings.Cut(s.Name, ".")
		var into map[string]tally
		at := -1
		switch kind {
		case "http", "tcp":
			into, at = listeners, strings.LastIndex(rest, ".downstream_")
		case "cluster":
			into = upstreams
			for _, part := range []string{".upstream_", ".membership_", ".outlier_detection."} {
				if at = strings.LastIndex(rest, part); at >= 0 {
					break
				}
			}
		}
		if at < 0 || rest[:at] == "admin" || twice.MatchString(rest[:at]) {
			continue
		}
		name := withPort(rest[:at])
		if kind == "cluster" && !strings.Contains(name, ":") {
			continue // Envoy's way to its agent, and the one that fetches certificates
		}
		if into[name] == nil {
			into[name] = tally{"kind_" + kind: 1}
		}
		into[name][rest[at+1:]] += s.Value
	}
	return listeners, upstreams
}

// twice are the ends of names of counters that count again what others do.
var twice = regexp.MustCompile(`\.(external|internal|canary)$`)

var portAtEnd = regexp.MustCompile(`_(\d+)(\||$)`)

// withPort undoes what Envoy did to the colon before a port.
func withPort(name string) string { return portAtEnd.ReplaceAllString(name, ":$1$2") }

func writeStats(w io.Writer, all []admin.Stat) error {
	listeners, upstreams := carriedBy(all)
	n := func(t tally, key string) string { return fmt.Sprint(t[key]) }
	rows := [][]string{{"TAKEN BY", "KIND", "REQUESTS", "4XX", "5XX", "RESET", "ACTIVE", "CONNECTIONS"}}
	for _, name := range slices.Sorted(maps.Keys(listeners)) {
		t := listeners[name]
		if t["kind_tcp"] > 0 {
			rows = append(rows, []string{name, "tcp", "-", "-", "-", "-", n(t, "downstream_cx_active"), n(t, "downstream_cx_total")})
			continue
		}
		rows = append(rows, []string{name, "http", n(t, "downstream_rq_total"), n(t, "downstream_rq_4xx"), n(t, "downstream_rq_5xx"),
			n(t, "downstream_rq_rx_reset"), n(t, "downstream_rq_active"), n(t, "downstream_cx_total")})
	}
	if len(rows) > 1 {
		if err := table(w, rows); err != nil {
			return err
		}
	}
	rows = [][]string{{"SENT TO", "REQUESTS", "5XX", "TIMEOUTS", "RETRIES", "ACTIVE", "CONNECTIONS", "FAILED", "HEALTHY"}}
	for _, name := range slices.Sorted(maps.Keys(upstreams)) {
		t := upstreams[name]
		rows = append(rows, []string{name, n(t, "upstream_rq_total"), n(t, "upstream_rq_5xx"), n(t, "upstream_rq_timeout"), n(t, "upstream_rq_retry"),
			n(t, "upstream_rq_active"), n(t, "upstream_cx_total"), n(t, "upstream_cx_connect_fail"),
			fmt.Sprintf("%d/%d", t["membership_healthy"], t["membership_total"])})
	}
	if len(rows) > 1 {
		fmt.Fprintln(w)
		return table(w, rows)
	}
	if len(listeners) == 0 {
		fmt.Fprintln(w, "it has carried nothing yet")
	}
	return nil
}
