package admin

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
)

// serveAdmin answers on a unix socket as an Envoy does. (A real one is asked in adapters/process and internal/launch.)
func serveAdmin(t *testing.T, answers map[string]string) *Client {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		text, ok := answers[r.Method+" "+r.URL.Path+" "+r.URL.Query().Get("filter")]
		if !ok {
			http.Error(w, "no", http.StatusNotFound)
			return
		}
		fmt.Fprint(w, text)
	}))
	s.Listener.Close()
	s.Listener = l
	s.Start()
	t.Cleanup(s.Close)
	return New(socket)
}

func TestWhatAnEnvoySaysOfItself(t *testing.T) {
	c := serveAdmin(t, map[string]string{
		"GET /server_info ": `{"version": "abc/1.40.0/Clean/RELEASE/BoringSSL", "state": "LIVE", "command_line_options": {"restart_epoch": 3}}`,
		`GET /stats ^listener\..*downstream_cx_active$`: `{"stats": [{"name": "listener.admin.downstream_cx_active", "value": 1},
			{"name": "listener.127.0.0.1_80.downstream_cx_active", "value": 2}, {"name": "listener.[__1]_80.downstream_cx_active", "value": 3}]}`,
		`GET /stats ^(http\..*downstream_rq_active|tcp\..*downstream_cx_active)$`: `{"stats": [{"name": "http.admin.downstream_rq_active", "value": 1},
			{"name": "http.in.downstream_rq_active", "value": 4}, {"name": "tcp.out.downstream_cx_active", "value": 5}]}`,
		"POST /drain_listeners ": "OK",
	})
	s, err := c.Server(t.Context())
	if err != nil || s.Release() != "1.40.0" || s.State != Live || s.Options.Epoch != 3 {
		t.Errorf("%+v, %v", s, err)
	}
	if n, err := c.Connections(t.Context()); err != nil || n != 5 {
		t.Errorf("%d connections, %v, want 5: the admin's own do not count", n, err)
	}
	if n, err := c.Active(t.Context()); err != nil || n != 9 {
		t.Errorf("%d active, %v, want 9", n, err)
	}
	if err := c.Drain(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestAnEnvoyThatRefusesOrIsGoneIsAnError(t *testing.T) {
	if err := serveAdmin(t, nil).Close(t.Context()); err == nil || !strings.Contains(err.Error(), "/drain_listeners: 404") {
		t.Error(err)
	}
	if _, err := New(filepath.Join(t.TempDir(), "none")).Server(t.Context()); err == nil {
		t.Error("nobody answered, and that is no error")
	}
}
