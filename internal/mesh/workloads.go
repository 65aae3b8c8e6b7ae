package mesh

import (
	"slices"

	"github.com/wattle-mesh/wattle/registry"
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
		for _, a := range addressesOf(was) {
			r.atAddress.remove(a.String(), key)
		}
		for _, n := range calledBy(was) {
			r.callers.remove(n.String(), key)
		}
		r.touchAddresses(was)
		r.seated[was.Host.Name] = true
		r.captureEnds(was)
	}
	if now != nil {
		key := now.Key().String()
		r.hosts[now.Host.Name] = true
		r.onHost.add(now.Host.Name, key)
		for _, a := range addressesOf(now) {
			r.atAddress.add(a.String(), key)
		}
		for _, n := range calledBy(now) {
			r.callers.add(n.String(), key)
		}
		r.touchAddresses(now)
		r.seated[now.Host.Name] = true
		r.captureBegins(now)
	}
	r.replaceWorkload(was, now)
}

// calledBy lists the services that a workload says it calls, but for those that a pattern stands for.
func calledBy(w *registry.Workload) []registry.Name {
	var out []registry.Name
	for _, u := range w.Upstreams {
		out = append(out, u.Service)
	}
	if w.Capture != nil {
		for _, n := range w.Capture.Services {
			if n.Name != registry.Any {
				out = append(out, n)
			}
		}
	}
	return out
}

// replaceWorkload writes the workload itself. It keeps its mesh port and scope until these are looked at.
func (r *resolver) replaceWorkload(was, now *registry.Workload) {
	if now == nil {
		key := was.Key().String()
		r.leaveScope(key, r.workloads.get(key))
		r.workloads.drop(key)
		r.note("ports "+key, nil)
		delete(r.writablePorts(), was.Key())
		r.setSlice(was.Key(), 0, false)
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
	return a.Host == b.Host && a.Service == b.Service && a.Instance == b.Instance && a.Unit == b.Unit && a.Origin == b.Origin && a.Sidecar == b.Sidecar && a.Isolate == b.Isolate &&
		slices.Equal(a.Ports, b.Ports) && slices.Equal(a.Upstreams, b.Upstreams) && slices.Equal(a.Checks, b.Checks) && a.Capture.Equal(b.Capture)
}

// touchAddresses has those services looked at that have endpoints where a workload can be reached without being workloads there.
func (r *resolver) touchAddresses(w *registry.Workload) {
	for _, a := range addressesOf(w) {
		for _, n := range r.outside.get(a.String()) {
			r.mark(n).endpoints = true
		}
	}
}

// placeWorkloads allots the mesh ports of the hosts on which something changed.
func (r *resolver) placeWorkloads() {
	r.onHost.flush()
	r.atAddress.flush()
	r.callers.flush()
	for host := range r.seated {
		r.allot(host)
	}
}
