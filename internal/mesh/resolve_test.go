package mesh

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/wattle-mesh/wattle/configs"
	"github.com/wattle-mesh/wattle/registry"
)

var (
	web     = registry.Name{Namespace: "default", Name: "web"}
	reviews = registry.Name{Namespace: "default", Name: "reviews"}
)

// service makes a service with one HTTP port 80 and an instance on a host for each given "host" or "host/instance".
func service(n registry.Name, at ...string) *registry.Service {
	s := &registry.Service{Name: n, Origin: "services.hcl:1", Ports: []registry.Port{{Number: 80, Protocol: registry.HTTP}}}
	for _, a := range at {
		host, instance, _ := strings.Cut(a, "/")
		h := registry.Host{Name: host, Address: addressOf(host)}
		s.Endpoints = append(s.Endpoints, &registry.Endpoint{Address: h.Address, Port: 80, ServicePort: 80, Workload: &registry.Workload{
			Host: h, Service: n, Instance: instance, Origin: "services.hcl:" + fmt.Sprint(len(s.Endpoints)+2),
			Ports: []registry.WorkloadPort{{Port: s.Ports[0], Local: netip.MustParseAddrPort("127.0.0.1:8000")}},
		}})
	}
	return s
}

func addressOf(host string) netip.Addr {
	return netip.MustParseAddr("10.0.0." + strings.TrimPrefix(host, "h"))
}

func worldOf(services ...*registry.Service) *world {
	w := newWorld()
	for _, s := range services {
		w.services[s.Name] = s
	}
	return w
}

func TestAnInstanceKeepsItsMeshPortWhileOthersComeAndGo(t *testing.T) {
	portOf := func(v *View, instance string) uint16 {
		return v.Ports[registry.WorkloadKey{Host: "h1", Service: web, Instance: instance}].MeshPort
	}
	w := worldOf(service(web, "h1/b", "h1/c"))
	cat := w.catalog(nil)
	v, _ := Resolve(nil, cat, w.policy())
	if portOf(v, "b") != 7443 || portOf(v, "c") != 7444 {
		t.Fatalf("the first ports are %v", v.Ports)
	}
	w.services[web] = service(web, "h1/a", "h1/b", "h1/c")
	cat = w.catalog(cat)
	v, _ = Resolve(v, cat, w.policy())
	if portOf(v, "a") != 7445 || portOf(v, "b") != 7443 || portOf(v, "c") != 7444 {
		t.Fatalf("with one more instance the ports are %v", v.Ports)
	}
	w.services[web] = service(web, "h1/a", "h1/c")
	cat = w.catalog(cat)
	v, _ = Resolve(v, cat, w.policy())
	at := func(port uint16) Seats { return Seats{Proxy: "host", MeshPort: port} }
	if want := (Allotment{{Host: "h1", Service: web, Instance: "a"}: at(7445), {Host: "h1", Service: web, Instance: "c"}: at(7444)}); fmt.Sprint(v.Ports) != fmt.Sprint(want) {
		t.Fatalf("with one instance less the ports are %v", v.Ports)
	}
	w.services[web] = service(web, "h1/a", "h1/d")
	cat = w.catalog(cat)
	v, _ = Resolve(v, cat, w.policy())
	if portOf(v, "a") != 7445 || portOf(v, "d") != 7443 {
		t.Fatalf("the port of one that just left is not the last to be given: %v", v.Ports)
	}
	restarted, _ := Resolve(&View{Allotted: v.Allotted}, w.catalog(nil), w.policy())
	if fmt.Sprint(restarted.Ports) != fmt.Sprint(v.Ports) {
		t.Fatalf("after a restart the ports are %v, not %v", restarted.Ports, v.Ports)
	}
}

