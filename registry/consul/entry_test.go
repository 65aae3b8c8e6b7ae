package consul

import (
	"fmt"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/consul/api"

	"github.com/wattle-mesh/wattle/registry"
)

// reviews returns an instance as an agent tells it.
func reviews(edit ...func(*entry)) *entry {
	e := &entry{
		Node: &api.Node{Node: "h1", Address: "10.0.0.1", Datacenter: "dc1", TaggedAddresses: map[string]string{"lan": "10.0.0.1", "wan": "198.51.100.1"}, Meta: map[string]string{"rack": "r7"}},
		Service: &api.AgentService{ID: "reviews-1", Service: "reviews", Port: 9080, Meta: map[string]string{"version": "v1"}, Tags: []string{"prod"},
			Weights: api.AgentWeights{Passing: 10, Warning: 1}},
		Checks: []check{{CheckID: "serfHealth", Status: "passing"}},
	}
	for _, f := range edit {
		f(e)
	}
	return e
}

func checked(id, status string) func(*entry) {
	return func(e *entry) { e.Checks = append(e.Checks, check{CheckID: id, Status: status}) }
}

func TestWhatBecomesOfAnInstance(t *testing.T) {
	for name, c := range map[string]struct {
		body string
		edit func(*entry)
		want string // address:port weight health reason
	}{
		"the node's address":                   {"", func(*entry) {}, "10.0.0.1:9080 10 healthy "},
		"its own address":                      {"", func(e *entry) { e.Service.Address = "10.1.0.1" }, "10.1.0.1:9080 10 healthy "},
		"an IPv6 address":                      {"", func(e *entry) { e.Service.Address = "2001:db8::1" }, "[2001:db8::1]:9080 10 healthy "},
		"an IPv4 address as IPv6":              {"", func(e *entry) { e.Service.Address = "::ffff:10.1.0.1" }, "10.1.0.1:9080 10 healthy "},
		"the node's address though it has one": {`address_from = "node"`, func(e *entry) { e.Service.Address = "10.1.0.1" }, "10.0.0.1:9080 10 healthy "},
		"the node's tagged address":            {`address_from = "wan"`, func(*entry) {}, "198.51.100.1:9080 10 healthy "},
		"its tagged address and port": {`address_from = "wan"`, func(e *entry) {
			e.Service.TaggedAddresses = map[string]api.ServiceAddress{"wan": {Address: "198.51.100.9", Port: 80}}
		}, "198.51.100.9:80 10 healthy "},
		"no address of that tag":              {`address_from = "vpn"`, func(*entry) {}, "10.0.0.1:9080 10 healthy "},
		"a warning":                           {"", checked("load", "warning"), "10.0.0.1:9080 1 healthy "},
		"a warning that counts":               {"only_passing = true", checked("load", "warning"), "10.0.0.1:9080 10 unhealthy check load is warning"},
		"a warning for which its weight is 0": {"", func(e *entry) { checked("load", "warning")(e); e.Service.Weights.Warning = 0 }, "10.0.0.1:9080 0 unhealthy check load is warning, for which its weight is 0"},
		"critical":                            {"", checked("http", "critical"), "10.0.0.1:9080 10 unhealthy check http is critical"},
		"a status that Consul has not":        {"", checked("http", "odd"), "10.0.0.1:9080 10 unhealthy check http is critical"},
		"maintenance of the node":             {"", checked("_node_maintenance", "critical"), "10.0.0.1:9080 10 draining in maintenance mode"},
		"maintenance of the service":          {"", checked("_service_maintenance:reviews-1", "critical"), "10.0.0.1:9080 10 draining in maintenance mode"},
		"critical in maintenance": {"", func(e *entry) {
			checked("_node_maintenance", "critical")(e)
			checked("b", "critical")(e)
			checked("a", "critical")(e)
		}, "10.0.0.1:9080 10 unhealthy check a is critical"},
	} {
		t.Run(name, func(t *testing.T) {
			s, faults := one(t, c.body, reviews(c.edit))
			if len(faults) > 0 || s == nil || len(s.Endpoints) != 1 {
				t.Fatalf("%+v, %v", s, faults)
			}
			e := s.Endpoints[0]
			if got := fmt.Sprintf("%s %d %s %s", e, e.Weight, e.Health, e.Reason); got != c.want {
				t.Errorf("%s, want %s", got, c.want)
			}
		})
	}
}

