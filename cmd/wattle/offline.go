package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/wattle-mesh/wattle/configs"
	"github.com/wattle-mesh/wattle/internal/pipeline"
	"github.com/wattle-mesh/wattle/registry"
	"github.com/wattle-mesh/wattle/translator"
)

// varFlags adds -var NAME=VALUE and returns how to read it.
func varFlags(cmd *cobra.Command) func() (configs.Options, error) {
	vars := cmd.Flags().StringArray("var", nil, "set a policy variable, `NAME=VALUE`; may be repeated")
	return func() (configs.Options, error) {
		o := configs.Options{Vars: map[string]string{}}
		for _, v := range *vars {
			name, value, ok := strings.Cut(v, "=")
			if !ok {
				return o, &invalid{fmt.Errorf("-var %s: want NAME=VALUE", v)}
			}
			o.Vars[name] = value
		}
		return o, nil
	}
}

func newValidate() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "validate DIR",
		Short: "Check a policy folder without a server",
		Long: `Validate takes a policy folder through every stage, up to the resources that Envoy would get, and prints what is
wrong with it. Services are those that the folder declares. Exit code 2 if there is an error.`,
		Args: args(cobra.ExactArgs(1)),
	}
	options := varFlags(cmd)
	asJSON := cmd.Flags().Bool("json", false, "print the diagnostics as JSON")
	cmd.RunE = func(cmd *cobra.Command, a []string) error {
		o, err := options()
		if err != nil {
			return err
		}
		b := pipeline.Build(a[0], o)
		if *asJSON {
			if err := printJSON(cmd.OutOrStdout(), struct {
				Valid       bool                `json:"valid"`
				Diagnostics configs.Diagnostics `json:"diagnostics"`
			}{!b.Diagnostics.HasErrors(), b.Diagnostics}); err != nil {
				return err
			}
		} else {
			if err := refuse(cmd.ErrOrStderr(), b.Diagnostics); err != nil {
				return err
			}
		}
		if b.Diagnostics.HasErrors() {
			return &invalid{}
		}
		if !*asJSON {
			p := b.Policy
			fmt.Fprintf(cmd.OutOrStdout(), "%s: valid: %s\n", a[0], strings.Join([]string{
				count(len(p.VirtualServices), "virtual service", "virtual services"),
				count(len(p.DestinationRules), "destination rule", "destination rules"),
				count(len(p.Gateways), "gateway", "gateways"),
				count(len(p.Hosts), "host", "hosts"),
				count(b.Catalog.Services.Len(), "service", "services"),
				count(b.View.Proxies.Len(), "proxy", "proxies"),
			}, ", "))
		}
		return nil
	}
	return cmd
}

func newDump() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "dump policy|catalog|view|xds DIR",
		Short: "Print what a stage makes of a policy folder, as sorted JSON",
		Long: `Dump prints one of the values on the way from a policy folder to Envoy, without a server: the policy as decoded and
defaulted, the catalog of services, the resolved view, or the xDS resources of every proxy (or of one, with -proxy).
Of a policy with errors it prints what could be made all the same, says what is wrong as validate does, and ends with
exit code 2.`,
		Args:      args(cobra.ExactArgs(2)),
		ValidArgs: []string{"policy", "catalog", "view", "xds"},
	}
	options := varFlags(cmd)
	proxy := cmd.Flags().String("proxy", "", "xds: only this proxy, `NAME` such as h1 or edge/gw-public")
	cmd.RunE = func(cmd *cobra.Command, a []string) error {
		o, err := options()
		if err != nil {
			return err
		}
		b := pipeline.Build(a[1], o)
		value, err := stage(b, a[0], *proxy)
		if err != nil {
			return err
		}
		if value != nil {
			if err := printJSON(cmd.OutOrStdout(), value); err != nil {
				return err
			}
		}
		return refuse(cmd.ErrOrStderr(), b.Diagnostics)
	}
	return cmd
}

// stage picks the value that the user named; nil if it could not be made.
func stage(b pipeline.Built, name, proxy string) (any, error) {
	switch name {
	case "policy":
		if b.Policy == nil || b.Catalog == nil {
			return nil, nil
		}
		return b.Policy, nil
	case "catalog":
		if b.Catalog == nil {
			return nil, nil
		}
		return b.Catalog, nil
	case "view":
		if b.View == nil {
			return nil, nil
		}
		return b.View, nil
	case "xds":
		if b.Output == nil {
			return nil, nil
		}
		return dumpXDS(b, proxy)
	}
	return nil, &invalid{fmt.Errorf("dump %s: want policy, catalog, view or xds", name)}
}

func dumpXDS(b pipeline.Built, proxy string) (any, error) {
	if proxy != "" {
		p := b.View.Proxy(proxy)
		if p == nil {
			return nil, &invalid{fmt.Errorf("no proxy %q; there are: %s", proxy, strings.Join(b.View.ProxyIDs(), ", "))}
		}
		return sortedDump(b.Output.Resources(p.ID))
	}
	all := map[string]any{}
	for _, id := range b.View.ProxyIDs() {
		resources, err := sortedDump(b.Output.Resources(id))
		if err != nil {
			return nil, err
		}
		all[id] = resources
	}
	return all, nil
}

// sortedDump is the translator's dump with the fields of all objects sorted by name; protobuf's JSON has them in the
// order of their numbers.
func sortedDump(all []*translator.Resource) (any, error) {
	text, err := translator.Dump(all)
	if err != nil {
		return nil, err
	}
	var out any // objects become maps, whose keys are written sorted
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	return out, d.Decode(&out)
}

func newExplain() *cobra.Command {
	return &cobra.Command{
		Use:   "explain CODE",
		Short: "Say what a diagnostic's code means and what to do",
		Args:  args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, a []string) error {
			code := strings.ToUpper(a[0])
			if c, ok := configs.Explain(code); ok {
				fmt.Fprintln(cmd.OutOrStdout(), c)
				return nil
			}
			if c, ok := registry.Explain(code); ok {
				fmt.Fprintf(cmd.OutOrStdout(), "%s: %s\n\n%s\n", c.Code, c.Title, c.Explain)
				return nil
			}
			return &invalid{fmt.Errorf("no diagnostic has the code %s; docs/policy.md lists them", a[0])}
		},
	}
}