func TestAViewIsLookedUpByNames(t *testing.T) {
	w := worldOf(service(web, "h1"))
	w.gateways[web] = &configs.Gateway{Block: configs.Block{Namespace: "shop", Name: "public"}, RunOn: []string{"h1"}}
	v, _ := Resolve(nil, w.catalog(nil), w.policy())
	if p := v.Proxy("h1"); p == nil || p.ID != "h1/host" || v.Proxy("h1/host") != p {
		t.Errorf("h1 and h1/host are not one proxy: %v", p)
	}
	if p := v.Proxy("h1/gw-shop.public"); p == nil || p.Gateway.Name != "public" {
		t.Errorf("the gateway's proxy is %v", p)
	}
	if v.Proxy("h2") != nil || v.Service(reviews) != nil || v.Service(web) == nil {
		t.Error("what is unknown is found, or the other way round")
	}
	if s := v.Proxy("h1").Scopes[0]; v.Scope(s.Key) != s {
		t.Error("a proxy's scope is not the view's")
	}
	var empty View
	if empty.Proxy("h1") != nil || empty.Service(web) != nil || empty.Scope("x") != nil {
		t.Error("an empty view knows something")
	}
}

// TestEveryDiagnostic shows the smallest world that leads to each one that no golden file can: configs refuses a
// policy like this before, but a view is whole for any input.
func TestEveryDiagnostic(t *testing.T) {
	block := func(name string) configs.Block {
		return configs.Block{Namespace: "default", Name: name, Origin: name + ".hcl:1"}
	}
	vs := func(name string, to configs.Destination) *configs.VirtualService {
		to.Host, to.Origin = configs.ServiceRef(web), name+".hcl:2"
		return &configs.VirtualService{Block: block(name), Hosts: []configs.ServiceRef{to.Host}, Gateways: []string{meshGateway}, HTTP: []*configs.HTTPRoute{{Route: []*configs.Destination{&to}}}}
	}
	name := func(s string) registry.Name { return registry.Name{Namespace: "default", Name: s} }
	tests := []struct {
		code, want string
		world      func(*world)
	}{
		{codeUnknownSubset, `service "web" has no subset "v1"`, func(w *world) {
			w.virtual[name("a")] = vs("a", configs.Destination{Subset: "v1"})
		}},
		{codeSecondVirtualService, `two virtual services route the requests to service "web"`, func(w *world) {
			w.virtual[name("a")], w.virtual[name("b")] = vs("a", configs.Destination{}), vs("b", configs.Destination{})
		}},
		{codeSecondRule, `two destination rules are for service "web"`, func(w *world) {
			for _, n := range []string{"a", "b"} {
				w.rules[name(n)] = &configs.DestinationRule{Block: block(n), Host: configs.ServiceRef(web)}
			}
		}},
		{codeUnknownRunOn, `gateway "edge" is to run on host "host-2", which is not declared and has no workloads`, func(w *world) {
			w.hosts["host-1"] = &configs.Host{Name: "host-1", Address: addressOf("h9")}
			w.gateways[name("edge")] = &configs.Gateway{Block: block("edge"), RunOn: []string{"host-2"}}
		}},
		{codeSameBind, `default/reviews and default/web want to listen at 127.0.0.1:9000 on host h1`, func(w *world) {
			w.services[reviews] = service(reviews, "h1")
			for _, n := range []registry.Name{web, reviews} {
				w.services[n].Endpoints[0].Workload.Upstreams = []registry.Upstream{{Service: web, Bind: netip.MustParseAddrPort("127.0.0.1:9000"), Origin: n.Name + ".hcl:1"}}
			}
		}},
		{codeNoAddress, `no addresses are left on host h1 for the calls of h1/default/web by name`, func(w *world) {
			for i := range sliceCount + 1 {
				n := registry.Name{Namespace: "default", Name: fmt.Sprintf("a%d", i)}
				if i == sliceCount {
					n = web
				}
				w.services[n] = service(n, "h1")
				w.services[n].Endpoints[0].Workload.Capture = &registry.Capture{Mode: registry.Loopback}
			}
		}},
		{codeNoAddress, `no address is left for calls of service "shop/z" by name`, func(w *world) {
			w.services[web].Endpoints[0].Workload.Capture = &registry.Capture{Mode: registry.Loopback, Services: []registry.Name{{Namespace: "shop", Name: registry.Any}}}
			for i := range addressCount + 1 {
				n := registry.Name{Namespace: "shop", Name: fmt.Sprintf("a%d", i)}
				if i == addressCount {
					n.Name = "z"
				}
				w.services[n] = &registry.Service{Name: n, Ports: []registry.Port{{Number: 80, Protocol: registry.TCP}}, Origin: n.Name + ".hcl:1"}
			}
		}},
		{codeForeignWorkload, `endpoint 10.0.0.1:80 of service "reviews" is the workload h1/default/web, which has another identity or port`, func(w *world) {
			w.services[reviews] = service(reviews)
			w.services[reviews].Endpoints = w.services[web].Endpoints
		}},
		{codeSameAddress, `two endpoints of service "web" are reached at 10.0.0.1:7443`, func(w *world) {
			w.services[web] = service(web, "h1", "h2")
			e := w.services[web].Endpoints[1]
			e.Address, e.Workload.Host.Address = addressOf("h1"), addressOf("h1")
		}},
		{codeOtherProtocol, `workload h2/default/web speaks tcp at port 80, but the service "web" speaks http there`, func(w *world) {
			w.services[web] = service(web, "h1", "h2")
			w.services[web].Endpoints[1].Workload.Ports[0].Protocol = registry.TCP
		}},
		{codeNoPlaintext, `nobody calls the endpoints of service "reviews" that are outside the mesh`, func(w *world) {
			w.mesh.Plaintext = false
			w.services[reviews] = service(reviews)
			w.services[reviews].Endpoints = []*registry.Endpoint{{Address: addressOf("h9"), Port: 80, ServicePort: 80}}
		}},
		{codePortNotServed, `endpoint 10.0.0.1:80 is for port 81 of service "web", which it does not have`, func(w *world) {
			w.services[web].Endpoints[0].ServicePort = 81
		}},
	}
	for _, test := range tests {
		t.Run(test.code, func(t *testing.T) {
			w := worldOf(service(web, "h1"))
			test.world(w)
			v, diags := Resolve(nil, w.catalog(nil), w.policy())
			if len(diags) != 1 || diags[0].Code != test.code {
				t.Fatalf("diagnostics: %v", diags)
			}
			// Of two scopes the one with the smaller key comes first.
			if got := strings.Replace(diags[0].Summary, "default/web and default/reviews", "default/reviews and default/web", 1); got != test.want {
				t.Errorf("got  %s\nwant %s", diags[0].Summary, test.want)
			}
			for _, p := range v.Service(web).Ports {
				for _, set := range p.Endpoints {
					for _, e := range set.Endpoints {
						if !e.MTLS {
							t.Errorf("a workload is called in plaintext: %+v", e)
						}
					}
				}
			}
		})
	}
}

// TestEveryCodeIsExplained reads the golden files, so that a code without a test is found too.
func TestEveryCodeIsExplained(t *testing.T) {
	golden, err := filepath.Glob("testdata/*.txtar")
	if err != nil {
		t.Fatal(err)
	}
	tests := ""
	for _, file := range append(golden, "resolve_test.go") {
		tests += readFile(t, file)
	}
	names := regexp.MustCompile(`(code\w+) += "(W2\d{3})"`).FindAllStringSubmatch(readFile(t, "diagnostics.go"), -1)
	for _, m := range names {
		if _, ok := configs.Explain(m[2]); !ok {
			t.Errorf("configs does not explain %s", m[2])
		}
		if !strings.Contains(tests, "{"+m[1]+",") && !strings.Contains(tests, " "+m[2]+":") {
			t.Errorf("no test shows %s (%s)", m[2], m[1])
		}
	}
	explained := slices.DeleteFunc(configs.Codes(), func(c configs.Code) bool { return !strings.HasPrefix(c.Code, "W2") })
	if len(explained) != len(names) {
		t.Errorf("configs explains %d codes, there are %d", len(explained), len(names))
	}
}

func readFile(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}
