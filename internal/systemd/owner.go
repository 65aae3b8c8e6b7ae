// Package systemd asks the host's systemd about its units, over D-Bus.
package systemd

import (
	"context"
	"fmt"
	"math"
	"os/user"
	"strconv"

	"github.com/coreos/go-systemd/v22/dbus"
)

// Units asks the system's manager. The zero value is ready; it connects for each question, of which there are few. Safe for
// concurrent use.
type Units struct{}

// unknownUID is what systemd says of a unit whose user it has not looked up: none of its processes has run.
const unknownUID = math.MaxUint32

// Owner returns the uid that a service unit's processes run as: what systemd made of User= and DynamicUser= when it started
// them last, else what User= names. It fails if systemd does not know the unit, or cannot be asked.
func (Units) Owner(ctx context.Context, unit string) (uint32, error) {
	conn, err := dbus.NewSystemConnectionContext(ctx)
	if err != nil {
		return 0, fmt.Errorf("systemd cannot be asked: %w", err)
	}
	defer conn.Close()
	state, err := conn.GetUnitPropertyContext(ctx, unit, "LoadState")
	if err != nil {
		return 0, fmt.Errorf("systemd: %w", err)
	}
	if s, ok := state.Value.Value().(string); !ok || s != "loaded" {
		return 0, fmt.Errorf("systemd does not know it (%v)", state.Value)
	}
	now, err := conn.GetUnitTypePropertyContext(ctx, unit, "Service", "UID")
	if err != nil {
		return 0, fmt.Errorf("systemd: %w", err)
	}
	if uid, ok := now.Value.Value().(uint32); ok && uid != unknownUID {
		return uid, nil
	}
	name, err := conn.GetUnitTypePropertyContext(ctx, unit, "Service", "User")
	if err != nil {
		return 0, fmt.Errorf("systemd: %w", err)
	}
	s, ok := name.Value.Value().(string)
	if !ok {
		return 0, fmt.Errorf("systemd says that its user is %v", name.Value)
	}
	return lookup(s)
}

// User returns the uid of a user of this host by name or number.
func User(name string) (uint32, error) { return lookup(name) }

// lookup turns what User= says into a uid: nothing is root.
func lookup(name string) (uint32, error) {
	if name == "" {
		return 0, nil
	}
	id := name
	if u, err := user.Lookup(name); err == nil {
		id = u.Uid
	}
	uid, err := strconv.ParseUint(id, 10, 32)
	if err != nil || uid == unknownUID {
		return 0, fmt.Errorf("this host has no user %q", name)
	}
	return uint32(uid), nil
}
