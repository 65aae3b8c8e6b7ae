package registry

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestCheckLeavesOutWhatIsFaultyAndServesTheRest(t *testing.T) {
	good := func() *Service { return service("s", outside("10.0.0.1")) }
	oversized := map[string]string{"k": strings.Repeat("v", maxMetaBytes)}
	for _, c := range []struct {
		name   string
		spoil  func(*Service)
		code   string
		says   string
		served int // endpoints that are served; -1: not even the service
	}{
		{"an empty name", func(s *Service) { s.Name.Name = "" }, badName, "its name is empty", -1},
		{"an empty namespace", func(s *Service) { s.Namespace = "" }, badName, "its namespace is empty", -1},
		{"a name that is not UTF-8", func(s *Service) { s.Name.Name = "a\xff" }, badName, `service "default/a\xff" is left out`, -1},
		{"a name with a slash", func(s *Service) { s.Name.Name = "a/b" }, badName, "lower-case letters", -1},
		{"a namespace with a dot", func(s *Service) { s.Namespace = "a.b" }, badName, "its namespace is not of", -1},
		{"port 0", func(s *Service) { s.Ports = append(s.Ports, Port{}) }, badPort, "0 is no port", 1},
		{"a port twice", func(s *Service) { s.Ports = append(s.Ports, s.Ports[0]) }, badPort, "port 80 of service default/s is left out: the service has this port twice", 1},
		{"an unknown protocol", func(s *Service) { s.Ports[0].Protocol = "udp" }, badPort, `"udp" is none of the protocols`, 0},
		{"a port's name that is not UTF-8", func(s *Service) { s.Ports[0].Name = "\xff" }, badPort, "not UTF-8", 0},
		{"a missing endpoint", func(s *Service) { s.Endpoints = append(s.Endpoints, nil) }, badEndpoint, "it is missing", 1},
		{"no address", func(s *Service) { s.Endpoints[0].Address = netip.Addr{} }, badEndpoint, "it has no address", 0},
		{"the address of nobody", func(s *Service) { s.Endpoints[0].Address = netip.IPv4Unspecified() }, badEndpoint, "nothing can be sent", 0},
		{"the address of many", func(s *Service) { s.Endpoints[0].Address = netip.MustParseAddr("ff02::1") }, badEndpoint, "nothing can be sent", 0},
		{"an endpoint at port 0", func(s *Service) { s.Endpoints[0].Port = 0 }, badEndpoint, "0 is no port", 0},
		{"an endpoint of a port that is not there", func(s *Service) { s.Endpoints[0].ServicePort = 81 }, badEndpoint, "the service has no port 81", 0},
		{"an endpoint twice", func(s *Service) { s.Endpoints = append(s.Endpoints, outside("10.0.0.1")) }, badEndpoint, "the service has it twice", 1},
		{"an unknown health", func(s *Service) { s.Endpoints[0].Health = "sick" }, badEndpoint, `"sick" is none of the states`, 0},
		{"too much weight", func(s *Service) { s.Endpoints[0].Weight = maxWeight + 1 }, badEndpoint, "its weight", 0},
		{"a zone that is not UTF-8", func(s *Service) { s.Endpoints[0].Locality.Zone = "\xff" }, badEndpoint, "not UTF-8", 0},
		{"oversized metadata", func(s *Service) { s.Endpoints[0].Meta = LabelsOf(oversized) }, badMeta, "its metadata is larger than 4096 bytes", 0},
		{"metadata that is not UTF-8", func(s *Service) { s.Endpoints[0].Meta = LabelsOf(map[string]string{"k": "\xff"}) }, badMeta, `label "k" is not UTF-8`, 0},
		{"a workload of another service", func(s *Service) { s.Endpoints[0] = inside("other", "h1", "10.0.0.1", "") }, badWorkload, `its workload is of service "default/other"`, 0},
		{"a workload without a host", func(s *Service) { s.Endpoints[0] = inside("s", "", "10.0.0.1", "") }, badWorkload, "its host's name", 0},
		{"a workload without the port", func(s *Service) {
			s.Endpoints[0] = inside("s", "h1", "10.0.0.1", "")
			s.Endpoints[0].Workload.Ports = nil
		}, badWorkload, "its workload has no port 80", 0},
		{"two workloads of one name", func(s *Service) {
			s.Ports = append(s.Ports, Port{Number: 81})
			a, b := inside("s", "h1", "10.0.0.1", ""), inside("s", "h1", "10.0.0.1", "")
			b.ServicePort, b.Workload.Ports[0].Number = 81, 81
			s.Endpoints = []*Endpoint{a, b}
		}, badWorkload, "give each an instance", 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			bad, other := good(), service("z", outside("10.0.0.9"))
			c.spoil(bad)
			got := checked{}.next("consul", []*Service{bad, other})
			if len(got.ds) != 1 && c.code != badPort || len(got.ds) == 0 || got.ds[0].Code != c.code || !strings.Contains(got.ds[0].Summary, c.says) {
				t.Errorf("diagnostics %v, want one %s with %q", texts(got.ds), c.code, c.says)
			}
			if last := got.clean[len(got.clean)-1]; last != other {
				t.Error("the service that nothing is wrong with is not served as it is")
			}
			switch {
			case c.served < 0 && len(got.clean) != 1:
				t.Errorf("the service is served: %v", got.clean[0])
			case c.served >= 0 && (len(got.clean) != 2 || len(got.clean[0].Endpoints) != c.served):
				t.Errorf("served %+v, want %d endpoints", got.clean[0], c.served)
			}
			if again := got.next("consul", []*Service{bad, service("z")}); c.served >= 0 && again.clean[0] != got.clean[0] || len(again.ds) != len(got.ds) {
				t.Error("the faulty service was looked into again, though it kept its pointer")
			}
		})
	}
}

