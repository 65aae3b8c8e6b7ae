package doctor

import (
	"fmt"
	"time"
)

func (x *examiner) names(f Facts) {
	const what = "DNS"
	bad := 0
	for _, n := range f.Names {
		if n.Err != nil {
			bad++
			x.add(what, Wrong, fmt.Sprintf("the server's name %s leads nowhere: %v", n.Host, n.Err), "Mend the host's resolver (resolvectl status, /etc/resolv.conf), or name the server by its address in the agent's file.")
		}
	}
	switch {
	case f.Captured && f.Resolver != "active (running)":
		x.add(what, Wrong, "captured workloads find no names: wattle-dns.service is "+f.Resolver, "systemctl start wattle-dns; journalctl -u wattle-dns says why it ends, mostly that another resolver has port 53 of all addresses.")
	case bad > 0:
	case f.Captured:
		x.ok(what, "names of servers and, for captured workloads, of the mesh are found")
	case len(f.Names) > 0:
		x.ok(what, "names of servers are found")
	}
}

// out is whether this host reaches the servers.
func (x *examiner) out(f Facts) {
	const what = "reach servers"
	reached := 0
	for _, s := range f.Servers {
		if s.Err == nil {
			reached++
			continue
		}
		x.add(what, Warning, fmt.Sprintf("%s: %v", s.Address, s.Err), "Is the server up there (systemctl status wattle-server)? Let TCP from this host pass to it.")
	}
	switch {
	case len(f.Servers) == 0:
	case reached == 0:
		x.add(what, Wrong, "none of them is reached: nothing changes here until one is", "Let TCP pass to one of them, or correct server in the agent's file.")
	case f.Host != nil && f.Host.Node != "" && !f.Host.Connected:
		x.add(what, Wrong, "a server takes connections, but does not answer the agent", "journalctl -u wattle-agent says why; wattle status on the server, whether it lets this host in.")
	default:
		x.ok(what, "%d of %d", reached, len(f.Servers))
	}
}

func (x *examiner) clock(f Facts) {
	const what = "clock"
	const remedy = "Have it synchronized: timedatectl set-ntp true, or chrony."
	h := hostOf(f)
	ahead := time.Duration(h.ClockAhead)
	way := "ahead of"
	if ahead < 0 {
		way = "behind"
	}
	text := fmt.Sprintf("%s %s the server's", ahead.Abs(), way)
	switch {
	case !h.Connected:
		x.add(what, Warning, "not compared: no server answers the agent", "Mend that first; timedatectl says whether it is synchronized.")
	case ahead.Abs() >= clockWrong:
		x.add(what, Wrong, text+"; with 10 minutes new certificates are refused", remedy)
	case ahead.Abs() >= clockWarns:
		x.add(what, Warning, text, remedy)
	default:
		x.ok(what, "it is the server's")
	}
}

func (x *examiner) certificates(f Facts) {
	const what = "certificate"
	h := hostOf(f)
	for i, c := range h.Certificates {
		left := c.NotAfter.Sub(h.Time)
		switch {
		case c.Waiting != "":
			x.add(what, Wrong, fmt.Sprintf("%s has none: %s", c.Identity, c.Waiting), "wattle catalog describe on the server says whether the host may have it; journalctl -u wattle-agent, what the server answers.")
		case left <= 0 && i == 0:
			x.add(what, Wrong, fmt.Sprintf("the host's own ended at %s", c.NotAfter.Format(time.RFC3339)), "Within 7 days the agent renews it when it reaches a server; later, the host has to join again.")
		case left <= 0:
			x.add(what, Wrong, fmt.Sprintf("%s: it ended at %s", c.Identity, c.NotAfter.Format(time.RFC3339)), "The agent renews it when it reaches a server.")
		default:
			x.ok(what, "%s: until %s", c.Identity, c.NotAfter.Format(time.RFC3339))
		}
	}
}

func (x *examiner) ports(f Facts) {
	for _, p := range f.Ports {
		what := fmt.Sprintf("port %d", p.Number)
		switch {
		case p.Err == nil && p.Used:
			x.ok(what, "a proxy of this host listens for the mesh")
		case p.Err == nil:
			x.ok(what, "free for the mesh")
		case p.Used:
			x.add(what, Wrong, fmt.Sprintf("workloads of this host are to be reached there, and are not: %v", p.Err), fmt.Sprintf("wattle proxy list says how the Envoys are; ss -ltnp sport = :%d, who else has the port.", p.Number))
		default:
			x.add(what, Wrong, fmt.Sprintf("it is the mesh's, and cannot be had: %v", p.Err), fmt.Sprintf("ss -ltnp sport = :%d says who has it: move that, or set mesh_port in the policy's host block.", p.Number))
		}
	}
}

func (x *examiner) proxies(f Facts) {
	for _, p := range f.Proxies {
		what := "proxy " + p.Name
		if p.Live {
			x.ok(what, "%s", p.State)
			continue
		}
		text := p.State
		if p.Error != "" {
			text += ": " + p.Error
		}
		x.add(what, Wrong, text, "wattle proxy logs "+p.Name+" says why; systemctl status wattle-envoy@"+p.Name+".")
	}
}

// in is whether the server reaches this host.
func (x *examiner) in(f Facts) {
	const what = "reached by others"
	if f.ReachedErr != nil {
		x.add(what, Warning, "the server could not be asked to connect here: "+f.ReachedErr.Error(), "Mend what else is wrong, then try again.")
	}
	for _, r := range f.Reached {
		if r.Error != "" {
			x.add(what, Wrong, fmt.Sprintf("the server tried %s: %s", r.Address, r.Error), "Let TCP from other hosts pass to the mesh ports, 7443 to 7474; if the address is not this host's, set address in the agent's file.")
			continue
		}
		x.ok(what, "the server connects to %s", r.Address)
	}
}
