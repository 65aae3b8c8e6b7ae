package main

import (
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/wattle-mesh/wattle/configs"
	"github.com/wattle-mesh/wattle/internal/agent"
	"github.com/wattle-mesh/wattle/internal/api"
	"github.com/wattle-mesh/wattle/internal/xds"
)

const (
	addrEnv      = "WATTLE_ADDR"
	tokenFileEnv = "WATTLE_TOKEN_FILE"
)

// addrFlag adds the flag that says where the server is, and returns its value. It wins over the environment.
func addrFlag(cmd *cobra.Command) func() string {
	addr := cmd.Flags().String("addr", "", "the server's HTTP API, `ADDRESS:PORT` or unix:PATH (default $"+addrEnv+" or 127.0.0.1:7500)")
	return func() string { return first(*addr, os.Getenv(addrEnv), "127.0.0.1:7500") }
}

// readFlags adds the flags of a command that only reads, and returns how to reach the server.
func readFlags(cmd *cobra.Command) func() *api.Client {
	addr := addrFlag(cmd)
	return func() *api.Client { return api.NewClient(api.ClientOptions{Address: addr()}) }
}

// writeFlags adds the flags of a command that changes something, and returns how to reach the server.
func writeFlags(cmd *cobra.Command) func() *api.Client {
	addr := addrFlag(cmd)
	tokenFile := tokenFlag(cmd, "")
	return func() *api.Client { return api.NewClient(api.ClientOptions{Address: addr(), TokenFile: tokenFile()}) }
}

// serverToken is where a server that systemd runs keeps the admin token.
const serverToken = "/var/lib/wattle/server/admin.token"

// tokenFlag adds the flag that says where the admin token is, and returns its value.
func tokenFlag(cmd *cobra.Command, when string) func() string {
	file := cmd.Flags().String("token-file", "", "the `FILE` with the admin token"+when+" (default $"+tokenFileEnv+", else "+serverToken+")")
	return func() string {
		if f := first(*file, os.Getenv(tokenFileEnv)); f != "" {
			return f
		}
		if _, err := os.Stat(serverToken); err != nil {
			return ""
		}
		return serverToken
	}
}

// first returns the first text that is not empty.
func first(all ...string) string {
	for _, s := range all {
		if s != "" {
			return s
		}
	}
	return ""
}

func newPolicy() *cobra.Command {
	cmd := &cobra.Command{Use: "policy", Short: "Say yes to what the server asks about the policy"}
	accept := &cobra.Command{
		Use:   "accept",
		Short: "Let files go that were removed while they are in force",
		Long: `Accept has the server read its policy folder again and take it as it is, even if files are gone with blocks that are
in force: without it such a folder is rejected, because a file that vanishes may be an accident or half of a
deployment. Every other error still keeps the last good policy; it is printed, and the exit code is 2.`,
		Args: args(cobra.NoArgs),
	}
	client := writeFlags(accept)
	accept.RunE = func(cmd *cobra.Command, _ []string) error {
		got, err := client().AcceptPolicy(cmd.Context())
		if err != nil {
			return err
		}
		if got.Rejected {
			return refuse(cmd.ErrOrStderr(), got.Diagnostics)
		}
		fmt.Fprintf(cmd.OutOrStdout(), "revision %d is in force\n", got.Revision)
		return nil
	}
	cmd.AddCommand(accept)
	return cmd
}

func newToken() *cobra.Command {
	cmd := &cobra.Command{Use: "token", Short: "Make join tokens"}
	create := &cobra.Command{
		Use:   "create -node NAME [-services LIST]",
		Short: "Make a single-use token with which a host joins",
		Long: `Create prints a token with which the agent of the host NAME joins the mesh, once. The token pins this server's CA
and grants the host the services of LIST: "reviews" or "shop/reviews" or "shop/*" or "*/*", separated by
commas. Services that the policy declares in the host's own block need no grant.`,
		Args: args(cobra.NoArgs),
	}
	client := writeFlags(create)
	node := create.Flags().String("node", "", "the host's `NAME`")
	services := create.Flags().StringSlice("services", nil, "what the host may register and hold, a `LIST`")
	ttl := create.Flags().Duration("ttl", 10*time.Minute, "how long the token can be used")
	create.RunE = func(cmd *cobra.Command, _ []string) error {
		if *node == "" {
			return &invalid{fmt.Errorf("-node is missing: say which host the token is for")}
		}
		if *ttl <= 0 { // the API takes none as the default
			return &invalid{fmt.Errorf("-ttl %s: a token lives from 1s to 168h", *ttl)}
		}
		t, err := client().CreateToken(cmd.Context(), api.TokenRequest{
			Node: *node, Services: *services, TTL: configs.Duration(*ttl),
		})
		if err != nil {
			return err
		}
		fmt.Fprintln(cmd.OutOrStdout(), t.Token)
		return nil
	}
	cmd.AddCommand(create)
	return cmd
}

