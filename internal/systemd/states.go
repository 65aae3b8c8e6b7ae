package systemd

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-systemd/v22/dbus"
	godbus "github.com/godbus/dbus/v5"
)

// lookAgain is how soon the states of units are read again though no signal came.
const lookAgain = 30 * time.Second

// State is how systemd says that a unit is. Comparable.
type State struct {
	Load       string // "loaded", "not-found", "masked", ...
	Active     string // "active", "activating", "deactivating", "inactive", "failed", ...
	Invocation string // of the current run, or the last one
	Socket     string // a socket unit that listens and starts it when somebody connects; empty: there is none
	KillMode   string // which of its processes a stop ends: "control-group", "mixed", "process", "none"
	Drains     bool   // it runs wattle service drain itself when it is stopped
}

// template is the Load of a unit that lacks its instance: systemd runs none of that name.
const template = "template"

// Template reports whether a unit's name lacks its instance: "web@.service".
func Template(unit string) bool { return strings.HasSuffix(unit, "@.service") }

// Runs reports whether the unit's processes are there, as far as systemd knows.
func (s State) Runs() bool {
	return s.Active == "active" || s.Active == "reloading" || s.Active == "refreshing"
}

// String says the state in words.
func (s State) String() string {
	if s.Load != "loaded" {
		return "not one that systemd can run (" + s.Load + ")"
	}
	return s.Active
}

// State returns how a unit is.
func (Units) State(ctx context.Context, unit string) (State, error) {
	conn, err := dbus.NewSystemConnectionContext(ctx)
	if err != nil {
		return State{}, fmt.Errorf("systemd cannot be asked: %w", err)
	}
	defer conn.Close()
	s, _, err := read(ctx, conn, unit)
	return s, err
}

// Watch calls say with how the units are that names lists, first at once and then whenever one is otherwise, or the list,
// which has changed when the channel beside it is closed. It returns nil when ctx is done, else why systemd cannot be asked.
func (Units) Watch(ctx context.Context, names func() ([]string, <-chan struct{}), say func(map[string]State)) error {
	conn, err := dbus.NewSystemConnectionContext(ctx)
	if err != nil {
		return fmt.Errorf("systemd cannot be asked: %w", err)
	}
	defer conn.Close()
	w := &watch{wake: make(chan struct{}, 1)}
	ctx, cancel := context.WithCancel(ctx)
	failed := make(chan error, 1)
	go func() { failed <- Follow(ctx, w.poke, w.heard) }()
	defer func() { cancel(); <-failed }()
	var said map[string]State
	for {
		list, changed := names()
		now, err := w.look(ctx, conn, list)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			return err
		case said == nil || !maps.Equal(said, now):
			said = now
			say(now)
		}
		select {
		case <-w.wake:
		case <-changed:
		case <-time.After(lookAgain):
		case err := <-failed:
			failed <- nil
			if err != nil || ctx.Err() != nil {
				return err
			}
			return errBusClosed
		case <-ctx.Done():
			return nil
		}
	}
}

// watch is which units are looked at.
type watch struct {
	wake chan struct{}

	mu    sync.Mutex
	units []string // sorted; with the sockets that start them
}

func (w *watch) poke() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// heard takes in that something of a unit has changed.
func (w *watch) heard(unit string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, ours := slices.BinarySearch(w.units, unit); ours {
		w.poke()
	}
}

// look reads the states of units. From the call on, heard knows them.
func (w *watch) look(ctx context.Context, conn *dbus.Conn, units []string) (map[string]State, error) {
	w.mu.Lock()
	w.units = slices.Compact(slices.Sorted(slices.Values(append(slices.Clone(w.units), units...))))
	w.mu.Unlock()
	out := make(map[string]State, len(units))
	all := slices.Clone(units)
	for _, unit := range units {
		s, sockets, err := read(ctx, conn, unit)
		if err != nil {
			return nil, err
		}
		out[unit] = s
		all = append(all, sockets...)
	}
	w.mu.Lock()
	w.units = slices.Compact(slices.Sorted(slices.Values(all)))
	w.mu.Unlock()
	return out, nil
}

// read asks how a unit is, and which socket units start it.
func read(ctx context.Context, conn *dbus.Conn, unit string) (s State, sockets []string, err error) {
	if Template(unit) {
		return State{Load: template, Active: "inactive"}, nil, nil
	}
	props, err := conn.GetUnitPropertiesContext(ctx, unit)
	if unknown(err) { // no unit can have that name
		return State{Load: "not-found", Active: "inactive"}, nil, nil
	}
	if err != nil {
		return s, nil, fmt.Errorf("systemd: %s: %w", unit, err)
	}
	s.Load, _ = props["LoadState"].(string)
	s.Active, _ = props["ActiveState"].(string)
	if id, ok := props["InvocationID"].([]byte); ok {
		s.Invocation = hex.EncodeToString(id)
	}
	if s.Load == "loaded" {
		if err := s.stops(ctx, conn, unit); err != nil {
			return s, nil, fmt.Errorf("systemd: %s: %w", unit, err)
		}
	}
	by, _ := props["TriggeredBy"].([]string)
	for _, name := range by {
		if !strings.HasSuffix(name, ".socket") {
			continue
		}
		sockets = append(sockets, name)
		active, err := conn.GetUnitPropertyContext(ctx, name, "ActiveState")
		if err != nil {
			return s, nil, fmt.Errorf("systemd: %s: %w", name, err)
		}
		if active.Value.Value() == "active" && s.Socket == "" {
			s.Socket = name
		}
	}
	return s, sockets, nil
}

// stops adds what happens when the unit is stopped.
func (s *State) stops(ctx context.Context, conn *dbus.Conn, unit string) error {
	mode, err := conn.GetUnitTypePropertyContext(ctx, unit, "Service", "KillMode")
	if err != nil {
		return err
	}
	s.KillMode, _ = mode.Value.Value().(string)
	stop, err := conn.GetUnitTypePropertyContext(ctx, unit, "Service", "ExecStop")
	if err != nil {
		return err
	}
	all, _ := stop.Value.Value().([][]any) // of each command the path, the arguments and more
	for _, c := range all {
		if len(c) < 2 {
			continue
		}
		args, _ := c[1].([]string)
		s.Drains = s.Drains || strings.Contains(strings.Join(args, " "), "wattle service drain")
	}
	return nil
}

// unknown reports whether systemd says that there can be no such unit.
func unknown(err error) bool {
	var e godbus.Error
	return errors.As(err, &e) && slices.Contains([]string{
		"org.freedesktop.DBus.Error.UnknownObject", "org.freedesktop.DBus.Error.InvalidArgs", "org.freedesktop.systemd1.NoSuchUnit",
	}, e.Name)
}
