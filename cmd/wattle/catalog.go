package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"net/url"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/wattle-mesh/wattle/internal/api"
	"github.com/wattle-mesh/wattle/registry"
)

func newCatalog() *cobra.Command {
	cmd := &cobra.Command{Use: "catalog", Short: "Look at what all registries say together"}
	cmd.AddCommand(newCatalogList(), newCatalogDescribe(), newCatalogExport(), newCatalogSchema())
	return cmd
}

func newCatalogList() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "list [PREFIX]",
		Short: "List the services of all registries",
		Long: `List prints each service of the catalog in force: its ports, the registries that know it and how many endpoints each of
them names (the one whose word holds first), how many of the endpoints are healthy, how many are called over mTLS (MESH) and at
their own addresses (PLAINTEXT), are left out, or are held though their registry no longer names them, and how many proxies have
calls that can reach the service. PREFIX narrows it down to services whose names begin so. wattle catalog describe
says more of one.

With -watch it then prints a line for each thing that changes, until it is interrupted, and connects again when
the server is restarted; with -json each is a JSON object on a line of its own, and there is no list before.`,
		Args: args(cobra.MaximumNArgs(1)),
	}
	client := readFlags(cmd)
	namespace := cmd.Flags().String("namespace", "", "only services of this `NAMESPACE`")
	source := cmd.Flags().String("registry", "", "only services that the registry `NAME` knows, and with -watch only endpoints that it names")
	unhealthy := cmd.Flags().Bool("unhealthy", false, "only services with an endpoint that is not healthy")
	asJSON := cmd.Flags().Bool("json", false, "print JSON, the API's /v1/catalog/services")
	watch := cmd.Flags().Bool("watch", false, "go on with what changes")
	cmd.RunE = func(cmd *cobra.Command, a []string) error {
		if *watch && *unhealthy {
			return &invalid{errors.New("-unhealthy picks what there is now; it does not go with -watch")}
		}
		query := url.Values{}
		set := func(key, value string) {
			if value != "" {
				query.Set(key, value)
			}
		}
		set("namespace", *namespace)
		if len(a) == 1 {
			set("prefix", a[0])
		}
		c := client()
		defer c.Close()
		if *watch && *asJSON {
			return watchCatalog(cmd, c, query, *source, true)
		}
		scope := maps.Clone(query)
		set("registry", *source)
		if *unhealthy {
			set("unhealthy", "true")
		}
		all, err := c.CatalogServices(cmd.Context(), query)
		if err != nil {
			return err
		}
		if *asJSON {
			return printJSON(cmd.OutOrStdout(), api.CatalogServices{Services: all})
		}
		if err := table(cmd.OutOrStdout(), serviceRows(all)); err != nil || !*watch {
			return err
		}
		return watchCatalog(cmd, c, scope, *source, false)
	}
	return cmd
}

func serviceRows(all []api.CatalogService) [][]string {
	rows := [][]string{{"SERVICE", "PORTS", "SOURCES", "HEALTHY", "MESH", "PLAINTEXT", "LEFT OUT", "HELD", "PROXIES"}}
	for _, s := range all {
		var sources []string
		for _, c := range s.Sources {
			sources = append(sources, fmt.Sprintf("%s:%d", c.Registry, c.Endpoints))
		}
		rows = append(rows, []string{s.Name.String(), ports(s.Ports), dash(strings.Join(sources, ",")), fmt.Sprintf("%d/%d", s.Healthy, s.Endpoints),
			fmt.Sprint(s.Mesh), fmt.Sprint(s.Plaintext), fmt.Sprint(s.LeftOut), fmt.Sprint(s.Held), fmt.Sprint(s.Proxies)})
	}
	return rows
}

func ports(all []registry.Port) string {
	out := make([]string, len(all))
	for i, p := range all {
		out[i] = strings.TrimSuffix(fmt.Sprintf("%d/%s", p.Number, p.Protocol), "/")
	}
	return dash(strings.Join(out, ","))
}

func newCatalogDescribe() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "describe SERVICE",
		Short: "Say why each endpoint of a service is used, or is not",
		Long: `Describe prints each endpoint of SERVICE, "reviews" or "shop/reviews": the registries that name it (SOURCES, the one whose
word holds first), how long it is in the catalog (SINCE, at most as long as the server runs), its health and how long it is so,
how it is called, and whether proxies send requests there (TAKEN). Below stand what each registry and the endpoint's agent say of its
health, why it is called that way or not at all, and who holds it. The paths:

  mesh       over mTLS, at the mesh port of a workload of a host
  plaintext  at its own address: it is outside the mesh
  left out   nobody calls it

With -watch it then prints a line for each thing that changes, until it is interrupted, and connects again when
the server is restarted; with -json each is a JSON object on a line of its own, and there is no description before.
What include and exclude of a registry's block leave out is not in the catalog.`,
		Args: args(cobra.ExactArgs(1)),
	}
	client := readFlags(cmd)
	asJSON := cmd.Flags().Bool("json", false, "print JSON, the API's /v1/catalog/NAMESPACE/NAME")
	watch := cmd.Flags().Bool("watch", false, "go on with what changes")
	cmd.RunE = func(cmd *cobra.Command, a []string) error {
		name, err := serviceName(a[0])
		if err != nil {
			return err
		}
		c := client()
		defer c.Close()
		if !*watch || !*asJSON {
			d, err := c.Describe(cmd.Context(), name)
			switch {
			case err != nil:
				return err
			case *asJSON:
				return printJSON(cmd.OutOrStdout(), d)
			}
			if err := writeDescribed(cmd.OutOrStdout(), d); err != nil || !*watch {
				return err
			}
			fmt.Fprintln(cmd.OutOrStdout())
		}
		return watchCatalog(cmd, c, url.Values{"namespace": {name.Namespace}, "name": {name.Name}}, "", *asJSON)
	}
	return cmd
}

