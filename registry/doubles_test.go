package registry

import (
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func claimed(by string, index uint64, h Health) Claim {
	e := outside("10.0.0.1")
	e.Health = h
	return Claim{e, by, index}
}

func TestOfSeveralRegistrationsOfOnePlaceTheHealthiestThenTheNewestCounts(t *testing.T) {
	name := Name{Namespace: "default", Name: "web"}
	for _, c := range []struct {
		name        string
		claims      []Claim
		served, say string
	}{
		{"alone", []Claim{claimed("a", 1, Unhealthy)}, "a", ""},
		{"dead and newer", []Claim{claimed("a", 9, Unhealthy), claimed("b", 1, Healthy)}, "b", "a is left out: b has the address 10.0.0.1:8080, too, and is healthy where this one is unhealthy"},
		{"without a word", []Claim{claimed("a", 9, Draining), claimed("b", 1, "")}, "b", "a is left out: b has the address 10.0.0.1:8080, too, and is healthy where this one is draining"},
		{"draining", []Claim{claimed("a", 9, Unhealthy), claimed("b", 1, Draining)}, "b", "is draining where this one is unhealthy"},
		{"older", []Claim{claimed("a", 1, Healthy), claimed("b", 2, Healthy)}, "b", "a is left out: b has the address 10.0.0.1:8080, too, and is newer"},
		{"equal", []Claim{claimed("b", 1, Healthy), claimed("a", 1, Healthy)}, "a", "the first by name"},
	} {
		t.Run(c.name, func(t *testing.T) {
			rapid.Check(t, func(t *rapid.T) {
				claims := rapid.Permutation(c.claims).Draw(t, "order")
				served, ds := Settle(name, slices.Clone(claims))
				i := slices.IndexFunc(claims, func(x Claim) bool { return x.By == c.served })
				if len(served) != 1 || served[0] != claims[i].Endpoint {
					t.Errorf("served %v, want that of %s", served, c.served)
				}
				if (len(ds) > 0) != (c.say != "") || len(ds) > 0 && !strings.Contains(ds[0].Summary, c.say) {
					t.Errorf("%v, want %s", ds, c.say)
				}
			})
		})
	}
}

func TestEndpointsOfOtherPlacesAllCount(t *testing.T) {
	var claims []Claim
	for _, at := range []string{"10.0.0.2", "10.0.0.1", "10.0.0.1"} {
		claims = append(claims, Claim{outside(at), at, 1})
	}
	claims[1].ServicePort = 81
	served, ds := Settle(Name{}, claims)
	if len(served) != 3 || len(ds) > 0 || !slices.IsSortedFunc(served, func(a, b *Endpoint) int { return a.Address.Compare(b.Address) }) {
		t.Errorf("%v, %v", served, ds)
	}
}

func TestDoublesOfOneServiceAreToldInBounds(t *testing.T) {
	var claims []Claim
	for i := range 100 {
		claims = append(claims, claimed(strings.Repeat("x", 1000), uint64(i), Healthy))
	}
	if served, ds := Settle(Name{}, claims); len(served) != 1 || len(ds) != maxDoubles || len(ds[0].Summary) > 500 {
		t.Errorf("%d endpoints, %d diagnostics", len(served), len(ds))
	}
}
