package main

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/wattle-mesh/wattle/internal/api"
)

// hostPoll is how often the server is asked how far a host is.
const hostPoll = 200 * time.Millisecond

func newHost() *cobra.Command {
	cmd := &cobra.Command{Use: "host", Short: "List hosts, take them into maintenance, remove them"}
	cmd.AddCommand(newHostList(), newHostDrain(), newHostUndrain(), newHostRemove())
	return cmd
}

func newHostList() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "list",
		Short: "Say which hosts joined the mesh",
		Long:  `List prints the hosts that were let into the mesh: where they are, whether their agent is connected, and which are in maintenance.`,
		Args:  args(cobra.NoArgs),
	}
	client := readFlags(cmd)
	asJSON := cmd.Flags().Bool("json", false, "print JSON, the API's /v1/nodes")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		all, err := client().Nodes(cmd.Context())
		if err != nil {
			return err
		}
		if *asJSON {
			return printJSON(cmd.OutOrStdout(), api.Nodes{Nodes: all})
		}
		rows := [][]string{{"HOST", "ADDRESS", "AGENT", "WORKLOADS", "MAINTENANCE"}}
		for _, n := range all {
			agent := "not connected"
			if n.Reporting {
				agent = "connected"
			}
			rows = append(rows, []string{n.Name, dash(n.Address), agent, fmt.Sprint(n.Registrations), maintenance(n)})
		}
		return table(cmd.OutOrStdout(), rows)
	}
	return cmd
}

// maintenance says in a cell whether a host is in maintenance.
func maintenance(n api.NodeStatus) string {
	if n.Drain == nil {
		return "-"
	}
	text := "since " + ago(n.Drain.Since)
	if n.Drain.Reason != "" {
		text += ": " + n.Drain.Reason
	}
	return text
}

func newHostDrain() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "drain NAME [-wait]",
		Short: "Take a host into maintenance: its workloads get no new requests",
		Long: `Drain has callers leave every workload of the host NAME, until wattle host undrain, also across restarts of the server and
of the host. Requests under way end. With -wait it returns when callers' proxies have acknowledged and the host's agent
says that nothing is under way any more, or fails after -limit.`,
		Args: args(cobra.ExactArgs(1)),
	}
	client := writeFlags(cmd)
	reason := cmd.Flags().String("reason", "", "why, a `TEXT` for people")
	wait := cmd.Flags().Bool("wait", false, "wait until nothing is under way")
	limit := cmd.Flags().Duration("limit", time.Minute, "how long to wait at most")
	cmd.RunE = func(cmd *cobra.Command, a []string) error {
		c := client()
		defer c.Close()
		end := time.Now().Add(*limit)
		got, err := c.DrainNode(cmd.Context(), a[0], api.DrainRequest{Reason: *reason})
		for err == nil && *wait && !drained(got) && time.Now().Before(end) {
			select {
			case <-time.After(hostPoll):
				got, err = c.Node(cmd.Context(), a[0])
			case <-cmd.Context().Done():
				err = cmd.Context().Err()
			}
		}
		if err != nil {
			return err
		}
		w := cmd.OutOrStdout()
		fmt.Fprintf(w, "%s is in maintenance\n", got.Name)
		for _, d := range got.Drains {
			fmt.Fprintf(w, "%s: %s\n", d.ServiceRef, drainState(d))
		}
		if *wait && !drained(got) {
			return fmt.Errorf("not drained within %s", *limit)
		}
		return nil
	}
	return cmd
}

// drained reports whether nothing is under way on a host in maintenance.
func drained(n api.NodeStatus) bool {
	return !slices.ContainsFunc(n.Drains, func(d api.DrainStatus) bool { return d.State != api.DrainDone })
}

func newHostUndrain() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "undrain NAME",
		Short: "Take a host out of maintenance",
		Long:  `Undrain has callers come back to the workloads of the host NAME, unless something else keeps them away: wattle service drain on the host, a check.`,
		Args:  args(cobra.ExactArgs(1)),
	}
	client := writeFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, a []string) error {
		c := client()
		defer c.Close()
		got, err := c.UndrainNode(cmd.Context(), a[0])
		if err != nil {
			return err
		}
		if got.Drain != nil {
			return errors.New("the server did not do it")
		}
		fmt.Fprintf(cmd.OutOrStdout(), "%s is not in maintenance\n", got.Name)
		return nil
	}
	return cmd
}

func newHostRemove() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "remove NAME",
		Short: "Remove a host that is gone for good",
		Long: `Remove has the server forget the host NAME: its registrations, its grant, its maintenance. Its certificates open nothing any
more, until it has joined again with a new token. What a host block of the policy says of it stays: remove that, too.

A host that is there leaves by itself: wattle agent leave drains it before. One whose agent is connected is removed with -force only;
callers have no time to leave it then.`,
		Args: args(cobra.ExactArgs(1)),
	}
	client := writeFlags(cmd)
	force := cmd.Flags().Bool("force", false, "remove it though its agent is connected")
	cmd.RunE = func(cmd *cobra.Command, a []string) error {
		c := client()
		defer c.Close()
		if !*force {
			now, err := c.Node(cmd.Context(), a[0])
			if err != nil {
				return err
			}
			if now.Reporting {
				return fmt.Errorf("the agent of %s is connected: say wattle agent leave there, or remove it with -force", now.Name)
			}
		}
		got, err := c.ForgetNode(cmd.Context(), a[0])
		if err != nil {
			return err
		}
		fmt.Fprintf(cmd.OutOrStdout(), "%s is removed, and %d registrations with it\n", a[0], got.Registrations)
		return nil
	}
	return cmd
}
