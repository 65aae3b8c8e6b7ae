package launch

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/wattle-mesh/wattle/internal/admin"
	"github.com/wattle-mesh/wattle/internal/systemd"
)

// The test's own program plays wattle's commands in the unit's processes.
func TestMain(m *testing.M) {
	role, dir, run := os.Getenv("LAUNCH_ROLE"), os.Getenv("LAUNCH_DIR"), os.Getenv("LAUNCH_RUN")
	if role == "" {
		os.Exit(m.Run())
	}
	self, err := os.Executable()
	if err != nil {
		panic(err)
	}
	u := Unit{Dir: dir, Run: run, Self: "/usr/bin/env", Announcer: []string{"LAUNCH_ROLE=announce", self}, Successor: []string{"LAUNCH_ROLE=next", self},
		Say: func(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	switch role {
	case "start":
		err = u.Start(ctx)
	case "announce":
		err = u.Announce(ctx)
	case "reload":
		err = u.Reload(ctx)
	case "next":
		var epoch uint64
		if epoch, err = strconv.ParseUint(os.Args[1], 10, 32); err == nil {
			err = u.Next(ctx, uint32(epoch))
		}
	case "drain":
		err = u.Drain(ctx)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

const bootstrap = `{"node": {"id": "h1/host", "cluster": "h1"},
"admin": {"address": {"pipe": {"path": "%s/admin.sock", "mode": 384}}},
"static_resources": {"listeners": [{"name": "echo", "address": {"socket_address": {"address": "127.0.0.1", "port_value": %d}},
"filter_chains": [{"filters": [{"name": "tcp", "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.network.echo.v3.Echo"}}]}]}]}}`

// unitWorld is a unit with a real Envoy, and the socket on which systemd would listen.
type unitWorld struct {
	t        *testing.T
	dir, run string
	port     int
	notes    *net.UnixConn
}

func newUnitWorld(t *testing.T) *unitWorld {
	t.Helper()
	dir, err := os.MkdirTemp("", "launch-") // short: sockets
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	w := &unitWorld{t: t, dir: filepath.Join(dir, "host"), run: filepath.Join(dir, "run")}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w.port = l.Addr().(*net.TCPAddr).Port
	l.Close()
	envoy, err := filepath.EvalSymlinks("../../.bin/envoy")
	if err != nil {
		t.Fatal(err)
	}
	w.must(os.MkdirAll(w.run, 0o700), Folder(w.dir, os.Getgid()))
	_, err = Place(filepath.Join(w.dir, BootstrapFile), fmt.Appendf(nil, bootstrap, w.run, w.port))
	w.must(err)
	w.spec(envoy)
	if w.notes, err = net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(dir, "notify"), Net: "unixgram"}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.notes.Close() })
	t.Setenv("NOTIFY_SOCKET", filepath.Join(dir, "notify"))
	t.Setenv("LAUNCH_DIR", w.dir)
	t.Setenv("LAUNCH_RUN", w.run)
	return w
}

func (w *unitWorld) must(errs ...error) {
	w.t.Helper()
	for _, err := range errs {
		if err != nil {
			w.t.Fatal(err)
		}
	}
}

func (w *unitWorld) spec(envoy string) {
	w.t.Helper()
	_, err := Spec{Name: "host", Envoy: envoy, Concurrency: 1, LogLevel: "error", Drain: 2 * time.Second, Shutdown: 3 * time.Second}.Write(w.dir)
	w.must(err)
}

// command is one of the unit's processes.
func (w *unitWorld) command(role string) *exec.Cmd {
	self, err := os.Executable()
	w.must(err)
	cmd := exec.CommandContext(w.t.Context(), self)
	cmd.Env = append(os.Environ(), "LAUNCH_ROLE="+role)
	return cmd
}

// do runs one of the unit's processes and returns what it says. That goes to a file, which an Envoy may keep open.
func (w *unitWorld) do(role string) (string, error) {
	w.t.Helper()
	f, err := os.CreateTemp(filepath.Dir(w.run), "out")
	w.must(err)
	defer f.Close()
	cmd := w.command(role)
	cmd.Stdout, cmd.Stderr = f, f
	failed := cmd.Run()
	out, err := os.ReadFile(f.Name())
	w.must(err)
	return string(out), failed
}

// start starts the Envoy as ExecStart does.
func (w *unitWorld) start() *exec.Cmd {
	w.t.Helper()
	cmd := w.command("start")
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	w.must(cmd.Start())
	w.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		now, err := Unit{Run: w.run}.running()
		if err != nil {
			return
		}
		if base, err := os.ReadFile(filepath.Join(w.run, baseFile)); err == nil {
			_ = os.Remove("/dev/shm/envoy_shared_memory_" + strings.TrimSpace(string(base)) + "0") // as systemd does (RemoveIPC)
		}
		for _, pid := range []int{now.PID, now.Old} { // systemd would end whatever is in the unit's control group
			if pid == 0 || pid == cmd.Process.Pid {
				continue
			}
			_ = unix.Kill(pid, unix.SIGKILL)
			for !ended(pid) {
				<-time.After(lookAgain)
			}
		}
	})
	return cmd
}

// note waits for what systemd is told.
func (w *unitWorld) note() string {
	w.t.Helper()
	w.must(w.notes.SetReadDeadline(time.Now().Add(20 * time.Second)))
	buf := make([]byte, 4096)
	n, err := w.notes.Read(buf)
	w.must(err)
	return string(buf[:n])
}

// echo reports whether the Envoy's listener gives back what it gets.
func (w *unitWorld) echo() error {
	c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", w.port))
	if err != nil {
		return err
	}
	defer c.Close()
	if _, err := c.Write([]byte("x")); err != nil {
		return err
	}
	_, err = c.Read(make([]byte, 1))
	return err
}

