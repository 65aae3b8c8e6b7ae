package registry

import (
	"cmp"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
)

// identity tells which endpoints of a service are one. A workload's is known by its key, so that it stays the same
// when its host moves; any other by where it listens.
type identity struct {
	workload    WorkloadKey
	listen      netip.AddrPort
	servicePort uint16
}

func (e *Endpoint) identity() identity {
	if e.Workload != nil {
		return identity{workload: e.Workload.Key(), servicePort: e.ServicePort}
	}
	return e.place()
}

// place is the identity of an endpoint that is no workload's.
func (e *Endpoint) place() identity {
	return identity{listen: netip.AddrPortFrom(e.Address, e.Port), servicePort: e.ServicePort}
}

// joint is one endpoint in the making.
type joint struct {
	Endpoint
	id    identity
	by    string // the set that was heard first; empty until one was
	level uint32 // the lowest of the registries' priorities in a failover; zero outside of one
	times uint32 // the first set's weight
}

// joiner merges the endpoints of one service.
type joiner struct {
	joints []joint             // with room for all: they are pointed at
	byID   map[identity]*joint // nil while there are few
	// places finds workloads' endpoints by where they listen: another registry may know no more of them than
	// that. Several instances on one host share a place.
	places map[identity][]*joint
	owners map[WorkloadKey]owner
	hosts  hosts
	d      *dissent
}

// owner is the set that declares a workload: the first that names it.
type owner struct {
	source string
	*Workload
	told bool // that another set declares it otherwise
}

// mergeEndpoints unites the endpoints, sorted. Those that are equal to one in old, as Merge gave it, keep its pointer.
func mergeEndpoints(parts []part, old []*Endpoint, health HealthMap, at hosts, d *dissent) []*Endpoint {
	most := 0
	for _, p := range parts {
		most += len(p.Endpoints)
	}
	j := &joiner{joints: make([]joint, 0, most), hosts: at, d: d}
	if most > few {
		j.byID = make(map[identity]*joint, most)
	}
	j.declare(parts, old)
	for _, p := range parts {
		for _, e := range p.Endpoints {
			j.hear(p, e)
		}
	}
	out := make([]*Endpoint, 0, len(j.joints))
	_, checked := health[CheckedKey(parts[0].Name)]
	for i := range j.joints {
		t := &j.joints[i]
		if checked && t.Workload == nil {
			w := health[CheckKey(parts[0].Name, &t.Endpoint)]
			t.hearHealth(Word{CheckVoice, "", w.Health, w.Reason})
		}
		if t.Workload != nil && t.Workload.Service == parts[0].Name { // another service's is not called here
			w := health.word(t.Workload.Key())
			t.hearHealth(Word{AgentVoice, "", w.Health, w.Reason})
		}
		t.settle()
		e := t.Endpoint // alone: what it took to make it is not kept
		out = append(out, &e)
	}
	slices.SortFunc(out, (*Endpoint).compare)
	keep(out, old)
	return out
}

// declare decides which set declares each workload, and makes the endpoints that it says the workload has.
func (j *joiner) declare(parts []part, old []*Endpoint) {
	var was map[WorkloadKey]*Workload
	for _, p := range parts {
		for _, e := range p.Endpoints {
			if e.Workload == nil {
				continue
			}
			if was == nil {
				was = workloads(old)
				j.owners, j.places = map[WorkloadKey]owner{}, map[identity][]*joint{}
			}
			j.declareOne(p, e, was)
		}
	}
}

func (j *joiner) declareOne(p part, e *Endpoint, was map[WorkloadKey]*Workload) {
	key := e.Workload.Key()
	o, known := j.owners[key]
	if !known {
		o = owner{source: p.source, Workload: e.Workload}
		if h := j.hosts.right(e.Workload.Host); h != e.Workload.Host {
			o.Workload = new(Workload)
			*o.Workload = *e.Workload
			o.Host = h
		}
		if w := was[key]; w != nil && (w == o.Workload || reflect.DeepEqual(w, o.Workload)) {
			o.Workload = w
		}
		j.owners[key] = o
	}
	if o.source != p.source {
		if !o.told && !o.sameAs(e.Workload) {
			j.d.workloads = append(j.d.workloads, fmt.Sprintf("%s declares workload %s otherwise than %s", p.source, key, o.source))
			o.told = true
			j.owners[key] = o
		}
		return
	}
	id := e.identity()
	if j.find(id) != nil {
		return
	}
	t := j.add(id, Endpoint{Address: e.Address, Port: e.Port, ServicePort: e.ServicePort, Workload: o.Workload})
	if t.Address == e.Workload.Host.Address {
		t.Address = o.Host.Address
	}
	j.places[t.place()] = append(j.places[t.place()], t)
}

// sameAs reports whether two declarations agree, wherever they stand. Where the host is, is another question.
func (o owner) sameAs(w *Workload) bool {
	a, b := *o.Workload, *w
	a.Origin, b.Origin = "", ""
	a.Host.Address, a.Host.MeshPort = b.Host.Address, b.Host.MeshPort
	return reflect.DeepEqual(a, b)
}

// workloads returns the workloads of endpoints.
func workloads(endpoints []*Endpoint) map[WorkloadKey]*Workload {
	m := map[WorkloadKey]*Workload{}
	for _, e := range endpoints {
		if e.Workload != nil {
			m[e.Workload.Key()] = e.Workload
		}
	}
	return m
}

