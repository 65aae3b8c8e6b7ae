package agent

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/wattle-mesh/wattle/internal/capture"
	"github.com/wattle-mesh/wattle/internal/dns"
	"github.com/wattle-mesh/wattle/internal/mesh/planpb"
	"github.com/wattle-mesh/wattle/internal/systemd"
)

const transparent = "transparent" // planpb.Capture's mode

// unitName is what a service unit's name looks like; it becomes part of paths.
var unitName = regexp.MustCompile(`^[A-Za-z0-9:_.\\@-]+\.service$`)

// hostFacts are what a host says about itself, for its workloads' capture.
type hostFacts struct {
	services map[string]serviceFact                    // by unit
	group    func(path string) (capture.Cgroup, error) // nil: there are no control groups of version 2
	user     func(name string) (uint32, error)
	stateDir string
	proxies  uint32 // group
	guard    bool
	rules    bool     // nftables may be used
	denied   error    // why not
	allow    []uint32 // users who may connect to applications
	drop     func(unit string) (at int64, ok bool)
}

// serviceFact is what systemd says of a unit, or why it does not.
type serviceFact struct {
	systemd.Service
	err error
}

// captured is what a plan means for the host.
type captured struct {
	rules  capture.Rules
	views  dns.Config
	resolv map[string]dns.View // by path of the resolv.conf
	faults []captureFault
	units  []string // that were asked about, sorted
}

// captureFault is a workload that is not captured or guarded as it should be.
type captureFault struct {
	workload workload
	what     string
	remedy   string
}

// resolvFile is the resolv.conf of a captured workload's unit. It is in the state folder: the unit may start before the agent
// when the host boots.
func resolvFile(stateDir, unit string) string {
	return filepath.Join(stateDir, resolvFolder, unit+".conf")
}

// resolvUnits lists the units that get a resolv.conf of their own, with their workloads: the first that names a unit has it.
func resolvUnits(plan *planpb.HostPlan) map[string]*planpb.Workload {
	out := map[string]*planpb.Workload{}
	for _, w := range plan.GetWorkloads() {
		if u := w.GetUnit(); w.GetCapture() != nil && unitName.MatchString(u) && out[u] == nil {
			out[u] = w
		}
	}
	return out
}

