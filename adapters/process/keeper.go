package process

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/cenkalti/backoff/v5"

	"github.com/wattle-mesh/wattle/internal/launch"
)

// How an Envoy is treated that ends, or must.
const (
	killAfter  = 1500 * time.Millisecond // from SIGTERM to SIGKILL
	steady     = 10 * time.Second        // one that ran so long is started again at once
	firstPause = 100 * time.Millisecond
	maxPause   = 10 * time.Second
)

// LogFile is what an Envoy writes to in its folder if nothing else is said.
const LogFile = "envoy.log"

// errLeft is how a keeper's work ends.
var errLeft = errors.New("left")

// keeper is the goroutine that keeps one Envoy running as long as the plan has it.
type keeper struct {
	a       *Adapter
	name    string
	wanted  atomic.Bool
	changed chan struct{} // wanted may have
	done    chan struct{}
}

func (a *Adapter) keep(ctx context.Context, name string, wanted bool) *keeper {
	k := &keeper{a: a, name: name, changed: make(chan struct{}, 1), done: make(chan struct{})}
	k.wanted.Store(wanted)
	go k.run(ctx)
	return k
}

// want says whether the plan has the Envoy.
func (k *keeper) want(wanted bool) {
	if k.wanted.Swap(wanted) == wanted {
		return
	}
	select {
	case k.changed <- struct{}{}:
	default:
	}
}

func (k *keeper) ended() bool {
	select {
	case <-k.done:
		return true
	default:
		return false
	}
}

// run adopts the Envoy that runs or starts one, and again when it ends, until ctx is done or the Envoy, not wanted any
// more, has ended.
func (k *keeper) run(ctx context.Context) {
	defer k.a.poke() // it may be wanted again by now
	defer close(k.done)
	pause := backoff.NewExponentialBackOff()
	pause.InitialInterval, pause.MaxInterval = firstPause, maxPause
	for ctx.Err() == nil {
		began := time.Now()
		p, err := k.obtain()
		if err == nil {
			err = k.stay(ctx, p)
		}
		if errors.Is(err, errLeft) {
			return
		}
		if time.Since(began) > steady {
			pause.Reset()
		}
		if err != nil && ctx.Err() == nil {
			k.crashed(err)
		}
		wait := pause.NextBackOff()
		k.a.o.Log.Error("envoy ended, starting it again", "proxy", k.name, "error", err, "in", wait.Round(time.Millisecond))
		select {
		case <-time.After(wait):
		case <-ctx.Done():
		}
	}
}

// stay is with a running Envoy until it ends, or is ended or left. It returns why the Envoy ended by itself.
func (k *keeper) stay(ctx context.Context, p *proc) error {
	var d *departure // nil while it is wanted
	for {
		switch wanted := k.wanted.Load(); {
		case wanted && (d == nil || !d.closed):
			d = nil
		case d == nil:
			k.a.o.Log.Info("an Envoy is not wanted any more, it ends with its last connection", "proxy", k.name, "pid", p.pid)
			d = newDeparture(k.a.admin(k.name), k.a.o.Drain)
		}
		select {
		case <-p.exited:
			err := p.reap()
			if !k.wanted.Load() {
				return errLeft
			}
			return err
		case <-ctx.Done():
			if k.a.o.Stop {
				p.end()
			} else {
				p.leave()
			}
			return errLeft
		case <-k.changed:
		case <-d.tick():
			if d.over(ctx) {
				p.end()
				return errLeft
			}
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
	switch {
	case len(procs) > 0:
	case !k.wanted.Load():
		return nil, errLeft
	default:
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
		f, err := os.OpenFile(filepath.Join(dir, LogFile), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		out = f
	}
	spec := launch.Spec{Name: k.name, Concurrency: k.a.o.Concurrency, Drain: k.a.o.Drain, LogLevel: k.a.o.LogLevel}
	cmd := exec.Command(k.a.o.Envoy, append(spec.Args(k.a.bootstrap(k.name)), "--disable-hot-restart")...)
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
