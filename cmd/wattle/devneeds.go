package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/wattle-mesh/wattle/configs"
	"github.com/wattle-mesh/wattle/internal/pipeline"
)

// knownEnvoy begins the versions of Envoy that Wattle is tried with.
const knownEnvoy = "1.40."

var envoySays = regexp.MustCompile(`version: [0-9a-f]+/(\d+\.\d+\.\d+[^/]*)/`)

// envoyVersion asks a program which Envoy it is. Any other program would be started again and again.
func envoyVersion(ctx context.Context, path string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, "--version")
	cmd.WaitDelay = time.Second
	out, err := cmd.Output()
	if m := envoySays.FindSubmatch(out); m != nil {
		return string(m[1]), nil
	}
	said := "says nothing"
	if err != nil {
		said = "ends with " + err.Error()
	} else if first, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n"); first != "" {
		said = fmt.Sprintf("says %.80q", first)
	}
	return "", fmt.Errorf("%s is no Envoy: %[1]s --version %s; run make tools, or set $ENVOY to the path of an Envoy %sx binary", path, said, knownEnvoy)
}

// need is an address that must be free, and what it is for.
type need struct{ address, what string }

// onLoopback checks an address that a flag gives.
func onLoopback(flag, address string) error {
	a, err := netip.ParseAddrPort(address)
	if err != nil || !a.Addr().IsLoopback() {
		return &invalid{fmt.Errorf("%s %s is no loopback address with a port; write it as 127.0.0.1:7500", flag, address)}
	}
	return nil
}

// runnable reports the first command whose program is not there.
func runnable(commands []proc) error {
	for _, p := range commands {
		if _, err := exec.LookPath(p.Args[0]); err != nil {
			return fmt.Errorf("the command of %s cannot be run: %w; build the program, or correct the command", p.Name, err)
		}
	}
	return nil
}

// needs lists every address that the mesh of policy will listen on.
func needs(b pipeline.Built, http, agents string) []need {
	policy := b.Policy
	out := []need{{http, "the HTTP API (-http)"}, {agents, "the agents' port (-agents)"}}
	add := func(a netip.AddrPort, what string) {
		if a.IsValid() {
			out = append(out, need{a.String(), what})
		}
	}
	for _, h := range policy.Hosts {
		add(netip.AddrPortFrom(h.Address, 0), fmt.Sprintf("host %s (%s)", h.Name, h.Origin)) // any port: the agent calls from there
		for _, port := range meshPorts(b, h.Name) {
			add(netip.AddrPortFrom(h.Address, port), fmt.Sprintf("the mesh port of host %s (%s)", h.Name, h.Origin))
		}
		for _, s := range h.Services {
			for _, p := range s.Ports {
				if len(s.Command) > 0 {
					add(p.Local, fmt.Sprintf("service %s (%s)", s.Name, s.Origin))
				}
			}
			for _, u := range s.Upstreams {
				add(u.Bind, fmt.Sprintf("upstream %s (%s)", u.Service.Name, u.Origin))
			}
		}
	}
	for _, g := range policy.Gateways {
		for i, s := range g.Servers {
			if !slices.ContainsFunc(g.Servers[:i], func(o *configs.GatewayServer) bool { return o.Bind == s.Bind }) { // they share it
				add(s.Bind, fmt.Sprintf("gateway %s (%s)", g.Name, s.Origin))
			}
		}
	}
	return out
}

// meshPorts lists the mesh ports that a host's workloads have.
func meshPorts(b pipeline.Built, host string) []uint16 {
	var out []uint16
	for _, px := range b.View.On(host) {
		for _, w := range px.Workloads {
			out = append(out, w.MeshPort)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// free reports the first address that cannot be listened on, or that is needed twice.
func free(all []need) error {
	held := map[string]need{}
	for _, n := range all {
		l, err := net.Listen("tcp", n.address)
		first, twice := held[n.address]
		switch {
		case err == nil:
			defer l.Close() // until all are found free
			held[n.address] = n
		case twice:
			return fmt.Errorf("%s is needed twice, for %s and for %s; choose another address for one of them", n.address, first.what, n.what)
		case errors.Is(err, syscall.EADDRINUSE):
			return fmt.Errorf("%s is taken, and %s needs it; end what listens there (ss -ltnp shows it) or choose another address", n.address, n.what)
		case errors.Is(err, syscall.EADDRNOTAVAIL):
			return &invalid{fmt.Errorf("%s, for %s, is no address of this machine; dev plays all hosts here: give them loopback addresses, 127.0.0.x", n.address, n.what)}
		case errors.Is(err, syscall.EACCES):
			return fmt.Errorf("%s, for %s, is not for this user; choose a port from 1024 on", n.address, n.what)
		default:
			return fmt.Errorf("%s, for %s, cannot be used: %w; choose another address", n.address, n.what, err)
		}
	}
	return nil
}
