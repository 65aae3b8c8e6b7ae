package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
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
	load                   *traffic
	side                   time.Duration // of load on each side of a fault
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
	{Kind: load.GRPC, Addr: "127.0.0.1:9083"}, {Kind: load.TCP, Addr: "127.0.0.1:9082"},
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
	w.load, err = startTraffic(ctx, w.caller, targets)
	return err
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
	return until(ctx, settle, "the caller is answered", func() error {
		_, err := w.caller.run(ctx, "curl", "-sS", "--fail", "--max-time", "2", "http://127.0.0.1:9081/")
		return err
	})
}

// calm waits until no request of a second has failed: clients that were refused wait a moment before they connect again.
func (w *world) calm(ctx context.Context) error {
	return until(ctx, settle, "no request fails", func() error {
		now := time.Now()
		o, err := w.load.between(now, now.Add(time.Second))
		if err == nil && (o.Failed > 0 || o.Sent == 0) {
			err = fmt.Errorf("%d of %d requests failed", o.Failed, o.Sent)
		}
		return err
	})
}

// wait lets the load go on.
func (w *world) wait(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// under does something under load, with load before and after, and returns what became of the requests.
func (w *world) under(ctx context.Context, what func() error) (outcome, error) {
	from := time.Now()
	if err := w.wait(ctx, w.side); err != nil {
		return outcome{}, err
	}
	if err := what(); err != nil {
		return outcome{}, err
	}
	if err := w.wait(ctx, w.side); err != nil {
		return outcome{}, err
	}
	return w.load.between(from, time.Now())
}

// unharmed does something under load and requires that no request fails.
func (w *world) unharmed(ctx context.Context, name string, what func() error) error {
	o, err := w.under(ctx, what)
	if err != nil {
		return err
	}
	w.rows.Require(fmt.Sprintf("%s: failed of %d requests", name, o.Sent), float64(o.Failed), "requests", 0)
	w.tell(o)
	return nil
}

// tell prints some failures of an outcome.
func (w *world) tell(o outcome) {
	for _, f := range o.Failures {
		fmt.Fprintln(os.Stderr, "lab:   ", f)
	}
}

// mainPID returns the main process of a unit.
func (h *host) mainPID(ctx context.Context, unit string) (int, error) {
	text, err := h.property(ctx, unit, "MainPID")
	if err != nil {
		return 0, err
	}
	pid, err := strconv.Atoi(strings.TrimSpace(text))
	if err == nil && pid == 0 {
		err = fmt.Errorf("%s: %s has no main process", h.name, unit)
	}
	return pid, err
}

// starting returns how long a unit took from its start until it was ready, by systemd's clock.
func (h *host) starting(ctx context.Context, unit string) (time.Duration, error) {
	var at [2]int64
	for i, name := range []string{"InactiveExitTimestampMonotonic", "ActiveEnterTimestampMonotonic"} {
		text, err := h.property(ctx, unit, name)
		if err != nil {
			return 0, err
		}
		if at[i], err = strconv.ParseInt(text, 10, 64); err != nil {
			return 0, err
		}
	}
	return time.Duration(at[1]-at[0]) * time.Microsecond, nil
}

// kill9 kills the main process of a unit and returns how long it takes until the unit is active again.
func (h *host) kill9(ctx context.Context, unit string) (time.Duration, error) {
	old, err := h.mainPID(ctx, unit)
	if err != nil {
		return 0, err
	}
	began := time.Now()
	if _, err := h.run(ctx, "kill", "-9", strconv.Itoa(old)); err != nil {
		return 0, err
	}
	err = until(ctx, settle, unit+" is back", func() error {
		pid, err := h.mainPID(ctx, unit)
		if err == nil && pid == old {
			err = errors.New("the old process is there yet")
		}
		if err == nil {
			_, err = h.run(ctx, "systemctl", "is-active", unit)
		}
		return err
	})
	return time.Since(began), err
}
