package static

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/zclconf/go-cty/cty"
	"pgregory.net/rapid"

	"github.com/wattle-mesh/wattle/configs"
	"github.com/wattle-mesh/wattle/registry"
)

// failing is a test or a check of a property.
type failing interface {
	Helper()
	Fatalf(format string, args ...any)
}

// read makes the catalog of files, as the driver does. It fails if they are not formatted.
func read(t failing, dir string, files []File) *registry.Catalog {
	t.Helper()
	for _, f := range files {
		path := filepath.Join(dir, filepath.FromSlash(f.Path))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatalf("%v", err)
		}
		if err := os.WriteFile(path, f.Text, 0o644); err != nil {
			t.Fatalf("%v", err)
		}
		if formatted, diags := configs.Format(f.Path, f.Text); len(diags) > 0 || string(formatted) != string(f.Text) {
			t.Fatalf("not as wattle fmt writes it: %v\n%s", diags, f.Text)
		}
	}
	policy, diags := configs.NewLoader(configs.Options{}).LoadRegistry(dir)
	if len(diags) > 0 && len(files) > 0 {
		text := ""
		for _, f := range files {
			text += string(f.Text)
		}
		t.Fatalf("%s\n%s", diags.Text(), text)
	}
	return registry.Merge(nil, []registry.Set{{Name: "files", Services: Services(policy)}}, nil)
}

// told is a catalog's JSON without what names its registries and files, and with what an empty value stands for.
func told(t failing, services []*registry.Service) string {
	t.Helper()
	text, err := json.Marshal(services)
	if err != nil {
		t.Fatalf("%v", err)
	}
	var all []*registry.Service
	if err := json.Unmarshal(text, &all); err != nil {
		t.Fatalf("%v", err)
	}
	for _, s := range all {
		s.Origin, s.Sources = "", nil
		for _, e := range s.Endpoints {
			e.Sources, e.Words, e.Weight = nil, nil, max(e.Weight, 1)
			if w := e.Workload; w != nil {
				if w.Origin = ""; w.Host.MeshPort == 0 {
					w.Host.MeshPort = 7443
				}
				for i := range w.Upstreams {
					w.Upstreams[i].Origin = ""
				}
				if w.Capture != nil {
					w.Capture.Origin = ""
				}
			}
		}
	}
	text, err = json.MarshalIndent(all, "", " ")
	if err != nil {
		t.Fatalf("%v", err)
	}
	return string(text)
}

// requireRoundTrip fails unless a registry of the files of a catalog says the same.
func requireRoundTrip(t failing, dir string, services []*registry.Service) {
	t.Helper()
	catalog := slices.Collect(registry.Merge(nil, []registry.Set{{Name: "any", Services: services}}, nil).All())
	files, left := Export(catalog, ExportOptions{})
	if len(left) > 0 {
		t.Fatalf("left out: %q", left)
	}
	back := slices.Collect(read(t, dir, files).All())
	if d := cmp.Diff(told(t, catalog), told(t, back)); d != "" {
		text := ""
		for _, f := range files {
			text += "# " + f.Path + "\n" + string(f.Text)
		}
		t.Fatalf("%s\n%s", d, text)
	}
}

var odd = map[string]string{"version": "v1", "a b": "${x} %{if} $${y}", "tag.blue": "true", "\"q\"": "\\\n\t\"ü\u2028", "1": "", "ünï": "\x01", "null": "true"}

