package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// rules are the routes of each service: 10,000 in all.
const rules = 10

// fileOf returns the text of a file that declares service i, outside the mesh, with its endpoints.
func fileOf(i int) string {
	var b strings.Builder
	fmt.Fprintf(&b, "service %q {\n  port = 80\n\n", serviceName(i).Name)
	for j := range endpoints {
		fmt.Fprintf(&b, "  endpoint {\n    address = \"10.%d.%d.%d\"\n    meta    = { version = \"v%d\" }\n  }\n", 200+j, i>>8, i&255, j)
	}
	b.WriteString("}\n")
	return b.String()
}

// routesOf returns the text of a file with the routes of service i, of which the last splits by weight.
func routesOf(i, weight int) string {
	var b strings.Builder
	name, next := serviceName(i).Name, serviceName((i+1)%services).Name
	fmt.Fprintf(&b, "virtual_service %q {\n  hosts = [%q]\n", name, name)
	for j := range rules {
		fmt.Fprintf(&b, `
  http "rule-%d" {
    timeout = "2s"
    match {
      uri = { prefix = "/api/%d/" }
    }
    route {
      host   = %q
      weight = %d
    }
    route {
      host   = %q
      weight = %d
    }
  }
`, j, j, name, weight, next, 100-weight)
		if j == rules-2 {
			weight-- // of the last alone
		}
	}
	b.WriteString("}\n")
	return b.String()
}

// callerOf returns the text of a file with one host whose one workload calls all services.
func callerOf() string {
	var b strings.Builder
	b.WriteString("host \"h\" {\n  address = \"10.1.0.1\"\n\n  service \"app\" {\n    port = 9000\n")
	for i := range services {
		fmt.Fprintf(&b, "    upstream %q { bind = \"127.0.0.1:%d\" }\n", serviceName(i).Name, 20000+i)
	}
	b.WriteString("  }\n}\n")
	return b.String()
}

// writeFile writes a file in a folder that it makes if it must.
func writeFile(dir, name, text string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600)
}
