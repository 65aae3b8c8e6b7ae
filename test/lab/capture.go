package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/wattle-mesh/wattle/internal/dns"
	"github.com/wattle-mesh/wattle/test/load/echo"
)

// The units and users of the workloads whose calls are captured. None of their programs knows of the mesh.
const (
	loopUnit = "loop.service"
	loopPort = 9981
	loopText = "[Unit]\nDescription=An application that calls by name\n[Service]\nDynamicUser=yes\nExecStart=/usr/bin/echo-app -name loop -http 0.0.0.0:9981\n"
	loopFile = `service "loop" {
  port = 9981
  unit = "loop.service"
  capture "loopback" {}
  upstream "echo" {
    port = 8080
    bind = "127.0.0.1:9094"
  }
}
`
	usersFile = `service "buyer" {
  port = 9982
  capture "transparent" { user = "buyer" }
}
service "seller" {
  port = 9983
  capture "transparent" { user = "seller" }
}
`
	// siteRules are another's: published ports as Docker has them, and a filter.
	siteRules = `table ip nat {
  chain DOCKER { tcp dport 8071 dnat to 10.77.0.1:8070; }
  chain PREROUTING { type nat hook prerouting priority dstnat; fib daddr type local jump DOCKER; }
  chain OUTPUT { type nat hook output priority -100; ip daddr != 127.0.0.0/8 fib daddr type local jump DOCKER; }
  chain POSTROUTING { type nat hook postrouting priority srcnat; ip saddr 172.17.0.0/16 masquerade; }
}
table inet site {
  set blocked { type ipv4_addr; elements = { 192.0.2.1 }; }
  chain input { type filter hook input priority 0; ip saddr @blocked drop; }
}
`
	// others is what a host has that is not the mesh's: tables, addresses and routes, and what processes find names by that are no
	// workload.
	others = `for t in $(nft list tables | grep -v 'inet wattle$' | cut -d' ' -f2- | tr ' ' '/'); do nft list table $(echo $t | tr '/' ' '); done
ip -o address | sed 's, tentative,,; s,valid_lft.*,,'; ip rule; ip route; cat /etc/hosts /etc/nsswitch.conf /etc/resolv.conf; readlink -f /etc/resolv.conf; ls -l /run/systemd/resolve 2>/dev/null | grep -v ^total
nsenter -t $(systemctl show -P MainPID other.service) -m cat /etc/resolv.conf; systemctl show -P DropInPaths other.service; sysctl -a 2>/dev/null | grep -E '^net\.ipv[46]\.(conf|ip_)' | grep -vE 'stable_secret|mtu'`
)

// site prepares the caller: two users, an application, a table of another program's, and a process that is no workload.
func (w *world) site(ctx context.Context) error {
	h := w.caller
	if err := errors.Join(h.install(w.app, "/usr/bin/echo-app"), w.server.install(w.app, "/usr/bin/echo-app"), h.write("/etc/systemd/system/"+loopUnit, loopText, 0o644)); err != nil {
		return err
	}
	if err := h.feed(ctx, siteRules, "nft", "-f", "-"); err != nil {
		return err
	}
	const make = `for u in buyer seller passer; do useradd --system --user-group $u; done; systemctl daemon-reload; systemctl start loop.service
systemd-run --quiet --unit other.service sleep infinity`
	if _, err := h.run(ctx, "sh", "-ec", make); err != nil {
		return err
	}
	_, err := w.server.run(ctx, "systemd-run", "--quiet", "--unit", "beside.service", "/usr/bin/echo-app", "-name", "beside", "-http", w.server.addr+":8070")
	return err
}

// unsite takes that away.
func (w *world) unsite(ctx context.Context) error {
	const remove = `systemctl stop loop.service other.service; for u in buyer seller passer; do userdel $u; done; nft delete table ip nat; nft delete table inet site; rm /etc/systemd/system/loop.service; systemctl daemon-reload`
	_, err := w.caller.run(ctx, "sh", "-ec", remove)
	_, e := w.server.run(ctx, "systemctl", "stop", "beside.service")
	return errors.Join(err, e)
}

// caller is who calls: a process of a unit, of a user, or the machine itself.
type caller struct {
	host *host
	unit string
	user string
}

// calls has curl call as c does, and returns its answer.
func (c caller) calls(ctx context.Context, args ...string) (a echo.Answer, err error) {
	curl := append([]string{"curl", "-sS", "--fail", "--max-time", "5"}, args...)
	switch {
	case c.unit != "":
		// Like a program that the unit's process starts: what it sees of the file system, its user, its control groups.
		const enter = `pid=$(systemctl show -P MainPID "$1"); shift
uid=$(stat -c %u /proc/$pid); gid=$(stat -c %g /proc/$pid)
for g in /sys/fs/cgroup /sys/fs/cgroup/unified; do [ ! -f $g/cgroup.procs ] || echo $$ >"$g$(sed -n s/^0:://p /proc/$pid/cgroup)/cgroup.procs"; done
exec nsenter -t $pid -m -S $uid -G $gid "$@"`
		curl = append([]string{"sh", "-ec", enter, "sh", c.unit}, curl...)
	case c.user != "":
		curl = append([]string{"setpriv", "--reuid", c.user, "--regid", c.user, "--clear-groups"}, curl...)
	}
	out, err := c.host.run(ctx, curl...)
	if err == nil {
		err = json.Unmarshal([]byte(out), &a)
	}
	return a, err
}