func everything() []*registry.Service {
	shop := registry.Name{Namespace: "shop", Name: "reviews"}
	host := registry.Host{Name: "h1", Address: netip.MustParseAddr("10.0.0.1"), MeshPort: 8443, Locality: registry.Locality{Region: "eu ${x}", Zone: "z", Rack: "r"}}
	w := &registry.Workload{
		Host: host, Service: shop, Instance: "a", Sidecar: true, Isolate: true, Unit: "reviews@a.service",
		Capture: &registry.Capture{
			Mode: registry.Transparent, Services: []registry.Name{{Namespace: "*", Name: "*"}, {Namespace: "ops", Name: "*"}, {Namespace: "shop", Name: "db"}}, User: "web",
			ExcludeAddresses: []netip.Prefix{netip.MustParsePrefix("10.9.0.0/16"), netip.MustParsePrefix("fd00::1/128")}, ExcludePorts: []uint16{22, 25},
		},
		Ports: []registry.WorkloadPort{
			{Port: registry.Port{Number: 80, Name: "http", Protocol: registry.HTTP}, Local: netip.MustParseAddrPort("127.0.0.1:8080")},
			{Port: registry.Port{Number: 81, Name: "8080", Protocol: registry.GRPC}, Local: netip.MustParseAddrPort("[::1]:81")},
		},
		Upstreams: []registry.Upstream{
			{Service: registry.Name{Namespace: "shop", Name: "db"}, Port: 5432, Bind: netip.MustParseAddrPort("[::1]:5432")},
			{Service: registry.Name{Namespace: "default", Name: "web"}, Socket: "/run/a ${b} \"c\".sock"},
			{Service: registry.Name{Namespace: "shop", Name: "queue"}},
		},
		Checks: []registry.Check{
			{Type: "http", Port: 80, Path: "/healthz?a=%7B", Interval: 1500 * time.Millisecond, Timeout: time.Second, Healthy: 2, Unhealthy: 3},
			{Type: "tcp", Port: 81, Interval: time.Second, Timeout: time.Millisecond, Healthy: 1, Unhealthy: 1},
		},
	}
	reviews := &registry.Service{Name: shop, Ports: []registry.Port{{Number: 80, Name: "http", Protocol: registry.HTTP}, {Number: 81, Name: "8080", Protocol: registry.GRPC}}}
	for _, p := range w.Ports {
		reviews.Endpoints = append(reviews.Endpoints, &registry.Endpoint{Address: host.Address, Port: p.Number, ServicePort: p.Number, Meta: registry.LabelsOf(odd), Weight: 7, Locality: host.Locality, Workload: w})
	}
	outside := func(address string, port, serves uint16) *registry.Endpoint {
		return &registry.Endpoint{Address: netip.MustParseAddr(address), Port: port, ServicePort: serves}
	}
	full := outside("fd00::1", 9080, 80)
	full.Meta, full.Weight, full.Priority = registry.LabelsOf(odd), 1_000_000, 65535
	full.Locality = registry.Locality{Region: "\"eu\"", Zone: "a\nb", Rack: "${r}"}
	full.Health, full.Reason = registry.Draining, "it's ${so}\n"
	sick := outside("10.0.0.9", 80, 80)
	sick.Health = registry.Unhealthy
	return []*registry.Service{
		{Name: registry.Name{Namespace: "default", Name: "empty"}, Ports: []registry.Port{{Number: 80, Protocol: registry.TCP}}},
		{Name: registry.Name{Namespace: "default", Name: "nobody"}, Ports: []registry.Port{{Number: 80, Protocol: registry.TCP}}}, // the same port
		{Name: registry.Name{Namespace: "default", Name: "odd"}, Ports: []registry.Port{{Number: 80}, {Number: 81, Name: "80"}, {Number: 82, Name: "x ${y}"}, {Number: 83, Name: "x ${y}", Protocol: registry.HTTP2}, {Number: 84}},
			Endpoints: []*registry.Endpoint{outside("10.0.0.8", 80, 84), sick, full}},
		{Name: registry.Name{Namespace: "default", Name: "web"}, Ports: []registry.Port{{Number: 80}}, Endpoints: []*registry.Endpoint{outside("10.0.0.2", 8080, 80)}},
		reviews,
	}
}

func TestWhatIsExportedSaysTheSameAgain(t *testing.T) {
	requireRoundTrip(t, t.TempDir(), everything())
}

