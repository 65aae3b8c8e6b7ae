package peers

import (
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/nomad/api"
	"github.com/prometheus/procfs"
	"golang.org/x/sys/unix"
)

// NomadConfig is the configuration of a Nomad agent that is a server, its own cluster, and its only client, which runs
// programs as they are (raw_exec). ports are those of HTTP, RPC and Serf.
func NomadConfig(dir, ip string, ports [3]int) map[string]any {
	return map[string]any{
		"data_dir": dir, "bind_addr": ip, "name": "n1", "datacenter": "dc1", "log_level": "WARN",
		"disable_update_check": true, "leave_on_interrupt": false, "leave_on_terminate": false,
		"ports":     map[string]any{"http": ports[0], "rpc": ports[1], "serf": ports[2]},
		"advertise": map[string]any{"http": ip, "rpc": ip, "serf": ip},
		"server":    map[string]any{"enabled": true, "bootstrap_expect": 1, "raft_multiplier": 1, "heartbeat_grace": "1s", "min_heartbeat_ttl": "1s"},
		"client": map[string]any{"enabled": true, "network_interface": "lo", "meta": map[string]any{"rack": "r1"}, "gc_max_allocs": 200,
			"options": map[string]any{"fingerprint.denylist": "env_aws,env_gce,env_azure,env_digitalocean,cni,bridge,consul,vault,landlock,docker"}},
		"plugin": map[string]any{"raw_exec": map[string]any{"config": map[string]any{"enabled": true}}},
	}
}

// NomadMark is a variable for the environment of an agent with this folder, which all that it starts has, too.
func NomadMark(dir string) string { return "WATTLE_NOMAD=" + dir }

// SweepNomad ends what a Nomad agent that has ended, and had the mark, has left running, and takes away what it mounted
// in its folder.
func SweepNomad(t testing.TB, dir string) {
	t.Helper()
	procs, err := procfs.AllProcs()
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range procs {
		env, _ := x.Environ() // of one that has ended: none
		if slices.Contains(env, NomadMark(dir)) {
			_ = syscall.Kill(x.PID, syscall.SIGKILL)
		}
	}
	mounts, err := procfs.GetMounts()
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range mounts {
		if strings.HasPrefix(m.MountPoint, dir+"/") {
			if err := unix.Unmount(m.MountPoint, unix.MNT_DETACH); err != nil {
				t.Error(err)
			}
		}
	}
}

// NomadGroup is a task group with one task and one service.
type NomadGroup struct {
	Name, Service string
	Address       string // custom; empty: the node's
	Port          string // a number, or "dyn" for a dynamic port of that label
	Tags          []string
	Command       []string // sleep if empty
	OfTask        bool     // the service is the task's
	Canary        bool
	Count         int
}

// NomadJob makes a job whose tasks are programs. A task that ends is started again once, after a second.
func NomadJob(namespace, id string, groups ...NomadGroup) *api.Job {
	ptr := func(d time.Duration) *time.Duration { return &d }
	j := &api.Job{ID: &id, Name: &id, Namespace: &namespace, Datacenters: []string{"dc1"}}
	for _, g := range groups {
		if len(g.Command) == 0 {
			g.Command = []string{"/bin/sleep", "1000"}
		}
		task := api.NewTask("main", "raw_exec").SetConfig("command", g.Command[0]).SetConfig("args", g.Command[1:])
		cpu, mem := 1, 10
		task.Resources = &api.Resources{CPU: &cpu, MemoryMB: &mem}
		task.KillTimeout = ptr(500 * time.Millisecond)
		tg := api.NewTaskGroup(g.Name, max(g.Count, 1)).AddTask(task)
		s := &api.Service{Name: g.Service, PortLabel: g.Port, Provider: "nomad", Tags: g.Tags, Address: g.Address}
		if g.Port == "dyn" {
			tg.Networks = []*api.NetworkResource{{Mode: "host", DynamicPorts: []api.Port{{Label: "dyn"}}}}
		}
		if g.OfTask { // which knows ports by their labels only
			n, err := strconv.Atoi(g.Port)
			if err != nil {
				panic(err)
			}
			tg.Networks = []*api.NetworkResource{{Mode: "host", ReservedPorts: []api.Port{{Label: "p", Value: n}}}}
			s.PortLabel = "p"
			task.Services = []*api.Service{s}
		} else {
			tg.Services = []*api.Service{s}
		}
		attempts, mode, zero := 1, "fail", 0
		tg.RestartPolicy = &api.RestartPolicy{Attempts: &attempts, Mode: &mode, Delay: ptr(time.Second), Interval: ptr(time.Minute)}
		unlimited := false
		tg.ReschedulePolicy = &api.ReschedulePolicy{Attempts: &zero, Unlimited: &unlimited}
		checks, canaries := "task_states", 0
		if g.Canary {
			canaries = 1
		}
		tg.Update = &api.UpdateStrategy{HealthCheck: &checks, MinHealthyTime: ptr(0), HealthyDeadline: ptr(10 * time.Second), ProgressDeadline: ptr(20 * time.Second), Canary: &canaries}
		one, disk := 1, 10
		task.LogConfig = &api.LogConfig{MaxFiles: &one, MaxFileSizeMB: &one}
		tg.EphemeralDisk = &api.EphemeralDisk{SizeMB: &disk}
		j.AddTaskGroup(tg)
	}
	return j
}
