package agent

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// keptFile is the newest generation of the host proxy's state.
func (w *world) keptFile() string { return filepath.Join(w.dir, "state", keptFolder, "host.state") }

// kept waits until the state on disk is that of the last change.
func (w *world) kept(before time.Time) {
	w.t.Helper()
	w.wait("the state on disk", func() error {
		info, err := os.Stat(w.keptFile())
		if err == nil && !info.ModTime().After(before) {
			err = errors.New("it is older than the change")
		}
		return err
	})
}

// A reboot while no server can be reached: no Envoy, no agent, no run folder.
func TestAHostServesFromDiskWithoutAServer(t *testing.T) {
	w := newWorld(t)
	w.listen()
	w.policy(twoServices)
	w.application("ADDR:9080")
	w.application("ADDR:9070")
	stop := w.join()
	w.answers("ADDR:10080", 200)
	w.kept(time.Time{})
	stop()
	w.stop()
	w.endEnvoys()
	if err := os.RemoveAll(filepath.Join(w.dir, "run")); err != nil {
		t.Fatal(err)
	}
	w.start(nil)
	if got := w.answers("ADDR:10080", 200); !strings.Contains(got, svc("web")) {
		t.Errorf("api was called by %q", got)
	}
	if log := w.log.String(); !strings.Contains(log, `"serving what was kept until a server says otherwise" proxy=h1/host`) {
		t.Error("the log does not say that it serves what was kept")
	}

	// The server is back: what changed meanwhile comes, and what it removed goes.
	w.listen()
	w.policy(strings.Replace(twoServices, `upstream "web" { bind = "ADDR:10070" }`, `upstream "web" { bind = "ADDR:10071" }`, 1))
	w.answers("ADDR:10071", 200)
	w.wait("the old listener to go", func() error {
		if _, _, err := w.get("ADDR:10070"); err == nil {
			return errors.New("it answers")
		}
		return nil
	})
}

func TestADamagedStateFallsBackAndIsSaid(t *testing.T) {
	w := newWorld(t)
	w.listen()
	w.policy(twoServices)
	w.application("ADDR:9080")
	w.application("ADDR:9070")
	stop := w.join()
	w.answers("ADDR:10080", 200)
	w.kept(time.Time{})
	began := time.Now()
	w.policy(strings.Replace(twoServices, `upstream "web" { bind = "ADDR:10070" }`, `upstream "web" { bind = "ADDR:10071" }`, 1))
	w.answers("ADDR:10071", 200)
	w.kept(began)
	stop()
	w.stop()
	w.endEnvoys()
	if err := os.Truncate(w.keptFile(), 100); err != nil {
		t.Fatal(err)
	}
	stop = w.start(nil)
	w.answers("ADDR:10070", 200) // the one before
	if log := w.log.String(); !strings.Contains(log, "a state on disk is not used") || !strings.Contains(log, `instead="the one before"`) {
		t.Error("the log does not say so")
	}
	stop()
	w.endEnvoys()
	if err := os.Truncate(strings.TrimSuffix(w.keptFile(), ".state")+".state.old", 100); err != nil {
		t.Fatal(err)
	}
	_ = os.Remove(w.keptFile())
	w.start(nil)
	w.wait("the log to say that there is nothing", func() error {
		if !strings.Contains(w.log.String(), `instead="nothing: the proxy waits for a server"`) {
			return errors.New("not yet")
		}
		return nil
	})
	w.listen() // and all is well again
	w.answers("ADDR:10071", 200)
}

func TestADiskThatTakesNothingStopsNobody(t *testing.T) {
	w := newWorld(t)
	w.listen()
	w.policy(twoServices)
	w.application("ADDR:9080")
	w.application("ADDR:9070")
	if err := os.MkdirAll(filepath.Dir(w.keptFile()), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(w.keptFile()+".tmp", 0o700); err != nil { // nothing can be written there, not even by root
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(w.keptFile()+".tmp", "x"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	w.join()
	w.answers("ADDR:10080", 200)
	said := func(text string) {
		t.Helper()
		w.wait("the log to say: "+text, func() error {
			if !strings.Contains(w.log.String(), text) {
				return errors.New("not yet")
			}
			return nil
		})
	}
	said("the proxy's state cannot be kept")
	if err := os.RemoveAll(w.keptFile() + ".tmp"); err != nil {
		t.Fatal(err)
	}
	said("the proxy's state is kept again")
	w.kept(time.Time{})
	if n := strings.Count(w.log.String(), "cannot be kept"); n != 1 {
		t.Errorf("it is said %d times", n)
	}
}