func TestAnyServiceIsExported(t *testing.T) {
	text := rapid.OneOf(rapid.SampledFrom([]string{"", "a", "80", "81", "${x}", "%{x}", "$${", "a b", "\"", "\\", "\n", "true", "null", "for"}), rapid.StringN(0, 8, -1)).
		Filter(func(s string) bool { return cty.StringVal(s).AsString() == s })
	port := rapid.SampledFrom([]uint16{1, 80, 81, 8080, 65535})
	dir, n := t.TempDir(), 0
	rapid.Check(t, func(t *rapid.T) {
		s := &registry.Service{Name: registry.Name{Namespace: rapid.SampledFrom([]string{"default", "shop"}).Draw(t, "namespace"), Name: "x"}}
		for _, number := range rapid.SliceOfNDistinct(port, 1, 4, rapid.ID[uint16]).Draw(t, "ports") {
			s.Ports = append(s.Ports, registry.Port{Number: number, Name: text.Draw(t, "name"), Protocol: rapid.SampledFrom([]registry.Protocol{"", "http", "http2", "grpc", "tcp"}).Draw(t, "protocol")})
		}
		slices.SortFunc(s.Ports, func(a, b registry.Port) int { return int(a.Number) - int(b.Number) })
		for i := range rapid.IntRange(0, 3).Draw(t, "endpoints") {
			e := &registry.Endpoint{Address: netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}), Port: port.Draw(t, "port"), ServicePort: rapid.SampledFrom(s.Ports).Draw(t, "serves").Number}
			meta := rapid.MapOfN(text, text, 0, 3).Draw(t, "meta")
			delete(meta, "")
			e.Meta = registry.LabelsOf(meta)
			e.Reason = text.Draw(t, "reason")
			if e.Health = rapid.SampledFrom([]registry.Health{"", registry.Healthy, registry.Unhealthy, registry.Draining}).Draw(t, "health"); e.Health == "" {
				e.Reason = ""
			}
			e.Priority, e.Weight = rapid.Uint32Range(0, 65535).Draw(t, "priority"), rapid.Uint32Range(0, 1_000_000).Draw(t, "weight")
			e.Locality.Zone = text.Draw(t, "zone")
			s.Endpoints = append(s.Endpoints, e)
		}
		n++
		requireRoundTrip(t, filepath.Join(dir, fmt.Sprint(n)), []*registry.Service{s})
	})
}

// A label or a port may be called as a word of the language.
func TestAKeyThatIsAWordOfTheLanguage(t *testing.T) {
	for _, word := range []string{"for", "null", "true", "if", "in", "_", "é"} {
		want := []*registry.Service{{Name: registry.Name{Namespace: "default", Name: "web"},
			Ports: []registry.Port{{Number: 80, Name: word, Protocol: registry.HTTP}},
			Endpoints: []*registry.Endpoint{{Address: netip.MustParseAddr("10.0.0.1"), Port: 80, ServicePort: 80, Weight: 1,
				Meta: registry.LabelsOf(map[string]string{word: "x"})}}}}
		files, left := Export(want, ExportOptions{})
		if len(left) > 0 {
			t.Errorf("%s: %q", word, left)
		}
		got := read(t, t.TempDir(), files).Service(want[0].Name)
		if got == nil || got.Ports[0].Name != word || got.Endpoints[0].Meta != want[0].Endpoints[0].Meta {
			t.Errorf("%s: %+v\n%s", word, got, files[0].Text)
		}
	}
}

func TestOnlyWhatIsAskedForIsExported(t *testing.T) {
	all := everything()
	catalog := slices.Collect(registry.Merge(nil, []registry.Set{
		{Name: "mesh", Services: all[4:]},
		{Name: "consul", Services: []*registry.Service{{Name: all[4].Name, Ports: []registry.Port{{Number: 80}}, Endpoints: []*registry.Endpoint{
			{Address: netip.MustParseAddr("10.0.0.1"), Port: 80, ServicePort: 80}, {Address: netip.MustParseAddr("10.0.0.7"), Port: 80, ServicePort: 80},
		}}}},
		{Name: "dns", Services: all[3:4]},
	}, nil).All())
	paths := func(o ExportOptions) string {
		files, _ := Export(catalog, o)
		var out []string
		for _, f := range files {
			out = append(out, f.Path)
		}
		return strings.Join(out, " ")
	}
	for _, test := range []struct {
		o    ExportOptions
		want string
	}{
		{ExportOptions{}, "default/web.hcl h1.host.hcl shop/reviews.hcl"},
		{ExportOptions{Namespace: "shop"}, "h1.host.hcl shop/reviews.hcl"},
		{ExportOptions{Registry: "mesh"}, "h1.host.hcl"},
		{ExportOptions{Registry: "dns"}, "default/web.hcl"},
		{ExportOptions{Registry: "nobody"}, ""},
		{ExportOptions{Registry: "consul"}, "shop/reviews.hcl"},
	} {
		if got := paths(test.o); got != test.want {
			t.Errorf("%+v: %s, want %s", test.o, got, test.want)
		}
	}
	// Of another registry's workload it knows where it listens.
	files, left := Export(catalog, ExportOptions{Registry: "consul"})
	back := read(t, t.TempDir(), files).Service(all[4].Name)
	if len(left) > 0 || len(back.Endpoints) != 2 || back.Endpoints[0].Address != netip.MustParseAddr("10.0.0.1") || back.Endpoints[0].Workload != nil {
		t.Errorf("%s %q", files[0].Text, left)
	}
}

