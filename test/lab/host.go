package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	bootLimit = 30 * time.Second
	lookAgain = 10 * time.Millisecond
)

// lab is the hosts and the network between them. Nothing of it is outside of namespaces that it made, but for mounts and
// control groups below names of its own.
type lab struct {
	id    string // of everything that it makes
	dir   string
	root  string // the file system that all hosts begin with
	hosts []*host
}

// host is one machine: a file system of its own over the common one, a network namespace, and systemd as its init.
type host struct {
	lab  *lab
	name string
	addr string // IPv4
	boot *exec.Cmd
	pid  int // of its init, as seen from here; zero: it is off
}

func newLab(ctx context.Context, root string) (*lab, error) {
	dir, err := os.MkdirTemp("", "wattle-lab-")
	if err != nil {
		return nil, err
	}
	l := &lab{id: fmt.Sprintf("wlab%d", os.Getpid()), dir: dir, root: root}
	// What is unmounted here is so in all hosts' namespaces, which have a copy of every mount: a disk must be free to be mounted anew.
	err = steps(ctx, []string{"mount", "--bind", dir, dir}, []string{"mount", "--make-shared", dir},
		[]string{"ip", "netns", "add", l.id}, []string{"ip", "-n", l.id, "link", "add", "lan", "type", "bridge"},
		[]string{"ip", "-n", l.id, "link", "set", "lan", "up"})
	if err != nil {
		return nil, errors.Join(err, l.close())
	}
	return l, nil
}

// steps runs commands here, one after the other.
func steps(ctx context.Context, all ...[]string) error {
	for _, args := range all {
		if out, err := exec.CommandContext(ctx, args[0], args[1:]...).CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(out))
		}
	}
	return nil
}

// add makes a host that is off.
func (l *lab) add(ctx context.Context, name string) (*host, error) {
	h := &host{lab: l, name: name, addr: fmt.Sprintf("10.77.0.%d", len(l.hosts)+1)}
	l.hosts = append(l.hosts, h)
	if err := h.makeDisk(ctx); err != nil {
		return nil, err
	}
	ns := h.netns()
	err := steps(ctx,
		[]string{"ip", "netns", "add", ns},
		[]string{"ip", "-n", l.id, "link", "add", name, "type", "veth", "peer", "name", "host0", "netns", ns},
		[]string{"ip", "-n", l.id, "link", "set", name, "master", "lan", "up"},
		[]string{"ip", "-n", ns, "addr", "add", h.addr + "/24", "dev", "host0"},
		[]string{"ip", "-n", ns, "link", "set", "host0", "up"},
		[]string{"ip", "-n", ns, "link", "set", "lo", "up"})
	if err != nil {
		return nil, err
	}
	// An empty file: networkd is not to give the link addresses of its own.
	return h, errors.Join(h.write("/etc/hostname", name+"\n", 0o644), h.write("/etc/systemd/network/80-container-host0.network", "", 0o644))
}

func (h *host) path(name string) string { return filepath.Join(h.lab.dir, h.name, name) }
func (h *host) netns() string           { return h.lab.id + "-" + h.name }

// write puts a file into the host's file system, whether it is on or off.
func (h *host) write(path, text string, mode os.FileMode) error {
	at := filepath.Join(h.path("root"), path)
	return errors.Join(os.MkdirAll(filepath.Dir(at), 0o755), os.WriteFile(at, []byte(text), mode), os.Chmod(at, mode))
}

// install copies a program of this machine into the host.
func (h *host) install(file, path string) error {
	at := filepath.Join(h.path("root"), path)
	return steps(context.Background(), []string{"install", "-D", "-m", "755", file, at + ".new"}, []string{"mv", at + ".new", at})
}

// launcher puts itself into control groups of the host's own, then becomes systemd-nspawn. To the scheduler a group is one task
// among those of this machine, but a host has processors of its own: it gets the share of as many tasks as there can be.
const launcher = `
all=/sys/fs/cgroup/
[ -f $all/cgroup.controllers ] || all=$all*/
for c in $all; do
	mkdir -p "$c$ID"
	[ ! -f "$c$ID/cpu.shares" ] || echo 262144 >"$c$ID/cpu.shares"
	[ ! -f "$c$ID/cpu.weight" ] || echo 10000 >"$c$ID/cpu.weight"
	for f in cpuset.cpus cpuset.mems; do [ ! -f "$c$ID/$f" ] || cat "$c$f" >"$c$ID/$f"; done
	echo $$ >"$c$ID/cgroup.procs"
done
exec "$@"`

