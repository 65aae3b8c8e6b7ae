package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

// upgraded goes from a version to the next and back, so that servers and agents are one apart, each ahead once. What the operator
// wrote into the configuration stays.
func upgraded(ctx context.Context, w *world) error {
	next, err := w.nextPackage(ctx)
	if err != nil {
		return err
	}
	hosts := []*host{w.callee, w.caller}
	for _, h := range hosts {
		if _, err := h.run(ctx, "sh", "-c", "echo '# said by the operator' >>/etc/wattle/agent.hcl"); err != nil {
			return err
		}
	}
	for _, s := range []struct {
		what string
		deb  string
		on   []*host
	}{
		{"server upgraded, its agents are a version behind", next, []*host{w.server}},
		{"agents upgraded, too", next, hosts},
		{"server downgraded, its agents are a version ahead", w.deb, []*host{w.server}},
		{"agents downgraded, too", w.deb, hosts},
	} {
		err := w.unharmed(ctx, "package: "+s.what, func() error {
			return w.sameEnvoys(ctx, func() error {
				for _, h := range s.on {
					if err := h.dpkg(ctx, s.deb); err != nil {
						return err
					}
				}
				return errors.Join(w.change(ctx), w.registered(ctx))
			})
		})
		if err != nil {
			return fmt.Errorf("%s: %w", s.what, err)
		}
	}
	lost := 0
	for _, h := range hosts {
		n, err := h.count(ctx, "grep 'said by the operator' /etc/wattle/agent.hcl")
		if err != nil {
			return err
		}
		lost += 1 - n
	}
	w.rows.Require("packages up and down: configuration files that lost what the operator wrote", float64(lost), "files", 0)
	return nil
}

// registered has a workload be registered on the caller, get a certificate, and call, and be deregistered.
func (w *world) registered(ctx context.Context) error {
	const file = "/etc/wattle/services.d/fresh.hcl"
	const text = "service \"fresh\" {\n  port = 9995\n  upstream \"echo\" {\n    port = 8080\n    bind = \"127.0.0.1:9093\"\n  }\n}\n"
	if err := w.caller.write(file, text, 0o644); err != nil {
		return err
	}
	err := until(ctx, time.Minute, "a new workload is registered and calls", func() error {
		out, err := w.caller.run(ctx, "curl", "-sS", "--fail", "--max-time", "2", "http://127.0.0.1:9093/")
		if err == nil && !strings.Contains(out, "/svc/fresh") {
			err = errors.New("it is not called as itself: " + out)
		}
		return err
	})
	_, gone := w.caller.run(ctx, "rm", file)
	return errors.Join(err, gone, until(ctx, time.Minute, "it is deregistered", func() error {
		n, err := w.caller.count(ctx, "ss -ltnH 'src 127.0.0.1:9093'")
		if err == nil && n > 0 {
			err = errors.New("its listener is there yet")
		}
		return err
	}))
}

// nextPackage makes a package of a later version: its program says another version, its configuration has another comment.
func (w *world) nextPackage(ctx context.Context) (string, error) {
	dir, deb := filepath.Join(w.dir, "next"), filepath.Join(w.dir, "next.deb")
	if err := steps(ctx, []string{"dpkg-deb", "-R", w.deb, dir}); err != nil {
		return "", err
	}
	program, control, conf := filepath.Join(dir, "usr/bin/wattle"), filepath.Join(dir, "DEBIAN/control"), filepath.Join(dir, "etc/wattle/agent.hcl")
	out, err := exec.CommandContext(ctx, program, "--version").Output()
	if err != nil {
		return "", err
	}
	version := strings.Fields(string(out))[len(strings.Fields(string(out)))-1]
	for file, change := range map[string]func(string) string{
		program: func(s string) string { return strings.ReplaceAll(s, version, version[:len(version)-1]+"N") },
		control: func(s string) string {
			return regexp.MustCompile("(?m)^Version: .*").ReplaceAllString(s, "Version: 9999.0.0")
		},
		conf: func(s string) string { return s + "# a comment of the next version\n" },
	} {
		text, err := os.ReadFile(file)
		if err != nil {
			return "", err
		}
		if err := os.WriteFile(file, []byte(change(string(text))), 0); err != nil {
			return "", err
		}
	}
	return deb, steps(ctx, []string{"rm", filepath.Join(dir, "DEBIAN/md5sums")}, []string{"dpkg-deb", "-b", "-Znone", dir, deb})
}

// dpkg installs a package of this machine on the host, as an upgrade does that asks nobody.
func (h *host) dpkg(ctx context.Context, deb string) error {
	text, err := os.ReadFile(deb)
	if err == nil {
		err = h.write("/root/next.deb", string(text), 0o644)
	}
	if err == nil {
		_, err = h.run(ctx, "dpkg", "--force-confold", "--force-downgrade", "-i", "/root/next.deb")
	}
	return err
}

// listing is what a host consists of, but for what the system itself writes all the time: files, sockets, users, units, tables
// of the firewall, processes.
const listing = `
find / -xdev \( -path /proc -o -path /sys -o -path /root -o -path /tmp -o -path /var/log -o -path /var/lib/dpkg -o -path /var/cache -o -path /var/lib/systemd -o -path /usr/bin/envoy -o -path '/var/tmp/systemd-private-*' \) -prune -o -print | sort
find /run /dev/shm /var/lib/private /var/tmp -name '*wattle*' -o -name '*envoy*' | sort
find /run/systemd/system /run/systemd/resolved.conf.d /etc/systemd | sort
getent passwd; getent group; systemctl list-units --all --plain --no-legend 'wattle*' '*.slice'; systemctl list-unit-files --no-legend 'wattle*'; nft list ruleset
ip -o address | sed 's, tentative,,; s,valid_lft.*,,'; ip rule; ip route; cat /etc/resolv.conf
ps -eo args= | grep -E 'wattle|envoy' | grep -v grep`

// everything lists what there is on a host.
func (h *host) everything(ctx context.Context) ([]string, error) {
	out, err := h.run(ctx, "sh", "-c", "("+listing+") 2>/dev/null || true")
	return strings.Split(out, "\n"), err
}

// purged removes the package from the third host, where nothing of it may remain.
func purged(ctx context.Context, w *world) error {
	h, err := w.another(ctx)
	if err != nil {
		return err
	}
	if err := h.load.stop(); err != nil {
		return err
	}
	h.load = nil
	if _, err := h.run(ctx, "sh", "-c", "systemctl disable --now --quiet echo.service; dpkg --purge wattle && systemctl daemon-reload && rm /etc/systemd/system/echo.service /usr/bin/echo-app"); err != nil {
		return err
	}
	after, err := h.everything(ctx)
	if err != nil {
		return err
	}
	left := difference(h.before, after)
	for _, line := range left {
		fmt.Fprintln(os.Stderr, "lab:    left:", line)
	}
	w.rows.Require("left of the package after a purge", float64(len(left)), "things", 0)
	gone := difference(after, h.before)
	for _, line := range gone {
		fmt.Fprintln(os.Stderr, "lab:    gone:", line)
	}
	w.rows.Require("of what others had, gone after a purge", float64(len(gone)), "things", 0)
	h.off()
	w.third = nil
	return nil
}

// difference returns the lines of b that a does not have.
func difference(a, b []string) []string {
	known := map[string]bool{}
	for _, line := range a {
		known[line] = true
	}
	var out []string
	for _, line := range b {
		if !known[line] {
			out = append(out, line)
		}
	}
	return out
}
