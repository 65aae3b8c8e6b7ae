// Package envoys finds the Envoys of a host and tells how they are, be they units of systemd or processes that an agent
// started. In comes the agent's run folder, out come proxies with what their admin sockets, /proc and systemd say.
package envoys

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/prometheus/procfs"

	"github.com/wattle-mesh/wattle/internal/admin"
	"github.com/wattle-mesh/wattle/internal/launch"
	"github.com/wattle-mesh/wattle/internal/systemd"
)

// Proxy is one Envoy of the host.
type Proxy struct {
	Name string `json:"name"` // on the host: "host", "gw-public"
	// Unit is that which runs it; empty: it is a process of the agent's.
	Unit      string `json:"unit,omitempty"`
	Bootstrap string `json:"bootstrap"` // the path of what it starts from
	Admin     string `json:"admin"`     // the path of its admin socket
}

// Find lists the proxies that have a bootstrap in the run folder, sorted by name. The folders of units need root.
func Find(runDir string) ([]Proxy, error) {
	entries, err := os.ReadDir(runDir)
	if err != nil {
		return nil, err
	}
	var out []Proxy
	for _, e := range entries {
		dir := filepath.Join(runDir, e.Name())
		p := Proxy{Name: e.Name(), Bootstrap: filepath.Join(dir, launch.BootstrapFile)}
		text, err := os.ReadFile(p.Bootstrap)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
			continue
		}
		if err == nil {
			p.Admin, err = adminSocket(text)
		}
		if err != nil {
			return nil, fmt.Errorf("proxy %s: %w", p.Name, err)
		}
		if launch.IsUnit(dir) {
			p.Unit = "wattle-envoy@" + p.Name + ".service"
		}
		out = append(out, p)
	}
	return out, nil
}

// adminSocket returns where an Envoy's own interface is, as its bootstrap says.
func adminSocket(bootstrap []byte) (string, error) {
	var boot struct {
		Admin struct {
			Address struct {
				Pipe struct {
					Path string `json:"path"`
				} `json:"pipe"`
			} `json:"address"`
		} `json:"admin"`
	}
	err := json.Unmarshal(bootstrap, &boot)
	return boot.Admin.Address.Pipe.Path, err
}

// State is how a proxy is. What could not be found out is zero.
type State struct {
	Proxy
	State       string    `json:"state"`           // the unit's and Envoy's: "active, LIVE"; "not running"
	PID         int       `json:"pid,omitempty"`   // of the Envoy that serves
	Epoch       uint32    `json:"epoch"`           // how often it was hot restarted
	Version     string    `json:"version"`         // of Envoy
	Since       time.Time `json:"since,omitzero"`  // when this process began
	Memory      uint64    `json:"memory"`          // resident, in bytes
	Connections int       `json:"connections"`     // of others to its listeners
	Error       string    `json:"error,omitempty"` // why its admin socket does not answer
}

// Look finds out how a proxy is.
func (p Proxy) Look(ctx context.Context) State {
	s := State{Proxy: p, State: "not running"}
	if p.Unit != "" {
		u, err := systemd.Look(ctx, p.Unit)
		if err != nil {
			s.State, s.Error = "unknown", err.Error()
		} else {
			s.State, s.PID = u.String(), u.MainPID
		}
	} else {
		s.PID = p.process()
	}
	if s.PID != 0 {
		s.process()
	}
	client := admin.New(p.Admin)
	server, err := client.Server(ctx)
	if err != nil {
		if s.PID != 0 && s.Error == "" {
			s.Error = err.Error()
		}
		if s.PID != 0 && p.Unit == "" {
			s.State = "running"
		}
		return s
	}
	s.Epoch, s.Version = server.Options.Epoch, server.Release()
	if p.Unit == "" {
		s.State = "running"
	}
	s.State += ", " + server.State
	if n, err := client.Connections(ctx); err == nil {
		s.Connections = n
	}
	return s
}

// process finds out what /proc knows of the Envoy.
func (s *State) process() {
	p, err := procfs.NewProc(s.PID)
	if err != nil {
		return
	}
	if status, err := p.NewStatus(); err == nil {
		s.Memory = status.VmRSS
	}
	if stat, err := p.Stat(); err == nil {
		if began, err := stat.StartTime(); err == nil {
			s.Since = time.Unix(0, int64(began*1e9)).UTC().Truncate(time.Second)
		}
	}
}

// process returns the id of the process that runs from this bootstrap, the youngest if there are several; 0: there is none.
func (p Proxy) process() (pid int) {
	all, err := procfs.AllProcs()
	if err != nil {
		return 0
	}
	var youngest uint64
	for _, x := range all {
		args, err := x.CmdLine()
		if err != nil || len(args) < 3 || args[1] != launch.ConfigFlag || args[2] != p.Bootstrap {
			continue
		}
		if stat, err := x.Stat(); err == nil && stat.State != "Z" && stat.Starttime >= youngest {
			youngest, pid = stat.Starttime, x.PID
		}
	}
	return pid
}
