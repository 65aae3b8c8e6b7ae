package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/wattle-mesh/wattle/internal/api"
)

// booth is where a real wattle service run is played: an agent that writes into the notes of the program when it deregisters, and
// a terminal if that is asked for.
type booth struct {
	t          *testing.T
	dir, notes string
	terminal   *os.File // the end of a person; nil: none
	cmd        *exec.Cmd
	mu         sync.Mutex
	shown      strings.Builder
}

func newBooth(t *testing.T) *booth {
	t.Helper()
	dir, err := os.MkdirTemp("", "wattle-") // t.TempDir is too long for sockets
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	s := &booth{t: t, dir: dir, notes: filepath.Join(dir, "notes")}
	l, err := net.Listen("unix", filepath.Join(dir, "agent.sock"))
	if err != nil {
		t.Fatal(err)
	}
	agent := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodDelete {
			s.note("deregistered")
		}
		_, _ = io.WriteString(w, `{"services": [{"namespace": "default", "name": "web", "state": "`+api.StateAccepted+`"}]}`)
	})}
	go func() { _ = agent.Serve(l) }()
	t.Cleanup(func() { agent.Close() })
	return s
}

func (s *booth) note(text string) {
	f, err := os.OpenFile(s.notes, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err == nil {
		_, err = f.WriteString(text + "\n")
		f.Close()
	}
	if err != nil {
		s.t.Error(err)
	}
}

// run is the command line of a program's run; $N in the text is the notes.
func (s *booth) run(script string) []string {
	return []string{"wattle", "service", "run", "-socket", filepath.Join(s.dir, "agent.sock"), "-name", "web", "-port", "80", "-ttl", "1h", "-drain", "100ms",
		"--", "sh", "-c", strings.ReplaceAll(script, "$N", s.notes)}
}

// start starts it in a group of its own; with a terminal in a session of its own.
func (s *booth) start(terminal bool, argv ...string) {
	s.t.Helper()
	s.cmd = exec.Command(argv[0], argv[1:]...)
	s.cmd.Env = append(os.Environ(), "NO_COLOR=1")
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	var line *os.File
	if terminal {
		s.terminal, line = openTerminal(s.t)
		s.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
		s.cmd.Stdin, s.cmd.Stdout, s.cmd.Stderr = line, line, line
	}
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = s.cmd.Process.Kill() })
	if terminal {
		line.Close()
		go func() { _, _ = io.Copy(s, s.terminal) }() // ends when the session does
	}
}

// Write takes in what the terminal shows.
func (s *booth) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.shown.Write(p)
}

