package mesh

import (
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/wattle-mesh/wattle/registry"
)

// A share of a registry that is there for failover is a share all the same. What a registry ranks itself stays so.
func TestASharePutsRegistriesOnOneLevel(t *testing.T) {
	of := func(name string) *registry.Endpoint { return &registry.Endpoint{Sources: []string{name}} }
	out := []Endpoint{
		{Weight: 1, Health: registry.Healthy}, {Weight: 1, Health: registry.Healthy, Priority: 200 << 16},
		{Weight: 1, Health: registry.Healthy, Priority: 200<<16 | 5}, {Weight: 1, Health: registry.Healthy, Priority: 300 << 16},
	}
	divide(out, []*registry.Endpoint{of("a"), of("b"), of("b"), {Sources: []string{"a", "c"}}}, map[string]uint32{"a": 90, "b": 10})
	var got []uint32
	for _, e := range out {
		got = append(got, e.Priority, e.Weight)
	}
	if want := []uint32{0, 9, 0, 1, 5, 1, 300 << 16, 9}; !slices.Equal(got, want) {
		t.Errorf("priorities and weights %d, want %d", got, want)
	}
}

// However many endpoints registries have, and however many of these are healthy, the weights of the healthy ones of
// each come to its share.
func TestSharesDoNotDependOnHowManyEndpointsThereAre(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		shares := map[string]uint32{}
		var out []Endpoint
		var from []*registry.Endpoint
		for i := range rapid.IntRange(2, 3).Draw(t, "registries") {
			name := fmt.Sprint("r", i)
			shares[name] = uint32(rapid.IntRange(1, 100).Draw(t, "share"))
			for j := range rapid.IntRange(1, 50).Draw(t, "endpoints") {
				e := Endpoint{Weight: uint32(rapid.IntRange(1, 5).Draw(t, "weight")), Health: registry.Healthy}
				if j > 0 && rapid.Bool().Draw(t, "unhealthy") {
					e.Health = registry.Unhealthy
				}
				out, from = append(out, e), append(from, &registry.Endpoint{Sources: []string{name}})
			}
		}
		divide(out, from, shares)
		sums, total, all := map[string]float64{}, 0.0, 0.0
		for i, e := range out {
			if e.Health == registry.Healthy {
				sums[from[i].Sources[0]] += float64(e.Weight)
				total += float64(e.Weight)
			}
		}
		for _, s := range shares {
			all += float64(s)
		}
		for name, s := range shares {
			want, got := float64(s)/all, sums[name]/total
			if got < want*0.999 || got > want*1.001 {
				t.Fatalf("registry %s has %.4f of the calls, want %.4f", name, got, want)
			}
		}
	})
}
