package nomad

import (
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/wattle-mesh/wattle/registry"
)

// The states of Nomad that count.
const (
	desiredRun      = "run"
	clientPending   = "pending"
	clientRunning   = "running"
	clientComplete  = "complete"
	clientFailed    = "failed"
	nodeReady       = "ready"
	nodeInitialises = "initializing"
)

// The labels that tell where an instance comes from.
const (
	labelAlloc      = "nomad.alloc"
	labelJob        = "nomad.job"
	labelVersion    = "nomad.job_version"
	labelGroup      = "nomad.group"
	labelTask       = "nomad.task" // of services of a task
	labelNode       = "nomad.node"
	labelNodePool   = "nomad.node_pool"
	labelDatacenter = "nomad.datacenter"
	labelDeployment = "nomad.deployment" // "healthy", "unhealthy"
	labelCanary     = "nomad.canary"     // "true"
	labelTag        = "tag."             // before a tag; its value is "true"
	labelNodeMeta   = "node."            // before the key of a node's metadata
)

// deadGrace is how long a registration may outlive its allocation until that is told: a moment is usual.
const deadGrace = 15 * time.Second

// join makes a service of its registrations; nil if there is none. t.mu is held.
func (t *table) join(n registry.Name, f *found) (*registry.Service, []registry.Diagnostic) {
	if len(f.registrations) == 0 {
		return nil, nil
	}
	s := &registry.Service{Name: n, Origin: t.origin(n)}
	var listeners []registry.Listener
	var claims []registry.Claim
	var placeless, portless []string
	var waiting []*registry.Endpoint // for the word of a deployment
	served := false                  // something else is healthy
	for _, r := range f.registrations {
		e, undecided, ok := t.endpoint(r)
		if !ok {
			continue
		}
		address, port := t.place(r)
		at, err := netip.ParseAddr(address)
		switch {
		case err != nil:
			placeless = append(placeless, fmt.Sprintf("%q (%s)", address, r.ID))
		case port < 1 || port > 65535:
			portless = append(portless, r.ID)
		default:
			e.Address, e.Port = at.Unmap(), uint16(port)
			if undecided {
				waiting = append(waiting, e)
			}
			served = served || e.Health == registry.Healthy
			claims = append(claims, registry.Claim{Endpoint: e, By: "the instance of allocation " + r.AllocID, Index: r.CreateIndex})
			listeners = append(listeners, registry.Listener{Port: uint16(port), Index: r.CreateIndex})
		}
	}
	faults := t.faults(s, f, placeless, portless)
	if len(claims) == 0 {
		return nil, faults
	}
	if !served { // what runs, and may be ready, is better than nothing
		for _, e := range waiting {
			e.Health, e.Reason = registry.Healthy, "nothing else is healthy; "+notDecided
		}
	}
	port, agreed := t.config.servicePort(n.Name, listeners)
	for _, c := range claims {
		c.ServicePort = port
	}
	s.Ports = []registry.Port{{Number: port}}
	endpoints, doubles := registry.Settle(n, claims)
	s.Endpoints = endpoints
	for _, d := range doubles {
		d.Origin = s.Origin
		faults = append(faults, d)
	}
	if !agreed {
		faults = append(faults, registry.Diagnostic{Severity: registry.Warning, Code: registry.PortsDiffer, Origin: s.Origin,
			Summary: fmt.Sprintf("the instances of service %s listen on different ports; callers name the one that most have, %d", n.Name, port),
			Detail:  fmt.Sprintf("Say which port callers name: service_ports = { %q = %d }.", n.Name, port)})
	}
	return s, faults
}

// faults says what is wrong with the registrations of a service.
func (t *table) faults(s *registry.Service, f *found, placeless, portless []string) []registry.Diagnostic {
	var faults []registry.Diagnostic
	leftOut := func(instances []string, why, remedy string) {
		if len(instances) > 0 {
			faults = append(faults, registry.Diagnostic{Severity: registry.Error, Code: registry.BadEndpoint, Origin: s.Origin, Detail: remedy,
				Summary: fmt.Sprintf("service %s: instances %s are left out: %s", s.Name.Name, some(instances), why)})
		}
	}
	leftOut(placeless, "their address is no IP address", "Names are not resolved here. Let the job register an IP address (service.address, address_mode).")
	leftOut(portless, "they have no port", "Give the service block a port.")
	if len(f.dropped) > 0 {
		var ids []string
		for _, r := range f.registrations {
			if f.dropped[r.ID] {
				ids = append(ids, r.ID)
			}
		}
		faults = append(faults, registry.Diagnostic{Severity: registry.Warning, Code: registry.RegistrationDropped, Origin: s.Origin,
			Summary: fmt.Sprintf("Nomad no longer lists instances %s of service %s, though their allocations run", some(ids), s.Name.Name),
			Detail:  "They are used as before until Nomad lists them again, or the allocation or its job says otherwise. If they were deregistered on purpose, stop the allocation, or set keep_dropped = false."})
	}
	return faults
}

// some names the first of many.
func some(names []string) string {
	more := ""
	if n := len(names) - 3; n > 0 {
		names, more = names[:3], fmt.Sprintf(" and %d more", n)
	}
	return strings.ToValidUTF8(strings.Join(names, ", "), "\uFFFD") + more
}

// origin is where a person can look at a service.
func (t *table) origin(n registry.Name) string {
	return fmt.Sprintf("%s/v1/service/%s?namespace=%s", t.config.address, n.Name, n.Namespace)
}

