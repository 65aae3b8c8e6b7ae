package mesh

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"

	"github.com/wattle-mesh/wattle/configs"
	"github.com/wattle-mesh/wattle/registry"
)

// Reach is what workloads with capture may call by name: one for all, on all hosts, that declare the same. It has two
// parts that change on their own: Surface with services and their ports, Routes and Open with the policy on them, too.
type Reach struct {
	Key       string // hash of what declares it: the three fields below
	Namespace string // whose services have short names
	Mode      registry.CaptureMode
	Wanted    []Wanted // sorted; patterns as in registry.Capture

	Surface *Surface
	Routes  []*Routes // one for each of Surface.HTTPPorts: where requests go by their Host
	Open    []*Routes // likewise, for what is redirected, if that may go anywhere; requests to other hosts do
}

// Wanted is a service, or pattern of services, that may be called. Port, if set, is there even while nobody knows it.
type Wanted struct {
	registry.Name
	Port uint16
}

// Surface is the services of a reach and how they are told apart. Immutable.
type Surface struct {
	Services  []*Reached // sorted by name
	HTTPPorts []uint16   // on which something speaks HTTP; sorted
	Shared    []uint16   // those of HTTPPorts on which services without an address of their own do; sorted
}

// Reached is one service of a reach.
type Reached struct {
	Service registry.Name
	Ports   []ReachedPort // sorted by number
	Address uint16        // counted from the first of a workload's slice: its own, or sharedAddress
}

// ReachedPort is one port of it.
type ReachedPort struct {
	Number   uint16
	Protocol registry.Protocol
	Missing  bool // no registry knows the service or port
}

// Own reports whether the service has an address of its own in each slice: one of its ports is not told apart by Host.
func (s *Reached) Own() bool { return s.Address != sharedAddress }

// missingPort is the port of a service that nobody knows, if the workload does not say which it calls.
const missingPort = 80

// reachKey is the key of the reach that a workload has, empty without capture.
func reachKey(w *registry.Workload) string {
	if w.Capture == nil {
		return ""
	}
	return (&Reach{Namespace: w.Service.Namespace, Mode: w.Capture.Mode, Wanted: wantedBy(w)}).hash()
}

func (h *Reach) hash() string {
	b := appendText(appendText(nil, h.Namespace), h.Mode)
	for _, p := range h.Wanted {
		b = appendText(appendText(b, p.Namespace), p.Name.Name)
		b = binary.BigEndian.AppendUint16(b, p.Port)
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])[:scopeKeyLength]
}

// wantedBy lists what a workload with capture may call by name: what it says of capture, and its upstreams without bind.
func wantedBy(w *registry.Workload) []Wanted {
	out := make([]Wanted, 0, len(w.Capture.Services)+1)
	for _, n := range w.Capture.Services {
		out = append(out, Wanted{Name: n})
	}
	for _, u := range w.Upstreams {
		if !u.Bound() {
			out = append(out, Wanted{u.Service, u.Port})
		}
	}
	slices.SortFunc(out, compareWanted)
	return slices.Compact(out)
}

func compareWanted(a, b Wanted) int {
	return cmp.Or(a.Name.Compare(b.Name), cmp.Compare(a.Port, b.Port))
}

// pattern reports whether it stands for more than one service.
func (p Wanted) pattern() bool { return p.Name.Name == registry.Any }

// patternsOf lists the patterns that have service n.
func patternsOf(n registry.Name) [3]string {
	return [3]string{n.String(), registry.Name{Namespace: n.Namespace, Name: registry.Any}.String(), registry.Name{Namespace: registry.Any, Name: registry.Any}.String()}
}

// resolveReaches makes the reaches that are new, and those with a service that others see differently now. The work
// grows with these.
func (r *resolver) resolveReaches() {
	touched := map[registry.Name]bool{} // services that came into a reach, left one, or are dirty
	for n, d := range r.dirty {
		if d.surface || d.routes {
			touched[n] = true
		}
	}
	made := map[string]*Reach{}
	for key := range r.rereach {
		members, was := r.reachers.get(key), r.reaches.get(key)
		switch {
		case len(members) == 0 && was != nil:
			for _, p := range was.Wanted {
				r.reachedBy.remove(p.Name.String(), key)
				r.wantedServices(p, func(n registry.Name) { touched[n] = true })
			}
			r.reaches.drop(key)
			r.changed.reaches = append(r.changed.reaches, key)
		case len(members) > 0 && was == nil:
			w := r.workloads.get(members[0]).Workload
			h := &Reach{Key: key, Namespace: w.Service.Namespace, Mode: w.Capture.Mode, Wanted: wantedBy(w), Surface: &Surface{Services: []*Reached{}}}
			for _, p := range h.Wanted {
				r.reachedBy.add(p.Name.String(), key)
				r.wantedServices(p, func(n registry.Name) { touched[n] = true })
			}
			made[key] = h
		}
	}
	r.reachedBy.flush()
	r.allotAddresses(touched)
	dirty := made
	for n := range touched {
		for _, key := range r.reachesOf(n) {
			if dirty[key] == nil {
				dirty[key] = r.reaches.get(key)
			}
		}
	}
	for key, was := range dirty {
		r.putReach(key, was)
	}
}