// captured has applications call that know nothing of the mesh: by name, and by the callee's own address. Their calls arrive as
// theirs; nobody else's do; and nothing else of the host is another than before.
func captured(ctx context.Context, w *world) error {
	if err := w.site(ctx); err != nil {
		return err
	}
	before, err := w.caller.run(ctx, "sh", "-c", others)
	if err != nil {
		return err
	}
	since, err := w.caller.property(ctx, envoyUnit, "InactiveExitTimestampMonotonic")
	if err != nil {
		return err
	}
	err = w.unharmed(ctx, "capture begins and ends on the caller", func() error {
		if err := w.beginCapture(ctx); err != nil {
			return err
		}
		if err := w.identities(ctx); err != nil {
			return err
		}
		if err := w.bypasses(ctx); err != nil {
			return err
		}
		if err := w.untouched(ctx, "while workloads are captured", before); err != nil {
			return err
		}
		return w.endCapture(ctx)
	})
	if err != nil {
		return err
	}
	// It gets the right to low ports, for which it is reloaded; it is never stopped.
	now, err := w.caller.property(ctx, envoyUnit, "InactiveExitTimestampMonotonic")
	if err == nil && now != since {
		err = errors.New("the caller's Envoy was stopped")
	}
	if err != nil {
		return err
	}
	return errors.Join(w.untouched(ctx, "after that", before), w.unsite(ctx))
}

// beginCapture registers the workloads. The unit that runs already is captured when it starts next, and that is said.
func (w *world) beginCapture(ctx context.Context) error {
	h := w.caller
	if err := errors.Join(h.write("/etc/wattle/services.d/loop.hcl", loopFile, 0o644), h.write("/etc/wattle/services.d/users.hcl", usersFile, 0o644)); err != nil {
		return err
	}
	w.alarm(ctx, "a unit that was started before it was captured", "W5020.*loop.service was started before it was captured")
	if _, err := h.run(ctx, "systemctl", "restart", loopUnit); err != nil {
		return err
	}
	loop := caller{host: h, unit: loopUnit}
	return until(ctx, settle, "the captured unit calls by name", func() error {
		_, err := loop.calls(ctx, "http://echo.mesh:8080/")
		return err
	})
}

// identities looks who the callee sees.
func (w *world) identities(ctx context.Context) error {
	h := w.caller
	loop, buyer, seller := caller{host: h, unit: loopUnit}, caller{host: h, user: "buyer"}, caller{host: h, user: "seller"}
	direct := []string{"--resolve", "echo:8080:" + w.callee.addr, "http://echo:8080/"}
	wrong := 0
	for _, c := range []struct {
		from caller
		args []string
		name string // who answers
		want string // whom the callee sees; empty: nobody
	}{
		{loop, []string{"http://echo.mesh:8080/"}, "echo", "loop"},
		{loop, []string{"http://echo:8080/"}, "echo", "loop"},
		{loop, []string{"http://echo.default.mesh:8080/"}, "echo", "loop"},
		{loop, []string{"http://127.0.0.1:9094/"}, "echo", "loop"},
		{buyer, direct, "echo", "buyer"},
		{seller, direct, "echo", "seller"},
		{buyer, []string{"http://" + w.server.addr + ":8070/"}, "beside", ""}, // no service of the mesh: as if there were none
		{caller{host: h, user: "passer"}, []string{"http://" + w.server.addr + ":8070/"}, "beside", ""},
		{caller{host: h, user: "passer"}, []string{"http://" + h.addr + ":8071/"}, "beside", ""}, // another's published port
		{seller, []string{"http://" + w.server.addr + ":8070/"}, "beside", ""},
	} {
		var a echo.Answer
		err := until(ctx, settle, "it is answered", func() (err error) { a, err = c.from.calls(ctx, c.args...); return err })
		_, got, _ := strings.Cut(a.CallerID(), "/svc/")
		if err != nil || a.Name != c.name || got != c.want {
			wrong++
			fmt.Fprintf(os.Stderr, "lab:    %s%s to %v: %s answers, as called by %q: %v\n", c.from.unit, c.from.user, c.args, a.Name, a.CallerID(), err)
		}
	}
	w.rows.Require("captured: calls that do not arrive, or not as their workload's", float64(wrong), "calls", 0)
	return nil
}

// refusedBy is how curl says that it was: by the host, or by the caller's own proxy, for which the host refused.
var refusedBy = regexp.MustCompile(`exit status (7|56):|returned error: 503`)