// servicePort returns the port that callers name: the configured one, or what the instances come to. One that Nomad picks for
// each instance is no name: it counts as 80.
func (c *config) servicePort(service string, all []registry.Listener) (n uint16, agreed bool) {
	if n, ok := c.ports[service]; ok {
		return n, true
	}
	for i, l := range all {
		if l.Port >= lowestDynamic && l.Port <= highestDynamic {
			all[i].Port = defaultPort
		}
	}
	return registry.NamedPort(all)
}

// place returns where an instance is called: as it is registered, or at its node.
func (t *table) place(r *registration) (string, int) {
	a := t.allocs[r.AllocID]
	if !t.config.fromHost || a == nil || a.AllocatedResources == nil {
		return r.Address, r.Port
	}
	for _, p := range a.AllocatedResources.Shared.Ports {
		if p.To == r.Port || p.Value == r.Port {
			if p.HostIP != "" && p.HostIP != "0.0.0.0" && p.HostIP != "::" {
				return p.HostIP, p.Value
			}
			if n := t.nodes[r.NodeID]; n != nil {
				return n.Address, p.Value
			}
		}
	}
	return r.Address, r.Port
}

// endpoint makes an instance's endpoint without its place, and says whether nothing but its deployment keeps it from being
// healthy; ok is false if the instance has ended.
func (t *table) endpoint(r *registration) (e *registry.Endpoint, undecided, ok bool) {
	a, n := t.allocs[r.AllocID], t.nodes[r.NodeID]
	if over(a) {
		if _, known := t.dead[r.ID]; !known {
			t.dead[r.ID] = t.now()
		}
		return nil, false, false
	}
	delete(t.dead, r.ID)
	health, reason := healthOf(a, n)
	if health == "" {
		return nil, false, false
	}
	if health == registry.Healthy && t.undecided(a) {
		health, reason, undecided = registry.Unhealthy, notDecided, true
	}
	return &registry.Endpoint{
		Health: health, Reason: reason, Meta: registry.LabelsOf(t.labels(r, a, n)), Locality: registry.Locality{Region: r.Datacenter},
	}, undecided, true
}

const notDecided = "its deployment has not decided yet"

// over reports whether an allocation, which may be nil, has ended.
func over(a *alloc) bool {
	return a == nil || a.ClientStatus == clientComplete || a.ClientStatus == clientFailed
}

// healthOf says what the states of an instance's allocation, which has not ended, and of its node, which may be nil, come
// to; nothing if it does not run yet: a group's service is registered before.
func healthOf(a *alloc, n *node) (h registry.Health, reason string) {
	switch {
	case a.ClientStatus == clientPending:
		return "", ""
	case a.ClientStatus != clientRunning: // lost, unknown
		return registry.Unhealthy, "its allocation is " + a.ClientStatus
	case n == nil:
		return registry.Unhealthy, "its node is not known"
	case n.Status != nodeReady && n.Status != nodeInitialises:
		return registry.Unhealthy, "its node is " + n.Status
	case a.DesiredStatus != desiredRun:
		return registry.Draining, "its allocation is to " + a.DesiredStatus
	case a.DeploymentStatus != nil && a.DeploymentStatus.Healthy != nil && !*a.DeploymentStatus.Healthy:
		return registry.Unhealthy, "its deployment finds it unhealthy"
	}
	return registry.Healthy, ""
}

// labels are an instance's tags, the chosen metadata of its node, and where it comes from.
func (t *table) labels(r *registration, a *alloc, n *node) map[string]string {
	m := make(map[string]string, len(r.Tags)+len(t.config.nodeMeta)+9)
	for _, tag := range r.Tags {
		if k, v, ok := strings.Cut(tag, "="); ok && k != "" {
			if !registry.Given(k, "nomad") {
				m[k] = v
			}
		} else if tag != "" {
			m[labelTag+tag] = "true"
		}
	}
	if n != nil {
		for _, k := range t.config.nodeMeta {
			if v, ok := n.Meta[k]; ok {
				m[labelNodeMeta+k] = v
			}
		}
		m[labelNodePool] = n.NodePool
	}
	m[labelAlloc], m[labelJob], m[labelGroup], m[labelNode], m[labelDatacenter] = r.AllocID, r.JobID, a.TaskGroup, a.NodeName, r.Datacenter
	m[labelVersion] = fmt.Sprint(a.JobVersion)
	if task := taskOf(r); task != "" {
		m[labelTask] = task
	}
	if d := a.DeploymentStatus; d != nil {
		if d.Healthy != nil {
			m[labelDeployment] = map[bool]string{true: "healthy", false: "unhealthy"}[*d.Healthy]
		}
		if d.Canary {
			m[labelCanary] = "true"
		}
	}
	return m
}

// taskOf returns the task whose service a registration is, empty for those of a group. Its ID is
// "_nomad-task-ALLOC-TASK-SERVICE-PORT", with "group-GROUP" for a group.
func taskOf(r *registration) string {
	rest, ok := strings.CutPrefix(r.ID, "_nomad-task-"+r.AllocID+"-")
	if !ok || strings.HasPrefix(rest, "group-") {
		return ""
	}
	task, _, ok := strings.Cut(rest, "-"+r.ServiceName+"-")
	if !ok {
		return ""
	}
	return task
}
