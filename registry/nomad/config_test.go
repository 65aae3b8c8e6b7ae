package nomad

import (
	"os"
	"strings"
	"testing"

	"github.com/hashicorp/hcl/v2/hclsyntax"

	"github.com/hashicorp/hcl/v2"

	"github.com/wattle-mesh/wattle/registry"
)

func TestTheBodyOfARegistryBlock(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{``, ""},
		{`address = "https://nomad.example"`, ""},
		{`address = "unix:///secrets/api.sock"`, ""},
		{`namespaces = ["*"]`, ""},
		{`address = ""`, "Invalid address"},
		{`address = "nomad:4646"`, "Invalid address"},
		{`address = "http://u:p@nomad"`, "Address with a secret"},
		{`token = "x"`, "Unsupported argument"},
		{`token_file = ""`, "Empty token_file"},
		{`namespaces = []`, "Empty namespaces"},
		{`namespaces = ["a", "a"]`, "Repeated name"},
		{`namespaces = ["*", "a"]`, "All namespaces and more"},
		{`namespaces = ["` + strings.Join(strings.Split("abcdefghijklmnopq", ""), `", "`) + `"]`, "Too many namespaces"},
		{`wait = "1h"`, "Invalid duration"},
		{`address_from = "node"`, "Unknown address_from"},
		{`service_ports = { web = 70000 }`, "Invalid port"},
		{`tls { ca_file = "x" }`, "TLS options without TLS"},
		{"address = \"https://n\"\ntls { cert_file = \"x\" }", "Certificate or key missing"},
	} {
		_, diags := Driver().New(parse(t, c.text), registry.DriverOptions{Name: "main"})
		switch {
		case c.want == "" && diags.HasErrors():
			t.Errorf("%s: %v", c.text, diags)
		case c.want != "" && (!diags.HasErrors() || !strings.Contains(diags.Error(), c.want)):
			t.Errorf("%s: %v, want %s", c.text, diags, c.want)
		case c.want != "" && (diags[0].Subject == nil || diags[0].Subject.Start.Line < 1 || diags[0].Detail == ""):
			t.Errorf("%s: no place or no remedy: %v", c.text, diags)
		}
	}
	s := source(t, "address = \"https://n\"\ntoken_file = \"t\"\nnamespaces = [\"shop\"]\nkeep_dropped = false\naddress_from = \"host\"\nregion = \"eu\"\ntls { ca_file = \"ca.pem\" }")
	if c := s.config; c.address != "https://n:4646" || c.wait != defaultWait || c.keepDropped || !c.fromHost || c.region != "eu" || c.tls.CAFile != "ca.pem" {
		t.Errorf("%+v", c)
	}
}

// The example in the README is one that loads.
func TestTheREADMELoads(t *testing.T) {
	text, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, block, ok := strings.Cut(string(text), "```hcl\n")
	block, _, end := strings.Cut(block, "```")
	if !ok || !end {
		t.Fatal("no example")
	}
	file, diags := hclsyntax.ParseConfig([]byte(block), "README.md", hcl.InitialPos)
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	content, diags := file.Body.Content(&hcl.BodySchema{Blocks: []hcl.BlockHeaderSchema{{Type: "registry", LabelNames: []string{"type", "name"}}}})
	if diags.HasErrors() || len(content.Blocks) != 1 {
		t.Fatal(diags)
	}
	if _, diags := Driver().New(content.Blocks[0].Body, registry.DriverOptions{Name: "main"}); diags.HasErrors() {
		t.Error(diags)
	}
}

func TestHealth(t *testing.T) {
	yes, no := true, false
	deployment := func(healthy *bool) *alloc {
		a := running(1)
		a.DeploymentStatus = &struct {
			Healthy *bool
			Canary  bool
		}{Healthy: healthy}
		return &a
	}
	with := func(client, desired string) *alloc {
		a := running(1)
		a.ClientStatus, a.DesiredStatus = client, desired
		return &a
	}
	ready := &node{Status: "ready"}
	for _, c := range []struct {
		name   string
		a      *alloc
		n      *node
		health registry.Health
		over   bool
	}{
		{"running", with("running", "run"), ready, registry.Healthy, false},
		{"a deployment that finds it healthy", deployment(&yes), ready, registry.Healthy, false},
		{"a deployment that has ended and has not decided", deployment(nil), ready, registry.Healthy, false},
		{"a deployment that finds it unhealthy", deployment(&no), ready, registry.Unhealthy, false},
		{"pending", with("pending", "run"), ready, "", false},
		{"to stop", with("running", "stop"), ready, registry.Draining, false},
		{"to be evicted", with("running", "evict"), ready, registry.Draining, false},
		{"complete", with("complete", "stop"), ready, "", true},
		{"failed", with("failed", "run"), ready, "", true},
		{"lost", with("lost", "stop"), ready, registry.Unhealthy, false},
		{"unknown", with("unknown", "run"), ready, registry.Unhealthy, false},
		{"on a node that is down", with("running", "run"), &node{Status: "down"}, registry.Unhealthy, false},
		{"on a node that is disconnected", with("running", "run"), &node{Status: "disconnected"}, registry.Unhealthy, false},
		{"on a node that starts", with("running", "run"), &node{Status: "initializing"}, registry.Healthy, false},
		{"on a node that nobody knows", with("running", "run"), nil, registry.Unhealthy, false},
		{"of which nobody knows", nil, ready, "", true},
	} {
		if over(c.a) != c.over {
			t.Errorf("%s: over %t", c.name, over(c.a))
		}
		if c.over {
			continue
		}
		health, reason := healthOf(c.a, c.n)
		if health != c.health || (health == registry.Unhealthy || health == registry.Draining) != (reason != "") {
			t.Errorf("%s: %q, %q", c.name, health, reason)
		}
	}
}

