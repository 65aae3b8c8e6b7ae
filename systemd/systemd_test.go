package systemd

import (
	"path"
	"regexp"
	"strings"
	"testing"
)

// sections of a unit, each with its settings; a setting may be there several times.
func parse(t *testing.T, text string) map[string]map[string][]string {
	t.Helper()
	out := map[string]map[string][]string{}
	section := ""
	for i, line := range strings.Split(text, "\n") {
		switch {
		case line == "" || strings.HasPrefix(line, "#"):
		case strings.HasPrefix(line, "["):
			section = strings.Trim(line, "[]")
			out[section] = map[string][]string{}
		default:
			key, value, ok := strings.Cut(line, "=")
			if !ok || section == "" {
				t.Errorf("line %d: %q", i+1, line)
				continue
			}
			out[section][key] = append(out[section][key], value)
		}
	}
	return out
}

func TestEveryUnitIsSaidAndEveryReferenceLeadsToOne(t *testing.T) {
	files, err := Files()
	if err != nil {
		t.Fatal(err)
	}
	units := map[string]map[string]map[string][]string{}
	for _, f := range files {
		if path.Dir(f.Path) == UnitFolder {
			units[path.Base(f.Path)] = parse(t, string(f.Text))
		}
	}
	if len(units) != 7 || len(files) != 10 {
		t.Errorf("%d units of %d files", len(units), len(files))
	}
	ours := regexp.MustCompile(`\bwattle[-a-z]*@?\.(service|socket|slice|target)\b`)
	for name, u := range units {
		if u["Unit"]["Description"] == nil || u["Unit"]["Documentation"] == nil {
			t.Errorf("%s: no description or documentation", name)
		}
		for _, section := range u {
			for key, values := range section {
				for _, ref := range ours.FindAllString(strings.Join(values, " "), -1) {
					if units[ref] == nil {
						t.Errorf("%s: %s names %s, which there is not", name, key, ref)
					}
				}
			}
		}
	}
}

func TestAnEnvoyDependsOnNoAgent(t *testing.T) {
	text, err := Unit("wattle-envoy@.service")
	if err != nil {
		t.Fatal(err)
	}
	u := parse(t, string(text))
	for _, key := range []string{"Requires", "Requisite", "BindsTo", "PartOf", "Upholds"} {
		if v := u["Unit"][key]; v != nil {
			t.Errorf("%s=%s: it must run on without its agent", key, v)
		}
	}
	if v := u["Service"]["PrivateUsers"]; v != nil {
		t.Error("PrivateUsers= gives each process of the unit a user namespace of its own: a reload could not see the Envoy that runs")
	}
}

func TestAUnitThatThereIsNotIsAnError(t *testing.T) {
	if _, err := Unit("wattle-nothing.service"); err == nil {
		t.Error("no error")
	}
}
