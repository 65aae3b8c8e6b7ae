package main

import (
	"io"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// version is set by the build.
var version = "dev" //nolint:gochecknoglobals // the linker's only door

func newRoot(stdout, stderr io.Writer) *cobra.Command {
	root := &cobra.Command{
		Use:   "wattle",
		Short: "A service mesh for virtual machines, Nomad and bare metal",
		Long: `Wattle is a service mesh for hosts: operators write policy in HCL, Wattle knows which services exist
and drives an Envoy on each host. One binary is the control plane, the host's agent and this CLI.

Start with:
  wattle dev examples/bookinfo     a whole mesh on this machine, in the foreground
  wattle validate DIR              check policy without a server
  wattle status                    what the server says of itself

Flags may be written with one dash or two. Exit codes: 0 done, 1 failed, 2 wrong usage or configuration.`,
		Version:           version,
		SilenceUsage:      true,
		SilenceErrors:     true,
		DisableAutoGenTag: true,
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: true},
	}
	root.SetOut(stdout)
	root.SetErr(stderr)
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return &invalid{err} })
	root.AddCommand(
		newDev(), newServer(), newAgent(),
		newValidate(), newFmt(), newDump(), newExplain(),
		newStatus(), newProxy(), newToken(), newCA(),
	)
	return root
}

// longFlags lets flags be written HashiCorp's way: "-json" is "--json" where a command knows such a flag.
func longFlags(root *cobra.Command, args []string) []string {
	known := map[string]bool{"help": true, "version": true}
	var collect func(*cobra.Command)
	collect = func(c *cobra.Command) {
		c.Flags().VisitAll(func(f *pflag.Flag) { known[f.Name] = true })
		c.PersistentFlags().VisitAll(func(f *pflag.Flag) { known[f.Name] = true })
		for _, sub := range c.Commands() {
			collect(sub)
		}
	}
	collect(root)
	out := make([]string, 0, len(args))
	for i, a := range args {
		if a == "--" {
			return append(out, args[i:]...)
		}
		name, _, _ := strings.Cut(strings.TrimPrefix(a, "-"), "=")
		if strings.HasPrefix(a, "-") && !strings.HasPrefix(a, "--") && len(name) > 1 && known[name] {
			a = "-" + a
		}
		out = append(out, a)
	}
	return out
}

// args wraps cobra's positional checks so that a wrong count is the user's error.
func args(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, a []string) error {
		if err := check(cmd, a); err != nil {
			return &invalid{err}
		}
		return nil
	}
}
