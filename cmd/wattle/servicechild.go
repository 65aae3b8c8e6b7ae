package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// passed are the signals that reach the program through its runner.
var passed = []os.Signal{ //nolint:gochecknoglobals // constant
	syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGTSTP, syscall.SIGCONT, syscall.SIGWINCH,
}

// child is a program in a process group of its own, so that no signal to the runner's group, such as a terminal's ^C, reaches it
// before the runner passes it on. The runner stays in the terminal's foreground; the kernel stops a program that reads from
// the terminal all the same, and then it is given it.
type child struct {
	pid     int                   // of the program and its group
	stopped <-chan syscall.Signal // why it was stopped
	ended   <-chan error          // nil, a childExit, or why that is not known; once
	tty     *os.File              // the runner's terminal; nil: none
	has     bool                  // the program was given it
}

// startChild starts a program with the runner's input and output.
func startChild(path string, argv []string) (*child, error) {
	p, err := os.StartProcess(path, argv, &os.ProcAttr{Files: []*os.File{os.Stdin, os.Stdout, os.Stderr}, Sys: &syscall.SysProcAttr{Setpgid: true}})
	if err != nil {
		return nil, err
	}
	stopped, ended := make(chan syscall.Signal), make(chan error, 1)
	c := &child{pid: p.Pid, stopped: stopped, ended: ended}
	_ = p.Release() // it is waited for below
	c.tty, _ = os.OpenFile("/dev/tty", os.O_RDWR|unix.O_NOCTTY, 0)
	signal.Ignore(syscall.SIGTTOU) // for taking the terminal back from the background; after the start, as it is inherited
	go func() {
		for {
			var ws syscall.WaitStatus
			switch _, err := syscall.Wait4(c.pid, &ws, syscall.WUNTRACED, nil); {
			case errors.Is(err, syscall.EINTR):
			case err != nil:
				ended <- os.NewSyscallError("wait4", err)
				return
			case ws.Stopped():
				stopped <- ws.StopSignal()
			default:
				ended <- exitOf(ws)
				return
			}
		}
	}()
	return c, nil
}

// exitOf makes of how a program ended what the runner's exit code is.
func exitOf(ws syscall.WaitStatus) error {
	switch {
	case ws.Signaled():
		return childExit(128 + int(ws.Signal()))
	case ws.ExitStatus() != 0:
		return childExit(ws.ExitStatus())
	}
	return nil
}

// Close takes the terminal back from what has ended.
func (c *child) Close() {
	if c.has && c.foreground() == c.pid {
		c.give(syscall.Getpgrp())
	}
	signal.Reset(syscall.SIGTTOU)
	if c.tty != nil {
		_ = c.tty.Close() // nothing was written
	}
}

// signal sends a signal to the program's group, as a terminal or a service manager does; those that mean something to the program
// only, to it alone: they would end its helpers. That it has ended is no error.
func (c *child) signal(s syscall.Signal) error {
	to := -c.pid
	if s == syscall.SIGUSR1 || s == syscall.SIGUSR2 {
		to = c.pid
	}
	if err := syscall.Kill(to, s); err != nil && !errors.Is(err, syscall.ESRCH) {
		return err
	}
	return nil
}

// foreground returns the process group that the terminal is for, zero if there is none.
func (c *child) foreground() int {
	if c.tty == nil {
		return 0
	}
	group, err := unix.IoctlGetUint32(int(c.tty.Fd()), unix.TIOCGPGRP)
	if err != nil {
		return 0
	}
	return int(group)
}

// give makes the terminal another group's. If that fails the terminal has gone, and the next read says so.
func (c *child) give(group int) { _ = unix.IoctlSetPointerInt(int(c.tty.Fd()), unix.TIOCSPGRP, group) }

// suspend is called when the program was stopped: it wants the terminal, or it is to stop and the runner with it.
func (c *child) suspend(s syscall.Signal) {
	wants := s == syscall.SIGTTIN || s == syscall.SIGTTOU
	switch {
	case wants && c.foreground() == syscall.Getpgrp():
		c.has = true
		c.resume()
		return
	case !wants && s != syscall.SIGTSTP && !c.has:
		return // by somebody who will continue it
	}
	if c.has && c.foreground() == c.pid {
		c.give(syscall.Getpgrp())
	}
	if continuable() {
		// Not by the signal that it was: once Go has handled one of these it cannot be had to stop a process any more. It is
		// done when this returns, as it is this thread's.
		runtime.LockOSThread()
		_ = unix.Tgkill(os.Getpid(), unix.Gettid(), syscall.SIGSTOP)
		runtime.UnlockOSThread()
	}
	if !wants { // what wants the terminal goes on with the SIGCONT that is passed on
		c.resume()
	}
}

// continuable reports whether there is a shell, or the like, that sees that this process was stopped: an ancestor in the session
// that is not in this process group. The kernel does not let signals of a terminal stop other groups.
func continuable() bool {
	session, err := unix.Getsid(0)
	if err != nil {
		return false
	}
	for pid := os.Getppid(); pid > 0; {
		if group, err := syscall.Getpgid(pid); err != nil {
			return false
		} else if group != syscall.Getpgrp() {
			of, err := unix.Getsid(pid)
			return err == nil && of == session
		}
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			return false
		}
		var state string
		// After the name, which may have anything in it: ") S 1234".
		if _, err := fmt.Sscan(string(text[bytes.LastIndexByte(text, ')')+1:]), &state, &pid); err != nil {
			return false
		}
	}
	return false
}

// resume continues the program, and gives it the terminal if it had it and the runner has it now.
func (c *child) resume() {
	if c.has && c.foreground() == syscall.Getpgrp() {
		c.give(c.pid)
	}
	_ = c.signal(syscall.SIGCONT) // nobody waits for more than that it was sent
}