// wantedServices calls f for each service that p stands for.
func (r *resolver) wantedServices(p Wanted, f func(registry.Name)) {
	switch {
	case !p.pattern():
		f(p.Name)
	case p.Namespace == registry.Any:
		r.services.under("", func(s *Service) { f(s.Name) })
	default:
		r.services.under(p.Namespace+"/", func(s *Service) { f(s.Name) })
	}
}

// reachesOf lists the reaches that have service n, some twice.
func (r *resolver) reachesOf(n registry.Name) []string {
	var out []string
	for _, p := range patternsOf(n) {
		out = append(out, r.reachedBy.get(p)...)
	}
	return out
}

// putReach makes a reach anew; was is what it was, or without services. Parts that are as they were keep their pointers.
func (r *resolver) putReach(key string, was *Reach) {
	now := &Reach{Key: key, Namespace: was.Namespace, Mode: was.Mode, Wanted: was.Wanted}
	now.Surface = r.surface(now, was.Surface)
	now.Routes = r.reachRoutes(now, was.Routes)
	if now.Mode == registry.Transparent && r.pol.Mesh.OutboundTrafficPolicy != configs.RegistryOnly {
		now.Open = openRoutes(now.Routes, was.Open)
	}
	if r.reaches.get(key) == was && was.Surface == now.Surface && slices.Equal(was.Routes, now.Routes) {
		return
	}
	r.reaches.put(key, now)
	r.changed.reaches = append(r.changed.reaches, key)
	if was.Surface != now.Surface {
		for _, member := range r.reachers.get(key) {
			r.rescope[member] = true
		}
	}
}

// surface lists the services of a reach.
func (r *resolver) surface(h *Reach, was *Surface) *Surface {
	seen := map[registry.Name]*Reached{}
	for _, p := range h.Wanted {
		r.wantedServices(p, func(n registry.Name) {
			s := seen[n]
			if s == nil {
				s = r.reached(n)
				seen[n] = s
			}
			if s != nil && !p.pattern() {
				s.want(p.Port)
			}
		})
	}
	out := &Surface{Services: make([]*Reached, 0, len(seen))}
	http, shared := map[uint16]bool{}, map[uint16]bool{}
	for _, s := range seen {
		if s == nil || len(s.Ports) == 0 {
			continue
		}
		out.Services = append(out.Services, s)
		for _, p := range s.Ports {
			http[p.Number] = http[p.Number] || p.Protocol.IsHTTP()
			shared[p.Number] = shared[p.Number] || !s.Own()
		}
	}
	slices.SortFunc(out.Services, func(a, b *Reached) int { return a.Service.Compare(b.Service) })
	out.HTTPPorts, out.Shared = sortedSet(http), sortedSet(shared)
	if slices.EqualFunc(was.Services, out.Services, sameReached) {
		return was
	}
	return out
}

func sortedSet(m map[uint16]bool) []uint16 {
	var out []uint16
	for p, in := range m {
		if in {
			out = append(out, p)
		}
	}
	slices.Sort(out)
	return out
}

func sameReached(a, b *Reached) bool {
	return a.Service == b.Service && a.Address == b.Address && slices.Equal(a.Ports, b.Ports)
}

// reached is how service n is called by name, nil if it has no address left. One that nobody knows has no port yet.
func (r *resolver) reached(n registry.Name) *Reached {
	out := &Reached{Service: n, Address: sharedAddress}
	s := r.services.get(n.String())
	if s == nil {
		return out
	}
	for _, p := range s.Ports {
		out.Ports = append(out.Ports, ReachedPort{Number: p.Number, Protocol: p.Protocol})
	}
	if needsAddress(s) {
		own, ok := r.addresses[n]
		if !ok {
			return nil
		}
		out.Address = own
	}
	return out
}

