package main

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
)

// together is how many workloads one Envoy serves, or as many sidecars.
const together = 20

// sharedHost is where they are.
const sharedHost = "127.77.0.8"

// shared measures the memory of the Envoys of one host with 20 workloads, each of which calls 20 services: one that all share,
// or one for each.
func (d *driver) shared(ctx context.Context) error {
	var sum [2]float64
	for i, mode := range []string{"host", "sidecar"} {
		bytes, err := d.envoysOf(ctx, mode)
		if err != nil {
			return fmt.Errorf("mode %s: %w", mode, err)
		}
		sum[i] = megabytes(bytes)
	}
	d.out.Note("memory of one shared Envoy for 20 workloads that call 20 services each", sum[0], "MB")
	d.out.Note("memory of 20 sidecars in its stead", sum[1], "MB")
	d.out.Note("the same, for each workload", sum[1]/together, "MB")
	return nil
}

// envoysOf returns the proportional memory of the Envoys of a host whose workloads are served in a mode: what they share,
// such as the program, counts once.
func (d *driver) envoysOf(ctx context.Context, mode string) (int64, error) {
	s := &site{dir: filepath.Join(d.dir, "mode-"+mode), wattle: d.wattle}
	defer s.stop()
	for i := range together {
		if err := writeFile(filepath.Join(s.dir, "services"), serviceName(i).Name+".hcl", fileOf(i)); err != nil {
			return 0, err
		}
	}
	if err := s.serve(ctx, "mesh {}\n"+workloads(mode), fmt.Sprintf("registry \"static\" \"files\" { path = %q }\n", filepath.Join(s.dir, "services"))); err != nil {
		return 0, err
	}
	h, err := s.join(ctx, "h", sharedHost)
	if err != nil {
		return 0, err
	}
	want := 1
	if mode == "sidecar" {
		want = together
	}
	if err := await(ctx, "the Envoys", func() error { return h.serving(ctx, want) }); err != nil {
		return 0, err
	}
	if err := rest(ctx, quiet); err != nil {
		return 0, err
	}
	all, err := h.envoys()
	if err != nil {
		return 0, err
	}
	var sum int64
	for _, p := range all {
		m, err := p.ProcSMapsRollup()
		if err != nil {
			return 0, err
		}
		sum += int64(m.Pss)
	}
	return sum, nil
}

// serving fails as long as not so many Envoys of the host serve, with the clusters of all that they call.
func (h *host) serving(ctx context.Context, want int) error {
	socks, err := filepath.Glob(filepath.Join(h.run, "*", "admin.sock"))
	if err != nil {
		return err
	}
	n := 0
	for _, sock := range socks {
		one := &host{run: filepath.Dir(sock), envoy: asking(sock)}
		if one.complete(ctx, together) == nil {
			n++
		}
	}
	if n != want {
		return fmt.Errorf("%d of %d Envoys serve", n, want)
	}
	return nil
}

// workloads returns the text of a host with the workloads.
func workloads(mode string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "host \"h\" {\n  address = %q\n  mode    = %q\n", sharedHost, mode)
	for i := range together {
		fmt.Fprintf(&b, "  service \"app-%d\" {\n    port  = %d\n    local = \"%s:%[2]d\"\n", i, 9000+i, sharedHost)
		for j := range together {
			fmt.Fprintf(&b, "    upstream %q { bind = \"%s:%d\" }\n", serviceName(j).Name, sharedHost, 20000+i*together+j)
		}
		b.WriteString("  }\n")
	}
	b.WriteString("}\n")
	return b.String()
}
