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
)

// parts is what both packages must hold.
var parts = []string{
	"/usr/bin/wattle", "/etc/wattle/server.hcl", "/etc/wattle/agent.hcl", "/etc/wattle/policy", "/etc/wattle/services.d",
	"/usr/lib/systemd/system/wattle-server.service", "/usr/lib/systemd/system/wattle-server.socket",
	"/usr/lib/systemd/system/wattle-agent.service", "/usr/lib/systemd/system/wattle-agent.socket",
	"/usr/lib/systemd/system/wattle-envoy@.service", "/usr/lib/systemd/system/wattle.target",
	"/usr/lib/sysusers.d/wattle.conf", "/usr/lib/tmpfiles.d/wattle.conf", "/usr/lib/systemd/system-preset/80-wattle.preset",
	"/usr/share/man/man1/wattle.1.gz", "/usr/share/man/man1/wattle-server.1.gz", "/usr/share/man/man1/wattle-agent.1.gz", "/usr/share/man/man1/wattle-proxy.1.gz",
	"/usr/share/bash-completion/completions/wattle", "/usr/share/zsh/vendor-completions/_wattle", "/usr/share/fish/vendor_completions.d/wattle.fish",
	"/usr/share/doc/wattle/copyright", "/usr/share/doc/wattle/NOTICES.gz", "/usr/share/doc/wattle/wattle.cdx.json",
}

// packages looks at the packages themselves.
func packages(ctx context.Context, w *world) error {
	rpms, err := filepath.Glob("dist/wattle-*.rpm")
	if err != nil || len(rpms) != 1 {
		return fmt.Errorf("want one rpm in dist, there are %d (%w); run make packages", len(rpms), err)
	}
	rpm := rpms[0]
	complaints := []string{}
	complain := func(format string, args ...any) { complaints = append(complaints, fmt.Sprintf(format, args...)) }
	for name, args := range map[string][]string{
		"checksums":         {"sh", "-c", "cd dist && sha256sum --quiet -c SHA256SUMS"},
		"digests of rpm":    {"rpm", "-K", "--nosignature", rpm},
		"scripts":           {"sh", "-ec", "for f in packages/scripts/*; do sh -n $f; done"},
		"bill of materials": {"sh", "-ec", "grep -q '\"bomFormat\": \"CycloneDX\"' dist/*.cdx.json && grep -q github.com/spf13/cobra dist/*.cdx.json"},
		"licence notices":   {"sh", "-ec", "dpkg-deb --fsys-tarfile " + w.deb + " | tar -xO ./usr/share/doc/wattle/NOTICES.gz | zcat | grep -q 'github.com/spf13/cobra@'"},
	} {
		if _, err := output(ctx, args...); err != nil {
			complain("%s: %v", name, err)
		}
	}
	files := map[string]string{}
	for kind, args := range map[string][]string{"deb": {"dpkg-deb", "-c", w.deb}, "rpm": {"rpm", "-qplv", rpm}} {
		if files[kind], err = output(ctx, args...); err != nil {
			return err
		}
		for _, p := range parts {
			if !regexp.MustCompile(`(?m)[ .]` + regexp.QuoteMeta(p) + `/?$`).MatchString(files[kind]) {
				complain("%s: no %s", kind, p)
			}
		}
		for line := range strings.Lines(files[kind]) {
			if mode := line[:10]; strings.ContainsAny(mode, "sStT") || mode[8] == 'w' || !strings.Contains(line, "root") {
				complain("%s: mode or owner: %s", kind, line)
			}
		}
	}
	conf, err := output(ctx, "sh", "-c", "dpkg-deb -I "+w.deb+" conffiles; rpm -qpc "+rpm)
	if err != nil {
		return err
	}
	if n := strings.Count(conf, "/etc/wattle/"); n != 4 {
		complain("configuration files: %s", conf)
	}
	for _, c := range complaints {
		fmt.Fprintln(os.Stderr, "lab:   ", c)
	}
	w.rows.Require("packages: what is missing or wrong in them", float64(len(complaints)), "things", 0)
	return errors.Join(w.reproducible(ctx), w.rpm(ctx, rpm))
}

// reproducible makes the packages again.
func (w *world) reproducible(ctx context.Context) error {
	sum, err := os.ReadFile("dist/SHA256SUMS")
	if err != nil {
		return err
	}
	m := regexp.MustCompile(`wattle_(.*)\.cdx\.json`).FindSubmatch(sum)
	if m == nil {
		return fmt.Errorf("no version in dist/SHA256SUMS: %s", sum)
	}
	again := filepath.Join(w.dir, "dist")
	if _, err := output(ctx, "packages/build.sh", string(m[1]), again); err != nil {
		return err
	}
	other, err := os.ReadFile(filepath.Join(again, "SHA256SUMS"))
	if err != nil {
		return err
	}
	n := len(difference(strings.Split(string(sum), "\n"), strings.Split(string(other), "\n")))
	w.rows.Require("packages made again: files that differ", float64(n), "files", 0)
	return nil
}

// rpm installs the rpm in a root that is not booted, and removes it. Configuration that was changed stays, as rpm does it.
func (w *world) rpm(ctx context.Context, rpm string) error {
	h, err := w.add(ctx, "rpm")
	if err != nil {
		return err
	}
	root := h.path("root")
	in := func(args ...string) error {
		_, err := output(ctx, append([]string{"rpm", "--root", root}, args...)...)
		return err
	}
	if err := errors.Join(in("--initdb"), in("--nodeps", "-i", rpm), in("--nodeps", "-V", "wattle")); err != nil {
		return err
	}
	if _, err := output(ctx, "chroot", root, "sh", "-ec", "id wattle; getent group wattle-proxy; wattle --version; [ $(stat -c %G /etc/wattle/server.hcl) = wattle ]; echo >>/etc/wattle/agent.hcl"); err != nil {
		return fmt.Errorf("the rpm, installed: %w", err)
	}
	if err := in("--nodeps", "-e", "wattle"); err != nil {
		return err
	}
	left, err := output(ctx, "find", filepath.Join(h.path("disk"), "upper"), "-iname", "*wattle*", "-not", "-path", "*/rpm*")
	if err != nil {
		return err
	}
	if n := len(strings.Fields(left)); n > 1 || !strings.HasSuffix(left, "/etc/wattle") && n == 1 {
		w.rows.Require("rpm: left after it was removed", float64(n), "files", 0)
		fmt.Fprintln(os.Stderr, "lab:    left:", left)
		return nil
	}
	w.rows.Require("rpm: left after it was removed, but for changed configuration", 0, "files", 0)
	return nil
}

// output runs a command here.
func output(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	var errs strings.Builder
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s: %w: %s%s", strings.Join(args, " "), err, errs.String(), out)
	}
	return strings.TrimSpace(string(out)), nil
}