func TestWhatFilesCannotSayIsTold(t *testing.T) {
	all := everything()
	reviews := *all[4]
	first, second := *reviews.Endpoints[0], *reviews.Endpoints[1]
	first.Weight, first.Words = 8, []registry.Word{{Voice: registry.RegistryVoice, Source: "x", Health: registry.Draining}}
	second.Priority = 1
	reviews.Endpoints = []*registry.Endpoint{&first, &second}
	portless := &registry.Service{Name: registry.Name{Namespace: "default", Name: "portless"}}
	accent := &registry.Service{Name: registry.Name{Namespace: "default", Name: "accent"}, Ports: []registry.Port{{Number: 80}},
		Endpoints: []*registry.Endpoint{{Address: netip.MustParseAddr("10.0.0.1"), Port: 80, ServicePort: 80, Meta: registry.LabelsOf(map[string]string{"a": "e\u0301"})}}}
	astray := &registry.Service{Name: registry.Name{Namespace: "default", Name: "astray"}, Ports: []registry.Port{{Number: 80}},
		Endpoints: []*registry.Endpoint{{Address: netip.MustParseAddr("10.0.0.1"), Port: 81, ServicePort: 81}}}
	_, left := Export([]*registry.Service{&reviews, portless, accent, astray}, ExportOptions{})
	want := []string{
		"endpoint 10.0.0.1:80 of default/accent: some of its labels or texts are spelled in Unicode's normal form C",
		"endpoint 10.0.0.1:81 of service default/astray: it is for port 81, which the service does not have",
		"service default/portless: it has no port",
		"port 80 of workload h1/shop/reviews/a: what registries say of its health",
		"port 81 of workload h1/shop/reviews/a: its labels or weight are others than port 80's",
	}
	if d := cmp.Diff(want, left); d != "" {
		t.Error(d)
	}
}

// A failover's priorities are above what files take: their order stays.
func TestPrioritiesOfAFailoverKeepTheirOrder(t *testing.T) {
	s := &registry.Service{Name: registry.Name{Namespace: "default", Name: "x"}, Ports: []registry.Port{{Number: 80}}}
	for i, p := range []uint32{0, 3, 10 << 16, 10<<16 | 3, 20 << 16} {
		s.Endpoints = append(s.Endpoints, &registry.Endpoint{Address: netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}), Port: 80, ServicePort: 80, Priority: p})
	}
	files, _ := Export([]*registry.Service{s}, ExportOptions{})
	for i, e := range read(t, t.TempDir(), files).Service(s.Name).Endpoints {
		if e.Priority != uint32(i) {
			t.Errorf("%s has priority %d", e, e.Priority)
		}
	}
}

func TestAWorkloadsProtocolIsKnown(t *testing.T) {
	dir := t.TempDir()
	text := "host \"h1\" {\n  address = \"10.0.0.1\"\n  service \"x\" {\n    port     = 80\n    protocol = \"unknown\"\n  }\n}\n"
	if err := os.WriteFile(filepath.Join(dir, "a.hcl"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	_, diags := configs.NewLoader(configs.Options{}).LoadRegistry(dir)
	if len(diags) != 1 || diags[0].Code != "W1107" || diags[0].Line != 3 {
		t.Error(diags)
	}
}

func TestACaptureOfAUnitThatOnlyItsAgentKnowsIsLeftOut(t *testing.T) {
	all := everything()
	for _, e := range all[len(all)-1].Endpoints {
		e.Workload.Unit, e.Workload.Capture.User = "", ""
	}
	files, left := Export(all, ExportOptions{})
	if len(left) != 1 || !strings.Contains(left[0], "its agent knows the unit") {
		t.Errorf("left out: %q", left)
	}
	for _, f := range files {
		if strings.Contains(string(f.Text), "capture") || strings.Contains(string(f.Text), "queue") {
			t.Errorf("%s", f.Text)
		}
	}
	read(t, t.TempDir(), files)
}
