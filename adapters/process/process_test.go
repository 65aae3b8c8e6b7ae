package process

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/wattle-mesh/wattle/adapters"
)

func TestMain(m *testing.M) {
	// Envoys whose adapter is gone become this process's, as they become init's on a host.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		panic(err)
	}
	goleak.VerifyTestMain(m)
}

// host is a run folder with adapters on it, one after the other.
type host struct {
	t   *testing.T
	dir string
	o   Options
}

func newHost(t *testing.T) *host {
	t.Helper()
	dir, err := os.MkdirTemp("", "wattle-process-") // t.TempDir is too long for sockets
	if err != nil {
		t.Fatal(err)
	}
	envoy, err := FindEnvoy(filepath.Join("..", "..", ".bin", "envoy"))
	if err != nil {
		t.Fatal(err)
	}
	h := &host{t: t, dir: dir, o: Options{Log: slog.New(slog.DiscardHandler), Envoy: envoy, Dir: dir, Concurrency: 1}}
	t.Cleanup(func() {
		all, err := New(h.o).running()
		if err != nil {
			t.Error(err)
		}
		for _, procs := range all {
			for _, p := range procs {
				p.end()
				reapAdopted(p.pid)
			}
		}
		os.RemoveAll(dir)
	})
	return h
}

// reapAdopted takes a process away whose parent is this one by adoption.
func reapAdopted(pid int) { _, _ = syscall.Wait4(pid, nil, 0, nil) }

// start runs an adapter. The function it returns ends it.
func (h *host) start(change func(*Options)) (*Adapter, func()) {
	o := h.o
	if change != nil {
		change(&o)
	}
	a := New(o)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	stop := sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			h.t.Error(err)
		}
	})
	h.t.Cleanup(stop)
	return a, stop
}

func (h *host) plan(names ...string) adapters.Plan {
	var p adapters.Plan
	for _, n := range names {
		boot := fmt.Sprintf(`{"node":{"id":"h1/%s","cluster":"h1"},"admin":{"address":{"pipe":{"path":%q,"mode":384}}},
			"static_resources":{"listeners":[{"name":"echo","address":{"pipe":{"path":%q}},"filter_chains":[{"filters":[
			{"name":"echo","typed_config":{"@type":"type.googleapis.com/envoy.extensions.filters.network.echo.v3.Echo"}}]}]}]}}`,
			n, h.admin(n), h.echo(n))
		p.Proxies = append(p.Proxies, adapters.Proxy{ID: "h1/" + n, Name: n, Bootstrap: []byte(boot)})
	}
	return p
}

func (h *host) admin(name string) string { return filepath.Join(h.dir, name, "admin.sock") }

// echo is where an Envoy answers with what it is sent.
func (h *host) echo(name string) string { return filepath.Join(h.dir, name, "echo.sock") }

func (h *host) apply(a *Adapter, names ...string) {
	h.t.Helper()
	if err := a.Apply(h.t.Context(), h.plan(names...)); err != nil {
		h.t.Fatal(err)
	}
}

// pid waits until exactly one Envoy of the name runs and answers, other than those given, and returns its number.
func (h *host) pid(name string, not ...int) int {
	h.t.Helper()
	pid := 0
	h.wait("one Envoy "+name, func() error {
		all, err := New(h.o).running()
		if err != nil {
			return err
		}
		if len(all[name]) != 1 {
			return fmt.Errorf("%d of them run", len(all[name]))
		}
		pid = all[name][0].pid
		for _, n := range not {
			if pid == n {
				return fmt.Errorf("it is still %d", n)
			}
		}
		return h.ready(name)
	})
	return pid
}

func (h *host) ready(name string) error {
	c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", h.admin(name))
	}}}
	resp, err := c.Get("http://admin/ready")
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return errors.New(resp.Status)
	}
	return nil
}

// wait polls, since what is waited for happens in other processes.
func (h *host) wait(what string, ok func() error) {
	h.t.Helper()
	limit := time.After(20 * time.Second)
	for {
		err := ok()
		if err == nil {
			return
		}
		select {
		case <-time.After(5 * time.Millisecond):
		case <-limit:
			log, _ := os.ReadFile(filepath.Join(h.dir, "host", "envoy.log"))
			h.t.Fatalf("waited for %s: %v\n%s", what, err, log)
		}
	}
}

func (h *host) gone(name string) {
	h.t.Helper()
	h.wait("no Envoy "+name, func() error {
		all, err := New(h.o).running()
		if err == nil && len(all[name]) > 0 {
			err = fmt.Errorf("%d of them run", len(all[name]))
		}
		return err
	})
}

