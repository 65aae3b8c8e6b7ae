package main

import (
	"context"
	"errors"
	"io/fs"
	"net/netip"
	"slices"

	"github.com/prometheus/procfs"

	"github.com/wattle-mesh/wattle/configs"
	"github.com/wattle-mesh/wattle/internal/xds"
)

// listens lists where the Envoys of a host listen. Of the mesh ports the first stands for all: the ranges of two hosts
// at one address are apart.
func listens(policy *configs.Policy, h *configs.Host) []netip.AddrPort {
	out := []netip.AddrPort{netip.AddrPortFrom(h.Address, h.MeshPort)}
	for _, s := range h.Services {
		for _, u := range s.Upstreams {
			if u.Bind.IsValid() {
				out = append(out, u.Bind)
			}
		}
	}
	for _, g := range policy.Gateways {
		if slices.Contains(g.RunOn, h.Name) {
			for _, s := range g.Servers {
				out = append(out, s.Bind)
			}
		}
	}
	return out
}

// letGo reports whether an application has no callers any more: its host's Envoy has acknowledged a configuration
// without it, and every connection that was made to it has been closed.
func (d *dev) letGo(ctx context.Context, host string, listens []netip.AddrPort) bool {
	proxies, err := d.client.Proxies(ctx)
	if err != nil {
		return false // the server says why itself
	}
	behind := func(p xds.ProxyStatus) bool { return p.ID == host+"/host" && !p.Synced }
	return !slices.ContainsFunc(proxies, behind) && !connected(listens)
}

// The states of connections that a program has not closed, as the kernel counts them (include/net/tcp_states.h).
const (
	tcpEstablished = 1
	tcpCloseWait   = 8
)

// connected reports whether somebody has a connection to one of these addresses that was not closed there.
func connected(listens []netip.AddrPort) bool {
	kernel, err := procfs.NewDefaultFS()
	if err != nil {
		return true
	}
	//lint:ignore SA1019 netlink would be faster, for which there are not enough connections
	v4, err4 := kernel.NetTCP()
	//lint:ignore SA1019 likewise
	v6, err6 := kernel.NetTCP6()
	if errors.Is(err6, fs.ErrNotExist) {
		err6 = nil // without IPv6
	}
	if err4 != nil || err6 != nil {
		return true
	}
	for _, c := range slices.Concat(v4, v6) {
		ip, _ := netip.AddrFromSlice(c.LocalAddr)
		local := netip.AddrPortFrom(ip.Unmap(), uint16(c.LocalPort))
		open := c.St == tcpEstablished || c.St == tcpCloseWait
		if open && slices.ContainsFunc(listens, func(a netip.AddrPort) bool { return meet(a, local) }) {
			return true
		}
	}
	return false
}
