package configs

import (
	"strings"
	"testing"
)

func TestFormat(t *testing.T) {
	for _, c := range []struct{ name, src, want string }{
		{"alignment and indentation", "mesh{\ndomain=\"a\"\n   trust_domain =   \"b\"\n}", "mesh {\n  domain       = \"a\"\n  trust_domain = \"b\"\n}\n"},
		{"comments stay", "# one\nmesh {} // two\n\n\n", "# one\nmesh {} // two\n"},
		{"nothing", "", ""},
		{"only blank lines", "\n\n \n", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := Format([]byte(c.src))
			if err != nil || string(got) != c.want {
				t.Errorf("got %q, %v", got, err)
			}
			if again, _ := Format(got); string(again) != string(got) {
				t.Errorf("formatted again: %q", again)
			}
		})
	}
	if _, err := Format([]byte("mesh {")); err == nil {
		t.Error("what is no HCL was formatted")
	}
	if _, err := Format([]byte(strings.Repeat("[", 100_000))); err == nil {
		t.Error("what is nested too deep was formatted")
	}
}

func TestDiff(t *testing.T) {
	if d := Diff("a.hcl", []byte("a\nb\n"), []byte("a\nb\n")); d != "" {
		t.Errorf("equal texts differ: %q", d)
	}
	if d, want := Diff("a.hcl", []byte("a\nb\n"), []byte("a\nc\n")), "--- a/a.hcl\n+++ b/a.hcl\n@@ -1,2 +1,2 @@\n a\n-b\n+c\n"; d != want {
		t.Errorf("got %q", d)
	}
}