func openTerminal(t *testing.T) (person, line *os.File) {
	t.Helper()
	person, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { person.Close() })
	if err := unix.IoctlSetPointerInt(int(person.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetUint32(int(person.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	line, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	return person, line
}

func (s *booth) key(text string) {
	s.t.Helper()
	if _, err := io.WriteString(s.terminal, text); err != nil {
		s.t.Fatal(err)
	}
}

func (s *booth) noted() []string {
	text, err := os.ReadFile(s.notes)
	if err != nil && !os.IsNotExist(err) {
		s.t.Fatal(err)
	}
	return strings.Fields(string(text))
}

// wait waits until a line was noted so many times.
func (s *booth) wait(line string, times int) {
	s.t.Helper()
	limit := time.Now().Add(20 * time.Second)
	for tick := time.NewTicker(5 * time.Millisecond); time.Now().Before(limit); <-tick.C {
		if n := strings.Count("\n"+strings.Join(s.noted(), "\n")+"\n", "\n"+line+"\n"); n >= times {
			return
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.t.Fatalf("%q is not noted: %v; the terminal shows %q", line, s.noted(), s.shown.String())
}

// ends checks how it ends, and what was noted until then.
func (s *booth) ends(code int, notes ...string) {
	s.t.Helper()
	_ = s.cmd.Wait() // it tells the code
	if got := s.cmd.ProcessState.ExitCode(); got != code {
		s.mu.Lock()
		s.t.Errorf("the exit code is %d, want %d; the terminal shows %q", got, code, s.shown.String())
		s.mu.Unlock()
	}
	if got := s.noted(); !slices.Equal(got, notes) {
		s.t.Errorf("noted was %v, want %v", got, notes)
	}
}

// untilINT says when SIGINT reaches it, and ends.
const untilINT = `trap 'echo INT >>$N; exit 9' INT; echo ready >>$N; while :; do sleep 0.02; done`

func TestASignalToTheGroupReachesTheProgramWhenItIsDeregistered(t *testing.T) {
	t.Parallel()
	s := newBooth(t)
	s.start(false, s.run(untilINT)...)
	s.wait("ready", 1)
	if err := syscall.Kill(-s.cmd.Process.Pid, syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	s.ends(9, "ready", "deregistered", "INT")
}

func TestTheTerminalsInterruptDeregistersFirst(t *testing.T) {
	t.Parallel()
	s := newBooth(t)
	s.start(true, s.run(untilINT)...)
	s.wait("ready", 1)
	s.key("\x03")
	s.ends(9, "ready", "deregistered", "INT")
}

func TestAProgramThatIgnoresTheInterruptGoesOn(t *testing.T) {
	t.Parallel()
	s := newBooth(t)
	s.start(true, s.run(`trap '' INT; trap 'echo TERM >>$N; exit 7' TERM; echo ready >>$N; while :; do sleep 0.02; done`)...)
	s.wait("ready", 1)
	s.key("\x03")
	s.wait("deregistered", 1)
	s.key("\x03")
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	s.ends(7, "ready", "deregistered", "TERM")
}

func TestASignalThatEndsTheProgramIsTheExitCode(t *testing.T) {
	t.Parallel()
	s := newBooth(t)
	s.start(true, s.run(`echo ready >>$N; while :; do sleep 0.02; done`)...)
	s.wait("ready", 1)
	s.key("\x1c") // SIGQUIT, which is passed on at once
	s.ends(128+3, "ready", "deregistered")
}

func TestAProgramReadsTheTerminal(t *testing.T) {
	t.Parallel()
	s := newBooth(t)
	s.start(true, s.run(`echo ready >>$N; while read line; do echo "$line" >>$N; done; exit 5`)...)
	s.wait("ready", 1)
	s.key("one\n")
	s.wait("one", 1)
	s.key("two\n")
	s.wait("two", 1)
	s.key("\x04") // the end of what is typed
	s.ends(5, "ready", "one", "two", "deregistered")
}

func TestTheInterruptIsTheProgramsThatHasTheTerminal(t *testing.T) {
	t.Parallel()
	s := newBooth(t)
	s.start(true, s.run(`trap 'echo INT >>$N; exit 9' INT; echo ready >>$N; while read line; do echo "$line" >>$N; done`)...)
	s.key("one\n")
	s.wait("one", 1)
	s.key("\x03")
	s.ends(9, "ready", "one", "INT", "deregistered")
}

// A shell with job control stops it with ^Z and has it go on with fg, whoever of the two has the terminal, and has the
// terminal back in the end.
func TestAShellStopsItAndHasItGoOn(t *testing.T) {
	t.Parallel()
	for name, script := range map[string]string{
		"the runner has the terminal":  `trap 'exit 6' CONT; echo ready >>$N; while :; do sleep 0.02; done`,
		"the program has the terminal": `echo ready >>$N; while read line; do echo "$line" >>$N; test "$line" = two && exit 6; done`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newBooth(t)
			shell := strings.ReplaceAll(`set -m; "$@"; echo stopped-$? >>$N; fg; echo ended-$? >>$N; read last; echo "$last" >>$N`, "$N", s.notes)
			s.start(true, append([]string{"bash", "-c", shell, "bash"}, s.run(script)...)...)
			s.wait("ready", 1)
			reads := strings.Contains(script, "read line")
			if reads {
				s.key("one\n")
				s.wait("one", 1)
			}
			s.key("\x1a")
			s.wait(fmt.Sprintf("stopped-%d", 128+syscall.SIGSTOP), 1)
			if reads {
				s.key("two\n")
			}
			s.wait("ended-6", 1)
			s.key("mine\n") // by the shell, which has the terminal back
			s.wait("mine", 1)
			_ = s.cmd.Wait() // what counts was noted
		})
	}
}