// serviceName reads "reviews" or "shop/reviews".
func serviceName(text string) (registry.Name, error) {
	namespace, name, ok := strings.Cut(text, "/")
	if !ok {
		namespace, name = "default", text
	}
	if namespace == "" || name == "" || strings.Contains(name, "/") {
		return registry.Name{}, &invalid{fmt.Errorf("%q is no service; write reviews, or shop/reviews for that of the namespace shop", text)}
	}
	return registry.Name{Namespace: namespace, Name: name}, nil
}

// maxProxiesShown bounds how many proxies a person is shown.
const maxProxiesShown = 10

// writeDescribed writes a service for a person: tables, then the reasons.
func writeDescribed(w io.Writer, d api.DescribedService) error {
	proxies := count(len(d.Proxies), "proxy", "proxies")
	if n := len(d.Proxies); n > maxProxiesShown {
		proxies += ": " + strings.Join(d.Proxies[:maxProxiesShown], ", ") + ", ..."
	} else if n > 0 {
		proxies += ": " + strings.Join(d.Proxies, ", ")
	}
	rows := [][]string{
		{"service", d.Name.String()}, {"ports", ports(d.Ports)}, {"sources", dash(strings.Join(d.Sources, ", "))},
		{"origin", dash(d.Origin)}, {"healthy if", string(d.HealthyIf)}, {"used by", proxies},
	}
	if err := table(w, rows); err != nil || len(d.Endpoints) == 0 {
		return err
	}
	fmt.Fprintln(w)
	rows = [][]string{{"ENDPOINT", "FOR", "SOURCES", "SINCE", "HEALTH", "PATH", "AT", "WEIGHT", "PRIORITY", "TAKEN"}}
	for _, e := range d.Endpoints {
		at, used := "-", "yes"
		if e.At.IsValid() {
			at = e.At.String()
		}
		if !e.Taken {
			used = "no: " + e.Idle
		}
		rows = append(rows, []string{place(e), fmt.Sprint(e.ServicePort), dash(strings.Join(e.Sources, ",")), since(e.Since),
			fmt.Sprintf("%s, %s", e.Health, since(e.HealthSince)), string(e.Path), at, fmt.Sprint(e.Weight), priorityText(e.Priority), used})
	}
	if err := table(w, rows); err != nil {
		return err
	}
	for _, e := range d.Endpoints {
		writeReasons(w, e)
	}
	return nil
}

// writeReasons writes what stands behind a row.
func writeReasons(w io.Writer, e api.DescribedEndpoint) {
	why := e.Why
	if e.Code != "" {
		why += fmt.Sprintf(" (%s)", e.Code)
	}
	fmt.Fprintf(w, "\n%s\n  %s: %s\n", place(e), e.Path, why)
	if e.Workload != "" {
		fmt.Fprintf(w, "  workload: %s\n", e.Workload)
	}
	for _, word := range e.Words {
		who := strings.TrimSpace(string(word.Voice) + " " + word.Source)
		line := fmt.Sprintf("  %s says %s", who, word.Health)
		if word.Reason != "" {
			line += ": " + word.Reason
		}
		fmt.Fprintln(w, line)
	}
	if h := e.Held; h != nil {
		fmt.Fprintf(w, "  held of %s since %s, at most until %s: %s\n", h.Registry, ago(h.Since), h.Until.Local().Format("15:04:05"), h.Reason)
	}
	if at := location(e.Locality); at != "" {
		fmt.Fprintf(w, "  locality: %s\n", at)
	}
	if len(e.Meta) > 0 {
		fmt.Fprintf(w, "  labels: %s\n", labels(e.Meta))
	}
}

func place(e api.DescribedEndpoint) string { return netip.AddrPortFrom(e.Address, e.Port).String() }

// location writes "region/zone/rack", as far as they are known.
func location(l registry.Locality) string {
	return strings.TrimRight(cmp.Or(l.Region, "-")+"/"+cmp.Or(l.Zone, "-")+"/"+cmp.Or(l.Rack, "-"), "/-")
}

// labels writes labels sorted by name.
func labels(meta map[string]string) string {
	var out []string
	for _, k := range slices.Sorted(maps.Keys(meta)) {
		out = append(out, fmt.Sprintf("%s=%q", k, meta[k]))
	}
	return strings.Join(out, " ")
}

// priorityText shows a priority as the operator wrote it: that of a registry with failover, and the registry's own.
func priorityText(p uint32) string {
	switch failover, own := registry.SplitPriority(p); {
	case failover == 0:
		return fmt.Sprint(own)
	case own == 0:
		return fmt.Sprintf("failover %d", failover)
	default:
		return fmt.Sprintf("failover %d, %d", failover, own)
	}
}
