package configs

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// A pipe, a socket or a device with the name of a policy file is not opened: that could wait forever.
func TestOnlyRegularFilesAreOpened(t *testing.T) {
	dir := t.TempDir()
	writeFile(t, dir, "a.hcl", "mesh {}\n")
	for _, name := range []string{"pipe.hcl", "pipe.json"} {
		if err := syscall.Mkfifo(filepath.Join(dir, name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, load := range []func(string) (*Policy, Diagnostics){Load, ParseServices} {
		_, diags := load(dir)
		n := 0
		for _, d := range diags {
			if d.Code == codeFile && strings.HasPrefix(d.File, "pipe.") && d.Line == 1 && d.Column == 1 && strings.Contains(d.Detail, "regular file") {
				n++
			}
		}
		if n != 2 {
			t.Errorf("got %v", diags)
		}
	}
	writeFile(t, dir, "b/c.hcl", "locals { x = file(\"../pipe.hcl\") }\n")
	if _, diags := Load(filepath.Join(dir, "b")); len(diags) != 1 || diags[0].Code != codeExpression {
		t.Errorf("a pipe read by file(): %v", diags)
	}
}

// asNobody is set in a child process of this test, which loads the folder it stands in as another user.
const asNobody = "WATTLE_TEST_AS_NOBODY"

// A file or folder that this user may not read is an error of that file, and the others are checked all the same.
func TestUnreadableFile(t *testing.T) {
	if os.Getenv(asNobody) != "" {
		loadAsNobody(t)
		return
	}
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil { // whatever the umask
		t.Fatal(err)
	}
	writeFile(t, dir, "fine.hcl", "mesh { domin = \"x\" }\n")
	writeFile(t, dir, "secret.hcl", "mesh {}\n")
	writeFile(t, dir, "closed/x.hcl", "mesh {}\n")
	for name, mode := range map[string]os.FileMode{"fine.hcl": 0o644, "secret.hcl": 0, "closed": 0} {
		if err := os.Chmod(filepath.Join(dir, name), mode); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { _ = os.Chmod(filepath.Join(dir, "closed"), 0o755) })
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	child := exec.Command(self, "-test.run=^TestUnreadableFile$", "-test.v")
	child.Dir, child.Env = dir, append(os.Environ(), asNobody+"=1")
	out, err := child.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	_, line, _ := strings.Cut(string(out), asNobody)
	line, _, _ = strings.Cut(line, "\n")
	var diags Diagnostics
	if err := json.Unmarshal([]byte(line), &diags); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	got := ""
	for _, d := range diags {
		got += d.String() + "\n"
		if d.Code == codeFile && (!strings.Contains(d.Detail, "right to read") || d.Severity != Error) {
			t.Errorf("got %+v", d)
		}
	}
	want := "closed:1:1: error W1402: closed cannot be read: permission denied\n" +
		"fine.hcl:1:8: error W1101: unknown attribute \"domin\"\n" +
		"secret.hcl:1:1: error W1402: secret.hcl cannot be read: permission denied\n"
	if got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
}

// loadAsNobody prints the diagnostics of the folder that it stands in. Root, who may read everything, becomes nobody first.
func loadAsNobody(t *testing.T) {
	if os.Getuid() == 0 {
		const nobody = 65534
		if err := syscall.Setgroups(nil); err != nil {
			t.Fatal(err)
		}
		if err := syscall.Setgid(nobody); err != nil {
			t.Fatal(err)
		}
		if err := syscall.Setuid(nobody); err != nil {
			t.Fatal(err)
		}
	}
	_, diags := Load(".")
	b, err := json.Marshal(diags)
	if err != nil {
		t.Fatal(err)
	}
	os.Stdout.WriteString("\n" + asNobody + string(b) + "\n")
}

// A name of a file reaches the terminal as harmless as its content.
func TestNamesOfFilesAreHarmless(t *testing.T) {
	dir := t.TempDir()
	name := "a\x1b[31m\u202e\nb.hcl"
	writeFile(t, dir, name, "mesh { domin = \"\x1b[0m\" }\n")
	writeFile(t, dir, "sub\x1b]0;x\x07/y.hcl", "virtual_service \"a\x1b\" {}\n")
	if err := os.Symlink("nowhere", filepath.Join(dir, "\x9b1m.hcl")); err != nil {
		t.Fatal(err)
	}
	_, diags := Load(dir)
	_, folder := Load(filepath.Join(dir, "\x1b[1m"))
	diags = append(diags, folder...)
	var b strings.Builder
	if err := diags.WriteText(&b, false); err != nil {
		t.Fatal(err)
	}
	text := b.String() + diags.Error()
	for _, d := range diags {
		text += d.String() + "\n"
	}
	if len(diags) < 5 || strings.ContainsAny(text, "\x1b\x07\u202e\u009b") || strings.Contains(text, "\x9b") {
		t.Errorf("%d diagnostics: %q", len(diags), text)
	}
	if d := Diff(name, []byte("a\n"), []byte("b\n")); strings.Contains(d, "\x1b") {
		t.Errorf("got %q", d)
	}
}
