package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/wattle-mesh/wattle/test/load"
)

// many is how many services the third host has for others to call, each a cluster of its own at the caller.
const many = 50

// third is a host that joins later than the others, calls the application by itself, and is purged at the end.
type third struct {
	*host
	before []string // what was there without the package
	load   *traffic
}

// otherTargets is what it calls.
var otherTargets = []load.Target{{Kind: load.Get, Addr: "127.0.0.1:9081"}, {Kind: load.Post, Addr: "127.0.0.1:9081"}}

const otherCaller = `service "other" {
  port = 9997
  upstream "echo" {
    port = 8080
    bind = "127.0.0.1:9081"
  }
}
service "held" {
  port = 9994
  unit = "echo.service"
  capture "loopback" {}
}
`

// another returns the third host, which is a member of the mesh; the first time it makes it.
func (w *world) another(ctx context.Context) (*third, error) {
	if w.third != nil {
		return w.third, nil
	}
	h, err := w.add(ctx, "h3")
	if err != nil {
		return nil, err
	}
	t := &third{host: h}
	if err := h.start(ctx); err != nil {
		return nil, err
	}
	if t.before, err = h.everything(ctx); err != nil {
		return nil, err
	}
	var services, listen strings.Builder
	for i := range many {
		fmt.Fprintf(&services, "service \"s%02d\" {\n  port = %d\n}\n", i, 20000+i)
		fmt.Fprintf(&listen, " -http 127.0.0.1:%d", 20000+i)
	}
	if err := errors.Join(w.bring(h), h.install(w.app, "/usr/bin/echo-app"), h.write("/etc/systemd/system/echo.service", strings.Replace(appUnit, " -tcp", listen.String()+" -tcp", 1), 0o644)); err != nil {
		return nil, err
	}
	if _, err := h.run(ctx, "systemctl", "start", "echo.service"); err != nil {
		return nil, err
	}
	if err := w.installPackage(ctx, h); err != nil {
		return nil, err
	}
	err = errors.Join(h.write("/etc/wattle/services.d/other.hcl", otherCaller, 0o644), h.write("/etc/wattle/services.d/many.hcl", services.String(), 0o644))
	if err == nil {
		err = w.join(ctx, h, "'default/*'")
	}
	if err == nil {
		err = h.answered(ctx)
	}
	if err != nil {
		return nil, err
	}
	if err := h.sync(); err != nil {
		return nil, err
	}
	w.third = t
	t.load, err = startTraffic(ctx, h, otherTargets)
	return t, err
}

// callMany has the caller's Envoy know the third host's services, each by a cluster, and waits until it does.
func (w *world) callMany(ctx context.Context) error {
	var text strings.Builder
	text.WriteString("service \"many\" {\n  port = 9996\n")
	for i := range many {
		fmt.Fprintf(&text, "  upstream \"s%02d\" { bind = \"127.0.0.1:%d\" }\n", i, 20000+i)
	}
	text.WriteString("}\n")
	if err := w.caller.write("/etc/wattle/services.d/many.hcl", text.String(), 0o644); err != nil {
		return err
	}
	return until(ctx, settle, "the caller calls all of them", func() error {
		const all = "for p in $(seq 20000 20049); do curl -sS --fail --max-time 2 http://127.0.0.1:$p/ >/dev/null || exit 1; done"
		_, err := w.caller.run(ctx, "sh", "-c", all)
		return err
	})
}
