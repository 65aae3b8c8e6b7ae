package process

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"time"

	"github.com/prometheus/procfs"
	"golang.org/x/sys/unix"

	"github.com/wattle-mesh/wattle/internal/launch"
)

// proc is one Envoy process, a child of this process or of an earlier one. Signals go through a pidfd, so that
// they never reach another process that got its number.
type proc struct {
	pid    int
	cmd    *exec.Cmd // nil if adopted
	fd     *os.File
	exited chan struct{} // closed when it has ended, or was left
}

// Ended reports whether no Envoy of the run folder dir runs.
func Ended(dir string) bool {
	all, err := New(Options{Dir: dir}).running()
	return err == nil && len(all) == 0
}

// running finds the Envoys of this run folder by their command lines, oldest first for each proxy name. They
// belong to this user: others could only be pretending.
func (a *Adapter) running() (map[string][]*proc, error) {
	all, err := procfs.AllProcs()
	if err != nil {
		return nil, err
	}
	type found struct {
		pid     int
		name    string
		started uint64
	}
	var hits []found
	for _, p := range all {
		name, ok := a.owns(p)
		if !ok {
			continue
		}
		if stat, err := p.Stat(); err == nil && stat.State != "Z" {
			hits = append(hits, found{p.PID, name, stat.Starttime})
		}
	}
	slices.SortFunc(hits, func(x, y found) int { return cmp.Or(cmp.Compare(x.started, y.started), cmp.Compare(x.pid, y.pid)) })
	out := map[string][]*proc{}
	for _, h := range hits {
		out[h.name] = append(out[h.name], &proc{pid: h.pid})
	}
	return out, nil
}

// owns returns the proxy name of a process that is an Envoy of this run folder.
func (a *Adapter) owns(p procfs.Proc) (name string, ok bool) {
	info, err := os.Stat(filepath.Join("/proc", strconv.Itoa(p.PID)))
	if err != nil {
		return "", false
	}
	if st, ok := info.Sys().(*syscall.Stat_t); !ok || int(st.Uid) != os.Geteuid() {
		return "", false
	}
	args, err := p.CmdLine()
	if err != nil || len(args) < 3 || args[1] != launch.ConfigFlag {
		return "", false
	}
	name = filepath.Base(filepath.Dir(args[2]))
	return name, args[2] == a.bootstrap(name)
}

// watch opens the process, so that exited is closed when it ends.
func (p *proc) watch() error {
	fd, err := unix.PidfdOpen(p.pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		return fmt.Errorf("watch process %d: %w", p.pid, err)
	}
	p.fd = os.NewFile(uintptr(fd), "pidfd")
	conn, err := p.fd.SyscallConn()
	if err != nil {
		return errors.Join(err, p.fd.Close())
	}
	p.exited = make(chan struct{})
	go func() {
		defer close(p.exited)
		// Read waits in the runtime's poller; it returns early when leave closes the file.
		_ = conn.Read(func(fd uintptr) bool {
			polled := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
			n, err := unix.Poll(polled, 0)
			return err == nil && n == 1
		})
	}()
	return nil
}

// reap takes the exit status of a process that has ended.
func (p *proc) reap() error {
	p.fd.Close()
	if p.cmd == nil {
		return errors.New("ended")
	}
	if err := p.cmd.Wait(); err != nil {
		return err
	}
	return errors.New("exit status 0")
}

// leave lets the process live on without this one.
func (p *proc) leave() {
	p.fd.Close()
	<-p.exited
	if p.cmd != nil {
		_ = p.cmd.Process.Release()
	}
}

// end asks the process to end, and kills it if it does not.
func (p *proc) end() {
	if p.fd == nil {
		if err := p.watch(); err != nil {
			return // it has ended
		}
	}
	p.signal(unix.SIGTERM)
	select {
	case <-p.exited:
	case <-time.After(killAfter):
		p.signal(unix.SIGKILL)
		<-p.exited
	}
	_ = p.reap()
}

func (p *proc) signal(s unix.Signal) {
	conn, err := p.fd.SyscallConn()
	if err != nil {
		return
	}
	_ = conn.Control(func(fd uintptr) { _ = unix.PidfdSendSignal(int(fd), s, nil, 0) })
}
