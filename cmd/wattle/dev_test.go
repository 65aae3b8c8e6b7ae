package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/wattle-mesh/wattle/configs"
	"github.com/wattle-mesh/wattle/internal/api"
	"github.com/wattle-mesh/wattle/internal/pipeline"
)

// What keeps dev from starting is one line with the remedy, before it has started or written anything.
func TestDevSaysInOneLineWhyItCannotStart(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	_, port, _ := net.SplitHostPort(taken.Addr().String())
	unused := freePort(t)
	_, port2, _ := net.SplitHostPort(unused)
	const host = "host \"h1\" {\n  address = \"127.0.0.1\"\n  service \"web\" {\n    port = 9\n    local = \"127.0.0.1:%s\"\n    command = [\"true\"]\n  }\n}\n"
	envoy := script(t, "echo 'envoy  version: 9e55809/1.40.0/Clean/RELEASE/BoringSSL'")

	for _, c := range []struct {
		name, envoy, policy string
		args                []string
		code                int
		want                []string
	}{
		{"a taken API port", envoy, "host \"h1\" { address = \"127.0.0.1\" }", []string{"-http", taken.Addr().String()}, exitError,
			[]string{taken.Addr().String() + " is taken", "the HTTP API (-http)", "ss -ltnp"}},
		{"a taken agents' port", envoy, "host \"h1\" { address = \"127.0.0.1\" }", []string{"-agents", taken.Addr().String()}, exitError,
			[]string{taken.Addr().String() + " is taken", "(-agents)", "ss -ltnp"}},
		{"a taken port of an application", envoy, fmt.Sprintf(host, port), nil, exitError,
			[]string{taken.Addr().String() + " is taken", "service web (mesh.hcl:3)", "ss -ltnp"}},
		{"a taken port of a gateway", envoy, "host \"h1\" { address = \"127.0.0.1\" }\ngateway \"g\" {\n  run_on = [\"h1\"]\n  server \"http\" {\n    bind = \"127.0.0.1\"\n    port = " + port + "\n  }\n}\n", nil, exitError,
			[]string{taken.Addr().String() + " is taken", "gateway g (mesh.hcl:4)"}},
		{"an address that is needed twice", envoy, fmt.Sprintf(host, port2), []string{"-agents", unused}, exitError,
			[]string{unused + " is needed twice, for the agents' port (-agents) and for service web (mesh.hcl:3)"}},
		{"a command that is not there", envoy, strings.Replace(fmt.Sprintf(host, port2), "true", "bin/none", 1), nil, exitError, []string{"the command of web@h1 cannot be run", "bin/none"}},
		{"an API for everybody", envoy, "host \"h1\" { address = \"127.0.0.1\" }", []string{"-http", "0.0.0.0:0"}, exitInvalid, []string{"-http 0.0.0.0:0", "127.0.0.1:7500"}},
		{"an address by name", envoy, "host \"h1\" { address = \"127.0.0.1\" }", []string{"-agents", "localhost:0"}, exitInvalid, []string{"-agents localhost:0", "127.0.0.1:7500"}},
		{"an address that is another machine's", envoy, "host \"h1\" { address = \"10.99.0.12\" }", nil, exitInvalid,
			[]string{"10.99.0.12", "host h1 (mesh.hcl:1)", "loopback addresses, 127.0.0.x"}},
		{"no Envoy", "/nowhere/envoy", "host \"h1\" { address = \"127.0.0.1\" }", nil, exitError, []string{"/nowhere/envoy", "make tools"}},
		{"another program", "/bin/true", "host \"h1\" { address = \"127.0.0.1\" }", nil, exitError, []string{"/bin/true is no Envoy", "make tools"}},
		{"a program that does nothing", script(t, "exit 0"), "host \"h1\" { address = \"127.0.0.1\" }", nil, exitError, []string{"is no Envoy", "says nothing"}},
		{"a program that fails", script(t, "exit 3"), "host \"h1\" { address = \"127.0.0.1\" }", nil, exitError, []string{"is no Envoy", "exit status 3", "make tools"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			tmp, dir := t.TempDir(), t.TempDir()
			t.Setenv("TMPDIR", tmp)
			t.Setenv("ENVOY", c.envoy)
			if err := os.WriteFile(filepath.Join(dir, "mesh.hcl"), []byte(c.policy), 0o600); err != nil {
				t.Fatal(err)
			}
			// Port 0 is free unless the case says otherwise.
			args := append([]string{"dev", dir, "-http", "127.0.0.1:0", "-agents", "127.0.0.1:0"}, c.args...)
			var stdout, stderr output
			if code := run(t.Context(), args, &stdout, &stderr); code != c.code {
				t.Errorf("exit code %d, want %d", code, c.code)
			}
			if text := stderr.String(); strings.Count(text, "\n") != 1 || stdout.String() != "" {
				t.Errorf("want one line, got %s%s", stdout.String(), text)
			}
			for _, want := range c.want {
				if !strings.Contains(stderr.String(), want) {
					t.Errorf("%q is not in %s", want, stderr.String())
				}
			}
			if left, err := os.ReadDir(tmp); err != nil || len(left) > 0 {
				t.Errorf("left behind: %v, %v", left, err)
			}
		})
	}
}

