package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"time"

	"github.com/wattle-mesh/wattle/test/load"
	"github.com/wattle-mesh/wattle/test/table"
)

// The applications' ports, and where the caller reaches them.
const (
	settle = 20 * time.Second // for what should take a second
)

// world is the mesh of the lab: a server, a host that serves and one that calls, installed from the package.
type world struct {
	*lab
	server, callee, caller *host
	third                  *third // nil: it is not needed yet, or no more
	load                   *traffic
	side                   time.Duration // of load on each side of a fault
	since                  time.Time     // when the present side began
	away                   time.Time     // since when no server runs; zero: it does
	changes                int           // of policy
	rows                   table.Rows
	deb, app               string // files
}

const appUnit = `[Unit]
Description=The application of the standard load

[Service]
DynamicUser=yes
ExecStart=/usr/bin/echo-app -name echo -host %H -http 127.0.0.1:8080 -http 127.0.0.1:8082 -tcp 127.0.0.1:8081

[Install]
WantedBy=multi-user.target
`

var targets = []load.Target{
	{Kind: load.Get, Addr: "127.0.0.1:9081"}, {Kind: load.Post, Addr: "127.0.0.1:9081"}, {Kind: load.H2, Addr: "127.0.0.1:9083"},
	{Kind: load.GRPC, Addr: "127.0.0.1:9083"}, {Kind: load.Stream, Addr: "127.0.0.1:9083"}, {Kind: load.TCP, Addr: "127.0.0.1:9082"},
}

// build boots three hosts and does what docs/install.md says on them.
func (w *world) build(ctx context.Context) (err error) {
	for _, h := range []struct {
		at   **host
		name string
	}{{&w.server, "s1"}, {&w.callee, "h1"}, {&w.caller, "h2"}} {
		if *h.at, err = w.add(ctx, h.name); err != nil {
			return err
		}
		if err := (*h.at).start(ctx); err != nil {
			return err
		}
		if err := w.bring(*h.at); err != nil {
			return err
		}
	}
	err = errors.Join(w.callee.install(w.app, "/usr/bin/echo-app"), w.callee.write("/etc/systemd/system/echo.service", appUnit, 0o644))
	if err != nil {
		return err
	}
	if _, err := w.callee.run(ctx, "systemctl", "enable", "--now", "--quiet", "echo.service"); err != nil {
		return err
	}
	took, err := w.follow(ctx, "docs/install.md")
	if err != nil {
		return err
	}
	w.rows.Require("two hosts join, to the first call over mTLS", took.Seconds(), "s", 3)
	if err := w.sync(); err != nil {
		return err
	}
	return w.startLoad(ctx)
}

// sync has on the disks what was installed and written until now, as it is some time after an installation.
func (w *world) sync() error {
	var errs []error
	for _, h := range w.hosts {
		errs = append(errs, h.sync())
	}
	return errors.Join(errs...)
}

// bring puts the package and an Envoy on a host.
func (w *world) bring(h *host) error {
	text, err := os.ReadFile(w.deb)
	if err != nil {
		return err
	}
	envoy, err := filepath.EvalSymlinks(".bin/envoy")
	if err != nil {
		return err
	}
	return errors.Join(h.write("/root/"+filepath.Base(w.deb), string(text), 0o644), h.install(envoy, "/usr/bin/envoy"))
}

// installPackage installs the package that is on a host.
func (w *world) installPackage(ctx context.Context, h *host) error {
	_, err := h.run(ctx, "dpkg", "-i", "/root/"+filepath.Base(w.deb))
	return err
}

// join makes a host a member of the mesh.
func (w *world) join(ctx context.Context, h *host, services string) error {
	if _, err := w.server.run(ctx, "sh", "-c", "wattle token create -node "+h.name+" -services "+services+" >/root/"+h.name+".token"); err != nil {
		return err
	}
	if err := w.handOver(h); err != nil {
		return err
	}
	_, err := h.run(ctx, "sh", "-c", "wattle agent join -server "+w.server.addr+":7501 -token-file /root/token && systemctl enable --now --quiet wattle.target wattle-agent")
	return err
}

// handOver brings a host the token that the server made for it.
func (w *world) handOver(h *host) error {
	text, err := os.ReadFile(filepath.Join(w.server.path("root"), "root", h.name+".token"))
	if err != nil {
		return err
	}
	return h.write("/root/token", string(text), 0o600)
}

// answered waits until the caller reaches the application.
func (w *world) answered(ctx context.Context) error {
	return w.caller.answered(ctx)
}

// answered waits until a call from this host is.
func (h *host) answered(ctx context.Context) error {
	return until(ctx, settle, "a call from "+h.name+" is answered", func() error {
		_, err := h.run(ctx, "curl", "-sS", "--fail", "--max-time", "2", "http://127.0.0.1:9081/")
		return err
	})
}
