package agent

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/wattle-mesh/wattle/configs"
)

// A power cut on a disk that lies, or a hand that slipped, may leave any beginning of the file: the agent starts from the
// generation before, says so, and the damaged text is there to look at.
func TestADamagedFileIsSetAsideWhereverItEnds(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, registeredFile)
	d := deskAt(t, dir)
	for i, name := range []string{"first", "second"} {
		if _, err := d.register(t.Context(), client{0}, service(name, uint16(80+i), func(s *configs.Service) { s.Meta = map[string]string{"a": `ü"]}`} })); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	older, err := os.ReadFile(file + olderSuffix)
	if err != nil {
		t.Fatal(err)
	}
	put := func(path string, text []byte) {
		t.Helper()
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	alarmed := func(d *desk) bool {
		for _, a := range d.disk.alarms.held.Now() {
			if a.GetName() == registeredAlarm && strings.Contains(a.GetText(), file+badSuffix) {
				return true
			}
		}
		return false
	}
	for n := range len(text) {
		put(file, text[:n])
		put(file+olderSuffix, older)
		next := deskAt(t, dir)
		if got := next.reported(); got != "first" || !alarmed(next) {
			t.Fatalf("of %d bytes: reported is %q, alarm %t", n, got, alarmed(next))
		}
		if bad, err := os.ReadFile(file + badSuffix); err != nil || string(bad) != string(text[:n]) {
			t.Fatalf("of %d bytes set aside is %q, %v", n, bad, err)
		}
		if again := deskAt(t, dir); again.reported() != "first" || !alarmed(again) { // also if it ends at once
			t.Fatalf("of %d bytes, the next agent: reported is %q, alarm %t", n, again.reported(), alarmed(again))
		}
	}
	// The older one is damaged, too.
	for n := range len(older) {
		put(file, text[:len(text)-1])
		put(file+olderSuffix, older[:n])
		if next := deskAt(t, dir); next.reported() != "" || !alarmed(next) {
			t.Fatalf("of %d older bytes: reported is %q", n, next.reported())
		}
	}
	for _, damaged := range []string{"[null]", `[{"service":null}]`, `[{"service":{"name":""}}]`, "{}", "\x00\x00\x00"} {
		put(file, []byte(damaged))
		put(file+olderSuffix, older)
		if next := deskAt(t, dir); next.reported() != "first" {
			t.Errorf("%q: reported is %q", damaged, next.reported())
		}
	}
	// What is missing is registered again, and the alarm ends when the file is gone.
	next := deskAt(t, dir)
	if _, err := next.register(t.Context(), client{0}, service("second", 81)); err != nil || !alarmed(next) {
		t.Error(err, "or no alarm")
	}
	if err := os.Remove(file + badSuffix); err != nil {
		t.Fatal(err)
	}
	if _, err := next.register(t.Context(), client{0}, service("third", 82)); err != nil || alarmed(next) {
		t.Error(err, "or the alarm goes on")
	}
	if last := deskAt(t, dir); last.reported() != "first second third" || alarmed(last) {
		t.Errorf("in the end reported is %q", last.reported())
	}
}
