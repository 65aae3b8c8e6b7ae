package mesh

import (
	"fmt"
	"maps"
	"slices"

	"github.com/wattle-mesh/wattle/configs"
	"github.com/wattle-mesh/wattle/registry"
)

const maxPort = 65535

// Allotment gives each workload the seats that it keeps for as long as it is registered. The pipeline stores it, so
// that a restarted server gives the same ones.
type Allotment map[registry.WorkloadKey]Seats

// Seats is where a workload is served. It usually has one seat. When it is to be served by another proxy it has two
// until it has moved: callers go to the new seat when its proxy is ready, and the old one stays until they have.
type Seats struct {
	Proxy    string // the name on the host of the proxy that callers are sent to: "host", or the workload's own
	MeshPort uint16 // where that listens for it; zero: no port was left, and it has no seat
	Other    Seat   // the zero Seat: it does not move
}

// Seat is a mesh port of one proxy.
type Seat struct {
	Proxy   string `json:"proxy"`
	Port    uint16 `json:"port"`
	Leaving bool   `json:"leaving,omitempty"` // callers were sent here before; else they are to be sent here
}

// Moving reports whether the workload is on its way from one proxy to another.
func (s Seats) Moving() bool { return s.Other.Port != 0 }

// PortAt returns the mesh port that a proxy has for the workload; zero: it does not serve it.
func (s Seats) PortAt(proxy string) uint16 {
	switch {
	case s.MeshPort != 0 && s.Proxy == proxy:
		return s.MeshPort
	case s.Moving() && s.Other.Proxy == proxy:
		return s.Other.Port
	}
	return 0
}

// callsBy reports whether the workload's own calls go through a proxy. While it moves, they do through both as long as
// nobody knows which its connections find.
func (s Seats) callsBy(proxy string) bool {
	return s.MeshPort != 0 && s.Proxy == proxy || s.Moving() && s.Other.Leaving && s.Other.Proxy == proxy
}

// next is the next step of a move: callers are sent to the other seat, or the one that they left goes.
func (s Seats) next() Seats {
	if s.Moving() && !s.Other.Leaving {
		return Seats{Proxy: s.Other.Proxy, MeshPort: s.Other.Port, Other: Seat{Proxy: s.Proxy, Port: s.MeshPort, Leaving: true}}
	}
	s.Other = Seat{}
	return s
}

// Advance returns the view that Resolve is to be given for these workloads to take the next step of their moves.
func (v *View) Advance(done []registry.WorkloadKey) *View {
	if len(done) == 0 {
		return v
	}
	out := *v
	out.Ports, out.advanced = maps.Clone(v.Ports), slices.Concat(v.advanced, done)
	for _, k := range done {
		if s, ok := out.Ports[k]; ok {
			out.Ports[k] = s.next()
		}
	}
	return &out
}

// Moves lists the workloads that are on their way from one proxy to another, sorted by key.
func (v *View) Moves() []registry.WorkloadKey {
	var out []registry.WorkloadKey
	for k, s := range v.Ports {
		if s.Moving() {
			out = append(out, k)
		}
	}
	slices.SortFunc(out, registry.WorkloadKey.Compare)
	return out
}

// allot gives each workload of a host its seats: those it had, else a free port. One that was another's just now comes
// last: callers may have requests under way to who had it.
func (r *resolver) allot(host string) {
	a := &allotter{r: r, host: host, sidecars: map[uint16]bool{}, shared: map[uint16]map[registry.Name]bool{}}
	keys := r.onHost.get(host)
	all := make([]*Workload, len(keys))
	seats := make([]Seats, len(keys))
	for i, key := range keys {
		all[i] = r.workloads.get(key)
		seats[i] = a.keep(all[i])
	}
	for i, w := range all {
		var left *note
		if seats[i], left = a.place(w, seats[i]); left != nil {
			r.note("ports "+w.Key().String(), []note{*left})
		} else {
			r.note("ports "+w.Key().String(), nil)
		}
		r.setSeats(w, seats[i])
	}
}

// allotter gives out the mesh ports of one host. The workloads of the host's own proxy share its ports, but for instances of
// one service; a sidecar has its port alone, and never the first one.
type allotter struct {
	r        *resolver
	host     string
	sidecars map[uint16]bool
	shared   map[uint16]map[registry.Name]bool
}

// free reports whether a proxy may have a port for a workload.
func (a *allotter) free(w *Workload, proxy string, port uint16) bool {
	n := int(port) - basePort(w)
	switch {
	case port == 0 || n < 0 || n >= configs.MeshPorts || a.sidecars[port]:
		return false
	case proxy == hostProxy:
		return !a.shared[port][w.Service]
	}
	return n > 0 && len(a.shared[port]) == 0
}

func (a *allotter) take(w *Workload, proxy string, port uint16) {
	switch {
	case proxy != hostProxy:
		a.sidecars[port] = true
	case a.shared[port] == nil:
		a.shared[port] = map[registry.Name]bool{w.Service: true}
	default:
		a.shared[port][w.Service] = true
	}
}