// one joins instances of the service reviews.
func one(t *testing.T, body string, entries ...*entry) (*registry.Service, []registry.Diagnostic) {
	t.Helper()
	c := source(t, body, nil).config
	o := c.offer("reviews", entries, 1)
	if o == nil {
		return nil, nil
	}
	return c.join(registry.Name{Namespace: "default", Name: "reviews"}, []*offer{o})
}

func TestLabelsAndLocality(t *testing.T) {
	s, _ := one(t, `node_meta = ["rack", "none"]`, reviews())
	want := map[string]string{"version": "v1", "tag.prod": "true", "node.rack": "r7", "consul.id": "reviews-1", "consul.node": "h1", "consul.datacenter": "dc1"}
	if d := cmp.Diff(want, s.Endpoints[0].Meta.Map()); d != "" {
		t.Error(d)
	}
	s, _ = one(t, `node_meta = ["rack"]`, reviews(func(e *entry) {
		maps.Copy(e.Service.Meta, map[string]string{"tag.mesh": "true", "node.rack": "r1", "node.other": "x", "consul.node": "h9"})
	}))
	if d := cmp.Diff(want, s.Endpoints[0].Meta.Map()); d != "" {
		t.Errorf("its own metadata stands for what Consul says: %s", d)
	}
	if l := s.Endpoints[0].Locality; l != (registry.Locality{Region: "dc1"}) {
		t.Errorf("%+v", l)
	}
	s, _ = one(t, "", reviews(func(e *entry) { e.Node.Locality = &api.Locality{Region: "eu", Zone: "eu-1"} }))
	if l := s.Endpoints[0].Locality; l != (registry.Locality{Region: "eu", Zone: "eu-1"}) {
		t.Errorf("%+v", l)
	}
}

func TestTheServicesPorts(t *testing.T) {
	at := func(id string, port int) *entry {
		return reviews(func(e *entry) { e.Service.ID, e.Service.Address, e.Service.Port = id, "10.1.0."+id, port })
	}
	two := reviews(func(e *entry) {
		e.Service.Port = 0
		e.Service.Ports = api.ServicePorts{{Name: "http", Port: 8080, Default: true}, {Name: "admin", Port: 9090}}
	})
	for name, c := range map[string]struct {
		body    string
		entries []*entry
		want    string
		fault   string
	}{
		"the instances agree":       {"", []*entry{at("1", 80), at("2", 80)}, "80= | 10.1.0.1:80>80 10.1.0.2:80>80", ""},
		"they do not":               {"", []*entry{at("2", 90), at("1", 81)}, "81= | 10.1.0.1:81>81 10.1.0.2:90>81", "callers name the one that most have, 81"},
		"most of them do":           {"", []*entry{at("2", 90), at("1", 81), at("3", 90)}, "90= | 10.1.0.1:81>90 10.1.0.2:90>90 10.1.0.3:90>90", "callers name the one that most have, 90"},
		"the configuration says it": {"service_ports = { reviews = 80 }", []*entry{at("1", 81), at("2", 90)}, "80= | 10.1.0.1:81>80 10.1.0.2:90>80", ""},
		"ports with names":          {"", []*entry{two}, "8080=http 9090=admin | 10.0.0.1:8080>8080 10.0.0.1:9090>9090", ""},
		"one of them configured":    {`service_ports = { "reviews/http" = 80 }`, []*entry{two}, "80=http 9090=admin | 10.0.0.1:8080>80 10.0.0.1:9090>9090", ""},
	} {
		t.Run(name, func(t *testing.T) {
			s, faults := one(t, c.body, c.entries...)
			var ports, ends []string
			for _, p := range s.Ports {
				ports = append(ports, fmt.Sprintf("%d=%s", p.Number, p.Name))
			}
			for _, e := range s.Endpoints {
				ends = append(ends, fmt.Sprintf("%s>%d", e, e.ServicePort))
			}
			if got := strings.Join(ports, " ") + " | " + strings.Join(ends, " "); got != c.want {
				t.Errorf("%s, want %s", got, c.want)
			}
			if (len(faults) > 0) != (c.fault != "") || len(faults) > 0 && !strings.Contains(faults[0].Summary, c.fault) {
				t.Errorf("faults %v, want %s", faults, c.fault)
			}
		})
	}
}

