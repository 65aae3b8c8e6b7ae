package agent

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/wattle-mesh/wattle/internal/api"
)

const nobody = 65534

// stranger is a user of the host who is neither root nor the agent's. Run by root, the tests are nobody for as long as a
// connection takes; run by somebody else, they are that one, and the agent is said to be nobody's.
func stranger() uint32 {
	if os.Geteuid() == 0 {
		return nobody
	}
	return uint32(os.Geteuid())
}

// dialAs connects as a user. Only root can be others.
func dialAs(uid uint32, path string) (net.Conn, error) {
	if int(uid) == os.Geteuid() {
		return net.Dial("unix", path)
	}
	type result struct {
		net.Conn
		error
	}
	done := make(chan result)
	go func() {
		runtime.LockOSThread() // for good: the thread ends with the goroutine
		var r result
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, uintptr(uid), uintptr(uid), uintptr(uid)); errno != 0 {
			r.error = errno
		} else {
			r.Conn, r.error = net.Dial("unix", path)
		}
		done <- r
	}()
	r := <-done
	return r.Conn, r.error
}

// office is a desk with a door, and how to come to it.
type office struct {
	*desk
	path string
}

func openOffice(t *testing.T) *office {
	t.Helper()
	dir, err := os.MkdirTemp("", "wattle-") // t.TempDir is too long for sockets, and closed to others
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o711); err != nil {
		t.Fatal(err)
	}
	d := deskAt(t, t.TempDir(), declaredBy(t, "/etc/wattle/services.d/api.hcl:3", service("api", 9000)))
	d.units = fakeUnits{"web.service": stranger(), "db.service": stranger() + 1}
	o := &office{d, filepath.Join(dir, agentSocket)}
	l, err := openDoor(nil, o.path, d.uid)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- d.serve(ctx, l) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return o
}

