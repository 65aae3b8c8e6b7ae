package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/procfs"
	"golang.org/x/sys/unix"
)

// mark is in the environment of everything that a mesh starts, and so of what that starts, with the mesh's folder as value.
const mark = "WATTLE_E2E"

// stopLimit is how long a process may take to end by itself.
const stopLimit = 10 * time.Second

// forker starts processes on one thread that lives as long as the tests do: the death signal of a child is bound to the
// thread that made it.
type forker chan func()

func newForker() (forker, error) {
	// Envoys outlive an agent that is killed. They become our children then, so that we can reap them.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return nil, err
	}
	f := make(forker)
	go func() {
		runtime.LockOSThread()
		for start := range f {
			start()
		}
	}()
	return f, nil
}

func (f forker) start(cmd *exec.Cmd) error {
	err := make(chan error)
	f <- func() { err <- cmd.Start() }
	return <-err
}

// process is one process of a mesh, which may be started again after it ended. Its methods are for one goroutine.
type process struct {
	name string
	argv []string
	dir  string // of the mesh
	env  []string
	out  *os.File            // instead of the log; nil: the log
	user *syscall.Credential // nil: this one
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended; nil before the first start
	err  error         // what Wait said; read it after done
	log  string        // file that all its starts write to
}

// start runs it. The log goes on where the last start ended.
func (p *process) start(t *testing.T) {
	t.Helper()
	if err := p.tryStart(); err != nil {
		t.Fatalf("start %s: %v", p.name, err)
	}
}

func (p *process) tryStart() error {
	log, err := os.OpenFile(p.log, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	p.cmd = exec.Command(p.argv[0], p.argv[1:]...)
	p.cmd.Dir, p.cmd.Stdout, p.cmd.Stderr = p.dir, log, log
	if p.out != nil {
		p.cmd.Stdout, p.cmd.Stderr = p.out, p.out
	}
	p.cmd.Env = append(append(os.Environ(), p.env...), mark+"="+p.dir)
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM, Credential: p.user}
	if err := suite.fork.start(p.cmd); err != nil {
		return err
	}
	p.done = make(chan struct{})
	go func(cmd *exec.Cmd, done chan struct{}) {
		p.err = cmd.Wait()
		close(done)
	}(p.cmd, p.done)
	return nil
}

// running reports whether it has been started and has not ended.
func (p *process) running() bool {
	if p.done == nil {
		return false
	}
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// kill ends it the hard way and waits until it is gone.
func (p *process) kill(t *testing.T) {
	t.Helper()
	if err := p.cmd.Process.Kill(); err != nil {
		t.Fatalf("kill %s: %v", p.name, err)
	}
	<-p.done
}

// stop asks it to end and waits until it has; one that does not within stopLimit is killed.
func (p *process) stop() error {
	if !p.running() {
		return nil
	}
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-p.done:
		return nil
	case <-time.After(stopLimit):
	}
	_ = p.cmd.Process.Signal(syscall.SIGQUIT) // a Go program says where it hangs
	select {
	case <-p.done:
	case <-time.After(time.Second):
		_ = p.cmd.Process.Kill()
		<-p.done
	}
	return fmt.Errorf("%s did not end within %s of SIGTERM", p.name, stopLimit)
}

// leftovers kills whatever still runs that the mesh in dir started, reaps it and returns its command lines.
func leftovers(dir string) []string {
	var out []string
	all, err := procfs.AllProcs()
	if err != nil {
		return []string{"/proc: " + err.Error()}
	}
	for _, p := range all {
		if p.PID == os.Getpid() || !marked(p, dir) {
			continue
		}
		argv, _ := p.CmdLine()
		out = append(out, fmt.Sprintf("%d %.200s", p.PID, strings.Join(argv, " ")))
		_ = syscall.Kill(p.PID, syscall.SIGKILL)
		var status syscall.WaitStatus
		_, _ = syscall.Wait4(p.PID, &status, 0, nil) // it may be another's child
	}
	return out
}

// marked reports whether the mesh in dir started a process. One that has ended, or is another user's, is not.
func marked(p procfs.Proc, dir string) bool {
	env, _ := p.Environ()
	return slices.Contains(env, mark+"="+dir)
}

// tail returns the end of a file, for the message of a failure.
func tail(file string, lines int) string {
	b, err := os.ReadFile(file)
	if err != nil {
		return err.Error()
	}
	all := bytes.SplitAfter(bytes.TrimSpace(b), []byte("\n"))
	return string(bytes.Join(all[max(0, len(all)-lines):], nil))
}

// build builds the programs that the tests run.
func build(dir string) error {
	var wg sync.WaitGroup
	programs := [][2]string{{"wattle", "./cmd/wattle"}, {"app", "./test/load/app"}, {"bookinfo", "./examples/bookinfo/app"}, {"demo-dns", "./examples/registries/dns"}}
	errs := make([]error, len(programs))
	for i, p := range programs {
		wg.Go(func() {
			name, pkg := p[0], p[1]
			cmd := exec.Command("go", "build", "-o", filepath.Join(dir, name), pkg)
			cmd.Dir = suite.root
			if out, err := cmd.CombinedOutput(); err != nil {
				errs[i] = fmt.Errorf("go build %s: %w\n%s", pkg, err, out)
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}
