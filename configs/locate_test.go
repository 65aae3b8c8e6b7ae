package configs

import (
	"fmt"
	"strings"
	"testing"
)

// Locate finds the parts of a block in the text of the last load, and only there.
func TestLocate(t *testing.T) {
	dir := t.TempDir()
	writeFile(t, dir, "sub/a.hcl", `
service "web" {
  ports = { http = 80, "admin" = { number = 81 } }
  endpoint { address = "10.0.0.1" }
}
virtual_service "web" {
  hosts = ["web", "www.example.com", upper("x")]
  gateways = ["mesh", "g"]
  http "all" {
    route {
      host = "web"
      port = 80
    }
  }
}
gateway "g" {
  run_on = ["h"]
  server "http" { port = 8080 }
}
`)
	l := NewLoader(Options{})
	l.Load(dir) // what is wrong with it does not matter
	for _, c := range []struct {
		name         string
		line         int
		part         Part
		want, within string
	}{
		{"the head of the block", 2, Part{}, `service "web"`, ""},
		{"a label", 2, Part{Block: "service", Name: "name"}, `"web"`, `service "web"`},
		{"an attribute", 10, Part{Block: "route", Name: "host", Value: "anything"}, `"web"`, `virtual_service "web", http "all", route`},
		{"a number", 10, Part{Block: "route", Name: "port", Value: "80"}, `80`, `virtual_service "web", http "all", route`},
		{"an element of a list", 6, Part{Block: "virtual_service", Name: "hosts", Value: "www.example.com"}, `"www.example.com"`, `virtual_service "web"`},
		{"a list without the element", 6, Part{Block: "virtual_service", Name: "hosts", Value: "X"}, `["web", "www.example.com", upper("x")]`, `virtual_service "web"`},
		{"a key without quotes", 2, Part{Block: "service", Name: "ports", Value: "http"}, `80`, `service "web"`},
		{"a key in quotes", 2, Part{Block: "service", Name: "ports", Value: "admin"}, `{ number = 81 }`, `service "web"`},
		{"an attribute that is absent", 18, Part{Block: "server", Name: "bind"}, `server "http"`, `gateway "g"`},
		{"a block of another type", 2, Part{Block: "route"}, ``, ``},
		{"a line where no block begins", 3, Part{}, ``, ``},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := NewDiagnostic(Error, "W2001", fmt.Sprintf("sub/a.hcl:%d", c.line), "x", "y").At(c.part)
			got := l.Locate(Diagnostics{d})[0]
			marked := ""
			if got.Snippet != "" {
				marked = got.Snippet[got.Column-1 : got.Column-1+got.Length]
			}
			if marked != c.want || got.Context != c.within || got.Summary != d.Summary || got.Detail != d.Detail || got.Severity != d.Severity {
				t.Errorf("%q is marked in %+v", marked, got)
			}
		})
	}

	writeFile(t, dir, "sub/a.hcl", "# one more line\n\n\nservice \"web\" {}\n")
	l.Load(dir)
	if d := l.Locate(Diagnostics{NewDiagnostic(Error, "W2014", "sub/a.hcl:4", "x", "y")})[0]; !strings.HasPrefix(d.Snippet, "service") {
		t.Errorf("the text of the load before is still known: %+v", d)
	}
	writeFile(t, dir, "sub/a.hcl", "service {{{\n")
	l.Load(dir)
	if d := l.Locate(Diagnostics{NewDiagnostic(Error, "W2014", "sub/a.hcl:1", "x", "y")})[0]; d.Snippet != "" {
		t.Errorf("a file that is broken has blocks: %+v", d)
	}
}
