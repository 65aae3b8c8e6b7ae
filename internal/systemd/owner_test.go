package systemd

import (
	"context"
	"os/user"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/wattle-mesh/wattle/internal/systemd/systemdtest"
)

// startBus runs a manager that knows these units.
func startBus(t *testing.T, units map[string]map[string]any) {
	t.Helper()
	conn := systemdtest.Connect(t)
	for unit, props := range units {
		systemdtest.Export(t, conn, unit, props)
	}
	systemdtest.Own(t, conn)
}

func TestOwner(t *testing.T) {
	self, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	own, err := strconv.ParseUint(self.Uid, 10, 32)
	if err != nil {
		t.Fatal(err)
	}
	unit := func(state string, uid uint32, name string) map[string]any {
		return map[string]any{"Unit.LoadState": state, "Service.UID": uid, "Service.User": name}
	}
	startBus(t, map[string]map[string]any{
		"web.service":     unit("loaded", 1234, "web"),
		"web@1.service":   unit("loaded", 1235, ""), // a dynamic user
		"idle.service":    unit("loaded", unknownUID, self.Username),
		"number.service":  unit("loaded", unknownUID, "4321"),
		"root.service":    unit("loaded", unknownUID, ""),
		"missing.service": unit("not-found", unknownUID, ""),
		"nobody.service":  unit("loaded", unknownUID, "no-such-user"),
	})
	for name, want := range map[string]uint32{
		"web.service": 1234, "web@1.service": 1235, "idle.service": uint32(own), "number.service": 4321, "root.service": 0,
	} {
		if got, err := (Units{}).Owner(t.Context(), name); err != nil || got != want {
			t.Errorf("%s: %d, %v, want %d", name, got, err, want)
		}
	}
	for name, want := range map[string]string{
		"missing.service": `systemd does not know it ("not-found")`, "nobody.service": `this host has no user "no-such-user"`, "other.service": "systemd: ",
	} {
		if got, err := (Units{}).Owner(t.Context(), name); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %d, %v, want %q", name, got, err, want)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := (Units{}).Owner(ctx, "web.service"); err == nil {
		t.Error("a question that is taken back has an answer")
	}
}

func TestWithoutSystemdNobodyOwnsAUnit(t *testing.T) {
	t.Setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path="+filepath.Join(t.TempDir(), "none"))
	if _, err := (Units{}).Owner(t.Context(), "web.service"); err == nil || !strings.Contains(err.Error(), "systemd cannot be asked") {
		t.Error(err)
	}
}

func TestServiceSaysByWhomAUnitIsKnown(t *testing.T) {
	startBus(t, map[string]map[string]any{
		"web.service": {
			"Unit.LoadState": "loaded", "Unit.ActiveState": "active", "Unit.TriggeredBy": []string{"web.timer", "web.socket"}, "Service.UID": uint32(1234), "Service.DynamicUser": true,
			"Service.ControlGroup": "/system.slice/web.service", "Service.ExecMainStartTimestamp": uint64(5_000_000), "Service.NetworkNamespacePath": "/run/netns/x",
		},
		"idle.service": {"Unit.LoadState": "loaded", "Unit.ActiveState": "inactive", "Service.UID": uint32(unknownUID), "Service.User": "4321", "Service.PrivateNetwork": true},
		"new.service":  {"Unit.LoadState": "loaded", "Unit.ActiveState": "inactive", "Service.UID": uint32(unknownUID), "Service.User": "web", "Service.DynamicUser": true},
		"none.service": {"Unit.LoadState": "not-found"},
	})
	for name, want := range map[string]Service{
		"web.service":  {Runs: true, UID: 1234, UIDSet: true, Dynamic: true, Cgroup: "/system.slice/web.service", Started: time.Unix(5, 0), Sockets: []string{"web.socket"}, Apart: "NetworkNamespacePath=/run/netns/x"},
		"idle.service": {UID: 4321, UIDSet: true, Apart: "PrivateNetwork=yes"},
		"new.service":  {Dynamic: true},
	} {
		if got, err := (Units{}).Service(t.Context(), name); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %+v, %v, want %+v", name, got, err, want)
		}
	}
	if _, err := (Units{}).Service(t.Context(), "none.service"); err == nil || !strings.Contains(err.Error(), "systemd does not know it") {
		t.Error(err)
	}
}
