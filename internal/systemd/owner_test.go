package systemd

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/godbus/dbus/v5"
	"github.com/godbus/dbus/v5/prop"
)

// bus is the configuration of a message bus that lets its owner do everything.
const bus = `<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN" "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><type>system</type><listen>unix:path=%s</listen><auth>EXTERNAL</auth>
<policy context="default"><allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/><allow own="*"/></policy></busconfig>`

// startBus runs a real message bus, and on it a manager that knows these units: what it does is what systemd's own interface
// does for the properties that Owner reads.
func startBus(t *testing.T, units map[string]map[string]any) {
	t.Helper()
	dir, err := os.MkdirTemp("", "wattle-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	config, socket := filepath.Join(dir, "bus.conf"), filepath.Join(dir, "bus")
	if err := os.WriteFile(config, []byte(fmt.Sprintf(bus, socket)), 0o600); err != nil {
		t.Fatal(err)
	}
	daemon := exec.Command("dbus-daemon", "--config-file="+config, "--nofork", "--print-address")
	daemon.Stderr = os.Stderr
	out, err := daemon.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := daemon.Start(); err != nil {
		t.Fatalf("%v; it is in Debian's package dbus-daemon", err)
	}
	t.Cleanup(func() { _ = daemon.Process.Kill(); _ = daemon.Wait() })
	address, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("DBUS_SYSTEM_BUS_ADDRESS", strings.TrimSpace(address))
	conn, err := dbus.Connect(strings.TrimSpace(address))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	for unit, props := range units {
		table := prop.Map{}
		for name, value := range props {
			kind, key, _ := strings.Cut(name, ".")
			kind = "org.freedesktop.systemd1." + kind
			if table[kind] == nil {
				table[kind] = map[string]*prop.Prop{}
			}
			table[kind][key] = &prop.Prop{Value: value}
		}
		if _, err := prop.Export(conn, path(unit), table); err != nil {
			t.Fatal(err)
		}
	}
	if reply, err := conn.RequestName("org.freedesktop.systemd1", dbus.NameFlagDoNotQueue); err != nil || reply != dbus.RequestNameReplyPrimaryOwner {
		t.Fatal(reply, err)
	}
}

// path is where systemd keeps a unit: what is no letter or digit is written as _XX.
func path(unit string) dbus.ObjectPath {
	var b strings.Builder
	for i, c := range []byte(unit) {
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' && i > 0 {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "_%02x", c)
		}
	}
	return dbus.ObjectPath("/org/freedesktop/systemd1/unit/" + b.String())
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
