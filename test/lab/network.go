package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

const (
	namesUnit = "names.service"
	zone      = "$ORIGIN names.example.\n$TTL 1\n@ SOA ns hostmaster 1 3600 600 86400 1\n@ NS ns\nns A %[1]s\ns1 A %[1]s\n_old._tcp SRV 0 10 8099 old\nold A %[2]s\n"
	namesText = "[Unit]\nDescription=Name server\n[Service]\nExecStart=/usr/bin/names -zone /etc/names.zone -listen %s:53\nRestart=always\n[Install]\nWantedBy=multi-user.target\n"
	oldText   = "registry \"dns\" \"old\" {\n  resolvers = [%q]\n  service \"old\" {\n    srv      = \"_old._tcp.names.example\"\n    protocol = \"http\"\n  }\n}\n"
)

// nameServer has all depend on a name server: the hosts look up the server's name, and one of the server's registries is DNS.
func (w *world) nameServer(ctx context.Context) error {
	program := filepath.Join(w.dir, "names")
	if err := compile(ctx, program, "./examples/registries/dns"); err != nil {
		return err
	}
	s := w.server
	err := errors.Join(s.install(program, "/usr/bin/names"), s.write("/etc/names.zone", fmt.Sprintf(zone, s.addr, w.callee.addr), 0o644),
		s.write("/etc/systemd/system/"+namesUnit, fmt.Sprintf(namesText, s.addr), 0o644))
	if err != nil {
		return err
	}
	const server = `cd /etc/wattle && sed -i 's/^names = .*/names = ["10.77.0.1", "s1.names.example"]/' server.hcl && cat >>server.hcl && systemctl enable --now --quiet names && systemctl restart wattle-server`
	if err := s.feed(ctx, fmt.Sprintf(oldText, s.addr), "sh", "-ec", server); err != nil {
		return err
	}
	for _, h := range []*host{w.callee, w.caller} {
		const agent = `rm -f /etc/resolv.conf; echo nameserver 10.77.0.1 >/etc/resolv.conf; sed -i 's/^server = .*/server = ["s1.names.example:7501"]/' /etc/wattle/agent.hcl; systemctl restart wattle-agent`
		if _, err := h.run(ctx, "sh", "-ec", agent); err != nil {
			return err
		}
	}
	if err := w.change(ctx); err != nil {
		return err
	}
	return w.statusSays(ctx, "old  *synced")
}

// dnsDown ends the name server, and starts again whoever may want to look up something.
func dnsDown(ctx context.Context, w *world) error {
	if err := w.nameServer(ctx); err != nil {
		return err
	}
	if err := w.calm(ctx); err != nil {
		return err
	}
	err := w.unharmed(ctx, "DNS down, agents and server restarted", func() error {
		if _, err := w.server.run(ctx, "systemctl", "stop", namesUnit); err != nil {
			return err
		}
		for h, unit := range map[*host]string{w.callee: agentUnit, w.caller: agentUnit, w.server: serverUnit} {
			if _, err := h.run(ctx, "systemctl", "restart", unit); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	w.alarm(ctx, "DNS down", "old .*names.example")
	if _, err := w.server.run(ctx, "systemctl", "start", namesUnit); err != nil {
		return err
	}
	return w.change(ctx)
}

// packetLoss loses 30 % of the packets between hosts and server, each way.
func packetLoss(ctx context.Context, w *world) error {
	const table = "table ip lab {\n" +
		"chain in { type filter hook input priority 0; ip saddr 10.77.0.1 numgen random mod 100 < 30 drop; }\n" +
		"chain out { type filter hook output priority 0; ip daddr 10.77.0.1 numgen random mod 100 < 30 drop; }\n}\n"
	var took time.Duration
	hosts := []*host{w.callee, w.caller}
	err := w.unharmed(ctx, "30 % of packets to and from the server lost", func() error {
		for _, h := range hosts {
			if err := h.feed(ctx, table, "nft", "-f", "-"); err != nil {
				return err
			}
		}
		began := time.Now()
		err := w.change(ctx)
		took = time.Since(began)
		return err
	})
	for _, h := range hosts {
		_, e := h.run(ctx, "nft", "delete", "table", "ip", "lab")
		err = errors.Join(err, e)
	}
	w.rows.Note("that: a change of policy is in force after", took.Seconds(), "s")
	return err
}

// statusSays waits until wattle status on the server has what matches a pattern of grep.
func (w *world) statusSays(ctx context.Context, pattern string) error {
	return until(ctx, settle, "wattle status says "+pattern, func() error {
		_, err := w.server.run(ctx, "sh", "-c", "wattle status | grep -q '"+pattern+"'")
		return err
	})
}

// alarm requires that wattle status says so.
func (w *world) alarm(ctx context.Context, fault, pattern string) {
	missing := 0.0
	if err := w.statusSays(ctx, pattern); err != nil {
		missing = 1
		text, _ := w.server.run(ctx, "wattle", "status")
		fmt.Fprintln(os.Stderr, "lab:   ", err, "\n"+text)
	}
	w.rows.Require(fault+": alarms that wattle status does not show", missing, "alarms", 0)
}

// feed runs a command in the host with something to read.
func (h *host) feed(ctx context.Context, text string, args ...string) error {
	cmd := h.command(ctx, args...)
	cmd.Stdin = strings.NewReader(text)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %s: %w: %s", h.name, strings.Join(args, " "), err, out)
	}
	return nil
}
