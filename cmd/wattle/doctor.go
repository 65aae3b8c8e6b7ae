package main

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/wattle-mesh/wattle/adapters/process"
	"github.com/wattle-mesh/wattle/configs"
	"github.com/wattle-mesh/wattle/internal/admin"
	"github.com/wattle-mesh/wattle/internal/agent"
	"github.com/wattle-mesh/wattle/internal/api"
	"github.com/wattle-mesh/wattle/internal/capture"
	"github.com/wattle-mesh/wattle/internal/doctor"
	"github.com/wattle-mesh/wattle/internal/envoys"
	"github.com/wattle-mesh/wattle/internal/systemd"
)

// How long the doctor tries to reach something.
const (
	dialLimit = 3 * time.Second
	askLimit  = 10 * time.Second
)

func newDoctor() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Say what is wrong with this host, and what to do about it",
		Long: `Doctor looks at all that this host needs to be a member of the mesh: systemd, kernel and nftables, the agent and its
configuration, the Envoy binary and the glibc that it needs, DNS, the servers, the clock, certificates, ports and proxies; and it
has the server connect back to it. Each line says how it is, and what to do if it is not well. Run it as root: others may not
look at everything. It changes nothing.

The exit code is 1 if something is wrong, 0 if there are warnings at most.`,
		Args: args(cobra.NoArgs),
	}
	file := cmd.Flags().String("config", agentFile, "the agent's configuration `FILE`")
	asJSON := cmd.Flags().Bool("json", false, "print JSON")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		all := doctor.Examine(hostFacts(cmd.Context(), *file))
		w := cmd.OutOrStdout()
		if *asJSON {
			if err := printJSON(w, all); err != nil {
				return err
			}
		} else {
			rows := [][]string{}
			for _, f := range all {
				rows = append(rows, []string{strings.ToUpper(string(f.State)), f.What, f.Text})
				if f.Remedy != "" {
					rows = append(rows, []string{"", "", "-> " + f.Remedy})
				}
			}
			if err := table(w, rows); err != nil {
				return err
			}
		}
		if doctor.Sick(all) {
			return errSick
		}
		return nil
	}
	return cmd
}

// errSick ends the command when what is wrong has been said.
var errSick = errors.New("this host is not well")

// hostFacts finds out what the doctor wants to know of this host.
func hostFacts(ctx context.Context, file string) doctor.Facts {
	f := doctor.Facts{Guard: true}
	f.Systemd, f.SystemdErr = systemd.Version(ctx)
	var uname unix.Utsname
	if err := unix.Uname(&uname); err == nil {
		f.Kernel = unix.ByteSliceToString(uname.Release[:])
	}
	_, f.NftablesErr = capture.Table{}.Has(capture.Rules{})
	_, f.CgroupsErr = capture.Groups()
	if u, err := systemd.Look(ctx, agentUnit); err == nil {
		f.Unit = u.String()
	}
	if u, err := systemd.Look(ctx, "wattle-dns.service"); err == nil {
		f.Resolver = u.String()
	}
	cfg, diags := configs.LoadAgent(file)
	if cfg == nil {
		f.ConfigErr = diags
		cfg = &configs.Agent{RunDir: "/run/wattle", Guard: true}
	}
	f.Guard = cfg.Guard
	if path, err := process.FindEnvoy(cfg.Envoy); err != nil {
		f.Envoy.Err = err
	} else {
		f.Envoy = doctor.LookAt(ctx, path)
	}
	servers(ctx, &f, cfg)
	client := api.NewClient(api.ClientOptions{Address: "unix:" + agent.Socket(cfg), Agent: true})
	defer client.Close()
	ask, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	status, err := client.Host(ask)
	if f.HostErr = err; err == nil {
		f.Host = &status
		if len(status.MeshPorts) > 0 && status.Connected {
			f.Reached, f.ReachedErr = client.Reachable(ask)
		}
	}
	views, _ := filepath.Glob(filepath.Join(cfg.StateDir, "resolv", "*.conf"))
	f.Captured = len(views) > 0
	listening(ctx, &f, cfg)
	found, _ := envoys.Find(cfg.RunDir)
	for _, p := range found {
		s := p.Look(ctx)
		f.Proxies = append(f.Proxies, doctor.Proxy{Name: p.Name, State: s.State, Error: s.Error, Live: strings.HasSuffix(s.State, admin.Live)})
	}
	if f.Host != nil {
		for _, name := range f.Host.Proxies {
			if !slices.ContainsFunc(found, func(p envoys.Proxy) bool { return p.Name == name }) && os.Geteuid() == 0 {
				f.Proxies = append(f.Proxies, doctor.Proxy{Name: name, State: "not running"})
			}
		}
	}
	return f
}

// servers looks up the servers and connects to them.
func servers(ctx context.Context, f *doctor.Facts, cfg *configs.Agent) {
	d := net.Dialer{Timeout: dialLimit}
	if cfg.SourceAddress.IsValid() {
		d.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(cfg.SourceAddress, 0))
	}
	for _, s := range cfg.Servers {
		if host, _, err := net.SplitHostPort(s); err == nil {
			if _, err := netip.ParseAddr(host); err != nil {
				look, cancel := context.WithTimeout(ctx, dialLimit)
				_, err := net.DefaultResolver.LookupHost(look, host)
				cancel()
				f.Names = append(f.Names, doctor.Name{Host: host, Err: err})
			}
		}
		conn, err := d.DialContext(ctx, "tcp", s)
		if err == nil {
			_ = conn.Close()
		}
		f.Servers = append(f.Servers, doctor.Server{Address: s, Err: err})
	}
}

// listening looks whether the mesh ports in use are listened on, or the first one could be had.
func listening(ctx context.Context, f *doctor.Facts, cfg *configs.Agent) {
	local := "0.0.0.0"
	if cfg.Address.IsValid() {
		local = cfg.Address.String()
	}
	if f.Host == nil || len(f.Host.MeshPorts) == 0 {
		p := doctor.Port{Number: configs.FirstMeshPort}
		l, err := new(net.ListenConfig).Listen(ctx, "tcp", net.JoinHostPort(local, strconv.Itoa(configs.FirstMeshPort)))
		if p.Err = err; err == nil {
			_ = l.Close()
		}
		f.Ports = []doctor.Port{p}
		return
	}
	if local == "0.0.0.0" {
		local = "127.0.0.1"
	}
	for _, n := range f.Host.MeshPorts {
		p := doctor.Port{Number: uint16(n), Used: true}
		for _, at := range localAddresses(local) {
			conn, err := (&net.Dialer{Timeout: dialLimit}).DialContext(ctx, "tcp", net.JoinHostPort(at, strconv.Itoa(int(n))))
			if p.Err = err; err == nil {
				_ = conn.Close()
				break
			}
		}
		f.Ports = append(f.Ports, p)
	}
}

// localAddresses lists where a proxy of this host may listen: at an address, or at any of the host's.
func localAddresses(first string) []string {
	out := []string{first}
	all, err := net.InterfaceAddrs()
	if err != nil {
		return out
	}
	for _, a := range all {
		if p, err := netip.ParsePrefix(a.String()); err == nil && !p.Addr().IsLoopback() && !p.Addr().IsLinkLocalUnicast() {
			out = append(out, p.Addr().String())
		}
	}
	return out
}