func TestANameThatCannotBeUsedIsToldWithHowToGiveItAnother(t *testing.T) {
	for name, want := range map[Name]string{
		{"default", "web_v1"}:   `rename = { "web_v1" = "web-v1" }`,
		{"default", "Web.X"}:    `rename = { "Web.X" = "web-x" }`,
		{"Team A", "web"}:       `namespaces = { "Team A" = "team-a" }`,
		{"default", "größe_"}:   `rename = { "größe_" = "gr--e" }`,
		{"default", "__"}:       "Give it another name in its registry.",
		{"default", longName()}: "Give it another name in its registry.",
	} {
		s := service("x")
		s.Name = name
		if ds := inspect("consul", s).ds; len(ds) != 1 || ds[0].Code != badName || !strings.Contains(ds[0].Detail, want) {
			t.Errorf("%s: %+v, want %s", name, ds, want)
		}
	}
}

func longName() string { return strings.Repeat("W", 200) }

func TestCheckServesUnsortedSetsInOrder(t *testing.T) {
	a, b, again := service("a"), service("b"), service("a", outside("10.0.0.1"))
	again.Origin = "consul"
	got := checked{}.next("consul", []*Service{b, a, again})
	if d := cmp.Diff([]string{"a", "b"}, names(got.clean)); d != "" {
		t.Error(d)
	}
	if got.clean[0] != a {
		t.Error("not the first of two services with one name is served")
	}
	want := []string{
		"registry consul: warning W4103: registry consul gives its services out of order",
		"consul: registry consul: error W4102: service default/a is named twice; the second one is left out",
	}
	if d := cmp.Diff(want, texts(got.ds)); d != "" {
		t.Error(d)
	}
	sorted := got.next("consul", []*Service{a, b})
	if len(sorted.ds) > 0 {
		t.Errorf("it is in order now: %v", texts(sorted.ds))
	}
	if got := (checked{}).next("consul", []*Service{nil, a}); len(got.clean) != 1 || got.ds[0].Code != badName {
		t.Errorf("a missing service: %v", texts(got.ds))
	}
}

func names(services []*Service) []string {
	var out []string
	for _, s := range services {
		out = append(out, s.Name.Name)
	}
	return out
}

func TestCheckTellsOfABoundedNumberOfFaults(t *testing.T) {
	services := many(2 * maxTold)
	for _, s := range services {
		s.Ports = nil
	}
	got := checked{}.next("consul", services)
	if len(got.ds) != maxTold+1 || !strings.Contains(got.ds[maxTold].Summary, "500 more faults") {
		t.Errorf("%d diagnostics, the last one %v", len(got.ds), got.ds[len(got.ds)-1])
	}
}

func TestEveryCodeIsExplained(t *testing.T) {
	last := ""
	for _, c := range Codes() {
		if c.Code <= last || c.Title == "" || c.Explain == "" {
			t.Errorf("%+v after %s", c, last)
		}
		last = c.Code
		if got, ok := Explain(c.Code); !ok || got != c {
			t.Errorf("Explain(%s) = %v, %t", c.Code, got, ok)
		}
	}
	if _, ok := Explain("W4999"); ok {
		t.Error("W4999 is explained")
	}
}
