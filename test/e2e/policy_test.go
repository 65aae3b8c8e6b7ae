package e2e

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/wattle-mesh/wattle/test/load"
)

// versions is a mesh of one caller and two versions of shop; a route sends everybody to one of them.
const versions = `
-- mesh.hcl --
mesh { trust_domain = "e2e.example" }
-- hosts.hcl --
host "h1" {
  address = "127.0.X.11"

  service "web" {
    port  = 9000
    local = "127.0.X.11:9000"
    upstream "shop" { bind = "127.0.X.11:9081" }
  }
}

host "h2" {
  address = "127.0.X.12"

  dynamic "service" {
    for_each = ["v1", "v2"]
    labels   = ["shop"]
    content {
      instance = service.value
      port     = 9080
      local    = "127.0.X.12:${9080 + service.key}"
      meta     = { version = service.value }
      command  = ["echo"]
    }
  }
}
-- shop.hcl --
`

// allTo is the policy that sends everybody to a version of shop.
func allTo(version string) string {
	return fmt.Sprintf(`
virtual_service "shop" {
  hosts = ["shop"]
  http "all" {
    route {
      host   = "shop"
      subset = %q
    }
  }
}

destination_rule "shop" {
  host = "shop"
  subset "v1" { labels = { version = "v1" } }
  subset "v2" { labels = { version = "v2" } }
}
`, version)
}

// TestABadPolicyLeavesTheLastGoodOneInForce breaks the policy of a running mesh in every way that a person or a disk does.
func TestABadPolicyLeavesTheLastGoodOneInForce(t *testing.T) {
	t.Parallel()
	m := newMesh(t, versions+allTo("v1"))
	m.reached(t, request{Addr: "127.0.X.11:9081"})
	secret := m.path("secret.hcl")
	if err := os.WriteFile(secret, []byte("mesh {}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := load.Start(t.Context(), load.Options{Rate: 100, Targets: []load.Target{{Kind: load.Get, Addr: m.at("127.0.X.11:9081")}}})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Stop()
	from := time.Now()
	good := m.status().Revision
	for _, c := range []struct {
		name, text, want string
		line             int
	}{
		{"text that does not parse", "virtual_service {{{\n", "", 1},
		{"an attribute that there is not", strings.Replace(allTo("v2"), "host   =", "hots   =", 1), "hots", 6},
		{"a value of the wrong type", strings.Replace(allTo("v2"), `subset = "v2"`, `weight = "90"`, 1), "weight", 7},
		{"weights that add up to nothing", strings.Replace(allTo("v2"), `subset = "v2"`, `weight = 0`, 1), "weight", 0},
		{"two blocks of one name", allTo("v2") + `destination_rule "shop" { host = "shop" }`, "shop", 0},
		{"a subset that nothing declares", allTo("v9"), "v9", 7},
		{"a service that nobody knows", strings.Replace(allTo("v2"), "host   = \"shop\"\n      subset = \"v2\"", "host   = \"shoop\"", 1), "shoop", 6},
		{"bytes that are no text", allTo("v2") + "# \xff\xfe\n", "UTF-8", 0},
		{"more than a file may hold", allTo("v2") + strings.Repeat("# all work and no play\n", 500_000), "", 0},
	} {
		m.write("shop.hcl", c.text)
		m.rejected(t, c.name, "shop.hcl", c.line, c.want)
	}
	m.write("shop.hcl", allTo("v1"))
	m.accepted(t)
	if err := os.Symlink(secret, m.path("policy", "out.hcl")); err != nil {
		t.Fatal(err)
	}
	m.rejected(t, "a symlink out of the folder", "out.hcl", 0, "")
	m.remove("out.hcl")
	m.accepted(t)
	if err := os.Symlink("nothing.hcl", m.path("policy", "gone.hcl")); err != nil {
		t.Fatal(err)
	}
	m.rejected(t, "a file that cannot be read", "gone.hcl", 0, "")
	m.remove("gone.hcl")
	m.accepted(t)
	if err := os.Rename(m.path("policy"), m.path("aside")); err != nil {
		t.Fatal(err)
	}
	m.rejected(t, "a folder that is gone", "", 0, "policy")
	if err := os.Rename(m.path("aside"), m.path("policy")); err != nil {
		t.Fatal(err)
	}
	m.accepted(t)

	if now := m.status().Revision; now != good {
		t.Errorf("revision %d after nothing but bad policies, was %d", now, good)
	}
	route, rule, _ := strings.Cut(allTo("v1"), "destination_rule")
	m.write("rule.hcl", "destination_rule"+rule)
	m.rejected(t, "a rule in two files", "", 0, "shop")
	m.write("shop.hcl", route)
	m.accepted(t)
	m.remove("rule.hcl")
	m.rejected(t, "a subset that left with its file", "shop.hcl", 7, "v1")
	m.write("shop.hcl", "")
	m.rejected(t, "a file that was removed", "rule.hcl", 1, "wattle policy accept")
	m.write("shop.hcl", route)
	m.write("rule.hcl", "destination_rule"+rule)
	m.accepted(t)
	if err := l.For(t.Context(), time.Second); err != nil {
		t.Fatal(err)
	}
	report := l.Report().Window(from, time.Time{})
	if by := report.Count(func(r load.Result) string { return r.Answer.Version }); by["v1"] != report.All().Sent {
		t.Errorf("answers: %v, want all by v1\n%s", by, report)
	}

	m.change("shop.hcl", strings.Replace(route, "v1", "v2", 1))
	if err := l.Await(limited(t), func(r load.Result) bool { return r.Answer.Version == "v2" }); err != nil {
		t.Error("a good policy after the bad ones is not followed:", err)
	}
	m.change("more.hcl", "gateway \"more\" {\n  run_on = [\"h1\"]\n  server \"http\" {\n    bind = \"127.0.X.11\"\n    port = 8081\n  }\n}\n")
	m.remove("more.hcl")
	m.rejected(t, "a gateway's file that was removed", "more.hcl", 1, "gateway more")
	if out := m.wattle("policy", "accept"); !strings.HasPrefix(out, "revision ") {
		t.Error(out)
	}
	m.accepted(t)
	if report := l.Stop(); report.All().Failed > 0 {
		t.Errorf("%s", report)
	}
}

// rejected waits until the server says of a file that it is in the way. What is zero is not checked.
func (m *mesh) rejected(t *testing.T, what, file string, line int, text string) {
	t.Helper()
	eventually(t, "the rejection of "+what, func() error {
		s := m.status()
		for _, d := range s.Diagnostics {
			if d.Severity == "error" && (file == "" || d.File == file) && (line == 0 || d.Line == line) && d.Code != "" &&
				strings.Contains(fmt.Sprint(d.Summary, d.Detail), text) {
				return nil
			}
		}
		return fmt.Errorf("diagnostics %+v", s.Diagnostics)
	})
	if out := m.wattle("status"); !strings.Contains(out, file) {
		t.Errorf("%s: wattle status does not name %s:\n%s", what, file, out)
	}
}

// accepted waits until the server has nothing against the policy folder.
func (m *mesh) accepted(t *testing.T) {
	t.Helper()
	eventually(t, "the folder to be accepted", func() error {
		s := m.status()
		if slices.ContainsFunc(s.Diagnostics, func(d diagnostic) bool { return d.Severity == "error" }) {
			return fmt.Errorf("diagnostics %+v", s.Diagnostics)
		}
		return nil
	})
}
