// Package doctor says whether a host is fit to be a member of the mesh. In come facts that were found out of it, out come
// findings: each is well, or says what is wrong and what to do.
package doctor

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/wattle-mesh/wattle/internal/api"
)

// State is how something is.
type State string

// The states. What is a warning works, but less well than it could.
const (
	OK      State = "ok"
	Warning State = "warning"
	Wrong   State = "wrong"
)

// Finding is one thing that was looked at.
type Finding struct {
	What   string `json:"what"`
	State  State  `json:"state"`
	Text   string `json:"text"`
	Remedy string `json:"remedy,omitempty"` // of all but OK
}

// Facts are what was found out of a host. An error says why something is not known, or not well.
type Facts struct {
	Systemd     string // its version: "252.39-1~deb12u1"
	SystemdErr  error
	Kernel      string // "6.1.0-18-amd64"
	NftablesErr error  // why the table of capture cannot be read
	CgroupsErr  error  // why units cannot be told apart by control group
	ConfigErr   error  // of the agent's file
	Guard       bool   // the agent's file wants a guard
	Unit        string // how the agent's unit is: "active (running)"
	Host        *api.HostStatus
	HostErr     error
	Captured    bool   // there are captured workloads here
	Resolver    string // how the unit of their resolver is
	Names       []Name
	Servers     []Server
	Ports       []Port
	Envoy       Envoy
	Proxies     []Proxy
	Reached     []api.ReachResult
	ReachedErr  error
}

// Name is the name of a server, and whether it leads somewhere.
type Name struct {
	Host string
	Err  error
}

// Server is where a server should listen, and why no connection to it was made.
type Server struct {
	Address string
	Err     error
}

// Port is one on which others reach this host's workloads.
type Port struct {
	Number uint16
	Used   bool  // a proxy of this host should listen there
	Err    error // why it does not; of one that is not used, why it could not be had
}

// Proxy is an Envoy that runs here, or should.
type Proxy struct {
	Name, State, Error string
	Live               bool
}

// What a host needs.
const (
	LeastSystemd = 249
	leastKernel  = "4.18" // of RHEL 8; nftables' NAT of the family inet is there
	kernelMajor  = 4
	kernelMinor  = 18
	clockWarns   = 10 * time.Second
	clockWrong   = 5 * time.Minute
)

// Examine says how the host is, in the order in which one would mend it.
func Examine(f Facts) []Finding {
	x := &examiner{}
	x.systemd(f)
	x.kernel(f)
	x.config(f)
	x.envoy(f.Envoy)
	x.agent(f)
	x.names(f)
	x.out(f)
	x.clock(f)
	x.certificates(f)
	x.ports(f)
	x.proxies(f)
	x.in(f)
	for _, a := range hostOf(f).Alarms {
		x.add("alarm "+a.Name, Warning, a.Text, "See the agent's log: journalctl -u wattle-agent.")
	}
	return x.found
}

// Sick reports whether something is wrong.
func Sick(all []Finding) bool {
	for _, f := range all {
		if f.State == Wrong {
			return true
		}
	}
	return false
}

type examiner struct{ found []Finding }

func (x *examiner) add(what string, s State, text, remedy string) {
	x.found = append(x.found, Finding{what, s, text, remedy})
}

func (x *examiner) ok(what, format string, args ...any) {
	x.add(what, OK, fmt.Sprintf(format, args...), "")
}

func hostOf(f Facts) api.HostStatus {
	if f.Host == nil {
		return api.HostStatus{}
	}
	return *f.Host
}

func (x *examiner) systemd(f Facts) {
	const what = "systemd"
	number, _ := strconv.Atoi(leading(f.Systemd))
	switch {
	case f.SystemdErr != nil:
		x.add(what, Wrong, f.SystemdErr.Error(), "Run it as root on a host that systemd and D-Bus run on: apt install dbus, or dnf install dbus.")
	case number < LeastSystemd:
		x.add(what, Wrong, fmt.Sprintf("version %s, older than %d", f.Systemd, LeastSystemd), "Use Debian 12, Ubuntu 22.04, RHEL 9 or a later system.")
	default:
		x.ok(what, "version %s", f.Systemd)
	}
}

