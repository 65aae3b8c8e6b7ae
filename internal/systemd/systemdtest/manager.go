package systemdtest

import (
	"encoding/binary"
	"fmt"
	"math"
	"path"
	"slices"
	"sync"
	"testing"

	"github.com/godbus/dbus/v5"
	"github.com/godbus/dbus/v5/prop"
)

// Manager is the stand-in's manager: it knows units by their active state, and what was done to them.
type Manager struct {
	t    *testing.T
	conn *dbus.Conn

	// Folder is in the place of /run/systemd: drop-ins in Folder/system count once Reload was called.
	Folder string

	mu     sync.Mutex
	units  map[string]*unit
	jobs   uint32
	done   []string // "start NAME", "stop NAME", "reload NAME", "daemon-reload", "set NAME PROPERTY=VALUE"
	fail   map[string]string
	pids   uint32
	runs   uint32            // of units
	rights map[uint32]uint64 // of the processes
}

type unit struct {
	state   string
	ambient uint64
	props   *prop.Properties
}

// What a unit says that no drop-in changes.
var plain = map[string]uint64{"MemoryHigh": math.MaxUint64, "CPUWeight": math.MaxUint64, "TasksMax": 4096}

// NewManager runs a stand-in in which these unit files are installed.
func NewManager(t *testing.T, installed ...string) *Manager {
	t.Helper()
	m := &Manager{t: t, conn: Connect(t), Folder: t.TempDir(), units: map[string]*unit{}, fail: map[string]string{}, rights: map[uint32]uint64{}}
	err := m.conn.ExportMethodTable(map[string]any{
		"Subscribe": func() *dbus.Error { return nil },
		"ListUnitFilesByPatterns": func(_, _ []string) ([]struct{ Path, Type string }, *dbus.Error) {
			var out []struct{ Path, Type string }
			for _, name := range installed {
				out = append(out, struct{ Path, Type string }{"/usr/lib/systemd/system/" + name, "static"})
			}
			return out, nil
		},
		"ListUnitsByPatterns": m.list,
		"StartUnit":           func(name, _ string) (dbus.ObjectPath, *dbus.Error) { return m.job("start", name, "active") },
		"ReloadUnit":          func(name, _ string) (dbus.ObjectPath, *dbus.Error) { return m.job("reload", name, "active") },
		"Reload":              m.reload,
		"SetUnitProperties":   m.setProperties,
		"KillUnit":            m.kill,
		"StopUnit":            func(name, _ string) (dbus.ObjectPath, *dbus.Error) { return m.job("stop", name, "inactive") },
		"ResetFailedUnit":     m.reset,
		"GetUnit":             func(name string) (dbus.ObjectPath, *dbus.Error) { return Path(name), nil },
	}, "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager")
	if err != nil {
		t.Fatal(err)
	}
	_, err = prop.Export(m.conn, "/org/freedesktop/systemd1", prop.Map{"org.freedesktop.systemd1.Manager": {"Version": {Value: "252.1-test"}}})
	if err != nil {
		t.Fatal(err)
	}
	Own(t, m.conn)
	return m
}

// status is what ListUnitsByPatterns says of a unit.
type status struct {
	Name, Description, LoadState, ActiveState, SubState, Followed string
	Path                                                          dbus.ObjectPath
	JobID                                                         uint32
	JobType                                                       string
	JobPath                                                       dbus.ObjectPath
}

func (m *Manager) list(_, patterns []string) ([]status, *dbus.Error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := []status{}
	for name, u := range m.units {
		if slices.ContainsFunc(patterns, func(p string) bool { ok, _ := path.Match(p, name); return ok }) {
			out = append(out, status{Name: name, LoadState: "loaded", ActiveState: u.state, Path: Path(name), JobPath: "/"})
		}
	}
	return out, nil
}

// job does what is asked and says so.
func (m *Manager) job(what, name, state string) (dbus.ObjectPath, *dbus.Error) {
	m.mu.Lock()
	m.jobs++
	id := m.jobs
	m.done = append(m.done, what+" "+name)
	result := "done"
	if r := m.fail[name]; r != "" && what != "stop" {
		result = r
		if what == "start" { // a reload that fails leaves what runs
			state = "failed"
		}
	}
	m.mu.Unlock()
	if what != "stop" && result == "done" {
		m.Spawn(name)
	}
	m.Set(name, state)
	job := dbus.ObjectPath(fmt.Sprintf("/org/freedesktop/systemd1/job/%d", id))
	go func() {
		_ = m.conn.Emit("/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager.JobRemoved", id, job, name, result)
	}()
	return job, nil
}

// reset forgets that a unit failed.
func (m *Manager) reset(name string) *dbus.Error {
	m.mu.Lock()
	m.done = append(m.done, "reset-failed "+name)
	m.mu.Unlock()
	m.Set(name, "inactive")
	return nil
}

// Set changes the state of a unit, as if somebody else had.
func (m *Manager) Set(name, state string) {
	m.mu.Lock()
	u := m.unit(name)
	if state == "active" && u.state != "active" {
		m.runs++
		u.props.SetMust("org.freedesktop.systemd1.Unit", "InvocationID", binary.BigEndian.AppendUint32(make([]byte, 12), m.runs))
	}
	u.state = state
	m.mu.Unlock()
	u.props.SetMust("org.freedesktop.systemd1.Unit", "ActiveState", state)
}

// Trigger has a unit started by these others.
func (m *Manager) Trigger(name string, by ...string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.unit(name).props.SetMust("org.freedesktop.systemd1.Unit", "TriggeredBy", by)
}

// Command is one that a unit runs.
type Command struct {
	Path string
	Args []string
}

// Stops says what happens when a unit is stopped.
func (m *Manager) Stops(name, killMode string, by ...Command) {
	m.mu.Lock()
	defer m.mu.Unlock()
	props := m.unit(name).props
	props.SetMust("org.freedesktop.systemd1.Service", "KillMode", killMode)
	props.SetMust("org.freedesktop.systemd1.Service", "ExecStop", by)
}

// Fail has the start of a unit end with this result; "": with success.
func (m *Manager) Fail(name, result string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fail[name] = result
}

// State returns the state of a unit; "": it was never started.
func (m *Manager) State(name string) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	if u := m.units[name]; u != nil {
		return u.state
	}
	return ""
}

// Done lists what was asked for so far.
func (m *Manager) Done() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.done)
}