func TestWhatIsLeftOut(t *testing.T) {
	for name, c := range map[string]struct {
		edit  func(*entry)
		fault string // empty: it is no service, and nothing is wrong with that
	}{
		"a connect proxy":        {func(e *entry) { e.Service.Kind = api.ServiceKindConnectProxy }, ""},
		"a gateway":              {func(e *entry) { e.Service.Kind = api.ServiceKindMeshGateway }, ""},
		"another one's":          {func(e *entry) { e.Service.Service = "Reviews" }, ""},
		"half an entry":          {func(e *entry) { e.Node = nil }, ""},
		"a port of 0":            {func(e *entry) { e.Service.Port = 0 }, "instances reviews-1 are left out: they have no port"},
		"a port that is too big": {func(e *entry) { e.Service.Port = 70000 }, "no port"},
		"a host name":            {func(e *entry) { e.Service.Address = "db.example" }, `"db.example" (reviews-1)`},
		"a name in no encoding":  {func(e *entry) { e.Service.Address, e.Service.ID = "\xff", "\xfe" }, `"\xff" (` + "\uFFFD)"},
		"a huge address":         {func(e *entry) { e.Service.Address = strings.Repeat("a", 1<<20) }, "aaa..."},
	} {
		t.Run(name, func(t *testing.T) {
			s, faults := one(t, "", reviews(c.edit))
			if s != nil {
				t.Errorf("%+v", s)
			}
			if (len(faults) > 0) != (c.fault != "") || len(faults) > 0 && (!strings.Contains(faults[0].Summary, c.fault) || len(faults[0].Summary) > 1000) {
				t.Errorf("faults %v, want %s", faults, c.fault)
			}
		})
	}
}

func TestNamesThatCannotBeUsedAreNamedByTheCommonCheck(t *testing.T) {
	t.Parallel()
	p := newPeer(t, nil).ready()
	p.register(web(1, 8080))
	strange := []string{"Web", "web_1", "a/../web", "web.x", strings.Repeat("w", 64)}
	for _, name := range strange {
		p.register(&api.AgentService{ID: name, Service: name, Address: "10.0.0.9", Port: 80})
	}
	for name, start := range modes {
		t.Run(name, func(t *testing.T) {
			_, body := start(t, p)
			m := join(t, body)
			m.await("web:8080 10.0.0.1:8080")
			eventually(t, "5 faults", func() bool { return strings.Count(m.faults(), "W4101") == len(strange) })
		})
	}
}

func TestNamesThatTheMeshCannotHaveCanBeGivenAnother(t *testing.T) {
	t.Parallel()
	p := newPeer(t, nil).ready()
	p.register(&api.AgentService{ID: "1", Service: "web_v1", Address: "10.0.0.1", Port: 80, Tags: []string{"mesh"}})
	p.register(&api.AgentService{ID: "2", Service: "Orders.API", Address: "10.0.0.2", Port: 80, Tags: []string{"mesh"}})
	p.register(&api.AgentService{ID: "3", Service: "a b/c?d=%2f", Address: "10.0.0.3", Port: 80, Tags: []string{"mesh"}})
	p.register(&api.AgentService{ID: "4", Service: "not_picked", Address: "10.0.0.4", Port: 80})
	p.register(&api.AgentService{ID: "5", Service: "odd_one", Address: "10.0.0.5", Port: 80, Tags: []string{"mesh"}})
	shape := registry.Shape{
		Rename: map[string]string{"web_v1": "web", "default/Orders.API": "orders", "a b/c?d=%2f": "other", "new_one": "new"},
		Picks:  func(_ *registry.Service, e *registry.Endpoint) bool { return slices.Contains(e.Tags(), "mesh") },
	}
	for name, start := range modes {
		t.Run(name, func(t *testing.T) {
			_, body := start(t, p)
			m := joinShaped(t, quick(t, body), shape)
			m.await("orders:80 10.0.0.2:80", "other:80 10.0.0.3:80", "web:80 10.0.0.1:80")
			p.register(&api.AgentService{ID: "6", Service: "new_one", Address: "10.0.0.6", Port: 80, Tags: []string{"mesh"}})
			m.await("new:80 10.0.0.6:80", "orders:80 10.0.0.2:80", "other:80 10.0.0.3:80", "web:80 10.0.0.1:80")
			p.deregister("6")
			m.await("orders:80 10.0.0.2:80", "other:80 10.0.0.3:80", "web:80 10.0.0.1:80")
			eventually(t, "one fault", func() bool {
				return strings.Count(m.faults(), "W4101") == 1 && strings.Contains(m.faults(), `"default/odd_one" is left out`)
			})
		})
	}
}