func TestEnvoyVersion(t *testing.T) {
	for text, want := range map[string]string{
		"echo; echo 'x/.bin/envoy  version: 9e55809/1.40.0/Clean/RELEASE/BoringSSL'": "1.40.0",
		"echo 'envoy  version: 0abc/1.41.0-dev/Clean/RELEASE/BoringSSL'":             "1.41.0-dev",
	} {
		if got, err := envoyVersion(t.Context(), script(t, text)); err != nil || got != want {
			t.Errorf("%s: %q, %v", text, got, err)
		}
	}
}

func TestDevWarnsOfAnEnvoyThatItIsNotTriedWith(t *testing.T) {
	for version, warns := range map[string]bool{"1.40.0": false, "1.40.3": false, "1.38.0": true, "1.401.0": true} {
		var out output
		d := &dev{out: newLines(&out, nil)}
		t.Setenv("ENVOY", script(t, "echo 'envoy  version: 0abc/"+version+"/Clean/RELEASE/BoringSSL'"))
		if _, err := d.findEnvoy(t.Context()); err != nil {
			t.Errorf("%s: %v", version, err)
		}
		if warned := strings.Contains(out.String(), "is Envoy "+version); warned != warns {
			t.Errorf("%s: it says %q", version, out.String())
		}
	}
}

