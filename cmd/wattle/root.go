package main

import (
	"fmt"
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
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return &invalid{fmt.Errorf("%w; see %s --help", err, cmd.CommandPath())}
	})
	root.AddCommand(
		newDev(), newServer(), newAgent(),
		newValidate(), newFmt(), newDump(), newExplain(),
		newStatus(), newPolicy(), newRegistry(), newCatalog(), newProxy(), newToken(), newCA(), newService(), newHost(), newEnvoy(), newDNS(), newCapture(), newDoctor(), newMan(),
	)
	root.SetHelpCommand(newHelp())
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	group(root)
	return root
}

// group has commands that only hold others say so when none of these is named: cobra prints help, as if all were well.
func group(cmd *cobra.Command) {
	for _, sub := range cmd.Commands() {
		group(sub)
	}
	if cmd.Runnable() || !cmd.HasSubCommands() {
		return
	}
	cmd.Args, cmd.DisableFlagsInUseLine = cobra.ArbitraryArgs, true
	cmd.RunE = func(cmd *cobra.Command, a []string) error {
		switch {
		case len(a) > 0:
			return unknown(cmd, a[0])
		case cmd.HasParent():
			return &invalid{fmt.Errorf("%s needs a command; see %[1]s --help", cmd.CommandPath())}
		}
		return cmd.Help()
	}
}

// unknown says that a command has no subcommand of that name.
func unknown(cmd *cobra.Command, name string) error {
	cmd.SuggestionsMinimumDistance = 2
	_, whole, _ := strings.Cut(cmd.CommandPath()+" "+name, " ")
	hint := fmt.Sprintf("see %s --help", cmd.CommandPath())
	if near := cmd.SuggestionsFor(name); len(near) > 0 {
		hint = fmt.Sprintf("did you mean %s?", strings.Join(near, " or "))
	}
	return &invalid{fmt.Errorf("there is no command %q; %s", whole, hint)}
}

// newHelp makes the help command. Cobra's own takes a wrong name without an error.
func newHelp() *cobra.Command {
	return &cobra.Command{
		Use:   "help [COMMAND]",
		Short: "Say what a command does",
		RunE: func(cmd *cobra.Command, a []string) error {
			about, rest, err := cmd.Root().Find(a)
			if err == nil && len(rest) > 0 {
				err = unknown(about, rest[0])
			}
			if err != nil {
				return err
			}
			return about.Help()
		},
	}
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
			return &invalid{fmt.Errorf("%w; usage: %s", err, cmd.UseLine())}
		}
		return nil
	}
}
