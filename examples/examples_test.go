// Package examples holds meshes to try and to copy from; its test takes each through all stages. The runnable ones are
// run by test/e2e.
package examples

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/wattle-mesh/wattle/configs"
	"github.com/wattle-mesh/wattle/internal/pipeline"
	"github.com/wattle-mesh/wattle/translator"
)

// folders lists the examples.
func folders(t *testing.T) []string {
	t.Helper()
	entries, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range entries {
		if e.IsDir() {
			out = append(out, e.Name())
		}
	}
	return out
}

func TestEveryExampleIsTranslatedWithoutAWord(t *testing.T) {
	for _, dir := range folders(t) {
		if dir == "registries" {
			continue // its services are in registries: see below
		}
		b := pipeline.Build(dir, configs.Options{})
		if len(b.Diagnostics) > 0 {
			var text bytes.Buffer
			if err := b.Diagnostics.WriteText(&text, false); err != nil {
				t.Error(err)
			}
			t.Errorf("%s:\n%s", dir, text.String())
		}
		if b.Output == nil {
			t.Errorf("%s is not translated", dir)
		}
	}
}

// What the policy of this example says of services is of those that registries know; nothing else is wrong with it.
func TestTheExampleOfRegistriesLacksTheirServicesOnly(t *testing.T) {
	b := pipeline.Build(filepath.Join("registries", "mesh"), configs.Options{})
	got := map[string]bool{}
	for _, d := range b.Diagnostics {
		service := regexp.MustCompile(`"(details|ratings|reviews)"`).FindStringSubmatch(d.Summary)
		if d.Severity != configs.Warning || service == nil {
			t.Error(d)
			continue
		}
		got[service[1]] = true
	}
	if b.Output == nil || len(got) != 3 {
		t.Errorf("services of registries: %v", got)
	}
	if _, diags := configs.LoadServer(filepath.Join("registries", "registries.hcl")); len(diags) > 0 {
		t.Error(diags)
	}
}

func TestBookinfoHasWhatItsReadmeSays(t *testing.T) {
	b := pipeline.Build("bookinfo", configs.Options{})
	if b.Output == nil {
		t.Fatal(b.Diagnostics.Error())
	}
	for proxy, want := range map[string][]string{
		"edge/gw-public": {"gw/http"},
		"h1/host":        {"in:7443", "out/default/productpage/details.default:9080@127.0.1.1:9081", "out/default/productpage/reviews.default:9080@127.0.1.1:9082"},
		"h3/host":        {"in:7443", "in:7444"},
	} {
		got := map[string]bool{}
		for _, r := range b.Output.Resources(proxy) {
			if r.Type == translator.Listener {
				got[r.Name] = true
			}
		}
		for _, name := range want {
			if !got[name] {
				t.Errorf("%s has no listener %s, only %v", proxy, name, got)
			}
		}
		if len(got) != len(want) {
			t.Errorf("%s has listeners %v, want %v", proxy, got, want)
		}
	}
}

func TestExamplesAreFormatted(t *testing.T) {
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || filepath.Ext(path) != ".hcl" {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		formatted, diags := configs.Format(path, text)
		if len(diags) > 0 || !bytes.Equal(text, formatted) {
			t.Errorf("%s is not formatted: run wattle fmt; %v", path, diags)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
