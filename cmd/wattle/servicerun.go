package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/wattle-mesh/wattle/configs"
	"github.com/wattle-mesh/wattle/internal/api"
	"github.com/wattle-mesh/wattle/registry/etcd"
)

func newServiceRun() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "run [FLAGS] -- COMMAND [ARG...]",
		Short: "Run a program that is registered while it lives",
		Long: `Run registers what the flags say, or what the file of -file declares, runs COMMAND with this terminal's input and output, sends
heartbeats, and deregisters when COMMAND ends. SIGTERM and SIGINT deregister first, wait for -drain so that callers have left, and are
passed on then; a second one is passed on at once, as are SIGHUP, SIGQUIT, SIGUSR1 and SIGUSR2. The exit code is COMMAND's, 128 and the
number of the signal that ended it, or 1 if it could not be started.

COMMAND is a process group of its own, to which signals are passed on (SIGUSR1 and SIGUSR2 to COMMAND alone): what is sent to the
group of run, as ^C at a terminal is, does not reach it before it is deregistered. A COMMAND that reads from the terminal is given
it, and from then on ^C is its own; it is deregistered when it ends. ^Z, fg and bg do what they do with any program. A systemd unit
needs KillMode=mixed, as systemd otherwise sends SIGTERM to all of its processes at once.

If the agent does not answer within 3 s, COMMAND runs all the same and is registered as soon as the agent does. What is refused for
its content or its user is not run. With a -check callers come only when COMMAND is ready; with an -address, when it accepts
connections there, or after 10 s.

What somebody deregisters while COMMAND runs stays so: run says it once, and COMMAND runs on unregistered.`,
		Args: args(cobra.MinimumNArgs(1)),
	}
	place := newPlaceFlags(cmd)
	place.writer = newWriterFlags(cmd)
	flags := newDeclareFlags(cmd)
	file := cmd.Flags().String("file", "", "register what this `FILE` declares")
	drain := cmd.Flags().Duration("drain", time.Second, "how long to let callers leave before SIGTERM and SIGINT are passed on, up to 1h")
	cmd.RunE = func(cmd *cobra.Command, a []string) error {
		if *drain < 0 || *drain > time.Hour {
			return wrong("-drain %s: it is from 0s to 1h", *drain)
		}
		if !flags.cmd.Flags().Changed("ttl") {
			flags.ttl = 30 * time.Second
		}
		var from []string
		if *file != "" {
			from = []string{*file}
		}
		services, err := flags.services(cmd.ErrOrStderr(), from)
		if err != nil {
			return err
		}
		to, err := place.desk(len(services[0].Endpoints) > 0)
		if err != nil {
			return err
		}
		defer to.Close()
		r := &runner{id: rand.Text(), desk: to, services: services, drain: *drain, stderr: cmd.ErrOrStderr()}
		return r.run(context.WithoutCancel(cmd.Context()), a)
	}
	return cmd
}

// What a runner waits for.
const (
	firstTry = 3 * time.Second // a registration, before the program is started without one
	goodbye  = 5 * time.Second // a deregistration
	knock    = time.Second     // between two tries to reach an agent that does not answer

	listenLimit = 10 * time.Second // that the program listens, if no agent checks it
	listenPoll  = 50 * time.Millisecond

	firstWord = 5 * time.Second // the server's
)

// runner runs one program and keeps it registered.
type runner struct {
	desk     desk
	services []*configs.Service
	drain    time.Duration
	stderr   io.Writer
	id       string // of this run, so that its end does not end what a later one has registered
	tried    bool   // to register; what came of it may not be known
	known    bool   // it has registered

	mu   sync.Mutex
	said string // what was said last of the agent
}

func (r *runner) say(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if text := fmt.Sprintf(format, args...); text != r.said {
		r.said = text
		fmt.Fprintln(r.stderr, "wattle: "+text)
	}
}

// run returns when the program has ended and is deregistered.
func (r *runner) run(ctx context.Context, argv []string) error {
	signals := make(chan os.Signal, 16)
	watched := slices.DeleteFunc(slices.Clone(passed), signal.Ignored) // what nohup has ignored stays so, for the program too
	signal.Notify(signals, watched...)
	defer signal.Stop(signals)
	path, err := exec.LookPath(argv[0])
	if err != nil {
		return err
	}
	if !r.elsewhere() {
		began, cancel := context.WithTimeout(ctx, firstTry)
		err = r.register(began, 0)
		cancel()
		if denied(err) {
			return faulty(err)
		}
		if err != nil {
			r.say("%v; %s runs unregistered until the agent answers", err, argv[0])
		}
	}
	child, err := startChild(path, argv)
	if err != nil {
		r.deregister(ctx)
		return err
	}
	defer child.Close()
	keeping, stop := context.WithCancel(ctx)
	kept := make(chan struct{})
	go func() { defer close(kept); r.keep(keeping) }()
	leave := sync.OnceFunc(func() {
		stop()
		<-kept // no heartbeat may register it anew
		r.deregister(ctx)
	})
	defer leave()
	return r.attend(child, signals, leave)
}