func newCA() *cobra.Command {
	cmd := &cobra.Command{Use: "ca", Short: "Issue certificates by hand"}
	issue := &cobra.Command{
		Use:   "issue -node NAME [-services LIST] -out DIR",
		Short: "Provision a host without a token",
		Long: `Issue makes a key here, has the server certify it for the host NAME with a grant for the services of LIST, and writes
node.key, node.pem and roots.pem to DIR: the state_dir of the host's agent. It is for configuration
management and load generators; a host that can run the agent first joins with a token instead, and its key
never travels.`,
		Args: args(cobra.NoArgs),
	}
	client := writeFlags(issue)
	node := issue.Flags().String("node", "", "the host's `NAME`")
	services := issue.Flags().StringSlice("services", nil, "what the host may register and hold, a `LIST`")
	out := issue.Flags().String("out", "", "the `DIR` to write to; made if it is missing")
	issue.RunE = func(cmd *cobra.Command, _ []string) error {
		if *node == "" || *out == "" {
			return &invalid{fmt.Errorf("-node and -out are needed")}
		}
		var cert api.CertificateResponse
		err := agent.Provision(*out, func(csr []byte) (chain, roots [][]byte, err error) {
			cert, err = client().IssueNode(cmd.Context(), *node, api.CertificateRequest{CSR: csr, Services: *services})
			if err != nil {
				return nil, nil, err
			}
			return cert.Chain, cert.Roots, nil
		})
		if err != nil {
			return err
		}
		fmt.Fprintf(cmd.OutOrStdout(), "%s: %s until %s\n", *out, cert.Identity, cert.NotAfter.Format(time.RFC3339))
		return nil
	}
	cmd.AddCommand(issue)
	return cmd
}

func newProxy() *cobra.Command {
	cmd := &cobra.Command{Use: "proxy", Short: "Look at proxies, and steer those of this host"}
	status := &cobra.Command{
		Use:   "status [PROXY]",
		Short: "Say what each proxy has acknowledged and refused",
		Long: `Status prints for each proxy (Envoy) whether its agent is connected, whether it has acknowledged everything it was
sent, how many resources of each kind it has, and what it refused, with Envoy's words and the policy's file and
line. PROXY narrows it down: a host's name, or a proxy's such as edge/gw-public.`,
		Args: args(cobra.MaximumNArgs(1)),
	}
	client := readFlags(status)
	asJSON := status.Flags().Bool("json", false, "print JSON, the API's /v1/proxies")
	status.RunE = func(cmd *cobra.Command, a []string) error {
		all, err := client().Proxies(cmd.Context())
		if err != nil {
			return err
		}
		if len(a) == 1 {
			if all = narrow(all, a[0]); len(all) == 0 {
				return &invalid{fmt.Errorf("no proxy %s; wattle proxy status lists them", a[0])}
			}
		}
		if *asJSON {
			return printJSON(cmd.OutOrStdout(), api.Proxies{Proxies: all})
		}
		w := cmd.OutOrStdout()
		if err := table(w, proxyRows(all)); err != nil {
			return err
		}
		for _, line := range nackLines(all) {
			fmt.Fprintln(w, line)
		}
		return nil
	}
	cmd.AddCommand(status, newProxyList(), newProxyRestart(), newProxyUpgrade(), newProxyDrain(), newProxyLogs(), newProxyStats())
	return cmd
}

// narrow keeps the proxies of a host, or the one proxy that is named.
func narrow(all []xds.ProxyStatus, name string) []xds.ProxyStatus {
	var out []xds.ProxyStatus
	for _, p := range all {
		if p.ID == name || strings.HasPrefix(p.ID, name+"/") {
			out = append(out, p)
		}
	}
	return out
}

func proxyRows(all []xds.ProxyStatus) [][]string {
	rows := [][]string{{"PROXY", "STATE", "SINCE", "CLUSTERS", "ENDPOINTS", "LISTENERS", "ROUTES"}}
	for _, p := range all {
		row := []string{p.ID, proxyState(p), "-"}
		if p.Connected {
			row[2] = ago(p.Since)
		}
		for _, kind := range []string{"cluster", "endpoint", "listener", "route"} {
			cell := "-"
			for _, t := range p.Types {
				if t.Type == kind {
					cell = fmt.Sprint(t.Resources)
					if t.Nack != nil {
						cell += " REFUSED"
					} else if t.Acked < t.Sent {
						cell += " sent"
					}
				}
			}
			row = append(row, cell)
		}
		rows = append(rows, row)
	}
	return rows
}

func proxyState(p xds.ProxyStatus) string {
	switch {
	case !p.Connected:
		return "not connected"
	case p.Synced:
		return "synced"
	}
	return "behind"
}

// nackLines says what proxies refused.
func nackLines(all []xds.ProxyStatus) []string {
	var out []string
	for _, p := range all {
		for _, t := range p.Types {
			if t.Nack == nil {
				continue
			}
			out = append(out, "", fmt.Sprintf("%s refused this, %s: %s", p.ID, ago(t.Nack.Time), t.Nack.Message))
			for _, r := range t.Nack.Resources {
				out = append(out, fmt.Sprintf("  %s %s (%s)", t.Type, r.Name, dash(r.Origin)))
			}
		}
	}
	return out
}