// keep takes the seats that a workload had, as far as it may still have them, and turns a move whose goal is another one
// now. What it has no use for is free for others.
func (a *allotter) keep(w *Workload) Seats {
	had, goal := a.r.old.Ports[w.Key()], proxyOf(w.Workload)
	may := func(proxy string, port uint16) bool {
		return (proxy == hostProxy || proxy == sidecarName(w.Workload)) && a.free(w, proxy, port)
	}
	var out Seats
	if may(had.Proxy, had.MeshPort) {
		out.Proxy, out.MeshPort = had.Proxy, had.MeshPort
		a.take(w, had.Proxy, had.MeshPort)
	}
	o := had.Other
	switch {
	case !may(o.Proxy, o.Port), o.Proxy == out.Proxy:
	case out.MeshPort == 0:
		out.Proxy, out.MeshPort = o.Proxy, o.Port
		a.take(w, o.Proxy, o.Port)
	case o.Proxy == goal || o.Leaving:
		out.Other = Seat{Proxy: o.Proxy, Port: o.Port, Leaving: out.Proxy == goal}
		a.take(w, o.Proxy, o.Port)
	}
	return out
}

// place gives a workload the seat that it lacks; if no port is left, it says so.
func (a *allotter) place(w *Workload, s Seats) (Seats, *note) {
	goal := proxyOf(w.Workload)
	if s.PortAt(goal) != 0 {
		return s, nil
	}
	port, ok := a.find(w, goal)
	switch {
	case !ok:
		n := noMeshPort(w, s)
		return s, &n
	case s.MeshPort == 0:
		s.Proxy, s.MeshPort = goal, port
	default:
		s.Other = Seat{Proxy: goal, Port: port}
	}
	a.take(w, goal, port)
	return s, nil
}

// find returns a free port: the lowest that nobody had just now whose requests could meet the workload's, else the lowest.
func (a *allotter) find(w *Workload, proxy string) (port uint16, ok bool) {
	for n := range configs.MeshPorts {
		p := basePort(w) + n
		if p > maxPort || !a.free(w, proxy, uint16(p)) {
			continue
		}
		if !a.r.left(w, proxy, uint16(p)) {
			return uint16(p), true
		}
		if !ok {
			port, ok = uint16(p), true
		}
	}
	return port, ok
}

// left reports whether before this run a port was another's whom callers may still look for there.
func (r *resolver) left(w *Workload, proxy string, port uint16) bool {
	if r.had == nil {
		r.had = map[string][]formerSeat{}
		for k, s := range r.old.Ports {
			r.had[k.Host] = append(r.had[k.Host], formerSeat{k.Service, s.Proxy, s.MeshPort})
			if s.Moving() {
				r.had[k.Host] = append(r.had[k.Host], formerSeat{k.Service, s.Other.Proxy, s.Other.Port})
			}
		}
	}
	return slices.ContainsFunc(r.had[w.Host.Name], func(f formerSeat) bool {
		return f.port == port && (f.service == w.Service || f.proxy != hostProxy || proxy != hostProxy)
	})
}

// formerSeat is a seat before this run.
type formerSeat struct {
	service registry.Name
	proxy   string
	port    uint16
}

func basePort(w *Workload) int {
	if w.Host.MeshPort == 0 {
		return configs.FirstMeshPort
	}
	return int(w.Host.MeshPort)
}

// setSeats writes a workload's seats. Who calls it elsewhere now learns of it.
func (r *resolver) setSeats(w *Workload, s Seats) {
	if w.Seats != s {
		if w.MeshPort != s.MeshPort {
			r.mark(w.Service).endpoints = true
			r.touchAddresses(w.Workload)
		}
		r.own(w.Key().String()).Seats = s
	}
	switch old, had := r.ports[w.Key()]; {
	case had && old == s, !had && s.MeshPort == 0:
	case s.MeshPort == 0:
		delete(r.writablePorts(), w.Key())
	default:
		r.writablePorts()[w.Key()] = s
	}
}

func (r *resolver) writablePorts() Allotment {
	if !r.portsCopied {
		r.ports, r.portsCopied = maps.Clone(r.ports), true
		if r.ports == nil {
			r.ports = Allotment{}
		}
	}
	return r.ports
}

func noMeshPort(w *Workload, s Seats) note {
	what := "This instance is left out"
	if s.MeshPort != 0 {
		what = fmt.Sprintf("It stays with the proxy %s", s.Proxy)
	}
	return warn(codeNoMeshPort, w.Origin,
		fmt.Sprintf("no mesh port is left on host %s for %s", w.Host.Name, w.Key()),
		fmt.Sprintf("A host has %d mesh ports, from %d on, and each instance of one service on it needs one of its own, and each sidecar. %s; remove others, or place it on another host.", configs.MeshPorts, basePort(w), what)).at("service", "", "")
}
