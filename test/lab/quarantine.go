package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
)

// gatewayUnit is the unit of the gateway that these faults run on the callee.
const gatewayUnit = "wattle-envoy@gw-web.service"

// gateway writes a policy with a gateway on the callee, whose body this is; empty: there is none.
func (w *world) gateway(body string) error {
	text := "mesh {\n  trust_domain = \"lab.example\"\n}\n"
	if body != "" {
		text += "gateway \"web\" {\n  run_on = [\"" + w.callee.name + "\"]\n" + body + "}\n" +
			"virtual_service \"web\" {\n  hosts    = [\"*\"]\n  gateways = [\"web\"]\n  http \"all\" {\n    route {\n      host = \"echo\"\n      port = 8080\n    }\n  }\n}\n"
	}
	return w.server.write("/etc/wattle/policy/mesh.hcl", text, 0o644)
}

func port(n int) string {
	return fmt.Sprintf("  server \"p%d\" {\n    port = %d\n  }\n", n, n)
}

// reached asks the gateway at a port.
func (w *world) reached(ctx context.Context, port int) error {
	_, err := w.callee.run(ctx, "curl", "-sS", "--fail", "--max-time", "2", "-H", "Host: echo", fmt.Sprintf("http://127.0.0.1:%d/", port))
	return err
}

// fragile is an Envoy that, as a gateway, cannot live with a listener on port 10099, and hangs with one on 10098.
const fragile = `#!/bin/sh
case "$*" in *gw-web*--restart-epoch*|*--hot-restart-version*) exec /usr/bin/envoy.good "$@" ;; *gw-web*) ;; *) exec /usr/bin/envoy.good "$@" ;; esac
/usr/bin/envoy.good "$@" &
pid=$!
trap 'kill $pid; wait $pid; exit 0' TERM
listens() { grep -q "00000000:$1 00000000:0000 0A" /proc/self/net/tcp; }
while kill -0 $pid 2>/dev/null; do
	if listens 2773; then echo 'assert failure: it cannot live with port 10099' >&2; kill -9 $pid; wait $pid; exit 134; fi
	if listens 2772; then kill -STOP $pid; fi
	sleep 0.05
done
wait $pid
`

func policyCrashes(ctx context.Context, w *world) error {
	return quarantined(ctx, w, "policy that crashes a gateway's Envoy", 10099, "cannot live with port 10099")
}

func policyHangs(ctx context.Context, w *world) error {
	return quarantined(ctx, w, "policy that hangs a gateway's Envoy", 10098, "answered nothing")
}

// quarantined gives a gateway what its Envoy cannot live with: it gets back what it had, and nobody else feels it.
func quarantined(ctx context.Context, w *world, name string, bad int, words string) error {
	h := w.callee
	if _, err := h.run(ctx, "mv", "/usr/bin/envoy", "/usr/bin/envoy.good"); err != nil {
		return err
	}
	if err := errors.Join(h.write("/usr/bin/envoy", fragile, 0o755), w.gateway(port(8000))); err != nil {
		return err
	}
	if err := until(ctx, settle, "the gateway answers", func() error { return w.reached(ctx, 8000) }); err != nil {
		return err
	}
	err := until(ctx, 2*time.Minute, "the gateway's state is proven", func() error {
		_, err := h.run(ctx, "test", "-e", "/var/lib/wattle/agent/proven/gw-web.state")
		return err
	})
	if err != nil {
		return err
	}
	var took time.Duration
	var status string
	err = w.unharmed(ctx, name+": through other Envoys", func() error {
		return w.sameEnvoys(ctx, func() error {
			began := time.Now()
			if err := w.gateway(port(8000) + port(bad)); err != nil {
				return err
			}
			err := until(ctx, time.Minute, "it is in quarantine, and the gateway answers", func() (err error) {
				if status, err = w.server.run(ctx, "wattle", "proxy", "status"); err == nil && !strings.Contains(status, "in quarantine") {
					err = errors.New(status)
				}
				return errors.Join(err, w.reached(ctx, 8000))
			})
			took = time.Since(began)
			return err
		})
	})
	if err != nil {
		return err
	}
	w.rows.Require(name+": the state before is served", took.Seconds(), "s", 30)
	if !strings.Contains(status, words) {
		return fmt.Errorf("wattle proxy status does not say %q: %s", words, status)
	}
	if err := w.gateway(port(8000) + port(8001)); err != nil {
		return err
	}
	if err := until(ctx, settle, "a better policy ends the quarantine", func() error { return w.reached(ctx, 8001) }); err != nil {
		return err
	}
	if err := w.gateway(""); err != nil {
		return err
	}
	if err := w.gone(ctx, gatewayUnit); err != nil {
		return err
	}
	_, err = h.run(ctx, "mv", "/usr/bin/envoy.good", "/usr/bin/envoy")
	return err
}

// gone waits until a unit of the callee does not run any more.
func (w *world) gone(ctx context.Context, unit string) error {
	return until(ctx, time.Minute, unit+" has ended", func() error {
		state, err := w.callee.property(ctx, unit, "ActiveState")
		if err == nil && state != "inactive" {
			err = errors.New(state)
		}
		return err
	})
}
