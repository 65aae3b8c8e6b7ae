// Package systemdtest is a stand-in for systemd on a real message bus, for tests that run without one: what it does is what
// systemd's own interface does for the calls that Wattle makes. Real systemd is in test/lab.
package systemdtest

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/godbus/dbus/v5"
	"github.com/godbus/dbus/v5/prop"
)

// bus is the configuration of a message bus that lets its owner do everything.
const bus = `<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN" "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><type>system</type><listen>unix:path=%s</listen><auth>EXTERNAL</auth>
<policy context="default"><allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/><allow own="*"/></policy></busconfig>`

// Connect runs a message bus until the test ends, makes it the system's for this process, and connects to it.
func Connect(t *testing.T) *dbus.Conn {
	t.Helper()
	dir, err := os.MkdirTemp("", "wattle-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	config, socket := filepath.Join(dir, "bus.conf"), filepath.Join(dir, "bus")
	if err := os.WriteFile(config, fmt.Appendf(nil, bus, socket), 0o600); err != nil {
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
	return conn
}

// Own takes systemd's name on the bus.
func Own(t *testing.T, conn *dbus.Conn) {
	t.Helper()
	if reply, err := conn.RequestName("org.freedesktop.systemd1", dbus.NameFlagDoNotQueue); err != nil || reply != dbus.RequestNameReplyPrimaryOwner {
		t.Fatal(reply, err)
	}
}

// Export makes the properties of a unit readable, by names such as "Service.UID".
func Export(t *testing.T, conn *dbus.Conn, unit string, props map[string]any) *prop.Properties {
	t.Helper()
	table := prop.Map{}
	for name, value := range props {
		kind, key, _ := strings.Cut(name, ".")
		kind = "org.freedesktop.systemd1." + kind
		if table[kind] == nil {
			table[kind] = map[string]*prop.Prop{}
		}
		table[kind][key] = &prop.Prop{Value: value, Emit: prop.EmitTrue, Writable: true}
	}
	out, err := prop.Export(conn, Path(unit), table)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// Path is where systemd keeps a unit: what is no letter or digit is written as _XX.
func Path(unit string) dbus.ObjectPath {
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
