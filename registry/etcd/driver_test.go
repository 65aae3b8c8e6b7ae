package etcd

import (
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/hcl/v2"

	"github.com/wattle-mesh/wattle/registry"
)

func TestTheBodyOfARegistryBlock(t *testing.T) {
	const ok = `endpoints = ["https://10.0.0.1:2379"]` + "\n"
	for _, c := range []struct {
		body, want string
		line       int // of the diagnostic
	}{
		{ok, "", 0},
		{`endpoints = ["http://127.0.0.1:2379", "http://[::1]:2379", "http://etcd.example:2379"]`, "", 0},
		{ok + "prefix = \"/a/\"\ndial_timeout = \"100ms\"\nrequest_timeout = \"1m\"\ntls {}", "", 0},
		{ok + "username = \"u\"\npassword_file = \"p\"", "", 0},
		{``, "Missing endpoints", 1},
		{ok + `url = "x"`, "Unsupported argument", 2},
		{ok + `password = "x"`, "Unsupported argument", 2},
		{ok + `tls { insecure = true }`, "Unsupported argument", 2},
		{ok + "tls {}\ntls {}", "Duplicate tls block", 3},
		{`endpoints = "https://10.0.0.1:2379"`, "list of string required", 1},
		{`endpoints = []`, "Wrong number of endpoints", 1},
		{`endpoints = [null]`, "", 1},
		{`endpoints = ["10.0.0.1:2379"]`, "Wrong endpoint", 1},
		{`endpoints = ["https://10.0.0.1"]`, "has no port", 1},
		{`endpoints = ["https://10.0.0.1:0"]`, "has no port", 1},
		{`endpoints = ["https://10.0.0.1:99999"]`, "has no port", 1},
		{`endpoints = ["https://:2379"]`, "has no host", 1},
		{`endpoints = ["https://u:p@a:2379"]`, "has a user in it", 1},
		{`endpoints = ["https://a:2379/x"]`, "more than a host", 1},
		{`endpoints = ["unix:///run/etcd"]`, "neither http nor https", 1},
		{`endpoints = ["https://a:1", "https://a:1"]`, "Repeated endpoint", 1},
		{`endpoints = ["https://a:1", "http://b:1"]`, "Mixed endpoints", 1},
		{"endpoints = [\"http://127.0.0.1:1\"]\ntls {}", "TLS to http endpoints", 1},
		{ok + `prefix = "/a"`, "Wrong prefix", 2},
		{ok + `prefix = ""`, "Wrong prefix", 2},
		{ok + `username = "u"`, "Missing password_file", 2},
		{ok + `password_file = "p"`, "Missing username", 2},
		{ok + "username = \"\"\npassword_file = \"p\"", "Empty username", 2},
		{ok + "tls {\n cert_file = \"c\"\n}", "Missing key_file", 3},
		{ok + "tls {\n key_file = \"c\"\n}", "Missing cert_file", 3},
		{ok + "tls {\n ca_file = \"\"\n}", "Empty ca_file", 3},
		{ok + `dial_timeout = "5"`, "Wrong dial_timeout", 2},
		{ok + `dial_timeout = "1ms"`, "Wrong dial_timeout", 2},
		{ok + `request_timeout = "2h"`, "Wrong request_timeout", 2},
		{ok + `request_timeout = null`, "", 2},
	} {
		source, diags := Driver().New(parse(t, c.body), registry.DriverOptions{Name: "main", Dir: "/etc/wattle", Log: slog.New(slog.DiscardHandler)})
		good := c.want == "" && c.line == 0
		if good != (source != nil) || good == diags.HasErrors() || !strings.Contains(diags.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.body, diags, c.want)
			continue
		}
		if c.line > 0 && diags[0].Subject.Start.Line != c.line {
			t.Errorf("%s: the diagnostic is at %s, want line %d", c.body, diags[0].Subject, c.line)
		}
	}
}

func TestTheValuesOfARegistryBlock(t *testing.T) {
	source, diags := Driver().New(parse(t, `
endpoints       = ["https://a:1", "https://b:2"]
prefix          = "/x/"
username        = "u"
password_file   = "p"
dial_timeout    = "2s"
tls {
  ca_file     = "ca"
  cert_file   = "/c"
  key_file    = "k"
  server_name = "etcd"
}
`), registry.DriverOptions{Name: "main", Dir: "/etc/wattle", Log: slog.New(slog.DiscardHandler)})
	if len(diags) > 0 {
		t.Fatal(diags)
	}
	got := source.(*Source).config
	if strings.Join(got.endpoints, " ") != "https://a:1 https://b:2" || got.prefix != "/x/" || got.username != "u" || got.passwordFile != "/etc/wattle/p" ||
		got.caFile != "/etc/wattle/ca" || got.certFile != "/c" || got.keyFile != "/etc/wattle/k" || got.serverName != "etcd" || !got.secure ||
		got.dialTimeout != 2*time.Second || got.requestTimeout != 5*time.Second {
		t.Errorf("%+v", got)
	}
}

func TestAPasswordOverPlaintextIsAWarning(t *testing.T) {
	for host, want := range map[string]int{"10.0.0.1": 1, "127.0.0.1": 0, "localhost": 0, "[::1]": 0} {
		source, diags := Driver().New(parse(t, "endpoints = [\"http://"+host+":2379\"]\nusername = \"u\"\npassword_file = \"p\""),
			registry.DriverOptions{Name: "main", Log: slog.New(slog.DiscardHandler)})
		if source == nil || len(diags) != want || want > 0 && diags[0].Severity != hcl.DiagWarning {
			t.Errorf("%s: %v", host, diags)
		}
	}
}
