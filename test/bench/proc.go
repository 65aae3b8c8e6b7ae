package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// actor is what a child process does: one request at a time, by name.
type actor interface {
	do(ctx context.Context, name string, arg json.RawMessage) (any, error)
}

// order and reply are the lines between the driver and its children.
type order struct {
	Name string          `json:"name"`
	Arg  json.RawMessage `json:"arg,omitempty"`
}

type reply struct {
	Result json.RawMessage `json:"result,omitempty"`
	Error  string          `json:"error,omitempty"`
}

// answer does what the driver orders on standard input, until that ends.
func answer(ctx context.Context, a actor) error {
	in := json.NewDecoder(os.Stdin)
	out := json.NewEncoder(os.Stdout)
	for {
		var o order
		if err := in.Decode(&o); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		var r reply
		result, err := do(ctx, a, o)
		if err != nil {
			r.Error = err.Error()
		} else if r.Result, err = json.Marshal(result); err != nil {
			return err
		}
		if err := out.Encode(r); err != nil {
			return err
		}
	}
}

func do(ctx context.Context, a actor, o order) (any, error) {
	switch o.Name {
	case "memory":
		return memory()
	case "cpu":
		return cpu()
	}
	return a.do(ctx, o.Name, o.Arg)
}

// memory returns the resident bytes of this process after garbage is collected and given back.
func memory() (int64, error) {
	for range 3 {
		runtime.GC()
	}
	debug.FreeOSMemory()
	return resident(os.Getpid())
}

// resident returns the resident bytes of a process.
func resident(pid int) (int64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kb, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")), 10, 64)
			return kb << 10, err
		}
	}
	return 0, errors.New("no VmRSS in /proc")
}

// cpu returns the processor time that this process has used.
func cpu() (time.Duration, error) {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0, err
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()), nil
}

// child is a process of the benchmark.
type child struct {
	role string
	cmd  *exec.Cmd
	in   io.WriteCloser
	out  *bufio.Reader
}

// start runs this program again in a role.
func start(ctx context.Context, role, dir string) (*child, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	c := &child{role: role, cmd: exec.CommandContext(ctx, self, "-role", role, "-dir", dir)}
	c.cmd.Stderr = os.Stderr
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if c.in, err = c.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	c.out = bufio.NewReaderSize(out, 1<<20)
	return c, c.cmd.Start()
}

// ask orders something of a child and waits for its answer.
func ask[T any](c *child, name string, arg any) (result T, err error) {
	if err := tell(c, name, arg); err != nil {
		return result, err
	}
	return hear[T](c)
}

// tell orders something without waiting for the answer.
func tell(c *child, name string, arg any) error {
	b, err := json.Marshal(arg)
	if err != nil {
		return err
	}
	line, err := json.Marshal(order{name, b})
	if err != nil {
		return err
	}
	_, err = c.in.Write(append(line, '\n'))
	return err
}

// hear waits for the answer to what was told.
func hear[T any](c *child) (result T, err error) {
	line, err := c.out.ReadBytes('\n')
	if err != nil {
		return result, fmt.Errorf("%s ended: %w", c.role, err)
	}
	var r reply
	if err := json.Unmarshal(line, &r); err != nil {
		return result, err
	}
	if r.Error != "" {
		return result, fmt.Errorf("%s: %s", c.role, r.Error)
	}
	return result, json.Unmarshal(r.Result, &result)
}

// stop ends a child.
func (c *child) stop() error {
	if err := c.in.Close(); err != nil {
		return err
	}
	return c.cmd.Wait()
}
