package configs

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// bigFolder writes 1000 services outside the mesh with 3000 endpoints, and 1000 virtual services with ten rules of
// which each has a condition and two destinations, a file each.
func bigFolder(tb testing.TB, rules int) string {
	tb.Helper()
	dir := tb.TempDir()
	for i := range 1000 {
		writeFile(tb, dir, fmt.Sprintf("services/svc-%04d.hcl", i), bigService(i))
		if rules > 0 {
			writeFile(tb, dir, fmt.Sprintf("policy/svc-%04d.hcl", i), bigVirtualService(i, rules))
		}
	}
	return dir
}

func bigService(i int) string {
	var b strings.Builder
	fmt.Fprintf(&b, "service \"svc-%04d\" {\n  port = 9080\n\n", i)
	for j := range 3 {
		fmt.Fprintf(&b, "  endpoint {\n    address = \"10.%d.%d.%d\"\n    meta    = { version = \"v%d\" }\n  }\n", i/250, i%250, j+1, j)
	}
	b.WriteString("}\n")
	return b.String()
}

func bigVirtualService(i, rules int) string {
	var b strings.Builder
	fmt.Fprintf(&b, "virtual_service \"svc-%04d\" {\n  hosts = [\"svc-%04d\"]\n", i, i)
	for j := range rules {
		fmt.Fprintf(&b, `
  http "rule-%d" {
    timeout = "2s"
    match {
      uri = { prefix = "/api/%d/" }
    }
    route {
      host   = "svc-%04d"
      weight = 90
    }
    route {
      host   = "svc-%04d"
      weight = 10
    }
  }
`, j, j, i, (i+1)%1000)
	}
	b.WriteString("}\n")
	return b.String()
}

func writeFile(tb testing.TB, dir, name, text string) {
	tb.Helper()
	path := filepath.Join(dir, filepath.FromSlash(name))
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		tb.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		tb.Fatal(err)
	}
}

// BenchmarkLoad reads a folder for the first time.
func BenchmarkLoad(b *testing.B) {
	for _, rules := range []int{0, 1, 10} {
		b.Run(fmt.Sprintf("1000 services, %d routes", 1000*rules), func(b *testing.B) {
			dir := bigFolder(b, rules)
			b.ReportAllocs()
			for b.Loop() {
				if _, diags := Load(dir); len(diags) > 0 {
					b.Fatal(diags)
				}
			}
		})
	}
}

// BenchmarkReload reads a folder again after the weight of one route of 10,000 has changed.
func BenchmarkReload(b *testing.B) {
	dir := bigFolder(b, 10)
	old := time.Now().Add(-time.Hour)
	_ = filepath.WalkDir(dir, func(p string, _ os.DirEntry, _ error) error { return os.Chtimes(p, old, old) })
	loader := NewLoader(Options{})
	if _, diags := loader.Load(dir); len(diags) > 0 {
		b.Fatal(diags)
	}
	text := bigVirtualService(500, 10)
	n := 0
	b.ReportAllocs()
	for b.Loop() {
		n++
		writeFile(b, dir, "policy/svc-0500.hcl", strings.Replace(text, "weight = 90", fmt.Sprintf("weight = %d", n%1000), 1))
		if _, diags := loader.Load(dir); len(diags) > 0 {
			b.Fatal(diags)
		}
	}
}
