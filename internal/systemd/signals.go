package systemd

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"

	"github.com/godbus/dbus/v5"
)

// The manager's names on the bus.
const (
	manager   = "org.freedesktop.systemd1"
	unitsPath = "/org/freedesktop/systemd1/unit"
)

// errBusClosed ends Follow when the bus has gone.
var errBusClosed = errors.New("the connection to the message bus was closed")

// Follow calls changed with the name of each unit of which systemd says that something has changed, one after the other,
// until ctx is done, when it returns nil, or the bus has gone. ready is called first, once nothing that follows is missed.
// It has a connection of its own: that of go-systemd reads its subscriber without a lock.
func Follow(ctx context.Context, ready func(), changed func(unit string)) error {
	conn, err := dbus.ConnectSystemBus(dbus.WithContext(ctx))
	if err != nil {
		return fmt.Errorf("systemd cannot be asked: %w", err)
	}
	defer conn.Close()
	signals := make(chan *dbus.Signal, 64)
	conn.Signal(signals)
	err = conn.AddMatchSignalContext(ctx, dbus.WithMatchPathNamespace(unitsPath), dbus.WithMatchInterface("org.freedesktop.DBus.Properties"), dbus.WithMatchMember("PropertiesChanged"))
	if err != nil {
		return fmt.Errorf("message bus: %w", err)
	}
	if err := conn.Object(manager, "/org/freedesktop/systemd1").CallWithContext(ctx, manager+".Manager.Subscribe", 0).Err; err != nil {
		return fmt.Errorf("systemd: %w", err)
	}
	ready()
	for {
		select {
		case s, ok := <-signals:
			if !ok {
				if ctx.Err() != nil {
					return nil
				}
				return errBusClosed
			}
			if escaped, ok := strings.CutPrefix(string(s.Path), unitsPath+"/"); ok {
				if name, err := url.PathUnescape(strings.ReplaceAll(escaped, "_", "%")); err == nil { // systemd writes _40 for "@"
					changed(name)
				}
			}
		case <-ctx.Done():
			return nil
		}
	}
}
