package systemd

import (
	"context"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/coreos/go-systemd/v22/dbus"
	godbus "github.com/godbus/dbus/v5"

	"github.com/wattle-mesh/wattle/adapters"
)

// state is what systemd says of a unit of ours.
type state struct {
	pid       uint32 // of the main process; zero: none
	ambient   uint64 // capabilities that a process gets that it starts now
	resources map[string]uint64
	restarts  uint32 // that systemd made by itself since the unit was started
}

// settings gives resources by systemd's names, without those that are not said.
func settings(r adapters.Resources) map[string]uint64 {
	out := map[string]uint64{"MemoryHigh": r.MemoryHigh, "CPUWeight": r.CPUWeight, "TasksMax": r.TasksMax}
	maps.DeleteFunc(out, func(_ string, v uint64) bool { return v == 0 })
	return out
}

// look asks systemd about a unit.
func (f *follower) look(ctx context.Context, unit string) (state, error) {
	props, err := f.conn.GetUnitTypePropertiesContext(ctx, unit, "Service")
	if err != nil {
		return state{}, err
	}
	s := state{resources: map[string]uint64{}}
	s.pid, _ = props["MainPID"].(uint32)
	s.restarts, _ = props["NRestarts"].(uint32)
	s.ambient, _ = props["AmbientCapabilities"].(uint64)
	for name := range settings(adapters.Resources{MemoryHigh: 1, CPUWeight: 1, TasksMax: 1}) {
		s.resources[name], _ = props[name].(uint64)
	}
	return s, nil
}

// bound sets what differs of what a unit may use, at once and until the host starts again.
func (f *follower) bound(ctx context.Context, unit string, want adapters.Resources, now state) error {
	var set []dbus.Property
	for _, name := range slices.Sorted(maps.Keys(settings(want))) {
		if v := settings(want)[name]; now.resources[name] != v {
			set = append(set, dbus.Property{Name: name, Value: godbus.MakeVariant(v)})
		}
	}
	was := f.held[unit]
	f.held[unit] = want
	if len(set) == 0 {
		return nil
	}
	if was == want {
		f.o.Log.Warn("what a proxy may use was changed by another hand, it is set again", "unit", unit, "settings", set)
	} else {
		f.o.Log.Info("what a proxy may use", "unit", unit, "settings", set)
	}
	return f.conn.SetUnitPropertiesContext(ctx, unit, true, set...)
}

// free takes away settings that the plan does not have, so that what the unit says holds again once systemd has read it. They
// are the files that systemd writes when somebody sets a property for this run of the host, which is the agent's to do.
func (f *follower) free(want map[string]adapters.Resources) (changed bool, err error) {
	for name := range settings(adapters.Resources{MemoryHigh: 1, CPUWeight: 1, TasksMax: 1}) {
		paths, err := filepath.Glob(filepath.Join(f.run, "system.control", unitName("*")+".d", "50-"+name+".conf"))
		if err != nil {
			return changed, err
		}
		for _, path := range paths {
			unit := strings.TrimSuffix(filepath.Base(filepath.Dir(path)), ".d")
			if _, ok := settings(want[unit])[name]; ok {
				continue
			}
			if err := withFolder(path); err != nil {
				return changed, err
			}
			f.o.Log.Info("what a proxy may use is its unit's again", "unit", unit, "setting", name)
			changed = true
		}
	}
	return changed, nil
}
