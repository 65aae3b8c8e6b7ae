package registry

import (
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// replay is a Source that publishes sets and ends.
type replay [][]*Service

func (r replay) Run(_ context.Context, publish func([]*Service)) error {
	for _, set := range r {
		publish(set)
	}
	return errors.New("over")
}

// shaped runs sets through a shape, and returns what is published for each, and what is reported last.
func shapes(t testing.TB, shape Shape, sets ...[]*Service) (out [][]*Service, ds []Diagnostic) {
	t.Helper()
	s := NewShaper(shape, func(all []Diagnostic) { ds = all })
	if err := s.Source(replay(sets)).Run(t.Context(), func(set []*Service) { out = append(out, set) }); err == nil || err.Error() != "over" {
		t.Fatalf("the source's end is lost: %v", err)
	}
	return out, ds
}

func TestShapeWithoutOptionsChangesNothing(t *testing.T) {
	set := []*Service{service("a", outside("10.0.0.1")), service("b")}
	out, ds := shapes(t, Shape{}, set)
	if !slices.Equal(out[0], set) || len(ds) > 0 {
		t.Errorf("got %v and %v", out[0], ds)
	}
}

func TestShapeNamesServices(t *testing.T) {
	named := func(namespace, name string) *Service {
		s := service(name, outside("10.0.0.1"))
		s.Namespace = namespace
		return s
	}
	shape := Shape{
		Namespaces: map[string]string{"prod": "shop", "*": "rest"},
		Rename:     map[string]string{"web_v1": "web", "ops/db": "database"},
	}
	out, _ := shapes(t, shape, []*Service{named("ops", "db"), named("prod", "db"), named("prod", "web_v1")})
	var got []string
	for _, s := range out[0] {
		got = append(got, s.Name.String())
	}
	if want := []string{"rest/database", "shop/db", "shop/web"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestShapeRenamesWorkloadsWithTheirService(t *testing.T) {
	s := service("old", inside("old", "h1", "10.0.0.1", ""))
	out, _ := shapes(t, Shape{Rename: map[string]string{"old": "new"}}, []*Service{s})
	e := out[0][0].Endpoints[0]
	if e.Workload.Service.Name != "new" || s.Endpoints[0].Workload.Service.Name != "old" {
		t.Errorf("the workload is of %s, the published one of %s", e.Workload.Service, s.Endpoints[0].Workload.Service)
	}
	if faults := inspect("r", out[0][0]).ds; len(faults) > 0 {
		t.Error(faults)
	}
}

func TestShapeJoinsServicesThatGetOneName(t *testing.T) {
	a, b := service("web-a", outside("10.0.0.2"), outside("10.0.0.3")), service("web-b", outside("10.0.0.1"), outside("10.0.0.3"))
	b.Ports = []Port{{Number: 80, Protocol: TCP}}
	out, ds := shapes(t, Shape{Rename: map[string]string{"web-a": "web", "web-b": "web"}}, []*Service{a, b})
	if len(out[0]) != 1 || len(out[0][0].Endpoints) != 3 || out[0][0].Ports[0].Protocol != HTTP {
		t.Errorf("got %+v", out[0])
	}
	want := []string{
		"warning W4201: port 80 of service default/web is http, but default/web-b, which becomes the same service, says tcp",
		"warning W4203: two services of the registry become default/web, and both have the endpoint 10.0.0.3:8080",
	}
	if d := cmp.Diff(want, texts(ds)); d != "" {
		t.Error(d)
	}
}

func TestOfJoinedServicesThatHaveOneEndpointTheHealthierWordCounts(t *testing.T) {
	dead, live := outside("10.0.0.1"), outside("10.0.0.1")
	dead.Health, live.Health = Unhealthy, Healthy
	out, ds := shapes(t, Shape{Rename: map[string]string{"web-a": "web", "web-b": "web"}}, []*Service{service("web-a", dead), service("web-b", live)})
	if len(out[0]) != 1 || len(out[0][0].Endpoints) != 1 || out[0][0].Endpoints[0] != live || len(ds) != 1 {
		t.Errorf("got %+v, %v", out[0], texts(ds))
	}
}

func TestShapePicks(t *testing.T) {
	tagged := func(address string) *Endpoint { return outside(address, "tag.mesh", "true") }
	shape := Shape{Picks: func(_ *Service, e *Endpoint) bool { return slices.Contains(e.Tags(), "mesh") }}
	out, _ := shapes(t, shape, []*Service{service("a", tagged("10.0.0.1"), outside("10.0.0.2")), service("b", outside("10.0.0.3")), service("c")})
	if len(out[0]) != 2 || len(out[0][0].Endpoints) != 1 || out[0][1].Name.Name != "c" {
		t.Errorf("got %v", names(out[0]))
	}
	shape = Shape{PicksService: func(s *Service) bool { return s.Name.Name != "c" }}
	if out, _ = shapes(t, shape, []*Service{service("a"), service("c")}); len(out[0]) != 1 {
		t.Errorf("got %v", names(out[0]))
	}
}

func TestShapeLocatesWhatHasNoPlace(t *testing.T) {
	own := outside("10.0.0.2")
	own.Locality.Region = "us"
	out, _ := shapes(t, Shape{Locality: Locality{Region: "eu", Zone: "z1"}}, []*Service{service("a", outside("10.0.0.1"), own)})
	if a, b := out[0][0].Endpoints[0], out[0][0].Endpoints[1]; a.Locality != (Locality{Region: "eu", Zone: "z1"}) || b != own {
		t.Errorf("got %v and %v", a.Locality, b.Locality)
	}
}

func TestShapeFindsProtocols(t *testing.T) {
	for _, c := range []struct {
		name  string
		from  []string
		port  Port
		metas [][]string
		want  Protocol
		says  []string
	}{
		{"the registry's own word holds", []string{"port_name"}, Port{Name: "grpc", Protocol: TCP}, nil, TCP, nil},
		{"a port's name", []string{"port_name"}, Port{Name: "grpc"}, nil, GRPC, nil},
		{"a port's name with more", []string{"port_name"}, Port{Name: "http2-api"}, nil, HTTP2, nil},
		{"a port's name that says nothing", []string{"port_name"}, Port{Name: "api"}, nil, "", nil},
		{"a tag", []string{"tag"}, Port{}, [][]string{{"tag.blue", "true", "tag.http", "true"}}, HTTP, nil},
		{"a label", []string{"meta.proto"}, Port{}, [][]string{{"proto", "H2C"}}, HTTP2, nil},
		{"the first that says one counts", []string{"meta.proto", "tag"}, Port{}, [][]string{{"proto", "tcp", "tag.http", "true"}}, TCP, nil},
		{"a label that is none", []string{"meta.proto", "tag"}, Port{}, [][]string{{"proto", "https", "tag.http", "true"}}, HTTP,
			[]string{`warning W4206: meta.proto of port 80 of service default/a is "https", which is no protocol`}},
		{"instances that disagree", []string{"meta.proto"}, Port{}, [][]string{{"proto", "http"}, {"proto", "grpc"}}, GRPC,
			[]string{"warning W4201: by meta.proto port 80 of service default/a is both grpc and http"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := service("a", outside("10.0.0.9"))
			c.port.Number = 80
			s.Ports = []Port{c.port}
			for i, meta := range c.metas {
				s.Endpoints = append(s.Endpoints, outside("10.0.0."+string(rune('1'+i)), meta...))
			}
			out, ds := shapes(t, Shape{ProtocolFrom: c.from}, []*Service{s})
			if got := out[0][0].Ports[0].Protocol; got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
			if d := cmp.Diff(c.says, texts(ds)); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestShaperKeepsWhatTheDriverSays(t *testing.T) {
	var got []Diagnostic
	s := NewShaper(Shape{ProtocolFrom: []string{"meta.proto"}}, func(ds []Diagnostic) { got = ds })
	s.Report([]Diagnostic{{Code: BadEntry, Summary: "the driver's"}})
	odd := service("a", outside("10.0.0.1", "proto", "x"))
	odd.Ports = []Port{{Number: 80}}
	src := s.Source(replay{{odd}})
	if err := src.Run(t.Context(), func([]*Service) {}); err == nil {
		t.Fatal("no end")
	}
	if len(got) != 2 || got[0].Code != BadEntry || got[1].Code != OddProtocol {
		t.Errorf("got %v", texts(got))
	}
	s.Report(nil)
	if len(got) != 1 || got[0].Code != OddProtocol {
		t.Errorf("after the driver's is mended: %v", texts(got))
	}
}

// Whatever is published, a service whose originals kept their pointers keeps its own, the rest is as if it were
// published alone, and all is sorted without repeats.
func TestShapeIsIncremental(t *testing.T) {
	shape := Shape{
		Rename: map[string]string{"a": "x", "b": "x"}, Namespaces: map[string]string{"default": "shop"},
		Picks: func(_ *Service, e *Endpoint) bool { return e.Meta.Get("version") != "v2" }, Locality: Locality{Region: "eu"},
	}
	rapid.Check(t, func(r *rapid.T) {
		w := drawWorld(r, "r")
		var sets [][]*Service
		sets = append(sets, w.sets()[0].Services)
		var touched []Name
		for range rapid.IntRange(1, 5).Draw(r, "steps") {
			touched = append(touched, w.change(r, "r"))
			sets = append(sets, w.sets()[0].Services)
		}
		out, _ := shapes(t, shape, sets...)
		for i := range sets {
			alone, _ := shapes(t, shape, sets[i])
			if d := cmp.Diff(alone[0], out[i], plain); d != "" {
				r.Fatalf("set %d is not what it is alone: %s", i, d)
			}
			if !slices.IsSortedFunc(out[i], func(a, b *Service) int { return a.Name.Compare(b.Name) }) {
				r.Fatalf("not sorted: %v", names(out[i]))
			}
			if i == 0 {
				continue
			}
			moved := shape.name(touched[i-1])
			for _, s := range out[i] {
				if s.Name != moved && !slices.Contains(out[i-1], s) {
					r.Fatalf("%s lost its pointer when %s changed", s.Name, touched[i-1])
				}
			}
		}
	})
}