// hear takes in what a set says about one endpoint.
func (j *joiner) hear(p part, e *Endpoint) {
	id := e.identity()
	if t := j.find(id); t != nil {
		t.hear(p, e, j.d)
		return
	}
	if e.Workload != nil { // a port that the set which declares the workload does not give it
		return
	}
	if there := j.places[id]; len(there) > 0 {
		for _, t := range there {
			t.hear(p, e, j.d)
		}
		return
	}
	j.add(id, Endpoint{Address: e.Address, Port: e.Port, ServicePort: e.ServicePort}).hear(p, e, j.d)
}

// few is up to how many endpoints a service is searched without a map.
const few = 8

// find returns the endpoint of an identity, nil if there is none yet.
func (j *joiner) find(id identity) *joint {
	if j.byID != nil {
		return j.byID[id]
	}
	for i := range j.joints {
		if j.joints[i].id == id {
			return &j.joints[i]
		}
	}
	return nil
}

func (j *joiner) add(id identity, e Endpoint) *joint {
	j.joints = append(j.joints, joint{Endpoint: e, id: id})
	t := &j.joints[len(j.joints)-1]
	if j.byID != nil {
		j.byID[id] = t
	}
	return t
}

// hear adds what a set says to what those before it said.
func (t *joint) hear(p part, e *Endpoint, d *dissent) {
	t.Sources = unite(t.Sources, p.sources)
	t.hearHealth(Word{RegistryVoice, p.source, e.Health, e.Reason})
	if t.by == "" {
		t.by, t.level, t.times = p.source, p.level(), p.Weight
		t.Meta, t.Priority, t.Weight, t.Locality = e.Meta, e.Priority, e.Weight, e.Locality
		return
	}
	t.level = min(t.level, p.level())
	disagree := func(about string, first, then any) {
		d.endpoints = append(d.endpoints, fmt.Sprintf("%s of endpoint %s is %v by %s, but %v by %s", about, &t.Endpoint, first, t.by, then, p.source))
	}
	if e.Workload != nil && (t.Address != e.Address || t.Port != e.Port) && placeOf(t.Workload.Host) == placeOf(e.Workload.Host) {
		disagree("the place", &t.Endpoint, e)
	}
	t.hearMeta(e.Meta, disagree)
	if differ(t.Priority, e.Priority) {
		disagree("the priority", t.Priority, e.Priority)
	}
	if differ(t.Weight, e.Weight) {
		disagree("the weight", t.Weight, e.Weight)
	}
	if differ(t.Locality, e.Locality) {
		disagree("the locality", t.Locality, e.Locality)
	}
	t.Priority = cmp.Or(t.Priority, e.Priority)
	t.Weight = cmp.Or(t.Weight, e.Weight)
	t.Locality = cmp.Or(t.Locality, e.Locality)
}

// level is the place of a registry's endpoints among those of all registries.
func (p part) level() uint32 {
	if p.Failover {
		return min(p.Standing.Priority, maxLevel)
	}
	return 0
}

// A registry's own priorities, of 16 bits as in DNS (RFC 2782), lie within its level.
const (
	levelBits = 16
	maxLevel  = 1<<levelBits - 1
)

// SplitPriority says what an endpoint's priority in the catalog is made of: the place of its registry, if that is there for
// failover, and what the registry itself says.
func SplitPriority(p uint32) (failover, own uint32) { return p >> levelBits, p & maxLevel }

// settle brings together what was heard.
func (t *joint) settle() {
	t.Priority = t.level<<levelBits | min(t.Priority, maxLevel)
	if t.times > 1 {
		t.Weight = min(max(t.Weight, 1)*t.times, maxWeight)
	}
	slices.SortFunc(t.Words, func(a, b Word) int { return cmp.Or(cmp.Compare(b.Voice, a.Voice), cmp.Compare(a.Source, b.Source)) })
	t.Health, t.Reason = HealthRule("").Judge(t.Words)
}

// hearMeta adds the labels that are not known yet.
func (t *joint) hearMeta(meta Labels, disagree func(about string, first, then any)) {
	if meta == t.Meta {
		return
	}
	for k, v := range meta.All() {
		if known, ok := t.Meta.Lookup(k); ok && known != v {
			disagree(fmt.Sprintf("meta %q", k), fmt.Sprintf("%q", known), fmt.Sprintf("%q", v))
		}
	}
	t.Meta = t.Meta.Or(meta.Map())
}

// hearHealth keeps a word, if it is one.
func (t *joint) hearHealth(w Word) {
	if w.Health != "" {
		t.Words = append(t.Words, w)
	}
}

// keep puts the pointers in old in place of equal endpoints in now. Both are sorted.
func keep(now, old []*Endpoint) {
	i := 0
	for j, e := range now {
		for i < len(old) && old[i].compare(e) < 0 {
			i++
		}
		if i < len(old) && old[i].equal(e) {
			now[j] = old[i]
		}
	}
}

// equal compares by value, workloads by pointer.
func (e *Endpoint) equal(o *Endpoint) bool {
	return e.Address == o.Address && e.Port == o.Port && e.ServicePort == o.ServicePort && e.Priority == o.Priority &&
		e.Weight == o.Weight && e.Locality == o.Locality && e.Health == o.Health && e.Reason == o.Reason && e.Workload == o.Workload &&
		e.Meta == o.Meta && slices.Equal(e.Sources, o.Sources) && slices.Equal(e.Words, o.Words)
}
