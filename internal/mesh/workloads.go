package mesh

import (
	"fmt"
	"maps"
	"slices"

	"github.com/wattle-mesh/wattle/registry"
)

// The mesh ports of a host: defaultMeshPort if the host says none, and how many there are.
const (
	defaultMeshPort = 7443
	meshPorts       = 32
)

// workloadChanged keeps the indexes of workloads true.
func (r *resolver) workloadChanged(was, now *registry.Workload) {
	if was != nil && now != nil && sameWorkload(was, now) {
		return
	}
	if was != nil {
		key := was.Key().String()
		r.hosts[was.Host.Name] = true
		r.onHost.remove(was.Host.Name, key)
		r.atAddress.remove(was.Host.Address.String(), key)
		for _, u := range was.Upstreams {
			r.callers.remove(u.Service.String(), key)
		}
		r.touchAddress(was.Host)
		r.groups[groupOf(was)] = true
	}
	if now != nil {
		key := now.Key().String()
		r.hosts[now.Host.Name] = true
		r.onHost.add(now.Host.Name, key)
		r.atAddress.add(now.Host.Address.String(), key)
		for _, u := range now.Upstreams {
			r.callers.add(u.Service.String(), key)
		}
		r.touchAddress(now.Host)
		r.groups[groupOf(now)] = true
	}
	r.replaceWorkload(was, now)
}

// replaceWorkload writes the workload itself. It keeps its mesh port and scope until these are looked at.
func (r *resolver) replaceWorkload(was, now *registry.Workload) {
	if now == nil {
		key := was.Key().String()
		r.leaveScope(key, r.workloads.get(key))
		r.workloads.drop(key)
		delete(r.writablePorts(), was.Key())
		return
	}
	w := r.own(now.Key().String())
	w.Workload = now
	w.Identity = r.identity(now.Service)
	r.rescope[now.Key().String()] = true
}

// own returns the workload to be written to: a copy of the old view's, made once.
func (r *resolver) own(key string) *Workload {
	if w := r.copied[key]; w != nil {
		return w
	}
	w := &Workload{}
	if was := r.workloads.get(key); was != nil {
		*w = *was
		r.hosts[was.Host.Name] = true
	}
	r.copied[key] = w
	r.workloads.put(key, w)
	return w
}

func sameWorkload(a, b *registry.Workload) bool {
	return a.Host == b.Host && a.Service == b.Service && a.Instance == b.Instance && a.Unit == b.Unit && a.Origin == b.Origin &&
		slices.Equal(a.Ports, b.Ports) && slices.Equal(a.Upstreams, b.Upstreams) && slices.Equal(a.Checks, b.Checks)
}

// touchAddress has those services looked at that have endpoints at a host's address without being workloads there.
func (r *resolver) touchAddress(h registry.Host) {
	for _, n := range r.outside.get(h.Address.String()) {
		r.mark(n).endpoints = true
	}
}

// groupOf identifies the instances of one service on one host: only these need different mesh ports.
func groupOf(w *registry.Workload) registry.WorkloadKey {
	return registry.WorkloadKey{Host: w.Host.Name, Service: w.Service}
}

// placeWorkloads allots the mesh ports of the groups that changed.
func (r *resolver) placeWorkloads() {
	r.onHost.flush()
	r.atAddress.flush()
	r.callers.flush()
	for g := range r.groups {
		r.allot(g)
	}
}

// allot gives each instance of a group a mesh port of its host: the one it had, else the lowest free one. One that was
// another's just now comes last: callers may have requests under way to who had it.
func (r *resolver) allot(g registry.WorkloadKey) {
	var all []*Workload
	r.workloads.under(g.String(), func(w *Workload) {
		if groupOf(w.Workload) == g {
			all = append(all, w)
		}
	})
	slices.SortFunc(all, func(a, b *Workload) int { return compareWorkloads(a.Workload, b.Workload) })
	var taken [meshPorts]bool
	keeps := make([]bool, len(all))
	for i, w := range all {
		n := int(r.old.Ports[w.Key()]) - basePort(w)
		if n >= 0 && n < meshPorts && !taken[n] {
			taken[n], keeps[i] = true, true
		}
	}
	var order []int
	if slices.Contains(keeps, false) {
		order = r.free(g, basePort(all[0]), taken)
	}
	var notes []note
	for i, w := range all {
		if keeps[i] {
			r.setPort(w, r.old.Ports[w.Key()])
			continue
		}
		if len(order) == 0 {
			r.setPort(w, 0)
			notes = append(notes, noMeshPort(w))
			continue
		}
		r.setPort(w, uint16(basePort(w)+order[0]))
		order = order[1:]
	}
	r.note("ports "+g.String(), notes)
}

// free lists what may be allotted in a group, counted from the host's first mesh port, in the order in which it is.
func (r *resolver) free(g registry.WorkloadKey, base int, taken [meshPorts]bool) []int {
	if r.had == nil {
		r.had = map[registry.WorkloadKey][]uint16{}
		for k, port := range r.old.Ports {
			k.Instance = ""
			r.had[k] = append(r.had[k], port)
		}
	}
	var left [meshPorts]bool
	for _, port := range r.had[g] {
		if n := int(port) - base; n >= 0 && n < meshPorts {
			left[n] = true
		}
	}
	var now, last []int
	for n := range meshPorts {
		switch {
		case taken[n] || base+n > maxPort:
		case left[n]:
			last = append(last, n)
		default:
			now = append(now, n)
		}
	}
	return append(now, last...)
}

const maxPort = 65535

func basePort(w *Workload) int {
	if w.Host.MeshPort == 0 {
		return defaultMeshPort
	}
	return int(w.Host.MeshPort)
}

// setPort writes a workload's mesh port, zero for none. Its service is dirty already: a group changes only with it.
func (r *resolver) setPort(w *Workload, port uint16) {
	if w.MeshPort != port {
		r.own(w.Key().String()).MeshPort = port
	}
	if r.ports[w.Key()] == port {
		return
	}
	if port == 0 {
		delete(r.writablePorts(), w.Key())
		return
	}
	r.writablePorts()[w.Key()] = port
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

func noMeshPort(w *Workload) note {
	return warn(codeNoMeshPort, w.Origin,
		fmt.Sprintf("no mesh port is left on host %s for %s", w.Host.Name, w.Key()),
		fmt.Sprintf("A host has %d mesh ports, from %d on, and each instance of one service on it needs one of its own. This instance is left out; remove others, or place it on another host.", meshPorts, basePort(w))).at("service", "", "")
}
