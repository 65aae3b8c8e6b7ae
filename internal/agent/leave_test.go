package agent

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/wattle-mesh/wattle/adapters/process"
	"github.com/wattle-mesh/wattle/configs"
	"github.com/wattle-mesh/wattle/internal/api"
)

// has waits until the host's Envoy runs, or does not.
func (w *world) has(envoy bool) {
	w.t.Helper()
	w.wait(fmt.Sprint("an Envoy: ", envoy), func() error {
		if n := len(w.envoys()); (n > 0) != envoy {
			return fmt.Errorf("%d run", n)
		}
		return nil
	})
}

func TestAHostLeavesWithoutATraceAndJoinsAgain(t *testing.T) {
	w := newWorld(t)
	w.listen()
	w.policy(twoServices)
	w.application("ADDR:9080")
	c := api.NewClient(api.ClientOptions{Address: "unix:" + filepath.Join(w.dir, "run", agentSocket), Agent: true})
	defer c.Close()
	stop := w.join()
	w.answers("ADDR:10080", 200)
	if _, err := c.Register(t.Context(), api.ServiceRequest{Service: service("extra", 9070, func(*configs.Service) {})}); err != nil {
		t.Fatal(err)
	}
	cfg := w.config()
	if node, td, err := Member(cfg); node != "h1" || td != trustDomain || err != nil {
		t.Errorf("a member: %q of %q, %v", node, td, err)
	}
	if _, err := New(Options{Config: cfg, Log: discard()}); err != nil {
		t.Fatal(err)
	}
	if err := Forget(cfg); !errors.Is(err, errTaken) {
		t.Errorf("what an agent uses was to be removed: %v", err)
	}

	left, err := c.LeaveMesh(t.Context(), api.HostLeave{Wait: configs.Duration(20 * time.Second), End: true})
	if err != nil || left.Node != "h1" || !left.Told || left.Registrations != 2 {
		t.Fatalf("%+v, %v", left, err)
	}
	for _, d := range left.Drains {
		if d.State != api.DrainDone {
			t.Errorf("%+v", d)
		}
	}
	if len(left.Drains) == 0 {
		t.Error("nothing was drained")
	}
	w.wait("the agent to end", func() error {
		if runs, err := Running(cfg); runs || err != nil {
			return fmt.Errorf("%v, %w", runs, err)
		}
		return nil
	})
	stop()
	w.has(true) // an agent's end is nothing to it
	if err := process.New(process.Options{Log: discard(), Dir: cfg.RunDir, Drain: 5 * time.Second}).Clear(t.Context()); err != nil {
		t.Error(err)
	}
	w.has(false)
	if err := Forget(cfg); err != nil {
		t.Error(err)
	}
	for _, dir := range []string{cfg.StateDir, cfg.RunDir} {
		if all, err := os.ReadDir(dir); err != nil || len(all) > 0 {
			t.Errorf("%s holds %v yet (%v)", dir, all, err)
		}
	}
	if node, _, err := Member(cfg); node != "" || err != nil {
		t.Errorf("a member: %q, %v", node, err)
	}
	if err := Forget(cfg); err != nil {
		t.Errorf("again: %v", err)
	}
	w.join()
	w.answers("ADDR:10080", 200)
}

func TestAHostStaysIfNoServerIsTold(t *testing.T) {
	w := newWorld(t)
	w.listen()
	w.policy(twoServices)
	w.application("ADDR:9080")
	c := api.NewClient(api.ClientOptions{Address: "unix:" + filepath.Join(w.dir, "run", agentSocket), Agent: true})
	defer c.Close()
	w.join()
	w.answers("ADDR:10080", 200)
	w.stop()
	_, err := c.LeaveMesh(t.Context(), api.HostLeave{})
	wantFault(t, "no server", err, http.StatusServiceUnavailable, "", "wattle host remove h1")
	w.answers("ADDR:10080", 200) // it takes requests again
	left, err := c.LeaveMesh(t.Context(), api.HostLeave{Force: true})
	if err != nil || left.Told || left.Error == "" {
		t.Errorf("with force: %+v, %v", left, err)
	}
	w.listen()
	w.gone = true // an operator has said so
	w.wait("the host to hear that it is forgotten", func() error {
		left, err := c.LeaveMesh(t.Context(), api.HostLeave{})
		if err == nil && (!left.Told || !strings.Contains(left.Error, "left the mesh")) {
			err = fmt.Errorf("%+v", left)
		}
		return err
	})
}

func TestLeavingIsForRootAndForMembers(t *testing.T) {
	d := deskAt(t, t.TempDir())
	d.host = &host{a: &Agent{}}
	r, err := http.NewRequest(http.MethodPost, "/v1/leave", strings.NewReader("{}"))
	if err != nil {
		t.Fatal(err)
	}
	_, err = d.leave(client{uid: d.uid + 1}, r)
	wantFault(t, "another user", err, http.StatusForbidden, api.CodeUser, "may not take this host out")
	_, err = d.leave(client{uid: root}, r)
	wantFault(t, "no member", err, http.StatusConflict, "", "has not joined")
}

func TestAMemberIsToldHowToJoinAnotherMesh(t *testing.T) {
	w := newWorld(t)
	w.provision("h1")
	a, err := New(Options{Config: w.config(), Log: discard()})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.Join(t.Context()); !errors.Is(err, ErrJoined) || !strings.Contains(err.Error(), "h1 of "+trustDomain+"; wattle agent leave") {
		t.Error(err)
	}
}