// attend passes signals on until the program has ended, and returns how it did.
func (r *runner) attend(child *child, signals <-chan os.Signal, leave func()) error {
	pass := func(s os.Signal) {
		if err := child.signal(s.(syscall.Signal)); err != nil { // all of passed are of this type
			r.say("%v cannot be passed on: %v", s, err)
		}
	}
	var left chan struct{}       // closed when it is deregistered
	var drained <-chan time.Time // nil until then
	var last os.Signal
	for {
		select {
		case err := <-child.ended:
			return err
		case s := <-child.stopped:
			child.suspend(s)
		case s := <-signals:
			switch {
			case s == syscall.SIGCONT:
				child.resume()
			case s != syscall.SIGTERM && s != syscall.SIGINT || last != nil:
				pass(s)
			default:
				last, left = s, make(chan struct{})
				go func() { defer close(left); leave() }()
			}
		case <-left:
			left, drained = nil, time.After(r.drain)
		case <-drained:
			drained = nil
			pass(last)
		}
	}
}

// elsewhere reports whether what runs is registered with an address, where no agent checks it.
func (r *runner) elsewhere() bool { return len(r.services[0].Endpoints) > 0 }

// listen waits until the program accepts connections where it is registered elsewhere, at most listenLimit: callers come as
// soon as it is registered.
func (r *runner) listen(ctx context.Context) {
	if !r.elsewhere() {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, listenLimit)
	defer cancel()
	tick := time.NewTicker(listenPoll)
	defer tick.Stop()
	for _, s := range r.services {
		for _, e := range s.Endpoints {
			for {
				conn, err := new(net.Dialer).DialContext(ctx, "tcp", hostPort(e))
				if err == nil {
					_ = conn.Close() // nothing was said
					break
				}
				select {
				case <-tick.C:
				case <-ctx.Done():
					return
				}
			}
		}
	}
}

// denied reports whether it is of no use to try again: the agent has answered, and the request is at fault.
func denied(err error) bool {
	if _, ok := errors.AsType[*invalid](err); ok {
		return true
	}
	e, ok := errors.AsType[*api.Error](err)
	return ok && e.Status >= 400 && e.Status < 500 && e.Status != http.StatusTooManyRequests
}

// register registers all, and says what the server refuses. What somebody has deregistered is this run's no more.
func (r *runner) register(ctx context.Context, wait time.Duration) error {
	got, err := r.desk.RegisterAll(ctx, api.ServicesRequest{Services: r.services, Wait: configs.Duration(wait), Run: api.Run{ID: r.id, Renew: r.known}})
	r.tried, r.known = true, r.known || err == nil
	if err != nil {
		return err
	}
	for _, a := range got {
		if a.State == api.StateDeregistered {
			r.say("%s: %s; the program runs on unregistered", a.ServiceRef, a.Reason)
			r.services = slices.DeleteFunc(slices.Clone(r.services), func(s *configs.Service) bool { return refOf(s) == a.ServiceRef })
		}
		if a.State == api.StateRefused && a.Reason != "" {
			r.say("%s is refused: %s", a.ServiceRef, a.Reason)
		}
	}
	return nil
}

func (r *runner) deregister(ctx context.Context) {
	if !r.tried {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, goodbye)
	defer cancel()
	for _, s := range r.services {
		if _, err := r.desk.Leave(ctx, refOf(s), r.id); err != nil {
			r.say("%s is not deregistered: %v", s.Name, err)
		}
	}
}

func refOf(s *configs.Service) api.ServiceRef {
	return api.ServiceRef{Namespace: s.Namespace, Name: s.Name, Instance: s.Instance}
}

// keep registers until that has worked, then sends heartbeats, until ctx is done or nothing is left to register. A registration is its own heartbeat.
func (r *runner) keep(ctx context.Context) {
	if r.listen(ctx); ctx.Err() != nil {
		return
	}
	wait, lost := min(firstWord, r.beat()), false
	for {
		pause := r.beat()
		err := r.register(ctx, wait)
		switch {
		case ctx.Err() != nil || len(r.services) == 0:
			return
		case err != nil:
			if !lost {
				r.say("%v; it is tried again", err)
			}
			lost, pause = true, knock
		case lost:
			r.say("registered again")
			lost, wait = false, 0
		default:
			wait = 0
		}
		t := time.NewTimer(pause)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return
		}
	}
}

// beat is how long to pause between heartbeats: a third of the shortest ttl, and so often that the farewell of what somebody deregisters in
// etcd is seen.
func (r *runner) beat() time.Duration {
	out := etcd.Farewell / 2
	for _, s := range r.services {
		if ttl := time.Duration(s.TTL); ttl > 0 {
			out = min(out, ttl/3)
		}
	}
	return out
}
