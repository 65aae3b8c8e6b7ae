package registry

import (
	"cmp"
	"fmt"
	"slices"
)

// maxDoubles bounds how many double registrations of one service are told.
const maxDoubles = 10

// Claim is what one registration says of an endpoint.
type Claim struct {
	*Endpoint
	By    string // what a person calls the registration
	Index uint64 // when it was made, in the registry's own count
}

// Settle returns the endpoints of a service, sorted by place, one for each: where several registrations claim it, the
// healthiest counts, as a host that was made anew under another name is registered beside its dead predecessor; of
// equally healthy ones the newest. It says which were left out. It takes no workloads.
func Settle(service Name, claims []Claim) ([]*Endpoint, []Diagnostic) {
	slices.SortFunc(claims, func(a, b Claim) int {
		return cmp.Or(a.Address.Compare(b.Address), cmp.Compare(a.Port, b.Port), cmp.Compare(a.ServicePort, b.ServicePort),
			cmp.Compare(badness(a.Health), badness(b.Health)), cmp.Compare(b.Index, a.Index), cmp.Compare(a.By, b.By))
	})
	out := make([]*Endpoint, 0, len(claims))
	var ds []Diagnostic
	var last Claim
	for _, c := range claims {
		if last.Endpoint == nil || c.place() != last.place() {
			out, last = append(out, c.Endpoint), c
			continue
		}
		if len(ds) < maxDoubles {
			ds = append(ds, Diagnostic{Severity: Warning, Code: EntriesCollide,
				Summary: fmt.Sprintf("service %s: %s is left out: %s has the address %s, too, and is %s", service.Name, clip(c.By, maxShown), clip(last.By, maxShown), c, better(last, c)),
				Detail:  "If it is the earlier life of the same instance, deregister it; else correct the address of one of them."})
		}
	}
	return out, ds
}

// better says why one claim counts and the other does not.
func better(in, out Claim) string {
	switch {
	case badness(in.Health) < badness(out.Health):
		return fmt.Sprintf("%s where this one is %s", cmp.Or(in.Health, Healthy), out.Health)
	case in.Index > out.Index:
		return "newer"
	}
	return "the first by name"
}
