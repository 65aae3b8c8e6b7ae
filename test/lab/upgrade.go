package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
)

// proxyUpgrade has wattle proxy upgrade go over to another binary on both hosts, and to ones that are not well: an Envoy that never
// serves, and one that ends while it is watched. Both hosts serve with the binary of before then.
func proxyUpgrade(ctx context.Context, w *world) error {
	envoy, err := filepath.EvalSymlinks(".bin/envoy")
	if err != nil {
		return err
	}
	hosts := []*host{w.callee, w.caller}
	err = w.unharmed(ctx, "wattle proxy upgrade on both hosts", func() error {
		for _, h := range hosts {
			if err := h.install(envoy, "/opt/envoy"); err != nil {
				return err
			}
			// What follows a program in its file is not loaded.
			const over = "echo upgraded >>/opt/envoy && wattle proxy upgrade -host -envoy /opt/envoy -soak 3s && cmp /opt/envoy /usr/bin/envoy && " + runsIt
			if _, err := h.run(ctx, "sh", "-ec", over); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	const speaks = "#!/bin/sh\ncase $1 in --version | --hot-restart-version) exec /opt/envoy $1 ;; esac\n"
	fails := func(then, why string) func() error {
		return func() error {
			for _, h := range hosts {
				if err := h.write("/opt/faulty", speaks+then, 0o755); err != nil {
					return err
				}
				out, err := h.run(ctx, "sh", "-c", "wattle proxy upgrade -host -envoy /opt/faulty -soak 8s 2>&1; echo exit $?")
				if err == nil && (!strings.Contains(out, why) || !strings.HasSuffix(out, "exit 1")) {
					err = errors.New("it says: " + out)
				}
				if err == nil {
					err = until(ctx, settle, "it runs the Envoy of before", func() error {
						_, err := h.run(ctx, "sh", "-ec", "cmp /opt/envoy /usr/bin/envoy && "+runsIt)
						return err
					})
				}
				if err != nil {
					return fmt.Errorf("upgrade %s to what is faulty: %w", h.name, err)
				}
			}
			return nil
		}
	}
	if err := w.unharmed(ctx, "wattle proxy upgrade to an Envoy that ends at once, taken back", fails("exit 1\n", "went back")); err != nil {
		return err
	}
	o, err := w.under(ctx, fails("(sleep 3; kill -9 $$) >/dev/null 2>&1 &\nexec /opt/envoy \"$@\"\n", "the new Envoy"))
	if err != nil {
		return err
	}
	w.rows.Note(fmt.Sprintf("wattle proxy upgrade to an Envoy that is killed while it is watched, taken back: failed of %d requests", o.Sent), float64(o.Failed), "requests")
	return w.calm(ctx)
}

// runsIt is a command that succeeds if the Envoy that runs is the one in its file.
const runsIt = "cmp /usr/bin/envoy /proc/$(systemctl show -P MainPID " + envoyUnit + ")/exe"
