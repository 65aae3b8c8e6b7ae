package configs

import (
	"strings"
	"testing"
)

func TestFormat(t *testing.T) {
	for _, c := range []struct{ name, src, want string }{
		{"alignment and indentation", "mesh{\ndomain=\"a\"\n   trust_domain =   \"b\"\n}", "mesh {\n  domain       = \"a\"\n  trust_domain = \"b\"\n}\n"},
		{"comments stay", "# one\nmesh {} // two\n\n\n", "# one\nmesh {} // two\n"},
		{"line ends of Windows", "mesh {\r\n  domain = \"a\"\r\n}\r\n", "mesh {\n  domain = \"a\"\n}\n"},
		{"nothing", "", ""},
		{"only blank lines", "\n\n \n", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := Format("-", []byte(c.src))
			if err != nil || string(got) != c.want {
				t.Errorf("got %q, %v", got, err)
			}
			if again, _ := Format("-", got); string(again) != string(got) {
				t.Errorf("formatted again: %q", again)
			}
		})
	}
}

// What is no HCL is not formatted; the diagnostic has file, line, column, the source line, a code and a remedy.
func TestFormatRefuses(t *testing.T) {
	for _, c := range []struct{ name, src, code, origin string }{
		{"a block that is not closed", "mesh {\n", codeSyntax, "x.hcl:1:6"},
		{"a value that is missing", "mesh {\n  domain =\n}\n", codeSyntax, "x.hcl:2:11"},
		{"a nest without end", strings.Repeat("[", 100_000), codeTooDeep, "x.hcl:1:20001"},
		{"what is not UTF-8", "# \xff\n", codeUTF8, "x.hcl:1:3"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, diags := Format("x.hcl", []byte(c.src))
			if got != nil || len(diags) != 1 {
				t.Fatalf("got %q, %v", got, diags)
			}
			if d := diags[0]; d.Severity != Error || d.Code != c.code || d.Origin() != c.origin || d.Snippet == "" || !saysWhatToDo(d.Detail) {
				t.Errorf("got %+v", d)
			}
		})
	}
}

func TestDiff(t *testing.T) {
	if d := Diff("a.hcl", []byte("a\nb\n"), []byte("a\nb\n")); d != "" {
		t.Errorf("equal texts differ: %q", d)
	}
	if d, want := Diff("a.hcl", []byte("a\nb\n"), []byte("a\nc\n")), "--- a/a.hcl\n+++ b/a.hcl\n@@ -1,2 +1,2 @@\n a\n-b\n+c\n"; d != want {
		t.Errorf("got %q", d)
	}
	if d, want := Diff("a.hcl", []byte("a"), []byte("a\n")), "--- a/a.hcl\n+++ b/a.hcl\n@@ -1 +1 @@\n-a\n\\ No newline at end of file\n+a\n"; d != want {
		t.Errorf("got %q", d)
	}
}
