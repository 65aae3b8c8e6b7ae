package dns

import (
	"log/slog"
	"strings"
	"testing"

	"github.com/hashicorp/hcl/v2"

	"github.com/wattle-mesh/wattle/registry"
)

func TestTheBodyOfARegistryBlock(t *testing.T) {
	in := func(service string) string { return "service \"a\" {\n" + service + "\n}" }
	const good = "srv = \"a.example.com\""
	for _, c := range []struct {
		body, want string
		line       int
	}{
		{"", "", 0},
		{in(good), "", 0},
		{"resolvers = [\"10.0.0.53\", \"10.0.0.53:8600\", \"fd00::53\", \"[fd00::53]:8600\", \"fe80::1%eth0\"]", "", 0},
		{"min_ttl = \"100ms\"\nmax_ttl = \"24h\"\ntimeout = \"30s\"\nnegative_hold = \"0s\"\nfamily = \"ipv6\"\nmax_queries = 1\nqueries_per_second = 100000", "", 0},
		{"min_ttl = \"5m\"", "", 0},
		{in("name = \"a.example.com\"\nport = 1\nendpoint_port = 65535\nprotocol = \"grpc\"\nnamespace = \"x\"\nmeta = { a = \"b\" }"), "", 0},

		{"\nresolver = []", "Unsupported argument", 2},
		{"resolvers = \"10.0.0.1\"", "Unsuitable value type", 1},
		{"resolvers = []", "There are 0 resolvers", 1},
		{"resolvers = [\"ns.example.com\"]", `"ns.example.com" is no resolver`, 1},
		{"resolvers = [\"10.0.0.1:0\"]", "is no resolver", 1},
		{"resolvers = [\"0.0.0.0\"]", "is no resolver", 1},
		{"resolvers = [\"10.0.0.1\", \"10.0.0.1:53\"]", "10.0.0.1:53 is there twice", 1},
		{"resolvers = [\"10.0.0.1\", \"::ffff:10.0.0.1\"]", "10.0.0.1:53 is there twice", 1},
		{"min_ttl = \"1\"", "min_ttl is no duration", 1},
		{"\n\nmin_ttl = \"99ms\"", "min_ttl is out of range", 3},
		{"min_ttl = \"10s\"\nmax_ttl = \"5s\"", "max_ttl is below min_ttl", 2},
		{"max_ttl = \"25h\"", "max_ttl is out of range", 1},
		{"timeout = \"0s\"", "timeout is out of range", 1},
		{"negative_hold = \"-1s\"", "negative_hold is out of range", 1},
		{"family = \"ip\"", "family is none", 1},
		{"max_queries = 0", "max_queries is out of range", 1},
		{"queries_per_second = 1.5", "Unsuitable value", 1},
		{"max_queries = many", "Variables not allowed", 1},

		{"service {}", "Missing name for service", 1},
		{"service \"A\" {\n" + good + "\n}", `"A" is no name`, 1},
		{in(good + "\nnamespace = \"a.b\""), `"a.b" is no name`, 3},
		{in(""), "No name to ask for", 1},
		{in(good + "\nname = \"b.example.com\""), "Both srv and name", 3},
		{in(good + "\nendpoint_port = 1"), "endpoint_port beside srv", 3},
		{in(good + "\nweight = 1"), "Unsupported argument", 3},
		{in(good + "\nport = 70000"), "port is out of range", 3},
		{in(good + "\nprotocol = \"smtp\""), `"smtp" is no protocol`, 3},
		{in("name = \"a.example.com\""), "No port", 1},
		{in("name = \"10.0.0.1\"\nport = 1"), "name is an address", 2},
		{in("name = \"a b\"\nport = 1"), "name is no DNS name", 2},
		{in("name = \"caf\u00e9.example\"\nport = 1"), "name is no DNS name", 2},
		{in("srv = \"" + strings.Repeat("a", 64) + ".example.com\""), "srv is no DNS name", 2},
		{in("srv = \"a..b\""), "srv is no DNS name", 2},
		{in(good + "\nset {\n srv = \"b.example.com\"\n}"), "Both a set block and", 1},
		{in("set {\n " + good + "\n}\nset {\n srv = \"A.example.com.\"\n}"), "a.example.com. is there twice in one service", 5},
		{in("set {\n " + good + "\n port = 1\n}"), "Unsupported argument", 4},
		{in(good) + "\n" + in("srv = \"b.example.com\""), "Service default/a is there twice", 4},
	} {
		source, diags := Driver().New(parse(t, c.body), registry.DriverOptions{Log: slog.New(slog.DiscardHandler)})
		switch {
		case c.want == "" && (diags.HasErrors() || source == nil):
			t.Errorf("%s: %v", c.body, diags)
		case c.want == "":
		case source != nil || !strings.Contains(diags.Error(), c.want):
			t.Errorf("%s: %v, want %s", c.body, diags, c.want)
		case diags[0].Subject == nil || diags[0].Subject.Start.Line != c.line || diags[0].Detail == "":
			t.Errorf("%s: at %v with %q, want it in line %d", c.body, diags[0].Subject, diags[0].Detail, c.line)
		}
	}
}

func TestAllThatIsWrongIsSaidInItsOrder(t *testing.T) {
	_, diags := Driver().New(parse(t, "min_ttl = \"x\"\nfamily = \"x\"\nother = 1\nservice \"a\" {\n}"), registry.DriverOptions{})
	if len(diags) != 4 {
		t.Fatal(diags)
	}
	for i, d := range diags {
		if d.Severity != hcl.DiagError || d.Subject.Start.Line != i+1 {
			t.Errorf("%d: %v", i, d)
		}
	}
}
