package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/wattle-mesh/wattle/internal/api"
)

// process measures the real server, wattle server, with 1000 services of 3000 endpoints in files, and no proxy.
func (d *driver) process(ctx context.Context) error {
	dir := filepath.Join(d.dir, "process")
	for i := range services {
		if err := writeFile(filepath.Join(dir, "services"), serviceName(i).Name+".hcl", fileOf(i)); err != nil {
			return err
		}
	}
	if err := writeFile(filepath.Join(dir, "policy"), "mesh.hcl", "mesh {}\n"); err != nil {
		return err
	}
	agents, err := freeAddress()
	if err != nil {
		return err
	}
	err = writeFile(dir, "server.hcl", fmt.Sprintf(`
state_dir = "%[1]s/state"
policy    = "%[1]s/policy"
http      = "unix:%[1]s/http.sock"
agents    = "%[2]s"

registry "static" "files" { path = "%[1]s/services" }
`, dir, agents))
	if err != nil {
		return err
	}
	first, _, err := d.once(ctx, dir) // makes the CA
	if err != nil {
		return err
	}
	var took []time.Duration
	var rss []float64
	for range d.effort.repeats {
		t, bytes, err := d.once(ctx, dir)
		if err != nil {
			return err
		}
		took, rss = append(took, t), append(rss, megabytes(bytes))
	}
	d.out.Require("server start to ready, 1000 services and 3000 endpoints in 1000 files", milliseconds(median(took)), "ms", 250)
	d.out.Note("the same at the very first start, which makes the CA", milliseconds(first), "ms")
	d.out.Require("server memory for 1000 services and 3000 endpoints, no proxy", median(rss), "MB", 60)
	return nil
}

// once starts a server and returns how long it took to be ready, and its memory a while later.
func (d *driver) once(ctx context.Context, dir string) (took time.Duration, bytes int64, err error) {
	cmd := exec.CommandContext(ctx, d.wattle, "server", "-config", filepath.Join(dir, "server.hcl"))
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	began := time.Now()
	if err := cmd.Start(); err != nil {
		return 0, 0, fmt.Errorf("%w; make build builds it", err)
	}
	defer func() { err = errors.Join(err, cmd.Process.Signal(syscall.SIGTERM), cmd.Wait()) }()
	client := api.NewClient(api.ClientOptions{Address: "unix:" + filepath.Join(dir, "http.sock")})
	defer client.Close()
	for end := began.Add(patience); ; {
		status, err := client.Status(ctx)
		if err == nil && status.Ready {
			if status.Services != services || status.Endpoints != services*endpoints {
				return 0, 0, fmt.Errorf("ready with %d services and %d endpoints", status.Services, status.Endpoints)
			}
			break
		}
		if time.Now().After(end) {
			return 0, 0, fmt.Errorf("not ready: %w", err)
		}
		<-time.After(time.Millisecond)
	}
	took = time.Since(began)
	<-time.After(time.Second) // what a start needs and then gives back is no target
	bytes, err = resident(cmd.Process.Pid)
	return took, bytes, err
}

// freeAddress returns a loopback address that nothing listens at.
func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}