// script writes a program.
func script(t *testing.T, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(file, []byte("#!/bin/sh\n"+text+"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestCommandsAreToldApartAndNamedShortly(t *testing.T) {
	d := &dev{dir: "/policy"}
	h := &configs.Host{Name: "h1"}
	ids := map[string]string{}
	for _, c := range []struct{ namespace, name, version, instance, want string }{
		{"default", "reviews", "", "", "reviews@h1"},
		{"shop", "reviews", "", "", "shop/reviews@h1"},
		{"default", "reviews", "v2", "v2", "reviews-v2@h1"},
		{"default", "reviews", "v1", "a", "reviews-v1.a@h1"},
		{"default", "reviews-v1", "", "a", "reviews-v1.a@h1"}, // looks the same, is another
	} {
		s := &configs.Service{Block: configs.Block{Namespace: c.namespace, Name: c.name}, Instance: c.instance, Command: []string{"./x"}}
		if c.version != "" {
			s.Meta = map[string]string{"version": c.version}
		}
		p := d.command(h, s)
		if p.Name != c.want || p.Args[0] != "/policy/x" {
			t.Errorf("%+v: %s %v", c, p.Name, p.Args)
		}
		if was, twice := ids[p.ID]; twice {
			t.Errorf("%+v has the id of %s", c, was)
		}
		ids[p.ID] = p.Name
	}
}

func TestDevFollowsOnlyWhatTheServerPutInForce(t *testing.T) {
	f := &fakeServer{hosts: "h1"}
	f.revision, f.asked = 1, make(chan struct{}, 1000)
	srv := httptest.NewServer(f)
	defer srv.Close()
	var out output
	d := &dev{client: api.NewClient(api.ClientOptions{Address: srv.Listener.Addr().String()}), out: newLines(&out, nil)}
	defer d.client.Close()
	ctx, cancel := context.WithCancel(t.Context())
	now, err := d.ask(ctx, inForce{})
	if err != nil || now.revision != 1 || now.policy.Hosts[0].Name != "h1" {
		t.Fatalf("%+v, %v", now, err)
	}
	matched, done := make(chan string, 10), make(chan struct{})
	fails := 2
	go func() {
		defer close(done)
		d.follow(ctx, now, func(p *configs.Policy) error {
			if p.Hosts[0].Name == "h3" && fails > 0 {
				fails--
				return errors.New("not now")
			}
			matched <- p.Hosts[0].Name
			return nil
		})
	}()
	f.waitAsked(t, 2)
	f.set(func() { f.rejected = true }) // the folder holds something else, the revision is what it was
	f.waitAsked(t, 3)
	f.set(func() { f.down = true })
	f.waitAsked(t, 3)
	f.set(func() { f.rejected, f.down, f.hosts, f.revision = false, false, "h2", 2 })
	if got := <-matched; got != "h2" {
		t.Errorf("followed %s", got)
	}
	f.set(func() { f.hosts, f.revision = "h3", 3 })
	if got := <-matched; got != "h3" {
		t.Errorf("followed %s", got)
	}
	cancel()
	<-done
	if n := strings.Count(out.String(), "revision 3 cannot be followed yet: not now"); n != 1 {
		t.Errorf("said %d times: %s", n, out.String())
	}
	if len(matched) > 0 {
		t.Errorf("followed %s, too", <-matched)
	}
}

// fakeServer answers the two questions that dev has.
type fakeServer struct {
	mu       sync.Mutex
	revision uint64
	rejected bool
	down     bool
	hosts    string
	asked    chan struct{}
}

func (f *fakeServer) set(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
	for len(f.asked) > 0 {
		<-f.asked
	}
}

// waitAsked waits for n more questions.
func (f *fakeServer) waitAsked(t *testing.T, n int) {
	t.Helper()
	for range n {
		select {
		case <-f.asked:
		case <-time.After(30 * time.Second):
			t.Fatal("nobody asks")
		}
	}
}

func (f *fakeServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var v any = api.Status{Ready: true, Revision: f.revision, Rejected: f.rejected}
	if r.URL.Path == "/v1/policy" {
		v = configs.Policy{Mesh: &configs.Mesh{}, Hosts: []*configs.Host{{Name: f.hosts}}}
	} else {
		f.asked <- struct{}{}
	}
	if f.down {
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	_ = json.NewEncoder(w).Encode(v) // the client would say
}

// dev reads the policy as JSON; what it makes of it must be what it would make of the folder.
func TestThePolicysJSONHasAllThatDevRuns(t *testing.T) {
	b := pipeline.Build(filepath.Join("..", "..", "examples", "bookinfo"), configs.Options{})
	if b.Diagnostics.HasErrors() {
		t.Fatal(b.Diagnostics.Error())
	}
	text, err := json.Marshal(b.Policy)
	if err != nil {
		t.Fatal(err)
	}
	var got configs.Policy
	if err := json.Unmarshal(text, &got); err != nil {
		t.Fatal(err)
	}
	if len(got.Hosts) != 5 || !reflect.DeepEqual(got.Hosts, b.Policy.Hosts) || !reflect.DeepEqual(got.Gateways, b.Policy.Gateways) {
		t.Errorf("got %+v", got)
	}
}