func TestTheBodyOfARegistryBlock(t *testing.T) {
	for _, c := range []struct{ body, want string }{
		{``, ""},
		{`address = "http://consul.example"`, ""},
		{`address = "unix:///run/consul/http.sock"`, ""},
		{"address = \"https://[2001:db8::1]:8501/consul/\"\ntls { server_name = \"server.dc1.consul\" }", ""},
		{"datacenters = [\"dc1\", \"dc2\"]\nnamespaces = [\"a\"]\npartition = \"p\"\nstale = false\nmax_stale = \"1m\"\nwait = \"10m\"\nonly_passing = true", ""},
		{`address = ""`, "Invalid address"},
		{`address = "10.0.0.1:8500"`, "Invalid address"},
		{`address = "ftp://10.0.0.1"`, "Invalid address"},
		{`address = "http://"`, "Address without a host"},
		{`address = "http://a:b@10.0.0.1"`, "Address with a secret"},
		{`address = "http://10.0.0.1?token=x"`, "Invalid address"},
		{`address = "unix://run/x"`, "absolute"},
		{`addres = "x"`, "Unsupported argument"},
		{`wait = "5"`, "Invalid duration"},
		{`wait = "11m"`, "Invalid duration"},
		{`max_stale = "0s"`, "Invalid duration"},
		{`datacenters = ["dc1", "dc1"]`, "Repeated name"},
		{`datacenters = [""]`, "Empty name"},
		{`datacenters = []`, "Empty datacenters"},
		{`namespaces = [for n in range(17) : "n${n}"]`, ""},
		{`token_file = ""`, "Empty token_file"},
		{`address_from = ""`, "Empty address_from"},
		{`service_ports = { web = 0 }`, "Invalid port"},
		{`service_ports = { web = "x" }`, "Unsuitable value type"},
		{`tls {}`, "TLS options without TLS"},
		{"address = \"https://c\"\ntls { cert_file = \"c\" }", "Certificate or key missing"},
		{"address = \"https://c\"\ntls { ca_file = \"\" }", "Empty ca_file"},
		{"address = \"https://c\"\ntls {}\ntls {}", "Duplicate tls block"},
	} {
		if strings.Contains(c.body, "range(") {
			c.body, c.want = fmt.Sprintf("namespaces = [%s]", strings.TrimSuffix(strings.Repeat("\"n\", ", 17), ", ")), "Repeated name"
		}
		s, diags := Driver().New(parse(t, c.body), registry.DriverOptions{Dir: "/etc/wattle", Log: slog.New(slog.DiscardHandler)})
		switch {
		case c.want == "" && (diags.HasErrors() || s == nil):
			t.Errorf("%s: %v", c.body, diags)
		case c.want != "" && (s != nil || !strings.Contains(diags.Error(), c.want)):
			t.Errorf("%s: %v, want %s", c.body, diags, c.want)
		}
		for _, d := range diags {
			if d.Subject == nil || d.Subject.Filename != "server.hcl" || d.Detail == "" {
				t.Errorf("%s: %+v", c.body, d)
			}
		}
	}
	s := source(t, "address = \"https://c\"\ntoken_file = \"t\"\ntls { ca_file = \"ca.pem\" }", nil)
	if c := s.config; c.address != "https://c:8501" || c.wait != defaultWait || !c.stale || c.tokenFile != "t" {
		t.Errorf("%+v", c)
	}
	many := make([]string, 17)
	for i := range many {
		many[i] = fmt.Sprintf("%q", fmt.Sprint("dc", i))
	}
	if _, diags := Driver().New(parse(t, "datacenters = ["+strings.Join(many, ",")+"]"), registry.DriverOptions{}); !strings.Contains(diags.Error(), "Too many") {
		t.Error(diags)
	}
}

func TestAMissingCertificateIsAnErrorOfTheRun(t *testing.T) {
	t.Parallel()
	m := join(t, tlsTo("127.0.0.1:1", "/none/ca.pem"))
	m.awaitError("/none/ca.pem")
}

func TestAUnixSocket(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("", "c") // a socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	p := newPeer(t, map[string]any{"addresses": map[string]any{"http": "127.0.0.1 unix://" + dir + "/http.sock"}}).ready()
	p.register(web(1, 8080))
	m := join(t, fmt.Sprintf("address = \"unix://%s/http.sock\"", dir))
	m.await("web:8080 10.0.0.1:8080")
}

func TestTheREADMELoads(t *testing.T) {
	page, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	for i, block := range strings.Split(string(page), "```hcl\n")[1:] {
		text, _, _ := strings.Cut(block, "```")
		_, inner, _ := strings.Cut(text, "{\n")
		source(t, inner[:strings.LastIndex(inner, "}")], nil)
		if i > 0 {
			t.Error("one example is enough")
		}
	}
}