// bypasses tries to reach what is a workload's alone as somebody else.
func (w *world) bypasses(ctx context.Context) error {
	h := w.caller
	slice, err := h.slice(ctx, "default/loop")
	if err != nil {
		return err
	}
	port, err := h.run(ctx, "sh", "-c", `nft list table inet wattle | sed -n 's/.*redirect to :\([0-9]*\).*/\1/p' | sort -u`)
	if err != nil {
		return err
	}
	redirects := strings.Fields(port)
	if len(redirects) != 2 {
		return fmt.Errorf("two workloads are captured transparently, their ports are %q", redirects)
	}
	var open []string
	tried := 0
	for _, from := range []caller{{host: w.server}, {host: w.callee}, {host: h, user: "passer"}, {host: h, user: "buyer"}, {host: h, user: "seller"}, {host: h}} {
		inside := from.host == h
		urls := []string{fmt.Sprintf("http://%s:%d/", h.addr, loopPort)}
		if inside && from.user != "" { // root's checks may call the application
			urls = append(urls, fmt.Sprintf("http://127.0.0.1:%d/", loopPort))
		}
		if inside {
			urls = append(urls, "http://127.0.0.1:9094/", "--resolve echo.mesh:8080:"+slice+" http://echo.mesh:8080/")
		}
		if inside && from.user == "" {
			urls = slices.Delete(urls, 0, 1)
		}
		if from.user == "passer" {
			for _, p := range redirects {
				urls = append(urls, "http://127.0.0.1:"+p+"/")
			}
			urls = append(urls, "http://"+w.callee.addr+":8080/") // plaintext to a strict workload of another host
		}
		for _, url := range urls {
			tried++
			_, err := from.calls(ctx, strings.Fields(url)...)
			if err == nil || !refusedBy.MatchString(err.Error()) {
				open = append(open, fmt.Sprintf("%s %s to %s: %v", from.host.name, from.user, url, err))
			}
		}
	}
	for _, text := range open {
		fmt.Fprintln(os.Stderr, "lab:    not refused:", text)
	}
	w.rows.Require(fmt.Sprintf("captured: not refused of %d attempts to call past or as a workload", tried), float64(len(open)), "calls", 0)
	const counters = `curl -sS --unix-socket /run/wattle/agent.sock http://agent/metrics | grep -cE '^wattle_agent_capture_(redirected|refused)_total [1-9]' || :`
	text, err := h.run(ctx, "sh", "-c", counters)
	if err != nil {
		return err
	}
	counted, err := strconv.Atoi(text)
	w.rows.Require("captured: counters of the agent that have not counted, of 2", float64(2-counted), "counters", 0)
	return err
}

// slice returns the address at which a workload's services are told apart by Host.
func (h *host) slice(ctx context.Context, workload string) (string, error) {
	text, err := h.run(ctx, "cat", "/run/wattle/dns/"+dns.File)
	if err != nil {
		return "", err
	}
	c, err := dns.Parse([]byte(text))
	for _, v := range c.Views {
		if v.For == workload {
			return v.Names["echo.default"].String(), err
		}
	}
	return "", fmt.Errorf("no view of %s: %w", workload, err)
}

// untouched looks whether what is not the mesh's is as it was.
func (w *world) untouched(ctx context.Context, when, before string) error {
	after, err := w.caller.run(ctx, "sh", "-c", others)
	if err != nil {
		return err
	}
	was, is := strings.Split(before, "\n"), strings.Split(after, "\n")
	changed := append(difference(was, is), difference(is, was)...)
	for _, line := range changed {
		fmt.Fprintln(os.Stderr, "lab:    another:", line)
	}
	w.rows.Require("capture: what else of the host is another "+when, float64(len(changed)), "things", 0)
	return nil
}

// endCapture deregisters the workloads, stops the agent and takes the table away: nothing of it stays, and the agent makes again
// what there is to guard.
func (w *world) endCapture(ctx context.Context) error {
	h := w.caller
	if _, err := h.run(ctx, "rm", "/etc/wattle/services.d/loop.hcl", "/etc/wattle/services.d/users.hcl"); err != nil {
		return err
	}
	const left = `nft list table inet wattle 2>/dev/null | grep -E 'redirect|127\.64|9094' || :
ls -d /etc/systemd/system/loop.service.d /var/lib/wattle/agent/resolv/* 2>/dev/null || :
systemctl is-active wattle-dns.service || :; ss -ltnH | grep -E ' 127\.(6[4-9]|[7-9][0-9]|1[01][0-9]|12[0-7])\.| 127\.0\.0\.1:151' || :`
	err := until(ctx, settle, "nothing is left of capture", func() error {
		out, err := h.run(ctx, "sh", "-c", left)
		if err == nil && out != "inactive" {
			err = errors.New(out)
		}
		return err
	})
	if err != nil {
		return err
	}
	const take = `systemctl stop wattle-agent.socket wattle-agent.service; wattle capture remove; ! nft list table inet wattle 2>/dev/null; systemctl start wattle-agent.socket wattle-agent.service`
	if _, err := h.run(ctx, "sh", "-ec", take); err != nil {
		return err
	}
	return w.change(ctx)
}