func TestAnEnvoyRunsAndIsStartedAgainWhenItIsKilled(t *testing.T) {
	h := newHost(t)
	a, _ := h.start(func(o *Options) { o.Stop = true })
	h.apply(a, "host")
	first := h.pid("host")
	if err := syscall.Kill(first, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	second := h.pid("host", first)
	h.apply(a, "host")
	if now := h.pid("host"); now != second {
		t.Errorf("applying the same plan again replaced process %d by %d", second, now)
	}
	info, err := os.Stat(h.admin("host"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the admin socket: %v, %v", info, err)
	}
}

func TestAnEnvoyOutlivesItsAdapterAndIsAdopted(t *testing.T) {
	h := newHost(t)
	a, stop := h.start(nil)
	h.apply(a, "host", "gw-public")
	host, gateway := h.pid("host"), h.pid("gw-public")
	stop()
	if err := h.ready("host"); err != nil {
		t.Fatalf("without its adapter: %v", err)
	}

	b, _ := h.start(func(o *Options) { o.Stop = true })
	h.apply(b, "host") // the gateway left the plan meanwhile
	h.gone("gw-public")
	if now := h.pid("host"); now != host {
		t.Errorf("Envoy was process %d, is %d", host, now)
	}
	// One that was adopted is watched as closely as a child.
	if err := syscall.Kill(host, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	h.pid("host", host)
	reapAdopted(gateway)
	reapAdopted(host)
}

func TestAnEnvoyThatLeavesThePlanEnds(t *testing.T) {
	h := newHost(t)
	a, _ := h.start(func(o *Options) { o.Stop = true })
	h.apply(a, "gw-public", "host")
	h.pid("gw-public")
	host := h.pid("host")
	h.apply(a, "host")
	h.gone("gw-public")
	if now := h.pid("host"); now != host {
		t.Errorf("the other Envoy was process %d, is %d", host, now)
	}
}

func TestAnEnvoyThatLeavesThePlanServesItsLastConnection(t *testing.T) {
	h := newHost(t)
	a, stop := h.start(nil)
	h.apply(a, "gw-public", "host")
	gateway, host := h.pid("gw-public"), h.pid("host")
	conn, err := net.Dial("unix", h.echo("gw-public"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	exchange := func() {
		t.Helper()
		got := make([]byte, 4)
		if err := conn.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Write([]byte("word")); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(conn, got); err != nil || string(got) != "word" {
			t.Fatalf("%q, %v", got, err)
		}
	}
	exchange()
	for _, plan := range [][]string{{"host"}, {"gw-public", "host"}, {"host", "other"}} {
		h.apply(a, plan...)
		h.pid(plan[len(plan)-1]) // the others do not wait for it
		exchange()
	}
	stop() // the next agent has it go on
	b, end := h.start(func(o *Options) { o.Stop = true })
	h.apply(b, "host")
	h.gone("other")
	exchange()
	conn.Close()
	h.gone("gw-public")
	if now := h.pid("host"); now != host {
		t.Errorf("the other Envoy was process %d, is %d", host, now)
	}
	if Ended(h.dir) {
		t.Error("all have ended, it says")
	}
	end()
	if !Ended(h.dir) {
		t.Error("not all have ended, it says")
	}
	reapAdopted(gateway)
	reapAdopted(host)
}

func TestAnEnvoyThatDoesNotHearEndsAllTheSame(t *testing.T) {
	h := newHost(t)
	a, stop := h.start(func(o *Options) { o.Stop = true })
	h.apply(a, "gw-public", "host")
	for _, name := range []string{"gw-public", "host"} {
		if err := syscall.Kill(h.pid(name), syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
	}
	began := time.Now()
	stop()
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("ending two took %s", took)
	}
	h.gone("host")
	h.gone("gw-public")
}

func TestNothingIsEndedBeforeThereIsAPlan(t *testing.T) {
	h := newHost(t)
	a, stop := h.start(nil)
	h.apply(a, "host")
	pid := h.pid("host")
	stop()
	_, stop = h.start(nil)
	stop()
	if now := h.pid("host"); now != pid {
		t.Errorf("Envoy was process %d, is %d", pid, now)
	}
}

func TestABinaryThatIsMissingIsSaidWithTheRemedy(t *testing.T) {
	for _, name := range []string{"no-such-envoy", filepath.Join(t.TempDir(), "envoy")} {
		if _, err := FindEnvoy(name); err == nil || !strings.Contains(err.Error(), "make tools") {
			t.Errorf("%s: %v", name, err)
		}
	}
	t.Setenv("ENVOY", "")
	t.Setenv("PATH", t.TempDir())
	t.Chdir(t.TempDir())
	if _, err := FindEnvoy(""); err == nil || !strings.Contains(err.Error(), "make tools") {
		t.Errorf("none anywhere: %v", err)
	}
}
