package systemd

import (
	"slices"
	"testing"
	"time"
)

func TestStartsThatSystemdMadeByItselfAreCrashes(t *testing.T) {
	h := newHost(t)
	h.plan("host")
	h.wait("it runs", h.is("host", "active"))
	for i := range 3 {
		h.Crash(unitName("host"))
		select {
		case c := <-h.crashes:
			if c.Name != "host" || !slices.Equal(c.Last(t.Context()), []string{"last words"}) {
				t.Errorf("%+v", c)
			}
		case <-time.After(20 * time.Second):
			t.Fatalf("crash %d is not told of", i)
		}
	}
	h.Set(unitName("host"), "inactive") // systemctl stop, which is no crash
	h.wait("it runs again", h.is("host", "active"))
	if n := len(h.crashes); n > 0 {
		t.Errorf("%d more", n)
	}
}

func TestAnEnvoyThatHangsIsKilled(t *testing.T) {
	h := newHost(t)
	h.plan("host")
	h.wait("it runs", h.is("host", "active"))
	if err := h.Kill(t.Context(), "host"); err != nil {
		t.Fatal(err)
	}
	if h.did("kill "+unitName("host")+" 9") != 1 {
		t.Errorf("%q", h.Done())
	}
}
