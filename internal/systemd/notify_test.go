package systemd

import (
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// listenNotes is the socket on which systemd would listen.
func listenNotes(t *testing.T) *net.UnixConn {
	t.Helper()
	path := filepath.Join(t.TempDir(), "n")
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	t.Setenv("NOTIFY_SOCKET", path)
	return c
}

func next(t *testing.T, c *net.UnixConn, within time.Duration) (string, error) {
	t.Helper()
	if err := c.SetReadDeadline(time.Now().Add(within)); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 1024)
	n, err := c.Read(buf)
	return string(buf[:n]), err
}

func TestSystemdIsTold(t *testing.T) {
	c := listenNotes(t)
	if err := Notify(Ready, MainPID(42), Status("%d proxies", 2)); err != nil {
		t.Fatal(err)
	}
	if got, err := next(t, c, time.Second); err != nil || got != "READY=1\nMAINPID=42\nSTATUS=2 proxies" {
		t.Errorf("%q, %v", got, err)
	}
	if err := Notify(BeginReload()...); err != nil {
		t.Fatal(err)
	}
	got, err := next(t, c, time.Second)
	usec, found := strings.CutPrefix(got, "RELOADING=1\nMONOTONIC_USEC=")
	if n, bad := strconv.ParseUint(usec, 10, 64); err != nil || bad != nil || !found || n == 0 {
		t.Errorf("%q, %v", got, err)
	}
	if !IsUnit() {
		t.Error("it is no unit")
	}
	t.Setenv("NOTIFY_SOCKET", "")
	if IsUnit() {
		t.Error("it is a unit without systemd")
	}
	if err := Notify(Ready); err != nil {
		t.Errorf("without systemd: %v", err)
	}
}

func TestTheWatchdogIsFedByProgressOnly(t *testing.T) {
	c := listenNotes(t)
	t.Setenv("WATCHDOG_USEC", strconv.FormatInt((40*time.Millisecond).Microseconds(), 10))
	t.Setenv("WATCHDOG_PID", strconv.Itoa(os.Getpid()))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var hangs = make(chan struct{})
	ended := make(chan error, 1)
	go func() {
		ended <- Watch(ctx, func(ctx context.Context) error {
			select {
			case <-hangs:
				<-ctx.Done()
				return ctx.Err()
			default:
				return nil
			}
		})
	}()
	for range 3 {
		if got, err := next(t, c, 5*time.Second); err != nil || got != "WATCHDOG=1" {
			t.Fatalf("%q, %v", got, err)
		}
	}
	close(hangs)
	for { // what was under way
		if _, err := next(t, c, 200*time.Millisecond); err != nil {
			if !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Error(err)
			}
			break
		}
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestWithoutAWatchdogNothingIsAsked(t *testing.T) {
	t.Setenv("WATCHDOG_USEC", "")
	if err := Watch(t.Context(), func(context.Context) error { t.Error("asked"); return nil }); err != nil {
		t.Error(err)
	}
}

// TestActivatedSockets runs itself with sockets, as systemd would.
func TestActivatedSockets(t *testing.T) {
	if os.Getenv("LISTEN_FDS") != "" {
		activated(t)
		return
	}
	dir := t.TempDir()
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close()
	unix, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close()
	tcpFile, err := tcp.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	unixFile, err := unix.(*net.UnixListener).File()
	if err != nil {
		t.Fatal(err)
	}
	// The process must know its own id: a shell becomes it.
	cmd := exec.CommandContext(t.Context(), "/bin/sh", "-c", `LISTEN_PID=$$ exec "$@"`, "sh", os.Args[0], "-test.run=^TestActivatedSockets$")
	cmd.Env = append(os.Environ(), "LISTEN_FDS=2", "WANT_TCP="+tcp.Addr().String(), "WANT_UNIX="+filepath.Join(dir, "s"))
	cmd.ExtraFiles = []*os.File{tcpFile, unixFile}
	if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "PASS") {
		t.Errorf("%v: %s", err, out)
	}
}

func activated(t *testing.T) {
	s, err := Activated()
	if err != nil {
		t.Fatal(err)
	}
	if l := s.Take(os.Getenv("WANT_UNIX")); l == nil {
		t.Error("the unix socket is not there")
	}
	if s.Take(os.Getenv("WANT_UNIX")) != nil || s.Take("127.0.0.1:1") != nil {
		t.Error("there is a socket that was taken, or never passed")
	}
	if left := s.Left(); len(left) != 1 || left[0] != os.Getenv("WANT_TCP") {
		t.Errorf("left: %q", left)
	}
}
