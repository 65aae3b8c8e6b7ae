package registry

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	iradix "github.com/hashicorp/go-immutable-radix/v2"
)

// claim is what one set says, with a workload of one service, of where a host is. Comparable.
type claim struct {
	rank    int // of the set
	service Name
	source  string
	place
	origin string
}

// place is where a host is reached.
type place struct {
	address  netip.Addr
	meshPort uint16
}

func placeOf(h Host) place { return place{h.Address, h.MeshPort} }

// compare puts the claim that holds first.
func (c claim) compare(o claim) int {
	if r := cmp.Or(cmp.Compare(c.rank, o.rank), c.service.Compare(o.service), c.address.Compare(o.address), cmp.Compare(c.meshPort, o.meshPort)); r != 0 {
		return r
	}
	return cmp.Compare(c.origin, o.origin)
}

// hostsOf calls add with every host that the sets place by a workload of a service.
func hostsOf(name Name, sets []Set, add func(host string, c claim)) {
	for rank, set := range sets {
		s := set.find(name)
		if s == nil {
			continue
		}
		for _, e := range s.Endpoints {
			if w := e.Workload; w != nil {
				add(w.Host.Name, claim{rank, name, set.Name, placeOf(w.Host), cmp.Or(w.Origin, s.Origin)})
			}
		}
	}
}

// hosts finds where each host is: all claims on it, sorted, without repeats.
type hosts struct {
	*iradix.Txn[[]claim]
}

// move takes in that services changed between two lists of sets, and returns the other services with workloads on hosts
// that are elsewhere now. Sets of another standing are moved from nothing.
func (h hosts) move(changed []Name, old, now []Set) []Name {
	type edit struct{ gone, come []claim }
	edits := map[string]*edit{}
	at := func(host string) *edit {
		if edits[host] == nil {
			edits[host] = &edit{}
		}
		return edits[host]
	}
	for _, n := range changed {
		hostsOf(n, old, func(host string, c claim) { at(host).gone = append(at(host).gone, c) })
		hostsOf(n, now, func(host string, c claim) { at(host).come = append(at(host).come, c) })
	}
	var more []Name
	for host, e := range edits {
		was, _ := h.Get([]byte(host))
		gone := make(map[claim]bool, len(e.gone))
		for _, c := range e.gone {
			gone[c] = true
		}
		next := append(slices.DeleteFunc(slices.Clone(was), func(c claim) bool { return gone[c] }), e.come...)
		slices.SortFunc(next, claim.compare)
		next = slices.Clip(slices.Compact(next))
		if slices.Equal(was, next) {
			continue
		}
		if len(next) == 0 {
			h.Delete([]byte(host))
		} else {
			h.Insert([]byte(host), next)
		}
		if len(was) > 0 && len(next) > 0 && was[0].place != next[0].place {
			for _, c := range next {
				more = append(more, c.service)
			}
		}
	}
	return more
}

// right returns a host as the set says that has the word on it. The host's own locality stays.
func (h hosts) right(host Host) Host {
	if all, ok := h.Get([]byte(host.Name)); ok {
		host.Address, host.MeshPort = all[0].address, all[0].meshPort
	}
	return host
}

// hostDisputes lists the hosts that sets place differently, in the order of their names.
func hostDisputes(t *iradix.Tree[[]claim]) []Diagnostic {
	var out []Diagnostic
	it := t.Root().Iterator()
	for host, all, ok := it.Next(); ok; host, all, ok = it.Next() {
		first := all[0]
		i := slices.IndexFunc(all, func(c claim) bool { return c.place != first.place })
		if i < 0 {
			continue
		}
		out = append(out, Diagnostic{Severity: Warning, Code: hostConflict, Origin: all[i].origin,
			Summary: fmt.Sprintf("registries disagree about host %s: it is at %s by %s, but at %s by %s", host, first.place, first.source, all[i].place, all[i].source),
			Detail:  fmt.Sprintf("The word of %s holds for all workloads of the host. Declare the host in one place, or give one of them another name.", first.source)})
	}
	return out
}

func (p place) String() string {
	if p.meshPort == 0 {
		return p.address.String()
	}
	return fmt.Sprintf("%s with the mesh port %d", p.address, p.meshPort)
}
