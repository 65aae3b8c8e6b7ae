package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/prometheus/procfs"
	"golang.org/x/sys/unix"
)

// stopGrace is how long a child may take to end by itself. With the kill after it, everything ends within 3 s.
const stopGrace = 2 * time.Second

// proc is one process that should run.
type proc struct {
	Name string
	Args []string
	Env  []string // added to this process's own
	Dir  string
	Show func(line string) string // how its lines are shown; nil: as they are
}

func (p proc) equal(o proc) bool {
	return p.Name == o.Name && p.Dir == o.Dir && slices.Equal(p.Args, o.Args) && slices.Equal(p.Env, o.Env)
}

// procs keeps child processes running: it starts what should run, starts again what ended, ends what should
// not run any more. Nothing it started outlives Stop, nor this process: children get SIGTERM when it dies.
type procs struct {
	out   *lines
	start chan func() // run on one locked thread: the death signal is bound to the thread that forked

	mu      sync.Mutex
	running map[string]*keeper
}

// keeper is the goroutine that keeps one proc running.
type keeper struct {
	proc
	cancel context.CancelFunc
	done   chan struct{}
}

func newProcs(out *lines) (*procs, error) {
	// Envoys survive their agent by design; when it dies they become ours, to be ended by Stop.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return nil, fmt.Errorf("become the reaper of child processes: %w", err)
	}
	p := &procs{out: out, start: make(chan func()), running: map[string]*keeper{}}
	go func() {
		runtime.LockOSThread()
		for f := range p.start {
			f()
		}
	}()
	return p, nil
}

// Set makes the running processes those of want: others are ended, changed ones started anew.
func (p *procs) Set(ctx context.Context, want []proc) {
	p.mu.Lock()
	defer p.mu.Unlock()
	keep, names := map[string]bool{}, make([]string, 0, len(want))
	for _, w := range want {
		keep[w.Name] = true
		names = append(names, w.Name)
	}
	p.out.Fit(names)
	for name, k := range p.running {
		i := slices.IndexFunc(want, func(w proc) bool { return w.Name == name })
		if !keep[name] || !want[i].equal(k.proc) {
			k.cancel()
			<-k.done
			delete(p.running, name)
		}
	}
	for _, w := range want {
		if p.running[w.Name] == nil {
			kctx, cancel := context.WithCancel(ctx)
			k := &keeper{proc: w, cancel: cancel, done: make(chan struct{})}
			p.running[w.Name] = k
			go p.keep(kctx, k)
		}
	}
}

// keep runs k until ctx is done, again with back-off when it ends.
func (p *procs) keep(ctx context.Context, k *keeper) {
	defer close(k.done)
	pause := backoff.NewExponentialBackOff()
	pause.MaxInterval = 10 * time.Second
	for {
		began := time.Now()
		err := p.once(ctx, k)
		if ctx.Err() != nil {
			return
		}
		if time.Since(began) > 10*time.Second {
			pause.Reset()
		}
		wait := pause.NextBackOff()
		p.out.Printf(k.Name, "ended (%s); starting it again in %s", ended(err), wait.Round(10*time.Millisecond))
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return
		}
	}
}

func ended(err error) string {
	if err == nil {
		return "exit code 0"
	}
	return err.Error()
}

// once runs k one time. When ctx is done it asks the process to end, and kills it after stopGrace.
func (p *procs) once(ctx context.Context, k *keeper) error {
	cmd := exec.Command(k.Args[0], k.Args[1:]...)
	cmd.Dir = k.Dir
	cmd.Env = append(os.Environ(), k.Env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	cmd.Stdout, cmd.Stderr = w, w
	started := make(chan error)
	p.start <- func() { started <- cmd.Start() }
	err = <-started
	w.Close()
	if err != nil {
		r.Close()
		return err
	}
	// Grandchildren may hold the pipe after k ended: what is read is not waited for.
	go func() {
		p.out.Copy(k.Name, r, k.Show)
		r.Close()
	}()

	exited := make(chan error, 1)
	go func() { exited <- cmd.Wait() }()
	select {
	case err := <-exited:
		return err
	case <-ctx.Done():
	}
	_ = cmd.Process.Signal(syscall.SIGTERM)
	select {
	case err = <-exited:
	case <-time.After(stopGrace):
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		err = <-exited
	}
	return err
}

// Stop ends everything: the processes of Set all at once, then whatever became ours since.
func (p *procs) Stop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, k := range p.running {
		k.cancel()
	}
	for name, k := range p.running {
		<-k.done
		delete(p.running, name)
	}
	close(p.start)
	for {
		orphans := children(os.Getpid())
		if len(orphans) == 0 {
			return
		}
		for _, pid := range orphans {
			_ = syscall.Kill(pid, syscall.SIGKILL)
			var status syscall.WaitStatus
			_, err := syscall.Wait4(pid, &status, 0, nil)
			for errors.Is(err, syscall.EINTR) {
				_, err = syscall.Wait4(pid, &status, 0, nil)
			}
		}
	}
}

// children lists the processes whose parent is pid.
func children(pid int) []int {
	all, err := procfs.AllProcs()
	if err != nil {
		return nil
	}
	var out []int
	for _, p := range all {
		if stat, err := p.Stat(); err == nil && stat.PPID == pid {
			out = append(out, p.PID)
		}
	}
	return out
}
