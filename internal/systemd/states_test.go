package systemd

import (
	"context"
	"testing"
	"time"

	"github.com/wattle-mesh/wattle/internal/systemd/systemdtest"
)

func TestWatchSaysHowUnitsAreAndWhenThatChanges(t *testing.T) {
	m := systemdtest.NewManager(t)
	m.Set("web.service", "active")
	m.Set("other.service", "active")
	m.Set("idle.service", "inactive")
	m.Set("idle.socket", "active")
	m.Trigger("idle.service", "idle.socket")
	said := make(chan map[string]State, 16)
	next := func(what string, ok func(map[string]State) bool) {
		t.Helper()
		deadline := time.After(20 * time.Second)
		for {
			select {
			case now := <-said:
				if ok(now) {
					return
				}
			case <-deadline:
				t.Fatal("never said: " + what)
			}
		}
	}
	list, more := []string{"web.service"}, make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- Units{}.Watch(ctx, func() ([]string, <-chan struct{}) {
			select {
			case <-more:
				return []string{"idle.service", "web.service"}, nil
			default:
				return list, more
			}
		}, func(now map[string]State) { said <- now })
	}()
	next("it runs", func(s map[string]State) bool { return len(s) == 1 && s["web.service"].Runs() })
	m.Set("web.service", "failed")
	next("it has failed", func(s map[string]State) bool {
		return !s["web.service"].Runs() && s["web.service"].String() == "failed"
	})
	close(more)
	next("another one, whose socket listens", func(s map[string]State) bool {
		return len(s) == 2 && s["idle.service"].Socket == "idle.socket" && !s["idle.service"].Runs()
	})
	m.Set("idle.socket", "inactive")
	next("the socket is closed", func(s map[string]State) bool { return s["idle.service"].Socket == "" })
	was, err := Units{}.State(ctx, "web.service")
	if err != nil {
		t.Fatal(err)
	}
	m.Set("web.service", "active")
	next("it runs again", func(s map[string]State) bool {
		return s["web.service"].Runs() && s["web.service"].Invocation != was.Invocation
	})
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestWatchEndsWithTheBus(t *testing.T) {
	t.Setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path="+t.TempDir()+"/none")
	if err := (Units{}).Watch(t.Context(), nil, nil); err == nil {
		t.Error("no error")
	}
	if _, err := (Units{}).State(t.Context(), "web.service"); err == nil {
		t.Error("no error")
	}
}

func TestWhatAStopOfAUnitDoesIsKnown(t *testing.T) {
	m := systemdtest.NewManager(t)
	m.Set("web.service", "active")
	m.Stops("web.service", "none", systemdtest.Command{Path: "/bin/true", Args: []string{"/bin/true"}}, systemdtest.Command{Path: "/usr/bin/wattle", Args: []string{"wattle", "service", "drain", "-wait", "web"}})
	if s, err := (Units{}).State(t.Context(), "web.service"); err != nil || s.KillMode != "none" || !s.Drains {
		t.Errorf("%+v, %v", s, err)
	}
	m.Stops("web.service", "mixed", systemdtest.Command{Path: "/bin/true", Args: []string{"/bin/true"}})
	if s, err := (Units{}).State(t.Context(), "web.service"); err != nil || s.KillMode != "mixed" || s.Drains {
		t.Errorf("%+v, %v", s, err)
	}
	// One name that systemd does not take keeps nobody from knowing of the others.
	if s, err := (Units{}).State(t.Context(), "web@.service"); err != nil || s.Load == "loaded" || s.Runs() {
		t.Errorf("a template: %+v, %v", s, err)
	}
}