func TestAUnitStartsReloadsAndDrains(t *testing.T) {
	w := newUnitWorld(t)
	first := w.start()
	if note := w.note(); !strings.Contains(note, systemd.Ready) || !strings.Contains(note, "epoch 0") {
		t.Fatalf("systemd is told %q", note)
	}
	w.must(w.echo())
	for epoch := 1; epoch <= 2; epoch++ { // the second waits for the end of the first one's drain
		out, err := w.do("reload")
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		now, err := Unit{Run: w.run}.running()
		w.must(err)
		if note := w.note(); !strings.Contains(note, fmt.Sprintf("MAINPID=%d\n", now.PID)) || !strings.Contains(note, fmt.Sprintf("epoch %d", epoch)) {
			t.Errorf("systemd is told %q", note)
		}
		if ended(now.PID) {
			t.Error("the new Envoy has ended with the process that started it")
		}
		w.must(w.echo())
		if server, err := admin.New(filepath.Join(w.run, AdminSocket)).Server(t.Context()); err != nil || server.Options.Epoch != uint32(epoch) || server.Release() != "1.40.0" {
			t.Errorf("%+v, %v", server, err)
		}
	}
	w.must(first.Wait()) // it has drained
	began := time.Now()
	if out, err := w.do("drain"); err != nil || time.Since(began) > quiet {
		t.Errorf("nobody is connected: %v after %s: %s", err, time.Since(began), out)
	}
}

func TestADrainWaitsForConnections(t *testing.T) {
	w := newUnitWorld(t)
	w.start()
	w.note()
	c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", w.port))
	w.must(err)
	defer c.Close()
	_, err = c.Write([]byte("x"))
	w.must(err)
	_, err = c.Read(make([]byte, 1))
	w.must(err)
	began := time.Now()
	out, err := w.do("drain")
	if took := time.Since(began); err != nil || took < 1900*time.Millisecond {
		t.Errorf("drained after %s: %v: %s", took, err, out)
	}
}

func TestAReloadThatFailsLeavesTheEnvoyThatServes(t *testing.T) {
	w := newUnitWorld(t)
	w.start()
	w.note()
	before, err := Unit{Run: w.run}.running()
	w.must(err)
	good, err := filepath.EvalSymlinks("../../.bin/envoy")
	w.must(err)
	for name, c := range map[string]struct{ script, want string }{
		"one that ends at once": {"[ \"$1\" != --hot-restart-version ] || exec " + good + " \"$@\"\nexit 1", "it has ended"},
		"another hot restart version that does not take the bootstrap": {"[ \"$1\" = --hot-restart-version ] && exec echo 12.104\necho no such field\nexit 1", "no such field; the old one, process"},
		"one that does not start":                                      {"exit 3", "exit status 3"},
	} {
		t.Run(name, func(t *testing.T) {
			faulty := filepath.Join(t.TempDir(), "envoy")
			if err := os.WriteFile(faulty, []byte("#!/bin/sh\n"+c.script+"\n"), 0o755); err != nil {
				t.Fatal(err)
			}
			w.spec(faulty)
			out, err := w.do("reload")
			if err == nil || !strings.Contains(out, c.want) {
				t.Errorf("%v: %s, want %q", err, out, c.want)
			}
			if err := w.echo(); err != nil {
				t.Error(err)
			}
			if after, err := (Unit{Run: w.run}).running(); err != nil || after != before {
				t.Errorf("%+v, %v", after, err)
			}
		})
	}
	w.spec(good)
	if out, err := w.do("reload"); err != nil {
		t.Errorf("after that a good one cannot take over: %v: %s", err, out)
	}
}

func TestAnotherHotRestartVersionDrainsAndEndsTheEnvoyForSystemdToStartTheNewOne(t *testing.T) {
	w := newUnitWorld(t)
	first := w.start()
	w.note()
	good, err := filepath.EvalSymlinks("../../.bin/envoy")
	w.must(err)
	other := filepath.Join(t.TempDir(), "envoy")
	w.must(os.WriteFile(other, []byte("#!/bin/sh\n[ \"$1\" = --hot-restart-version ] && exec echo 12.104\nexec "+good+" \"$@\"\n"), 0o755))
	c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", w.port))
	w.must(err)
	defer c.Close()
	_, err = c.Write([]byte("x"))
	w.must(err)
	_, err = c.Read(make([]byte, 1))
	w.must(err)
	w.spec(other)
	began := time.Now()
	out, err := w.do("reload")
	if took := time.Since(began); err != nil || took < 1900*time.Millisecond || !strings.Contains(out, "(hot restart version 12.104, not 11.104)") {
		t.Errorf("after %s, with a connection: %v: %s", took, err, out)
	}
	if err := first.Wait(); err != nil {
		t.Errorf("the first one did not end in good order: %v", err)
	}
	w.start() // as Restart=always does
	if note := w.note(); !strings.Contains(note, systemd.Ready) || !strings.Contains(note, "epoch 0") {
		t.Errorf("systemd is told %q", note)
	}
	w.must(w.echo())
}

func TestTheStateOfAUnitIsJSON(t *testing.T) {
	u := Unit{Run: t.TempDir()}
	want := running{Epoch: 3, PID: 42, Old: 41}
	if err := u.keep(want); err != nil {
		t.Fatal(err)
	}
	if got, err := u.running(); err != nil || got != want {
		t.Errorf("%+v, %v", got, err)
	}
	text, err := os.ReadFile(u.path(stateFile))
	if err != nil || !json.Valid(text) {
		t.Errorf("%s, %v", text, err)
	}
}