// unitsOf lists the units of workloads, sorted.
func unitsOf(plan *planpb.HostPlan) []string {
	var out []string
	for _, w := range plan.GetWorkloads() {
		if unitName.MatchString(w.GetUnit()) {
			out = append(out, w.GetUnit())
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// planCapture says what a plan means for the host. It is pure.
func planCapture(plan *planpb.HostPlan, h hostFacts) captured {
	p := capturePlan{hostFacts: h, plan: plan, open: map[uint16]bool{}, out: captured{resolv: map[string]dns.View{}, units: unitsOf(plan)}}
	p.out.rules.Exempt = h.proxies
	p.out.rules.Passed = planpb.PassedPriority
	for _, x := range plan.GetProxies() {
		for _, port := range x.GetOpenPorts() {
			p.open[uint16(port)] = true
		}
	}
	all := slices.Clone(plan.GetWorkloads())
	slices.SortFunc(all, func(a, b *planpb.Workload) int { return cmp.Compare(workloadOf(a).String(), workloadOf(b).String()) })
	own := resolvUnits(plan)
	for _, w := range all {
		owner, known := p.owner(w)
		if w.GetCapture() != nil {
			p.names(w, own[w.GetUnit()] == w)
			p.redirect(w, owner, known)
		}
		if h.guard && h.rules {
			p.doors(w, owner, known)
		}
	}
	switch {
	case h.guard && h.rules:
		for _, w := range all {
			p.application(w)
		}
	case slices.ContainsFunc(all, func(w *planpb.Workload) bool { return w.GetCapture() != nil || len(w.GetUpstreams()) > 0 }):
		why, remedy := "guard = false", "Remove guard from the agent's file."
		if h.guard {
			why, remedy = fmt.Sprintf("nftables may not be used: %v", h.denied), "Give the agent CAP_NET_ADMIN and AF_NETLINK, as its unit has them."
		}
		p.out.faults = append(p.out.faults, captureFault{
			what:   "nothing is guarded on this host (" + why + "): who calls as which workload is up to its processes, and applications take plaintext where they listen",
			remedy: remedy,
		})
	}
	return p.out
}

// capturePlan is a plan that is being looked at.
type capturePlan struct {
	hostFacts
	plan *planpb.HostPlan
	open map[uint16]bool // ports that gateways of this host hold
	out  captured
}

func (p *capturePlan) fault(w *planpb.Workload, what, remedy string) {
	p.out.faults = append(p.out.faults, captureFault{workloadOf(w), what, remedy})
}

const (
	useExplicit = "Bind its upstreams (explicit) instead of capture."
	ownUser     = "Have it run as a user of its own: User= or DynamicUser=yes in the unit."
)

// owner says by whom a workload's connections are known. known is false if that cannot be said at all; a unit that does not
// run yet has nobody.
func (p *capturePlan) owner(w *planpb.Workload) (o capture.Owner, known bool) {
	if name := w.GetCapture().GetUser(); name != "" {
		uid, err := p.user(name)
		switch {
		case err != nil:
			p.fault(w, fmt.Sprintf("it is not captured: %v", err), "Make the user, or correct capture's user.")
			return o, false
		case uid == 0:
			p.fault(w, "it is not captured: what root sends belongs to the host, not to one workload", "Name a unit, or another user.")
			return o, false
		}
		return capture.Owner{UIDs: []uint32{uid}}, true
	}
	unit := w.GetUnit()
	if unit == "" {
		if w.GetCapture() != nil || p.guard && p.rules && len(w.GetUpstreams()) > 0 {
			p.fault(w, "its connections cannot be told from others': any process of this host may call as it", "Say which unit it is: unit = \"NAME.service\" in its service block.")
		}
		return o, false
	}
	s, ok := p.services[unit]
	if !ok || s.err != nil {
		p.fault(w, fmt.Sprintf("unit %s is not known: %v", unit, s.err), "Install the unit, or correct the service's unit.")
		return o, false
	}
	if s.Dynamic {
		if s.UIDSet && s.UID != 0 {
			o.UIDs = []uint32{s.UID}
		}
		return o, true
	}
	if p.group != nil {
		if s.Cgroup == "" {
			return o, true
		}
		g, err := p.group(s.Cgroup)
		if err == nil {
			o.Groups = []capture.Cgroup{g}
		}
		return o, err == nil || !s.Runs // one that just ends has none
	}
	if !s.UIDSet || s.UID == 0 || p.shared(w, s.UID) {
		p.fault(w, fmt.Sprintf("the connections of unit %s cannot be told from others': this host has no control groups of version 2, and the unit runs as root or as another workload's user", unit), ownUser)
		return o, false
	}
	p.fault(w, fmt.Sprintf("everything that runs as uid %d counts as unit %s: this host has no control groups of version 2", s.UID, unit), "Boot with systemd.unified_cgroup_hierarchy=1, or see that nothing else runs as this user.")
	return capture.Owner{UIDs: []uint32{s.UID}}, true
}

// shared reports whether another workload's unit runs as the same user.
func (p *capturePlan) shared(w *planpb.Workload, uid uint32) bool {
	return slices.ContainsFunc(p.plan.GetWorkloads(), func(x *planpb.Workload) bool {
		s, ok := p.services[x.GetUnit()]
		return ok && x.GetUnit() != w.GetUnit() && s.err == nil && s.UIDSet && s.UID == uid
	})
}

// names has the workload's names answered, and its unit ask for them.
func (p *capturePlan) names(w *planpb.Workload, ownFile bool) {
	c := w.GetCapture()
	slice, err := netip.ParsePrefix(c.GetSlice())
	if err != nil {
		p.fault(w, fmt.Sprintf("it is not captured: %v", err), "This is a fault of Wattle. Report it.")
		return
	}
	v := dns.View{For: workloadOf(w).String(), Address: slice.Masked().Addr(), Domain: c.GetDomain(), Namespace: w.GetNamespace(), Forward: true, Names: map[string]netip.Addr{}}
	for _, n := range c.GetNames() {
		if at, err := netip.ParseAddr(n.GetAddress()); err == nil {
			v.Names[n.GetName()] = at
		}
	}
	p.out.views.Views = append(p.out.views.Views, v)
	unit := w.GetUnit()
	s, ok := p.services[unit]
	switch {
	case unit == "" || !ok || s.err != nil:
	case !ownFile:
		p.fault(w, fmt.Sprintf("unit %s is another captured workload's, too, whose names it finds", unit), "Give each captured workload a unit of its own.")
	case len(s.Sockets) > 0:
		p.fault(w, fmt.Sprintf("unit %s is started by %s: what is under way on its sockets is not its own", unit, strings.Join(s.Sockets, " ")), useExplicit)
	case s.Apart != "":
		p.fault(w, fmt.Sprintf("unit %s has a network of its own (%s), where it does not reach its proxy", unit, s.Apart), useExplicit)
	default:
		path := resolvFile(p.stateDir, unit)
		p.out.resolv[path] = v
		if at, ok := p.drop(unit); ok && s.Runs && !s.Started.IsZero() && s.Started.UnixNano() < at {
			p.fault(w, fmt.Sprintf("unit %s was started before it was captured: it does not find names of the mesh yet", unit), "systemctl restart "+unit)
		}
	}
}

// redirect leads what the workload sends to its proxy, if that is its mode.
func (p *capturePlan) redirect(w *planpb.Workload, owner capture.Owner, known bool) {
	c := w.GetCapture()
	if c.GetMode() != transparent || !known {
		return
	}
	if !p.rules {
		p.fault(w, "what it sends is not redirected: the agent may not use nftables", "Give the agent CAP_NET_ADMIN (its unit has it), or use loopback capture.")
		return
	}
	if owner.Nobody() {
		return
	}
	r := capture.Redirect{For: workloadOf(w).String(), Owner: owner, Port: uint16(c.GetRedirectPort())}
	var errs []error
	for _, text := range c.GetExcludeAddresses() {
		a, err := netip.ParsePrefix(text)
		errs = append(errs, err)
		r.ExcludeAddresses = append(r.ExcludeAddresses, a)
	}
	for _, port := range c.GetExcludePorts() {
		r.ExcludePorts = append(r.ExcludePorts, uint16(port))
	}
	if err := errors.Join(errs...); err != nil || r.Port == 0 {
		p.fault(w, fmt.Sprintf("what it sends is not redirected: port %d, %v", r.Port, err), "This is a fault of Wattle. Report it.")
		return
	}
	p.out.rules.Redirects = append(p.out.rules.Redirects, r)
}

// doors keeps others away from where the workload calls.
func (p *capturePlan) doors(w *planpb.Workload, owner capture.Owner, known bool) {
	if !known {
		return
	}
	name := workloadOf(w).String()
	add := func(to netip.Prefix, port uint16) {
		p.out.rules.Doors = append(p.out.rules.Doors, capture.Door{For: name, To: to, Port: port, Owner: owner})
	}
	if c := w.GetCapture(); c != nil {
		if slice, err := netip.ParsePrefix(c.GetSlice()); err == nil {
			add(slice.Masked(), 0)
		}
		if port := uint16(c.GetRedirectPort()); port != 0 {
			add(netip.MustParsePrefix("127.0.0.1/32"), port)
			add(netip.MustParsePrefix("::1/128"), port)
		}
	}
	for _, u := range w.GetUpstreams() {
		if at, err := netip.ParseAddrPort(u.GetBind()); err == nil { // else a unix socket
			add(netip.PrefixFrom(at.Addr(), at.Addr().BitLen()), at.Port())
		}
	}
}

// application keeps others away from the workload's own ports: who calls it comes through its proxy. The agent's checks are
// root's.
func (p *capturePlan) application(w *planpb.Workload) {
	owner, known := p.quietOwner(w)
	for _, port := range w.GetPorts() {
		at, err := netip.ParseAddrPort(port.GetLocal())
		if err != nil {
			continue
		}
		addr := at.Addr().Unmap()
		everywhere := addr.IsUnspecified() || addr == netip.AddrFrom4([4]byte{127, 0, 0, 1}) || addr == netip.IPv6Loopback()
		taken := p.open[at.Port()] || uint32(at.Port()) == w.GetMeshPort()
		if everywhere && taken {
			everywhere = false // a gateway of this host has the port at other addresses
		}
		switch {
		case everywhere:
			p.out.rules.Closed = append(p.out.rules.Closed, capture.Closed{Port: at.Port()})
		case !addr.IsLoopback() && !addr.IsUnspecified():
			p.out.rules.Closed = append(p.out.rules.Closed, capture.Closed{Address: addr, Port: at.Port()})
		}
		if !known {
			continue
		}
		add := func(to netip.Prefix) {
			p.out.rules.Doors = append(p.out.rules.Doors, capture.Door{
				For: workloadOf(w).String(), To: to, Port: at.Port(), Owner: owner, Also: append([]uint32{0}, p.allow...),
			})
		}
		if everywhere {
			add(netip.MustParsePrefix("127.0.0.1/32"))
			add(netip.MustParsePrefix("::1/128"))
			add(netip.Prefix{})
		} else if !addr.IsUnspecified() {
			add(netip.PrefixFrom(addr, addr.BitLen()))
		}
	}
}

// quietOwner is owner, whose faults were said before.
func (p *capturePlan) quietOwner(w *planpb.Workload) (capture.Owner, bool) {
	n := len(p.out.faults)
	defer func() { p.out.faults = p.out.faults[:n] }()
	return p.owner(w)
}
