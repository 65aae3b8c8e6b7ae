package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
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
	ID   string // tells it from all others
	Name string // what stands before its lines
	Args []string
	Env  []string // added to this process's own
	Dir  string
	Show func(line string) string // how its lines are shown; nil: as they are
	// Listens is where it listens, or what it runs does.
	Listens []netip.AddrPort
	// Idle reports whether nobody uses it any more, so that it may end; false when ctx is done. nil: it may end at any time.
	Idle func(ctx context.Context) bool
}

func (p proc) equal(o proc) bool {
	return p.Name == o.Name && p.Dir == o.Dir && slices.Equal(p.Args, o.Args) && slices.Equal(p.Env, o.Env)
}

// procs keeps child processes running: it starts what should run, starts again what ended, ends what should
// not run any more. Nothing it started outlives Stop, nor this process: children get SIGTERM when it dies. Its
// methods are for one goroutine at a time.
type procs struct {
	out   *lines
	grace time.Duration
	limit time.Duration // of a departure
	start chan func()   // run on one locked thread: the death signal is bound to the thread that forked

	running map[string]*keeper // by proc ID
	ending  []*keeper          // told to end; some may have
	keepers sync.WaitGroup
}

// keeper is the goroutine that keeps one proc running.
type keeper struct {
	proc
	cancel  context.CancelCauseFunc // ends it; a cause is said when it has ended
	done    chan struct{}
	leaving *departure // nil while it should run
}

func (k *keeper) ended() bool {
	select {
	case <-k.done:
		return true
	default:
		return false
	}
}

func newProcs(out *lines) (*procs, error) {
	// Envoys survive their agent by design; when it dies they become ours, to be ended by Stop.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return nil, fmt.Errorf("become the reaper of child processes: %w", err)
	}
	p := &procs{out: out, grace: stopGrace, limit: departLimit, start: make(chan func()), running: map[string]*keeper{}}
	go func() {
		runtime.LockOSThread()
		for f := range p.start {
			f()
		}
	}()
	return p, nil
}

// Set makes the running processes those of want. Changed ones are ended and started anew. Others depart: they go on until
// they are idle, or are ended at once if one of want listens where they do. Set does not wait for any of that: what is new
// starts when what was told to end has ended, whose addresses it may need.
func (p *procs) Set(want []proc) {
	wanted := map[string]proc{}
	names := make([]string, 0, len(want))
	for _, w := range want {
		wanted[w.ID] = w
		names = append(names, w.Name)
	}
	p.out.Fit(names)
	p.ending = slices.DeleteFunc(p.ending, (*keeper).ended)
	for id, k := range p.running {
		over := k.leaving.stop()
		w, ok := wanted[id]
		switch {
		case over: // and said so, or will
		case ok && w.equal(k.proc):
			p.stay(k, w)
			continue
		case ok:
			p.end(k, "changed, starting it anew")
		case k.Idle != nil && !slices.ContainsFunc(want, k.meets):
			p.depart(k)
			continue
		default:
			p.end(k, "is not in the policy any more, ending it")
		}
		delete(p.running, id)
		p.ending = append(p.ending, k)
	}
	first := slices.Clone(p.ending)
	for _, w := range want {
		if p.running[w.ID] == nil {
			p.run(w, first)
		}
	}
}

// run has w run when those of first have ended.
func (p *procs) run(w proc, first []*keeper) {
	ctx, cancel := context.WithCancelCause(context.Background()) // Stop ends it, after the last words
	k := &keeper{proc: w, cancel: cancel, done: make(chan struct{})}
	p.running[w.ID] = k
	p.keepers.Go(func() {
		defer close(k.done)
		for _, e := range first {
			<-e.done
		}
		p.keep(ctx, k)
		if why := context.Cause(ctx); !errors.Is(why, context.Canceled) {
			p.out.Printf(k.Name, "has ended: %s", why)
		}
	})
}

func (p *procs) end(k *keeper, why string) {
	p.out.Printf(k.Name, "%s", why)
	k.cancel(nil)
}

// keep runs k until ctx is done, again with back-off when it ends.
func (p *procs) keep(ctx context.Context, k *keeper) {
	pause := backoff.NewExponentialBackOff()
	pause.MaxInterval = 10 * time.Second
	for ctx.Err() == nil {
		began := time.Now()
		err := p.once(ctx, k)
		if ctx.Err() != nil {
			return
		}
		if time.Since(began) > 10*time.Second {
			pause.Reset()
		}
		wait := pause.NextBackOff()
		p.out.Printf(k.Name, "ended (%s); starting it again in %s", exit(err), wait.Round(10*time.Millisecond))
		select {
		case <-time.After(wait):
		case <-ctx.Done():
		}
	}
}

func exit(err error) string {
	if err == nil {
		return "exit code 0"
	}
	return err.Error()
}

// once runs k one time. When ctx is done it asks the process to end, and kills it when it does not.
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
	case <-time.After(p.grace):
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		err = <-exited
	}
	return err
}

// Stop ends everything: the processes of Set all at once, then whatever became ours since.
func (p *procs) Stop() {
	for _, k := range p.running {
		k.cancel(nil)
		k.leaving.stop()
	}
	clear(p.running)
	p.keepers.Wait()
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
