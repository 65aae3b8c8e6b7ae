package main

import (
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"testing"
)

// service runs a command of wattle service against the server.
func (c *control) service(args ...string) (string, int) {
	c.t.Helper()
	var out strings.Builder
	code := run(c.t.Context(), append(append([]string{"service"}, args...), "-server", "unix:"+filepath.Join(c.dir, "api.sock")), &out, &out)
	return out.String(), code
}

// An operator's word is never held: five endpoints that live go at once, all of what mesh has.
func TestWhatIsDeregisteredIsNeverHeld(t *testing.T) {
	c := newControl(t)
	t.Setenv(tokenFileEnv, filepath.Join(c.dir, "state", "admin.token"))
	c.await("1 service, 1 endpoint")
	var names []string
	for i := range 5 {
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.%d:0", 2+i)) // it lives
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		a := l.Addr().(*net.TCPAddr)
		if out, code := c.service("register", "-name", "db", "-port", fmt.Sprintf("%d/tcp", a.Port), "-instance", fmt.Sprint(a.Port), "-address", a.IP.String()); code != 0 || !strings.HasSuffix(out, ": registered\n") {
			t.Fatalf("code %d: %s", code, out)
		}
		names = append(names, fmt.Sprintf("default/db/%d", a.Port))
	}
	c.await("2 services, 6 endpoints")
	c.stop() // what a server knew before it started is no news to it, which what came lately is
	c.start()
	c.await("2 services, 6 endpoints")
	if out, code := c.service("list"); code != 0 || strings.Count(out, "default/db  ") != 5 {
		t.Errorf("code %d: %s", code, out)
	}
	if out, code := c.service("describe", names[0]); code != 0 || !strings.Contains(out, "127.0.0.2:") || !strings.Contains(out, "accepted") {
		t.Errorf("code %d: %s", code, out)
	}
	if out, code := c.service(append([]string{"deregister"}, names...)...); code != 0 || strings.Count(out, ": deregistered\n") != 5 {
		t.Errorf("code %d: %s", code, out)
	}
	c.await("1 service, 1 endpoint")
	if out, code := c.wattle("registry", "status", "mesh"); code != 0 || strings.Contains(out, "HELD  SINCE") || strings.Contains(out, "holding") {
		t.Errorf("code %d: %s", code, out)
	}
	if out, code := c.service("deregister", names[0]); code != 0 || out != names[0]+": was not registered\n" {
		t.Errorf("code %d: %s", code, out)
	}
	if out, code := c.service("describe", "db"); code != exitInvalid || !strings.Contains(out, "default/db is not registered here") {
		t.Errorf("code %d: %s", code, out)
	}
}

func TestAFileIsRegisteredAtTheServer(t *testing.T) {
	c := newControl(t)
	t.Setenv(tokenFileEnv, filepath.Join(c.dir, "state", "admin.token"))
	c.await("1 service, 1 endpoint")
	c.write("out.hcl", "service \"db\" {\n  port     = 5432\n  protocol = \"tcp\"\n  ttl      = \"1h\"\n  endpoint { address = \"10.0.0.9\" }\n  endpoint { address = \"10.0.0.10\" }\n}\n")
	file := filepath.Join(c.dir, "out.hcl")
	if out, code := c.service("register", file); code != 0 || out != "default/db/10.0.0.9: registered\n" {
		t.Fatalf("code %d: %s", code, out)
	}
	if out, code := c.service("register", file); code != 0 || !strings.Contains(out, "nothing changed") {
		t.Errorf("code %d: %s", code, out)
	}
	c.await("2 services, 3 endpoints")
	if out, code := c.service("heartbeat", "db", "-address", "10.0.0.9"); code != 0 || out != "" {
		t.Errorf("code %d: %s", code, out)
	}
	if out, code := c.service("heartbeat", "web"); code != exitError || !strings.Contains(out, "(W5012)") {
		t.Errorf("code %d: %s", code, out)
	}
	if out, code := c.service("describe", "db"); code != 0 || !strings.Contains(out, file+":1") || !strings.Contains(out, "1h0m0s") || !strings.Contains(out, "healthy") {
		t.Errorf("code %d: %s", code, out)
	}
	if out, code := c.service("register", "-name", "web", "-port", "80"); code != exitInvalid || !strings.Contains(out, "no endpoint") {
		t.Errorf("code %d: %s", code, out)
	}
	if out, code := c.service("register", "-json", file); code != 0 || !strings.Contains(out, `"changed": false`) {
		t.Errorf("code %d: %s", code, out)
	}
	// A program elsewhere may be registered while it lives.
	var out strings.Builder
	code := run(c.t.Context(), []string{"service", "run", "-server", "unix:" + filepath.Join(c.dir, "api.sock"), "-name", "job", "-port", "1", "-address", "127.0.0.9", "--", "sh", "-c", "exit 3"}, &out, &out)
	if code != 3 || out.String() != "" {
		t.Errorf("code %d: %s", code, out.String())
	}
	if out, code := c.service("list"); code != 0 || strings.Contains(out, "job") {
		t.Errorf("code %d: %s", code, out)
	}
}
