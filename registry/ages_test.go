package registry

import (
	"net/netip"
	"slices"
	"testing"
	"time"
)

func TestAnEndpointIsAsOldAsItsIdentityAndItsHealthAsItsWord(t *testing.T) {
	web := Name{Namespace: "default", Name: "web"}
	service := func(health ...Health) *Service {
		s := &Service{Name: web}
		for i, h := range health {
			if h == "gone" {
				continue
			}
			s.Endpoints = append(s.Endpoints, &Endpoint{Address: netip.AddrFrom4([4]byte{10, 0, 0, byte(i + 1)}), Port: 80, ServicePort: 80, Health: h})
		}
		return s
	}
	next := func(a Ages, at int64, s *Service) Ages {
		return a.Next([]Name{web}, func(Name) *Service { return s }, time.UnixMilli(at))
	}
	requireAges := func(what string, a Ages, want ...[2]int64) {
		t.Helper()
		var got [][2]int64
		for _, x := range a.Of(web) {
			got = append(got, [2]int64{x.Since.UnixMilli(), x.HealthSince.UnixMilli()})
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", what, got, want)
		}
	}
	requireAges("nothing", Ages{})
	first := next(Ages{}, 1, service("", Healthy, Unhealthy))
	requireAges("the first", first, [2]int64{1, 1}, [2]int64{1, 1}, [2]int64{1, 1})
	second := next(first, 2, service(Healthy, Draining, Unhealthy, ""))
	requireAges("one drains, one is new, to say nothing is to be healthy", second, [2]int64{1, 1}, [2]int64{1, 2}, [2]int64{1, 1}, [2]int64{2, 2})
	requireAges("what was before", first, [2]int64{1, 1}, [2]int64{1, 1}, [2]int64{1, 1})
	requireAges("nothing changed", second.Next(nil, nil, time.UnixMilli(9)), [2]int64{1, 1}, [2]int64{1, 2}, [2]int64{1, 1}, [2]int64{2, 2})
	third := next(second, 3, service("gone", Draining, "gone", Unhealthy))
	requireAges("two are gone", third, [2]int64{1, 2}, [2]int64{2, 3})
	fourth := next(third, 4, service("", Draining, "gone", Unhealthy))
	requireAges("one is back, and new", fourth, [2]int64{4, 4}, [2]int64{1, 2}, [2]int64{2, 3})
	requireAges("all gone", next(fourth, 5, nil))
}
