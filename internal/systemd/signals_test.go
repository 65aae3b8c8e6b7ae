package systemd

import (
	"context"
	"testing"

	"github.com/wattle-mesh/wattle/internal/systemd/systemdtest"
)

func TestFollowNamesTheUnitsThatChange(t *testing.T) {
	m := systemdtest.NewManager(t)
	m.Set("web@1.service", "active")
	ready, names, ended := make(chan bool), make(chan string, 8), make(chan error)
	ctx, cancel := context.WithCancel(t.Context())
	go func() { ended <- Follow(ctx, func() { close(ready) }, func(unit string) { names <- unit }) }()
	<-ready
	m.Set("web@1.service", "failed")
	if got := <-names; got != "web@1.service" {
		t.Errorf("%q", got)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestFollowEndsWithTheBus(t *testing.T) {
	t.Setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path="+t.TempDir()+"/none")
	if err := Follow(t.Context(), func() { t.Error("ready") }, nil); err == nil {
		t.Error("no error")
	}
}
