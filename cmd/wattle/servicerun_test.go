package main

import (
	"bufio"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/wattle-mesh/wattle/configs"
	"github.com/wattle-mesh/wattle/internal/api"
)

// fakeDesk is an agent that keeps what it is told in order, and can be away, or refuse.
type fakeDesk struct {
	mu     sync.Mutex
	err    error
	ended  bool // somebody has deregistered what a run renews
	log    []string
	events chan string
}

func newFakeDesk() *fakeDesk { return &fakeDesk{events: make(chan string, 1000)} }

func (d *fakeDesk) note(what string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.err == nil {
		d.log = append(d.log, what)
	}
	d.events <- what
	return d.err
}

func (d *fakeDesk) set(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.err = err
}

func (d *fakeDesk) done() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Compact(slices.Clone(d.log))
}

func (d *fakeDesk) RegisterAll(_ context.Context, r api.ServicesRequest) (out []api.ServiceAnswer, err error) {
	for _, s := range r.Services {
		if d.ended && r.Renew {
			out = append(out, api.DismissedAnswer(s, "it was deregistered"))
			err = errors.Join(err, d.note("refuse "+s.Name))
			continue
		}
		out = append(out, api.ServiceAnswer{ServiceStatus: api.ServiceStatus{ServiceRef: refOf(s), State: api.StateAccepted}})
		err = errors.Join(err, d.note("register "+s.Name))
	}
	return out, err
}

func (d *fakeDesk) Leave(_ context.Context, ref api.ServiceRef, _ string) (api.ServiceAnswer, error) {
	return api.ServiceAnswer{}, d.note("deregister " + ref.Name)
}

func (d *fakeDesk) Deregister(ctx context.Context, ref api.ServiceRef) (api.ServiceAnswer, error) {
	return d.Leave(ctx, ref, "")
}

func (d *fakeDesk) Heartbeat(_ context.Context, ref api.ServiceRef) (api.ServiceAnswer, error) {
	return api.ServiceAnswer{}, d.note("heartbeat " + ref.Name)
}

func (d *fakeDesk) Close() {}

// play is a runner of a shell script, which notes in a file what reaches it.
type play struct {
	*runner
	t    *testing.T
	desk *fakeDesk
	said *strings.Builder
	file string
}

func newPlay(t *testing.T) *play {
	t.Helper()
	s := &configs.Service{TTL: configs.Duration(time.Second)}
	s.Namespace, s.Name = "default", "web"
	d, said := newFakeDesk(), &strings.Builder{}
	return &play{&runner{desk: d, services: []*configs.Service{s}, drain: 200 * time.Millisecond, stderr: said}, t, d, said, filepath.Join(t.TempDir(), "notes")}
}

// start runs the text, in which $N is the file. What is returned gives the end.
func (s *play) start(text string) <-chan error {
	ended := make(chan error, 1)
	go func() {
		ended <- s.run(context.Background(), []string{"sh", "-c", strings.ReplaceAll(text, "$N", s.file)})
	}()
	return ended
}