func TestWhatCallersName(t *testing.T) {
	c := &config{ports: map[string]uint16{"db": 5432}}
	for _, x := range []struct {
		service string
		numbers []int
		port    uint16
		agreed  bool
	}{
		{"web", []int{8080, 8080}, 8080, true},
		{"web", []int{8081, 8080}, 8081, false},
		{"web", []int{8080, 23456}, 8080, false},
		{"web", []int{8080, 23456, 23457}, 80, false},
		{"web", []int{20001, 23456}, 80, true},
		{"web", []int{31999}, 80, true},
		{"web", []int{32001}, 32001, true},
		{"db", []int{23456, 8080}, 5432, true},
	} {
		var all []registry.Listener
		for i, n := range x.numbers {
			all = append(all, registry.Listener{Port: uint16(n), Index: uint64(i)})
		}
		if port, agreed := c.servicePort(x.service, all); port != x.port || agreed != x.agreed {
			t.Errorf("%s %v: %d, %t", x.service, x.numbers, port, agreed)
		}
	}
}

// An instance in a network of its own is called at its node, if the block says so: at the port that leads to it.
func TestAnInstanceMayBeCalledAtItsNode(t *testing.T) {
	a := running(1)
	a.AllocatedResources = &struct{ Shared struct{ Ports []portMapping } }{}
	a.AllocatedResources.Shared.Ports = []portMapping{{Label: "http", Value: 23456, To: 8080, HostIP: "192.168.0.7"}, {Label: "any", Value: 23457, To: 9090, HostIP: "0.0.0.0"}}
	for _, x := range []struct {
		from string
		port int
		want string
		at   int
	}{
		{"service", 8080, "172.26.64.5", 8080},
		{"host", 8080, "192.168.0.7", 23456},
		{"host", 9090, "192.168.0.1", 23457},
		{"host", 7070, "172.26.64.5", 7070}, // no port of the node leads there
	} {
		tb := newTable(&config{fromHost: x.from == "host"})
		tb.allocs["a1"], tb.nodes["n"] = &a, &node{Address: "192.168.0.1"}
		r := instance(1)
		r.Address, r.Port = "172.26.64.5", x.port
		if address, port := tb.place(&r); address != x.want || port != x.at {
			t.Errorf("%s %d: %s:%d", x.from, x.port, address, port)
		}
	}
}

func TestTheTaskOfARegistration(t *testing.T) {
	for id, want := range map[string]string{
		"_nomad-task-a1-main-web-http":         "main",
		"_nomad-task-a1-web-app-web-http":      "web-app",
		"_nomad-task-a1-group-g1-web-http":     "",
		"_nomad-task-a2-main-web-http":         "",
		"something else":                       "",
		"_nomad-task-a1-main-other-service-80": "",
	} {
		if got := taskOf(&registration{ID: id, AllocID: "a1", ServiceName: "web"}); got != want {
			t.Errorf("%s: %q", id, got)
		}
	}
}

func TestOfTwoInstancesAtOnePlaceTheHealthierCounts(t *testing.T) {
	tb := newTable(&config{})
	lost, alive := running(1), running(2)
	lost.ClientStatus = "lost"
	tb.putAllocs(everyNamespace, []*alloc{&lost, &alive}, anew)
	tb.putNodes([]*node{{ID: "n", Status: nodeReady}})
	dead, live := instance(1), instance(2)
	dead.CreateIndex, live.CreateIndex = 9, 5
	live.Address, live.Port = dead.Address, dead.Port
	name := registry.Name{Namespace: dead.Namespace, Name: dead.ServiceName}
	tb.put(t.Context(), name, []*registration{&dead, &live}, nil)
	s := tb.set()
	if len(s) != 1 || len(s[0].Endpoints) != 1 || s[0].Endpoints[0].Health != registry.Healthy || s[0].Endpoints[0].Meta.Get(labelAlloc) != live.AllocID {
		t.Errorf("%+v", s)
	}
	faults := tb.services[name].faults
	if len(faults) != 1 || faults[0].Code != registry.EntriesCollide || faults[0].Origin == "" || !strings.Contains(faults[0].Summary, "allocation "+dead.AllocID+" is left out") {
		t.Errorf("%+v", faults)
	}
}