// start turns the host on and waits until it is up.
func (h *host) start(ctx context.Context) error {
	console, err := os.OpenFile(h.path("console"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer console.Close()
	h.boot = exec.Command("sh", "-c", launcher, "sh", "systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "-D", h.path("root"), "--boot",
		"--console=passive", "--machine="+h.name, "--hostname="+h.name, "--capability=CAP_NET_ADMIN", "--network-namespace-path=/run/netns/"+h.netns())
	h.boot.Env = append(os.Environ(), "ID="+h.netns())
	h.boot.Stdout, h.boot.Stderr = console, console
	h.boot.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
	if err := h.boot.Start(); err != nil {
		return err
	}
	err = until(ctx, bootLimit, h.name+" is up", func() error {
		if h.pid == 0 {
			text, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", h.boot.Process.Pid))
			if err != nil {
				return err
			}
			pid := strings.TrimSpace(string(text))
			if comm, err := os.ReadFile("/proc/" + pid + "/comm"); err != nil || string(comm) != "systemd\n" {
				return errors.New("no init yet")
			}
			if h.pid, err = strconv.Atoi(pid); err != nil {
				return err
			}
		}
		_, err := h.run(ctx, "systemctl", "is-active", "multi-user.target")
		return err
	})
	if err != nil {
		said, _ := os.ReadFile(h.path("console"))
		err = fmt.Errorf("%w; its console says: %s", err, said[max(0, len(said)-1000):])
	}
	return err
}

// cut turns the host off as a power cut does: nothing is told, and what was not synced is lost.
func (h *host) cut(ctx context.Context) error {
	if err := h.lose(); err != nil {
		return err
	}
	h.off()
	if err := until(ctx, bootLimit, "the disk of "+h.name+" is free", h.unplug); err != nil {
		return err
	}
	return h.plug(ctx)
}

// off ends everything that runs on the host.
func (h *host) off() {
	if h.boot == nil {
		return
	}
	if h.pid != 0 {
		_ = syscall.Kill(h.pid, syscall.SIGKILL) // its init: everything in its namespace goes with it
	}
	_ = h.boot.Process.Kill()
	_ = h.boot.Wait()
	h.boot, h.pid = nil, 0
}

// poweroff turns the host off in good order.
func (h *host) poweroff(ctx context.Context) error {
	if _, err := h.run(ctx, "systemctl", "poweroff"); err != nil {
		return err
	}
	_ = h.boot.Wait()
	h.boot, h.pid = nil, 0
	return nil
}

// command is a command in the host.
func (h *host) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "nsenter", append([]string{"-t", strconv.Itoa(h.pid), "-a", "--"}, args...)...)
	cmd.WaitDelay = time.Second // of what the command itself started
	return cmd
}

// run runs a command in the host and returns what it writes to standard output.
func (h *host) run(ctx context.Context, args ...string) (string, error) {
	if h.pid == 0 {
		return "", fmt.Errorf("%s is off", h.name)
	}
	cmd := h.command(ctx, args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("%s: %s: %w: %s", h.name, strings.Join(args, " "), err, strings.TrimSpace(errs.String()+out.String()))
	}
	return strings.TrimSpace(out.String()), nil
}

// property asks the host's systemd for a property of a unit.
func (h *host) property(ctx context.Context, unit, name string) (string, error) {
	return h.run(ctx, "systemctl", "show", "-P", name, unit)
}

// until waits until f has no error, and says what it waited for if that takes longer than limit.
func until(ctx context.Context, limit time.Duration, what string, f func() error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for {
		err := f()
		if err == nil {
			return nil
		}
		select {
		case <-time.After(lookAgain):
		case <-ctx.Done():
			return fmt.Errorf("not after %s: %s: %w", limit, what, err)
		}
	}
}
