package process

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/cenkalti/backoff/v5"
)

// How an Envoy is treated that ends, or must.
const (
	killAfter  = 1500 * time.Millisecond // from SIGTERM to SIGKILL
	steady     = 10 * time.Second        // one that ran so long is started again at once
	firstPause = 100 * time.Millisecond
	maxPause   = 10 * time.Second
	// drain is how long connections of removed listeners may last, in seconds.
	drain = "20"
)

// errRemoved cancels a keeper whose proxy left the plan.
var errRemoved = errors.New("not in the plan any more")

// keeper is the goroutine that keeps one Envoy running.
type keeper struct {
	a      *Adapter
	name   string
	cancel context.CancelCauseFunc
	done   chan struct{}
}

func (a *Adapter) keep(ctx context.Context, name string) *keeper {
	ctx, cancel := context.WithCancelCause(ctx)
	k := &keeper{a: a, name: name, cancel: cancel, done: make(chan struct{})}
	go k.run(ctx)
	return k
}

// remove ends the Envoy and the keeper.
func (k *keeper) remove() { k.cancel(errRemoved) }

// run adopts the Envoy that runs or starts one, and again when it ends, until ctx is done.
func (k *keeper) run(ctx context.Context) {
	defer close(k.done)
	defer k.cancel(nil)
	pause := backoff.NewExponentialBackOff()
	pause.InitialInterval, pause.MaxInterval = firstPause, maxPause
	for ctx.Err() == nil {
		began := time.Now()
		p, err := k.obtain()
		if err == nil {
			select {
			case <-p.exited:
				err = p.reap()
			case <-ctx.Done():
				if k.a.o.Stop || errors.Is(context.Cause(ctx), errRemoved) {
					p.end()
				} else {
					p.leave()
				}
				return
			}
		}
		if time.Since(began) > steady {
			pause.Reset()
		}
		wait := pause.NextBackOff()
		k.a.o.Log.Error("envoy ended, starting it again", "proxy", k.name, "error", err, "in", wait.Round(time.Millisecond))
		select {
		case <-time.After(wait):
		case <-ctx.Done():
		}
	}
}

// obtain adopts the Envoy that an earlier agent left, or starts one.
func (k *keeper) obtain() (*proc, error) {
	all, err := k.a.running()
	if err != nil {
		return nil, fmt.Errorf("look for an Envoy that runs already: %w", err)
	}
	procs := all[k.name]
	if len(procs) == 0 {
		return k.start()
	}
	for _, extra := range procs[1:] {
		k.a.o.Log.Warn("end a second Envoy of one proxy", "proxy", k.name, "pid", extra.pid)
		extra.end()
	}
	if err := procs[0].watch(); err != nil {
		return nil, err
	}
	k.a.o.Log.Info("adopted the Envoy that was running", "proxy", k.name, "pid", procs[0].pid)
	return procs[0], nil
}

func (k *keeper) start() (*proc, error) {
	dir := k.a.folder(k.name)
	out := k.a.o.Output
	if out == nil {
		f, err := os.OpenFile(filepath.Join(dir, "envoy.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		out = f
	}
	cmd := exec.Command(k.a.o.Envoy, configFlag, k.a.bootstrap(k.name),
		"--disable-hot-restart",
		"--concurrency", strconv.FormatUint(uint64(k.a.o.Concurrency), 10),
		"--drain-time-s", drain,
		"--log-level", k.a.o.LogLevel,
		"--log-format", "envoy "+k.name+" %l %n: %v")
	// No pipe of this process and no session in common: neither its death nor a Ctrl-C reaches Envoy.
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p := &proc{pid: cmd.Process.Pid, cmd: cmd}
	if err := p.watch(); err != nil {
		return nil, errors.Join(err, cmd.Process.Kill(), cmd.Wait())
	}
	k.a.o.Log.Info("started envoy", "proxy", k.name, "pid", p.pid)
	return p, nil
}
