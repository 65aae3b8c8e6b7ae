package systemd

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/dbus"
)

// Service is what systemd says of a service unit: by whom its connections are known, and what stands between it and the
// host's network.
type Service struct {
	Runs    bool   // it has a control group with processes, or is about to
	UID     uint32 // of its processes
	UIDSet  bool   // systemd knows it: not before a DynamicUser has run
	Dynamic bool   // the user exists for this unit alone, while it runs
	Cgroup  string // path of its control group; empty while it does not run
	Started time.Time
	Sockets []string // units that start it when somebody connects
	Apart   string   // the setting that gives it a network of its own; empty: none
}

// Service asks systemd about a service unit. It fails if systemd does not know it, or cannot be asked.
func (Units) Service(ctx context.Context, unit string) (Service, error) {
	conn, err := dbus.NewSystemConnectionContext(ctx)
	if err != nil {
		return Service{}, fmt.Errorf("systemd cannot be asked: %w", err)
	}
	defer conn.Close()
	general, err := conn.GetUnitPropertiesContext(ctx, unit)
	if err != nil {
		return Service{}, fmt.Errorf("systemd: %w", err)
	}
	if s, _ := general["LoadState"].(string); s != "loaded" {
		return Service{}, fmt.Errorf("systemd does not know it (%v)", general["LoadState"])
	}
	own, err := conn.GetUnitTypePropertiesContext(ctx, unit, "Service")
	if err != nil {
		return Service{}, fmt.Errorf("systemd: %w", err)
	}
	out := Service{}
	state, _ := general["ActiveState"].(string)
	out.Runs = slices.Contains([]string{"active", "activating", "reloading", "deactivating"}, state)
	out.Cgroup, _ = own["ControlGroup"].(string)
	out.Dynamic, _ = own["DynamicUser"].(bool)
	if at, _ := own["ExecMainStartTimestamp"].(uint64); at > 0 {
		out.Started = time.UnixMicro(int64(at))
	}
	if all, _ := general["TriggeredBy"].([]string); all != nil {
		out.Sockets = slices.DeleteFunc(slices.Clone(all), func(s string) bool { return !strings.HasSuffix(s, ".socket") })
	}
	if on, _ := own["PrivateNetwork"].(bool); on {
		out.Apart = "PrivateNetwork=yes"
	}
	if path, _ := own["NetworkNamespacePath"].(string); path != "" {
		out.Apart = "NetworkNamespacePath=" + path
	}
	if uid, ok := own["UID"].(uint32); ok && uid != unknownUID {
		out.UID, out.UIDSet = uid, true
		return out, nil
	}
	if out.Dynamic {
		return out, nil
	}
	name, _ := own["User"].(string)
	out.UID, err = lookup(name)
	out.UIDSet = err == nil
	return out, err
}