// ask makes a request as a user, on a connection of its own.
func (o *office) ask(uid uint32, method, path, body string) (int, string, error) {
	conn, err := dialAs(uid, o.path)
	if err != nil {
		return 0, "", err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(time.Minute))
	if _, err := fmt.Fprintf(conn, "%s %s HTTP/1.1\r\nHost: agent\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s", method, path, len(body), body); err != nil {
		return 0, "", err
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(text), err
}

// bodyOf is the body with which a service is registered.
func bodyOf(name, more string) string {
	return fmt.Sprintf(`{"service": {"namespace": "default", "name": %q, "ports": [{"number": 8080, "protocol": "http", "local": "127.0.0.1:8080"}], "weight": 1%s}}`, name, more)
}

func TestTheKernelSaysWhoAsks(t *testing.T) {
	t.Parallel()
	o := openOffice(t)
	who := stranger()
	for _, c := range []struct {
		name, method, path, body string
		status                   int
		says                     string
	}{
		{"a stranger lists", "GET", "/v1/services", "", 200, `"origin": "/etc/wattle/services.d/api.hcl:3"`},
		{"a stranger describes", "GET", "/v1/services/default/api/-", "", 200, `"name": "api"`},
		{"a stranger registers", "PUT", "/v1/services/default/web/-", bodyOf("web", ""), 403, fmt.Sprintf("uid %d may not register workloads that belong to no unit", who)},
		{"with another's unit", "PUT", "/v1/services/default/web/-", bodyOf("web", `, "unit": "db.service"`), 403, fmt.Sprintf("unit db.service runs as uid %d", who+1)},
		{"with their own", "PUT", "/v1/services/default/web/-", bodyOf("web", `, "unit": "web.service", "ttl": "30s"`), 200, `"changed": true`},
		{"again", "PUT", "/v1/services/default/web/-", bodyOf("web", `, "unit": "web.service", "ttl": "30s"`), 200, `"changed": false`},
		{"a heartbeat", "PUT", "/v1/services/default/web/-/heartbeat", "", 200, `"state": "pending"`},
		{"a heartbeat for what has none", "PUT", "/v1/services/default/api/-/heartbeat", "", 409, "W5013"},
		{"a file's is ended", "DELETE", "/v1/services/default/api/-", "", 409, "api.hcl:3"},
		{"what nobody knows is described", "GET", "/v1/services/default/none/-", "", 404, "W5012"},
		{"their own is ended", "DELETE", "/v1/services/default/web/-", "", 200, `"changed": true`},
		{"another path", "GET", "/v1/status", "", 404, "docs/http-api.md"},
		{"another name in the body", "PUT", "/v1/services/default/web/-", bodyOf("other", ""), 400, "W5010"},
		{"no JSON", "PUT", "/v1/services/default/web/-", "{", 400, "W5010"},
		{"an unknown field", "PUT", "/v1/services/default/web/-", bodyOf("web", `, "wieght": 1`), 400, "wieght"},
		{"a name that is none", "PUT", "/v1/services/default/..%2f..%2fetc/-", "{}", 400, "W5010"},
		{"a body that is huge", "PUT", "/v1/services/default/web/-", bodyOf("web", `, "meta": {"a": "`+strings.Repeat("x", maxRequest)+`"}`), 400, "too large"},
		{"no body", "PUT", "/v1/services/default/web/-", "", 400, "W5010"},
		{"a unit that is no name", "PUT", "/v1/services/default/web/-", bodyOf("web", `, "unit": "../x"`), 400, "W5010"},
		{"a ttl that is too short", "PUT", "/v1/services/default/web/-", bodyOf("web", `, "ttl": "1ms"`), 400, "ttl"},
	} {
		status, text, err := o.ask(who, c.method, c.path, c.body)
		if err != nil || status != c.status || !strings.Contains(text, c.says) {
			t.Errorf("%s: %d %s %v, want %d %q", c.name, status, text, err, c.status, c.says)
		}
	}
	if o.reported() != "api" {
		t.Errorf("reported is %q", o.reported())
	}
	// The client of the CLI says the same.
	c := api.NewClient(api.ClientOptions{Address: "unix:" + o.path, Agent: true})
	defer c.Close()
	if os.Geteuid() == 0 {
		if got, err := c.Register(t.Context(), api.ServiceRequest{Service: service("web", 80)}); err != nil || !got.Changed {
			t.Errorf("%+v, %v", got, err)
		}
	} else if _, err := c.Register(t.Context(), api.ServiceRequest{Service: service("web", 80)}); err == nil || !strings.Contains(err.Error(), "(W5002)") {
		t.Error(err)
	}
	if all, err := c.Services(t.Context()); err != nil || len(all) == 0 || all[0].Origin != "/etc/wattle/services.d/api.hcl:3" {
		t.Errorf("%+v, %v", all, err)
	}
}

func TestAUserWithManyConnectionsIsAloneInThat(t *testing.T) {
	t.Parallel()
	o := openOffice(t)
	var conns []net.Conn
	defer func() {
		for _, c := range conns {
			c.Close()
		}
	}()
	for range maxConnsOfUser {
		c, err := dialAs(stranger(), o.path)
		if err != nil {
			t.Fatal(err)
		}
		conns = append(conns, c)
	}
	if status, text, err := o.ask(stranger(), "GET", "/v1/services", ""); status != 503 || !strings.Contains(text, "W5008") {
		if err == nil || status != 0 { // the answer may be lost when it is cut off before it was asked for
			t.Errorf("one more: %d %s %v", status, text, err)
		}
	}
	if os.Geteuid() == 0 {
		if status, text, err := o.ask(0, "GET", "/v1/services", ""); err != nil || status != 200 {
			t.Errorf("root: %d %s %v", status, text, err)
		}
		if status, text, err := o.ask(nobody-1, "GET", "/v1/services", ""); err != nil || status != 200 {
			t.Errorf("another user: %d %s %v", status, text, err)
		}
	}
	for _, c := range conns {
		c.Close()
	}
	conns = nil
	limit := time.Now().Add(10 * time.Second)
	for {
		if status, _, err := o.ask(stranger(), "GET", "/v1/services", ""); err == nil && status == 200 {
			return
		}
		if time.Now().After(limit) {
			t.Fatal("the user is not let in again")
		}
	}
}

func TestWhoeverIsSlowIsCutOff(t *testing.T) {
	t.Parallel()
	o := openOffice(t)
	var wg sync.WaitGroup
	for name, text := range map[string]string{
		"says nothing":         "",
		"stops in the headers": "PUT /v1/services/default/web/- HTTP/1.1\r\nHost: a\r\nX-",
		"stops in the body":    "PUT /v1/services/default/web/- HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n{",
	} {
		wg.Go(func() {
			conn, err := dialAs(stranger(), o.path)
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			_, _ = io.WriteString(conn, text)
			_ = conn.SetDeadline(time.Now().Add(readLimit + 20*time.Second))
			if _, err := io.Copy(io.Discard, conn); errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("who %s stays connected", name)
			}
		})
	}
	// Others are served meanwhile.
	if status, text, err := o.ask(stranger(), "GET", "/v1/services", ""); err != nil || status != 200 {
		t.Errorf("%d %s %v", status, text, err)
	}
	wg.Wait()
	status, _, err := o.ask(stranger(), "GET", "/"+strings.Repeat("x", 2*maxHeader), "")
	if err == nil && status != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("huge headers: %d", status)
	}
}

func TestAUserWhoWritesTooFastIsSlowedDown(t *testing.T) {
	d := deskAt(t, t.TempDir())
	n := 0
	for range 2 * writeBurst {
		if d.paces.allow(1000) {
			n++
		}
	}
	if n < writeBurst || n == 2*writeBurst {
		t.Errorf("%d of %d writes were let in", n, 2*writeBurst)
	}
	if !d.paces.allow(1001) || !d.paces.allow(root) {
		t.Error("others wait for a user who is too fast")
	}
}

func TestTheSocketIsForEverybodyAndTheFolderIsNot(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "run")
	for range 2 {
		if open, err := passable(dir); err != nil || !open {
			t.Fatal(open, err)
		}
	}
	info, err := os.Stat(dir)
	if err != nil || info.Mode().Perm() != 0o711 {
		t.Error(info, err)
	}
	closed := t.TempDir()
	if err := os.Chmod(closed, 0o700); err != nil {
		t.Fatal(err)
	}
	if open, err := passable(closed); err != nil || open {
		t.Errorf("a folder that somebody closed: %t, %v", open, err)
	}
	for range 2 { // an agent that was killed leaves its socket
		l, err := net.Listen("unix", filepath.Join(dir, agentSocket))
		if err != nil {
			t.Fatal(err)
		}
		l.(*net.UnixListener).SetUnlinkOnClose(false)
		l.Close()
		d, err := openDoor(nil, filepath.Join(dir, agentSocket), 0)
		if err != nil {
			t.Fatal(err)
		}
		info, err = os.Stat(filepath.Join(dir, agentSocket))
		if err != nil || info.Mode().Perm() != 0o666 {
			t.Error(info, err)
		}
		d.Close()
	}
}