// wait waits until the script has noted a line.
func (s *play) wait(line string) {
	s.t.Helper()
	limit := time.Now().Add(20 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for time.Now().Before(limit) {
		if f, err := os.Open(s.file); err == nil {
			in := bufio.NewScanner(f)
			for in.Scan() {
				if in.Text() == line {
					f.Close()
					return
				}
			}
			f.Close()
		}
		<-tick.C
	}
	s.t.Fatalf("the script does not say %q", line)
}

// signal sends this process, which is the runner's, a signal.
func (s *play) signal(sig syscall.Signal) {
	s.t.Helper()
	if err := syscall.Kill(os.Getpid(), sig); err != nil {
		s.t.Fatal(err)
	}
}

// patient is a script that says which signals reach it, and ends on TERM with code 9 when the desk has heard that it leaves.
const patient = `for s in HUP QUIT USR1 USR2; do trap "echo $s >>$N" $s; done; trap 'echo TERM >>$N; exit 9' TERM
echo ready >>$N; while :; do sleep 0.02; done`

func TestRunDeregistersBeforeItPassesTheEndOn(t *testing.T) {
	s := newPlay(t)
	ended := s.start(patient)
	s.wait("ready")
	for sig, name := range map[syscall.Signal]string{syscall.SIGHUP: "HUP", syscall.SIGQUIT: "QUIT", syscall.SIGUSR1: "USR1", syscall.SIGUSR2: "USR2"} {
		s.signal(sig)
		s.wait(name)
	}
	if got := strings.Join(s.desk.done(), ", "); got != "register web" {
		t.Errorf("while it runs: %s", got)
	}
	s.signal(syscall.SIGTERM)
	for what := range s.desk.events {
		if what == "deregister web" {
			break
		}
	}
	if text, err := os.ReadFile(s.file); err != nil || strings.Contains(string(text), "TERM") {
		t.Errorf("when it is deregistered the program has heard of its end already: %s %v", text, err)
	}
	if err := <-ended; !errors.Is(err, childExit(9)) {
		t.Errorf("it ends with %v", err)
	}
	if got := strings.Join(s.desk.done(), ", "); got != "register web, deregister web" {
		t.Errorf("in the end: %s", got)
	}
}

func TestASecondSignalDoesNotWait(t *testing.T) {
	s := newPlay(t)
	s.drain = time.Hour
	ended := s.start(patient)
	s.wait("ready")
	s.signal(syscall.SIGTERM)
	for what := range s.desk.events {
		if what == "deregister web" {
			break
		}
	}
	s.signal(syscall.SIGTERM)
	if err := <-ended; !errors.Is(err, childExit(9)) {
		t.Errorf("it ends with %v", err)
	}
}

func TestAProgramThatEndsIsDeregisteredAtOnce(t *testing.T) {
	s := newPlay(t)
	s.drain = time.Hour
	if err := <-s.start("kill -KILL $$"); !errors.Is(err, childExit(128+9)) {
		t.Errorf("it ends with %v", err)
	}
	if got := s.desk.done(); got[len(got)-1] != "deregister web" {
		t.Errorf("%v", got)
	}
}

func TestAnAgentThatComesLateIsTold(t *testing.T) {
	s := newPlay(t)
	s.desk.set(io.ErrUnexpectedEOF)
	ended := s.start(patient)
	s.wait("ready")
	s.desk.set(nil)
	limit := time.After(20 * time.Second)
	for len(s.desk.done()) == 0 {
		select {
		case <-s.desk.events:
		case <-limit:
			t.Fatal("it is not registered")
		}
	}
	s.signal(syscall.SIGINT)
	s.signal(syscall.SIGTERM)
	if err := <-ended; !errors.Is(err, childExit(9)) {
		t.Errorf("it ends with %v", err)
	}
	if !strings.Contains(s.said.String(), "sh runs unregistered until the agent answers") {
		t.Errorf("it says %q", s.said)
	}
}

func TestWhatIsRefusedIsNotRun(t *testing.T) {
	s := newPlay(t)
	s.desk.set(&api.Error{Status: 403, Message: "uid 7 may not", Code: api.CodeUser})
	if err := <-s.start("echo ran >>$N"); err == nil || !strings.Contains(err.Error(), "uid 7 may not") {
		t.Errorf("it ends with %v", err)
	}
	if _, err := os.Stat(s.file); err == nil {
		t.Error("it was run")
	}
}

func TestWhatIsDeregisteredRunsOnUnregistered(t *testing.T) {
	s := newPlay(t)
	s.id = "a"
	s.desk.ended = true
	ended := s.start(patient)
	s.wait("ready")
	for what := range s.desk.events {
		if what == "refuse web" {
			break
		}
	}
	s.signal(syscall.SIGUSR1) // it lives
	s.wait("USR1")
	s.signal(syscall.SIGTERM)
	if err := <-ended; !errors.Is(err, childExit(9)) {
		t.Errorf("it ends with %v", err)
	}
	if got := strings.Join(s.desk.log, ", "); got != "register web, refuse web" {
		t.Errorf("the agent hears: %s", got)
	}
	const want = "wattle: default/web: it was deregistered, and its run does not bring it back; start that again, or register it: wattle service register; the program runs on unregistered\n"
	if got := s.said.String(); got != want {
		t.Errorf("it says %q", got)
	}
}
