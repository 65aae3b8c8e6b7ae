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

	"github.com/prometheus/procfs"
	"golang.org/x/sys/unix"
)

// hosts measures what a host needs: the program, an agent and its Envoys.
func (d *driver) hosts(ctx context.Context) error {
	info, err := os.Stat(d.wattle)
	if err != nil {
		return fmt.Errorf("%w; make build builds it", err)
	}
	d.out.Require("size of the program", megabytes(info.Size()), "MB", 60)
	if err := d.wide(ctx); err != nil {
		return err
	}
	return d.shared(ctx)
}

// wideHost is where the host with everything in scope is.
const wideHost = "127.77.0.7"

// wide measures an agent with 1000 services in scope, and its Envoy that starts with them from what the agent has on disk:
// of a gateway, whose clusters they are, and of a workload, whose upstreams they are and have a listener each.
func (d *driver) wide(ctx context.Context) error {
	ready, _, err := d.restart(ctx, "gateway", gatewayTo())
	if err != nil {
		return err
	}
	d.out.Require("Envoy start to ready, a gateway with 1000 clusters from the agent", ready.Seconds(), "s", 1)
	caller := strings.ReplaceAll(strings.Replace(callerOf(), "10.1.0.1", wideHost, 1), "127.0.0.1:", wideHost+":")
	ready, bytes, err := d.restart(ctx, "upstreams", caller)
	if err != nil {
		return err
	}
	d.out.Note("the same with 1000 upstreams: as many clusters, routes and listeners", ready.Seconds(), "s")
	d.out.Require("agent memory with 1000 services in scope", megabytes(bytes), "MB", 40)
	return nil
}

// gatewayTo returns the text of a gateway with a route to each service.
func gatewayTo() string {
	var b strings.Builder
	fmt.Fprintf(&b, "host \"h\" {\n  address = %q\n}\n", wideHost)
	b.WriteString("gateway \"edge\" {\n  run_on = [\"h\"]\n  server \"http\" {\n    port  = 8080\n")
	fmt.Fprintf(&b, "    bind  = %q\n    hosts = [\"*\"]\n  }\n}\nvirtual_service \"all\" {\n  hosts    = [\"*\"]\n  gateways = [\"edge\"]\n", wideHost)
	for i := range services {
		fmt.Fprintf(&b, "  http \"%[1]s\" {\n    match {\n      uri = { prefix = \"/%[1]s/\" }\n    }\n    route { host = \"%[1]s\" }\n  }\n", serviceName(i).Name)
	}
	b.WriteString("}\n")
	return b.String()
}

// settled is when an agent has given back what its start needed: 5 s after it was ready.
const settled = 6 * time.Second

// restart starts the agent of a host with this policy again and again. It returns how long its Envoy takes from its start until
// it is ready, and the agent's memory a while later.
func (d *driver) restart(ctx context.Context, name, policy string) (time.Duration, int64, error) {
	s := &site{dir: filepath.Join(d.dir, name), wattle: d.wattle}
	defer s.stop()
	for i := range services {
		if err := writeFile(filepath.Join(s.dir, "services"), serviceName(i).Name+".hcl", fileOf(i)); err != nil {
			return 0, 0, err
		}
	}
	if err := s.serve(ctx, "mesh {}\n"+policy, fmt.Sprintf("registry \"static\" \"files\" { path = %q }\n", filepath.Join(s.dir, "services"))); err != nil {
		return 0, 0, err
	}
	h, err := s.join(ctx, "h", wideHost)
	if err != nil {
		return 0, 0, err
	}
	if err := await(ctx, "Envoy with all clusters", func() error { return h.complete(ctx, services) }); err != nil {
		return 0, 0, err
	}
	if err := rest(ctx, quiet); err != nil { // until what it has is on disk
		return 0, 0, err
	}
	var ready []time.Duration
	var memory []int64
	for range d.effort.repeats {
		end(h.agent)
		if h.agent, err = s.run(ctx, h.argv...); err != nil {
			return 0, 0, err
		}
		t, err := h.envoyReady(ctx)
		if err != nil {
			return 0, 0, err
		}
		if err := h.complete(ctx, services); err != nil { // ready from disk is ready with all
			return 0, 0, err
		}
		if err := rest(ctx, settled); err != nil {
			return 0, 0, err
		}
		bytes, err := resident(h.agent.Process.Pid)
		if err != nil {
			return 0, 0, err
		}
		ready, memory = append(ready, t), append(memory, bytes)
	}
	return median(ready), median(memory), nil
}

// complete fails as long as the Envoy does not serve or has not n clusters besides those that it needs itself.
func (h *host) complete(ctx context.Context, n int) error {
	if _, err := h.ask(ctx, "/ready"); err != nil {
		return err
	}
	text, err := h.ask(ctx, "/stats?filter=^cluster_manager.active_clusters$")
	if err != nil {
		return err
	}
	_, number, _ := strings.Cut(strings.TrimSpace(text), ": ")
	if got, err := strconv.Atoi(number); err != nil || got < n {
		return errors.Join(err, fmt.Errorf("it has %d clusters", got))
	}
	return nil
}

// envoyReady waits until the Envoy of the agent says that it is ready, and returns how long after the start of its process
// that was.
func (h *host) envoyReady(ctx context.Context) (time.Duration, error) {
	err := await(ctx, "an Envoy that is ready", func() error {
		_, err := h.ask(ctx, "/ready")
		return err
	})
	if err != nil {
		return 0, err
	}
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &now); err != nil {
		return 0, err
	}
	all, err := h.envoys()
	if err != nil {
		return 0, err
	}
	if len(all) != 1 {
		return 0, fmt.Errorf("there are %d Envoys", len(all))
	}
	s, err := all[0].Stat()
	const tick = time.Second / 100 // USER_HZ
	return time.Duration(now.Nano()) - time.Duration(s.Starttime)*tick, err
}

// envoys returns the processes of the host's Envoys.
func (h *host) envoys() ([]procfs.Proc, error) {
	all, err := procfs.AllProcs()
	if err != nil {
		return nil, err
	}
	var out []procfs.Proc
	for _, p := range all {
		argv, _ := p.CmdLine() // of one that has ended: none
		if len(argv) > 0 && filepath.Base(argv[0]) == "envoy" && strings.Contains(strings.Join(argv, " "), h.run+"/") {
			out = append(out, p)
		}
	}
	return out, nil
}