// leading returns the digits that a text begins with.
func leading(s string) string {
	s = strings.TrimPrefix(s, "v")
	return s[:len(s)-len(strings.TrimLeft(s, "0123456789"))]
}

func (x *examiner) kernel(f Facts) {
	const what, tables = "kernel", "nftables"
	major, rest, _ := strings.Cut(f.Kernel, ".")
	a, errA := strconv.Atoi(major)
	b, errB := strconv.Atoi(leading(rest))
	switch {
	case errA != nil || errB != nil:
		x.add(what, Warning, fmt.Sprintf("version %q is not understood", f.Kernel), "See that it is "+leastKernel+" or later: uname -r.")
	case a < kernelMajor || a == kernelMajor && b < kernelMinor:
		x.add(what, Wrong, fmt.Sprintf("version %s, older than %s", f.Kernel, leastKernel), "Boot a later kernel.")
	default:
		x.ok(what, "version %s", f.Kernel)
	}
	switch {
	case f.NftablesErr == nil:
		x.ok(tables, "may be used: workloads can be guarded, and captured transparently")
	case f.Guard:
		x.add(tables, Warning, fmt.Sprintf("cannot be used: %v; nothing is guarded here", f.NftablesErr), "Run it as root; load the module: modprobe nf_tables; leave the agent its CAP_NET_ADMIN. Or say guard = false in the agent's file.")
	default:
		x.ok(tables, "cannot be used (%v), and need not: guard = false", f.NftablesErr)
	}
	if f.CgroupsErr != nil {
		x.add("control groups", Warning, f.CgroupsErr.Error()+": units are told apart by their users", "Boot with systemd.unified_cgroup_hierarchy=1, or give each captured unit a user of its own (DynamicUser=yes).")
	} else {
		x.ok("control groups", "version 2")
	}
}

func (x *examiner) config(f Facts) {
	const what = "configuration"
	if f.ConfigErr != nil {
		x.add(what, Wrong, f.ConfigErr.Error(), "Write the agent's file: wattle agent join -server HOST:7501 -token-file FILE fills it in.")
		return
	}
	x.ok(what, "the agent's file can be read")
}

func (x *examiner) envoy(e Envoy) {
	const what = "Envoy"
	switch {
	case e.Err != nil:
		x.add(what, Wrong, e.Err.Error(), "Install Envoy "+Series+"x, and say in the agent's file where it is: envoy = \"/usr/bin/envoy\".")
	case e.glibcTooOld():
		x.add(what, Wrong, fmt.Sprintf("%s needs glibc %s, this host has %s", e.Path, e.Needs, orNone(e.Glibc)), "Install an Envoy that was built for this system, or upgrade the system.")
	case e.Release == "":
		x.add(what, Wrong, fmt.Sprintf("%s does not say which version it is", e.Path), "Run it by hand, "+e.Path+" --version: it says what is missing.")
	case !strings.HasPrefix(e.Release, Series):
		x.add(what, Warning, fmt.Sprintf("%s is version %s; Wattle is tested with %sx", e.Path, e.Release, Series), "Install Envoy "+Series+"x.")
	default:
		x.ok(what, "version %s at %s; needs glibc %s, this host has %s", e.Release, e.Path, orNone(e.Needs), orNone(e.Glibc))
	}
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}

func (x *examiner) agent(f Facts) {
	const what = "agent"
	switch {
	case f.HostErr != nil:
		text := f.HostErr.Error()
		if f.Unit != "" {
			text += "; its unit is " + f.Unit
		}
		x.add(what, Wrong, text, "systemctl enable --now wattle.target wattle-agent; journalctl -u wattle-agent says why it ends.")
	case f.Host.Node == "":
		x.add(what, Wrong, "it runs, but the host has not joined the mesh", "Make a token at the server (wattle token create -node NAME), then wattle agent join -server HOST:7501 -token-file FILE.")
	default:
		x.ok(what, "host %s of %s, version %s", f.Host.Node, f.Host.TrustDomain, f.Host.Version)
	}
}
