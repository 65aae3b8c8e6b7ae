package configs

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// FuzzLoad: no input panics or runs away, what is refused says why, and what is accepted is loaded a second time alike.
func FuzzLoad(f *testing.F) {
	paths, err := filepath.Glob("testdata/*.txtar")
	if err != nil {
		f.Fatal(err)
	}
	for _, path := range paths {
		data, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		for part := range strings.SplitSeq(string(data), "\n-- ") {
			name, text, _ := strings.Cut(part, " --\n")
			if isPolicyFile(name) && len(text) < 10_000 {
				f.Add([]byte(text), strings.HasSuffix(name, ".json"))
			}
		}
	}
	for _, text := range []string{
		`locals { a = [for x in range(1000): [for y in range(1000): "${x}${y}"]] }`,
		"locals {\n  a = \"%{ for x in [1, 2] }${x}%{ endfor }\"\n  b = <<-EOT\n    ${local.a}\n  EOT\n}",
		`locals { a = {for k, v in {x = 1}: k => v...} }` + "\n" + `service "a" { port = length(local.a[*].x) }`,
		`locals { a = 1e1000 * 1e1000 }`, `locals { a = format("%*d", 1000000, 1) }`, `locals { a = -(!-!-1) ? 1 : 2 }`,
		`variable "v" { type = map(object({ a = optional(string, "x") })) }`, "dynamic \"host\" {\n  for_each = var.v\n  labels = [host.key]\n  content {}\n}",
	} {
		f.Add([]byte(text), false)
	}
	f.Fuzz(func(t *testing.T, data []byte, isJSON bool) {
		dir := t.TempDir()
		name := "a.hcl"
		if isJSON {
			name = "a.json"
		}
		writeFile(t, dir, name, string(data))
		started := time.Now()
		opts := Options{work: 20_000} // small, so that a second has many inputs
		p, diags := NewLoader(opts).Load(dir)
		if took := time.Since(started); took > 20*time.Second {
			t.Fatalf("took %s", took)
		}
		if (p == nil) != diags.HasErrors() {
			t.Fatalf("policy %v with %v", p, diags)
		}
		for _, d := range diags {
			if _, ok := Explain(d.Code); !ok || d.Summary == "" || d.Detail == "" {
				t.Fatalf("bad diagnostic %+v", d)
			}
		}
		var b strings.Builder
		if err := diags.WriteText(&b, true); err != nil {
			t.Fatal(err)
		}
		if _, err := Format("-", data); err == nil && !isJSON {
			l := NewLoader(opts)
			first, _ := l.Load(dir)
			writeFile(t, dir, "b.hcl", "# nothing\n")
			if second, _ := l.Load(dir); (first == nil) != (second == nil) {
				t.Fatal("the second load differs")
			}
		}
	})
}
