package systemdtest

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/godbus/dbus/v5"
	"golang.org/x/sys/unix"
)

const service = "org.freedesktop.systemd1.Service"

// unit returns what is known of a unit, which is made up if nothing is. m.mu is held.
func (m *Manager) unit(name string) *unit {
	if u := m.units[name]; u != nil {
		return u
	}
	props := map[string]any{"Unit.ActiveState": "", "Unit.LoadState": "loaded",
		"Unit.InvocationID": []byte{}, "Unit.TriggeredBy": []string{}, "Service.UID": uint32(0), "Service.KillMode": "control-group", "Service.ExecStop": []Command{},
		"Service.MainPID": uint32(0), "Service.NRestarts": uint32(0), "Service.AmbientCapabilities": uint64(0)}
	for key, value := range plain {
		props["Service."+key] = value
	}
	u := &unit{props: Export(m.t, m.conn, name, props)}
	m.units[name] = u
	m.read(name, u)
	return u
}

// Know makes units known that do not run, as systemd loads them when it is asked.
func (m *Manager) Know(names ...string) {
	for _, name := range names {
		m.Set(name, "inactive")
	}
}

// Spawn gives a unit another main process, with the rights that the unit says now.
func (m *Manager) Spawn(name string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	u := m.unit(name)
	m.pids++
	m.rights[m.pids] = u.ambient
	u.props.SetMust(service, "MainPID", m.pids)
}

// Crash ends the main process of a unit, which systemd starts again by itself.
func (m *Manager) Crash(name string) {
	m.Spawn(name)
	m.mu.Lock()
	defer m.mu.Unlock()
	u := m.unit(name)
	u.props.SetMust(service, "NRestarts", u.props.GetMust(service, "NRestarts").(uint32)+1)
}

func (m *Manager) kill(name, _ string, signal int32) *dbus.Error {
	m.note(fmt.Sprintf("kill %s %d", name, signal))
	m.Crash(name)
	return nil
}

// Rights returns the capabilities of a process.
func (m *Manager) Rights(pid uint32) (uint64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.rights[pid], nil
}

// Property returns a property of a service.
func (m *Manager) Property(name, key string) any {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.unit(name).props.GetMust(service, key)
}

func (m *Manager) note(what string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.done = append(m.done, what)
}

// reload reads drop-ins.
func (m *Manager) reload() *dbus.Error {
	m.note("daemon-reload")
	m.mu.Lock()
	defer m.mu.Unlock()
	for name, u := range m.units {
		m.read(name, u)
	}
	return nil
}

// read takes in the drop-ins of a unit. m.mu is held.
func (m *Manager) read(name string, u *unit) {
	u.ambient = 0
	now := map[string]uint64{}
	for key, value := range plain {
		now[key] = value
	}
	for _, folder := range []string{"system", "system.control"} {
		files, _ := filepath.Glob(filepath.Join(m.Folder, folder, name+".d", "*.conf"))
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				m.t.Error(err)
			}
			if strings.Contains(string(text), "\nAmbientCapabilities=CAP_NET_BIND_SERVICE\n") {
				u.ambient = 1 << unix.CAP_NET_BIND_SERVICE
			}
			for key := range plain {
				if _, v, ok := strings.Cut(string(text), "\n"+key+"="); ok {
					var n uint64
					fmt.Sscan(v, &n)
					now[key] = n
				}
			}
		}
	}
	u.props.SetMust(service, "AmbientCapabilities", u.ambient)
	for key, value := range now {
		u.props.SetMust(service, key, value)
	}
}

// setProperties does what systemctl set-property --runtime does.
func (m *Manager) setProperties(name string, runtime bool, props []struct {
	Name  string
	Value dbus.Variant
}) *dbus.Error {
	if !runtime {
		return dbus.MakeFailedError(fmt.Errorf("not for this run of the host only"))
	}
	folder := filepath.Join(m.Folder, "system.control", name+".d")
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return dbus.MakeFailedError(err)
	}
	for _, p := range props {
		m.note(fmt.Sprintf("set %s %s=%v", name, p.Name, p.Value.Value()))
		text := fmt.Appendf(nil, "[Service]\n%s=%v\n", p.Name, p.Value.Value())
		if err := os.WriteFile(filepath.Join(folder, "50-"+p.Name+".conf"), text, 0o644); err != nil {
			return dbus.MakeFailedError(err)
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.read(name, m.unit(name))
	return nil
}

// ByHand has a unit's drop-ins read, as after systemctl daemon-reload, and says that it has changed.
func (m *Manager) ByHand(name string) {
	m.mu.Lock()
	u := m.unit(name)
	m.read(name, u)
	state := u.state
	m.mu.Unlock()
	m.Set(name, state)
}
