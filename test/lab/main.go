// Command lab boots real systemd hosts, installs the packages on them, forms a mesh, and breaks it under the standard load in
// every way that an operator fears. It prints a table and writes .lab/results.json. It needs root, .bin/labroot and .bin/envoy,
// and a package in dist: make lab makes them.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"syscall"
	"time"

	"github.com/wattle-mesh/wattle/test/load"
)

func main() {
	role := flag.String("role", "", "internal: what this process is")
	to := flag.String("targets", "", "internal: where the load goes, as JSON")
	only := flag.String("run", "", "run the faults whose names match this `REGEXP` only")
	side := flag.Duration("side", 30*time.Second, "how long to send load on each side of a fault")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *role, *to, *only, *side); err != nil {
		fmt.Fprintln(os.Stderr, "lab:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, role, to, only string, side time.Duration) (err error) {
	switch role {
	case "load":
		var all []load.Target
		if err := json.Unmarshal([]byte(to), &all); err != nil {
			return err
		}
		return send(ctx, all)
	case "long":
		var at map[string]string
		if err := json.Unmarshal([]byte(to), &at); err != nil {
			return err
		}
		return linger(ctx, at)
	}
	pattern, err := regexp.Compile(only)
	if err != nil {
		return err
	}
	root, err := filepath.EvalSymlinks(".bin/labroot")
	if err != nil {
		return fmt.Errorf("%w; run make lab", err)
	}
	debs, err := filepath.Glob("dist/wattle_*.deb")
	if err != nil || len(debs) != 1 {
		return fmt.Errorf("want one package in dist, there are %d (%w); run make lab", len(debs), err)
	}
	l, err := newLab(ctx, root)
	if err != nil {
		return err
	}
	w := &world{lab: l, side: side, deb: debs[0], app: filepath.Join(l.dir, "echo-app")}
	defer func() { err = errors.Join(err, w.end()) }()
	if err := compile(ctx, w.app, "./test/load/app"); err != nil {
		return err
	}
	if err := w.build(ctx); err != nil {
		return errors.Join(err, w.journals())
	}
	var errs []error
	for _, f := range faults {
		if !pattern.MatchString(f.name) {
			continue
		}
		began := time.Now()
		err := f.run(ctx, w)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil { // the others may say more
			fmt.Fprintf(os.Stderr, "lab: %s: %v\n", f.name, err)
			w.rows.Require(f.name+": could not be carried out", 1, "faults", 0)
			errs = append(errs, fmt.Errorf("%s: %w", f.name, err))
		}
		fmt.Fprintf(os.Stderr, "lab: %s, in %s\n", f.name, time.Since(began).Round(100*time.Millisecond))
	}
	if err := errors.Join(w.rows.Write(os.Stdout), w.rows.Save(".lab")); err != nil {
		return err
	}
	if n := w.rows.Missed(); n > 0 {
		errs = append(errs, fmt.Errorf("%d targets are not met", n), w.journals())
	}
	return errors.Join(errs...)
}

// compile builds a program of this repository.
func compile(ctx context.Context, file, pkg string, flags ...string) error {
	build := exec.CommandContext(ctx, "go", append(append([]string{"build"}, flags...), "-o", file, pkg)...)
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build %s: %w: %s", pkg, err, out)
	}
	return nil
}

// end stops the load and turns everything off.
func (w *world) end() error {
	err := w.stopLoad()
	if w.third != nil && w.third.load != nil {
		err = errors.Join(err, w.third.load.stop())
	}
	return errors.Join(err, w.close())
}

// journals keeps what the hosts wrote, in .lab.
func (w *world) journals() error {
	if err := os.MkdirAll(".lab", 0o755); err != nil {
		return err
	}
	var errs []error
	for _, h := range w.hosts {
		if h.pid == 0 {
			continue
		}
		text, err := h.run(context.Background(), "journalctl", "--no-pager", "-o", "short-precise", "-u", "wattle*", "-u", "echo*")
		errs = append(errs, err, os.WriteFile(filepath.Join(".lab", h.name+".log"), []byte(text), 0o644))
	}
	return errors.Join(errs...)
}
