package agent

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"

	"github.com/wattle-mesh/wattle/configs"
	"github.com/wattle-mesh/wattle/internal/api"
	"github.com/wattle-mesh/wattle/internal/xds"
	"github.com/wattle-mesh/wattle/translator"
)

func TestASocketReplacesNothingButASocket(t *testing.T) {
	dir := t.TempDir()
	file, link, old := filepath.Join(dir, "file"), filepath.Join(dir, "link"), filepath.Join(dir, "old.sock")
	write(t, file, "precious")
	l, err := net.Listen("unix", old)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := os.Symlink(old, link); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/usr", filepath.Join(dir, "system")); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ name, path, want string }{
		{"nothing is there", dir + "/new.sock", ""},
		{"its folder is not there yet", dir + "/late/new.sock", ""},
		{"a socket", old, ""},
		{"a file", file, "something else than a socket"},
		{"a folder", dir, "something else than a socket"},
		{"a link to a socket", link, "something else than a socket"},
		{"a file where its folder should be", file + "/x.sock", "cannot be looked at"},
		{"a relative path", "x.sock", "absolute path"},
		{"a path with ..", dir + "/../x.sock", "absolute path"},
		{"a long path", "/run/" + strings.Repeat("x", 103), "absolute path"},
		{"a folder of the system", "/usr/none/x.sock", "belongs into"},
		{"a folder of the system by another name", dir + "/system/x.sock", "belongs into"},
		{"the root", "/x.sock", "belongs into"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if err := checkPipe(c.path); (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want %q", err, c.want)
			}
		})
	}
}

// A file that comes to where a socket is to be keeps its listener from Envoy, when it is sent and when an Envoy connects.
func TestAnEnvoyGetsNoListenerInThePlaceOfAFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "web.sock")
	r, err := newResource(translator.Listener, "out/web", &listenerv3.Listener{
		Name: "out/web", Address: &corev3.Address{Address: &corev3.Address_Pipe{Pipe: &corev3.Pipe{Path: path}}},
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	table, m := newTable([]string{"h1/host"}), mirror{}
	send := func() error {
		changes, err := table.receive(&xds.Response{Type: translator.Listener, Resources: []*translator.Resource{r}})
		m.apply(t, changes)
		return err
	}
	write(t, path, "precious")
	if err := send(); err == nil || !strings.Contains(err.Error(), "something else than a socket") || len(m) != 0 {
		t.Errorf("%v, and Envoy has %s", err, m)
	}
	if got := table.freed(); got != nil {
		t.Errorf("%q are free", got)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if got := table.freed(); len(got) != 1 || got[0] != "out/web" {
		t.Errorf("%q are free", got)
	}
	if err := send(); err != nil || len(m) != 1 {
		t.Errorf("%v, and Envoy has %s", err, m)
	}
	write(t, path, "precious")
	changes, err := table.lookAgain()
	m.apply(t, changes)
	if err == nil || len(m) != 0 {
		t.Errorf("%v, and an Envoy that starts has %s", err, m)
	}
}

func TestAnUpstreamInThePlaceOfAFileIsRefused(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "passwd")
	write(t, path, "precious")
	folder := filepath.Join(dir, "services.d")
	write(t, filepath.Join(folder, "a.hcl"), `
service "web" {
  port = 80
  upstream "db" { bind = "unix:`+path+`" }
}
`)
	s := newServices(logTo(&logbook{}), newDisk(dir, &alarms{log: logTo(&logbook{})}), folder)
	s.load()
	if got := s.held.Now(); len(got.list) != 0 || !strings.Contains(string(got.problems), api.CodePipe) {
		t.Errorf("%d services, problems %s", len(got.list), got.problems)
	}
	x := service("x", 80, func(s *configs.Service) { s.Upstreams = []*configs.Upstream{{Socket: path}} })
	if err := (&desk{local: func() ([]address, error) { return nil, nil }}).fits(client{}, x); err == nil || !strings.Contains(err.Error(), "something else than a socket") {
		t.Errorf("%v", err)
	}
}
