package etcd

import (
	"log/slog"
	"os"
	"regexp"
	"testing"

	"github.com/wattle-mesh/wattle/registry"
)

func TestTheExampleOfTheReadme(t *testing.T) {
	for _, text := range blocks(t, "README.md", "(?s)```hcl\nregistry \"etcd\" \"main\" \\{\n(.*?)\n\\}\n```") {
		if _, diags := Driver().New(parse(t, text), registry.DriverOptions{Name: "main", Log: slog.New(slog.DiscardHandler)}); len(diags) > 0 {
			t.Error(diags)
		}
	}
}

func TestTheValuesOfTheDocumentation(t *testing.T) {
	schema := compileSchema(t)
	for _, value := range append(blocks(t, "../../docs/registries.md", "(?s)```json\n(.*?)```"), blocks(t, "../../docs/registries.md", "etcdctl put .*'(.*)'")...) {
		if _, ignored, err := decode([]byte(value)); err != nil || len(ignored) > 0 {
			t.Errorf("%s: %v %v", value, err, ignored)
		}
		if err := agrees(schema, []byte(value)); err != nil {
			t.Error(err)
		}
	}
}

// blocks returns what the parentheses of a pattern match in a file.
func blocks(t *testing.T, file, pattern string) []string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, m := range regexp.MustCompile(pattern).FindAllStringSubmatch(string(text), -1) {
		out = append(out, m[1])
	}
	if len(out) == 0 {
		t.Fatalf("%s has no %s", file, pattern)
	}
	return out
}
