package registry

import (
	"fmt"
	"testing"
)

// BenchmarkMerge changes one endpoint of one service, again and again.
func BenchmarkMerge(b *testing.B) {
	for _, n := range []int{1000, 10_000} {
		b.Run(fmt.Sprintf("one endpoint, services=%d", n), func(b *testing.B) {
			all := many(n)
			fewer := without(all, n/2)
			quiet := Set{Name: "policy", Services: many(n)[:n/2]}
			c := Merge(nil, []Set{quiet, {Name: "r", Services: all}}, nil)
			b.ReportAllocs()
			for b.Loop() {
				all, fewer = fewer, all
				c = Merge(c, []Set{quiet, {Name: "r", Services: all}}, nil)
				if len(c.Changed) != 1 {
					b.Fatalf("%d services changed", len(c.Changed))
				}
			}
		})
		b.Run(fmt.Sprintf("from nothing, services=%d", n), func(b *testing.B) {
			sets := []Set{{Name: "r", Services: many(n)}}
			b.ReportAllocs()
			for b.Loop() {
				Merge(nil, sets, nil)
			}
		})
	}
}

// BenchmarkHealth changes the health of one workload among many.
func BenchmarkHealth(b *testing.B) {
	const n = 3000
	services := make([]*Service, 0, n)
	var words [2]HealthMap
	words[0], words[1] = HealthMap{}, HealthMap{}
	for i := range n {
		name := fmt.Sprintf("svc-%05d", i)
		e := inside(name, "h1", "10.0.0.1", "")
		services = append(services, service(name, e))
		words[0][e.Workload.Key()] = HealthWord{Health: Healthy}
		words[1][e.Workload.Key()] = HealthWord{Health: Healthy}
	}
	words[1][services[n/2].Endpoints[0].Workload.Key()] = HealthWord{Health: Unhealthy}
	sets := []Set{{Name: "r", Services: services}}
	c := Merge(nil, sets, words[0])
	i := 0
	for b.Loop() {
		i = 1 - i
		c = Merge(c, sets, words[i])
		if len(c.Changed) != 1 {
			b.Fatalf("%d services changed", len(c.Changed))
		}
	}
}

// BenchmarkCheck checks a set in which one service is new.
func BenchmarkCheck(b *testing.B) {
	for _, n := range []int{1000, 10_000} {
		b.Run(fmt.Sprintf("services=%d", n), func(b *testing.B) {
			all := many(n)
			fewer := without(all, n/2)
			c := checked{}.next("r", all)
			b.ReportAllocs()
			for b.Loop() {
				all, fewer = fewer, all
				c = c.next("r", all)
			}
		})
	}
}

// BenchmarkAggregatorFlapping is a second of a registry with 5000 services of which one has 100 instances that come and
// go once a second, each at another moment.
func BenchmarkAggregatorFlapping(b *testing.B) {
	a := NewAggregator(Options{Log: discard, Alive: func(Name, *Endpoint) bool { return true }})
	if err := a.Configure([]Entry{{Name: "consul", Source: newFake(), Hold: DefaultHold()}}); err != nil {
		b.Fatal(err)
	}
	publish := a.publisher(a.sources[0])
	services := append([]*Service{of("flap", 1, 100)}, many(5000)...)
	publish(services)
	for b.Loop() {
		for i := range 100 {
			flap := of("flap", 1, 100)
			flap.Endpoints = append(flap.Endpoints[:i:i], flap.Endpoints[i+1:]...)
			services[0] = flap
			publish(services)
		}
	}
	b.ReportMetric(b.Elapsed().Seconds()/float64(b.N)*100, "%core")
}
