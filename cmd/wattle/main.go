// Command wattle is the mesh's control plane (wattle server), the daemon on each host (wattle agent) and the
// CLI, in one binary. Each command group has a file; this package only parses flags and wires.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"syscall"

	"github.com/wattle-mesh/wattle/internal/systemd"
)

// Exit codes: what scripts can rely on.
const (
	exitOK      = 0
	exitError   = 1 // the machine failed: a file, a socket, a server
	exitInvalid = 2 // what the user gave is wrong: flags or configuration
)

func main() {
	runtime.MemProfileRate = 0 // nobody reads the profile, whose tables would take a megabyte
	ends := []os.Signal{syscall.SIGINT, syscall.SIGTERM}
	if !signal.Ignored(syscall.SIGHUP) && !systemd.IsUnit() { // nohup; a unit has no terminal, and SIGHUP is a reload
		ends = append(ends, syscall.SIGHUP) // the terminal was closed
	}
	ctx, stop := signal.NotifyContext(context.Background(), ends...)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// run executes one command line and returns its exit code.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	root := newRoot(stdout, stderr)
	root.SetArgs(longFlags(root, args))
	err := root.ExecuteContext(ctx)
	var inv *invalid
	var code childExit
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &code):
		return int(code)
	case errors.As(err, &inv):
		if inv.err != nil {
			fmt.Fprintf(stderr, "wattle: %v\n", inv.err)
		}
		return exitInvalid
	default:
		fmt.Fprintf(stderr, "wattle: %v\n", err)
		return exitError
	}
}

// invalid marks an error as the user's: exit code 2. A nil err means that it was printed already.
type invalid struct{ err error }

func (i *invalid) Error() string {
	if i.err == nil {
		return "invalid configuration"
	}
	return i.err.Error()
}

// childExit is how a command ends that another program's end decides: its exit code, after all was said.
type childExit int

func (e childExit) Error() string { return fmt.Sprintf("exit code %d", int(e)) }