// want adds a port that nobody knows.
func (s *Reached) want(port uint16) {
	if port == 0 && len(s.Ports) == 0 {
		port = missingPort
	}
	i, known := slices.BinarySearchFunc(s.Ports, port, func(p ReachedPort, n uint16) int { return cmp.Compare(p.Number, n) })
	if port != 0 && !known {
		s.Ports = slices.Insert(s.Ports, i, ReachedPort{Number: port, Protocol: registry.HTTP, Missing: true})
	}
}

// reachRoutes makes the routes of each port on which something speaks HTTP: a virtual host for each service there.
func (r *resolver) reachRoutes(h *Reach, was []*Routes) []*Routes {
	byPort := map[uint16]*Routes{}
	for _, port := range h.Surface.HTTPPorts {
		byPort[port] = &Routes{Name: fmt.Sprintf("reach/%s/%s:%d", h.Namespace, h.Key, port), Others: Refused}
	}
	for _, s := range h.Surface.Services {
		svc := r.services.get(s.Service.String())
		for _, p := range s.Ports {
			if to := byPort[p.Number]; to != nil && p.Protocol.IsHTTP() {
				to.VirtualHosts = append(to.VirtualHosts, r.reachHost(h, s.Service, p, svc))
			}
		}
	}
	out := make([]*Routes, len(h.Surface.HTTPPorts))
	for i, port := range h.Surface.HTTPPorts {
		out[i] = keepRoutes(byPort[port], was)
	}
	return out
}

// reachHost is the virtual host of one service at a port: its own rules, for its names.
func (r *resolver) reachHost(h *Reach, n registry.Name, p ReachedPort, svc *Service) *VirtualHost {
	out := &VirtualHost{Name: portName(n, p.Number), Domains: hostsOf(n, h.Namespace, r.pol.Mesh.Domain)}
	if p.Missing {
		out.Rules = []*Rule{{Destinations: []Destination{{ClusterRef: ClusterRef{Service: n, Port: p.Number}, Weight: 1, Missing: true}}}}
		return out
	}
	for _, vh := range svc.port(p.Number).Routes.VirtualHosts { // one
		out.Rules, out.Origin = vh.Rules, vh.Origin
	}
	return out
}

// hostsOf lists how requests of a namespace name service n in Host. A domain that is a namespace's name, too, is the domain.
func hostsOf(n registry.Name, namespace, domain string) []string {
	full := n.Name + "." + n.Namespace
	out := []string{full + "." + domain}
	if n.Namespace != domain {
		out = append(out, full)
	}
	if n.Namespace == namespace {
		out = append(out, n.Name+"."+domain, n.Name)
	}
	return out
}

// keepRoutes returns the routes of that name before, if they are the same.
func keepRoutes(now *Routes, was []*Routes) *Routes {
	for _, old := range was {
		if old.Name == now.Name && slices.EqualFunc(old.VirtualHosts, now.VirtualHosts, func(a, b *VirtualHost) bool {
			return a.Name == b.Name && a.Origin == b.Origin && slices.EqualFunc(a.Rules, b.Rules, sameRule)
		}) {
			return old
		}
	}
	return now
}

// sameRule reports whether two rules of reaches are the same: those of services keep their pointers.
func sameRule(a, b *Rule) bool {
	return a == b || a.HTTPRoute == nil && b.HTTPRoute == nil && a.Origin == b.Origin && slices.Equal(a.Destinations, b.Destinations)
}

// openRoutes are routes by which requests to hosts that they do not name go where they were sent.
func openRoutes(closed, was []*Routes) []*Routes {
	out := make([]*Routes, len(closed))
	for i, c := range closed {
		out[i] = keepRoutes(&Routes{Name: c.Name + "/any", VirtualHosts: c.VirtualHosts, Others: Passed}, was)
	}
	return out
}

// sliceOf is the n-th slice of the addresses for capture.
func sliceOf(n uint16) netip.Prefix {
	at := uint32(captureBase) + uint32(n)<<sliceBits
	return netip.PrefixFrom(netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, at))), 32-sliceBits)
}

// In is the address of the service in a slice.
func (s *Reached) In(slice netip.Prefix) netip.Addr { return addressIn(slice, s.Address) }

// SharedIn is the address in a slice at which services are told apart by Host.
func SharedIn(slice netip.Prefix) netip.Addr { return addressIn(slice, sharedAddress) }

func addressIn(slice netip.Prefix, offset uint16) netip.Addr {
	base := slice.Addr().As4()
	return netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, binary.BigEndian.Uint32(base[:])+uint32(offset))))
}
