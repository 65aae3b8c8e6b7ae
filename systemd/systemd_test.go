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
	if len(units) != 9 || len(files) != 12 {
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

func TestSettingsOfNewerSystemdsGoOnlyToThem(t *testing.T) {
	of := func(version int) map[string]bool {
		files, err := Newer(version)
		if err != nil {
			t.Fatal(err)
		}
		out := map[string]bool{}
		for _, f := range files {
			out[f.Path] = true
			unit := strings.TrimSuffix(path.Dir(f.Path), ".d")
			if _, err := Unit(unit); err != nil {
				t.Errorf("%s: %v", f.Path, err)
			}
			if len(parse(t, string(f.Text))["Service"]) == 0 {
				t.Errorf("%s says nothing", f.Path)
			}
		}
		return out
	}
	if all := of(249); len(all) > 0 {
		t.Errorf("249 is the baseline: %v", all)
	}
	const hardening, credential, ofServer = "wattle-envoy@.service.d/50-systemd-250.conf", "wattle-agent.service.d/50-systemd-254.conf", "wattle-server.service.d/50-systemd-254.conf"
	if all := of(252); !all[hardening] || all[credential] || all[ofServer] {
		t.Errorf("252: %v", all)
	}
	if all := of(257); !all[hardening] || !all[credential] || !all[ofServer] {
		t.Errorf("257: %v", all)
	}
	for text, want := range map[string]int{`"252.39-1~deb12u2"`: 252, "249": 249, "256~rc1": 256, "": 0, "v249": 0} {
		if got := Version(text); got != want {
			t.Errorf("%s is version %d", text, got)
		}
	}
}
