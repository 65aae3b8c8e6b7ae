package ca

import (
	"bytes"
	"crypto/x509"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/wattle-mesh/wattle/internal/seal"
	"github.com/wattle-mesh/wattle/internal/spiffe"
)

func TestFilesAreTheServersAlone(t *testing.T) {
	_, _, dir := open(t)
	seen := 0
	err := filepath.WalkDir(filepath.Dir(dir), func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		want := fs.FileMode(0o600)
		if d.IsDir() {
			want = 0o700
		} else {
			seen++
		}
		if info.Mode().Perm() != want {
			t.Errorf("%s: mode %04o, want %04o", path, info.Mode().Perm(), want)
		}
		return nil
	})
	if err != nil || seen != 2 {
		t.Errorf("%d files: %v", seen, err)
	}
}

func TestOpenLoadsWhatItMade(t *testing.T) {
	c, clock, dir := open(t)
	for _, trustDomain := range []string{td, ""} {
		again, err := Open(dir, trustDomain, clock.now)
		if err != nil {
			t.Fatal(err)
		}
		if again.TrustDomain != td || again.Pin() != c.Pin() || !bytes.Equal(again.intermediate.Raw, c.intermediate.Raw) {
			t.Errorf("trust domain %q: another CA", trustDomain)
		}
	}
}

func TestOpenRefusesAnotherTrustDomain(t *testing.T) {
	_, clock, dir := open(t)
	if _, err := Open(dir, "other.example", clock.now); err == nil || !strings.Contains(err.Error(), "cannot be changed") {
		t.Errorf("another trust domain: %v", err)
	}
	for _, bad := range []string{"", "Upper.example", "a/b"} {
		fresh := filepath.Join(t.TempDir(), "ca")
		if _, err := Open(fresh, bad, clock.now); err == nil {
			t.Errorf("a CA was made for the trust domain %q", bad)
		}
		if _, err := os.Stat(fresh); err == nil {
			t.Errorf("trust domain %q left a folder", bad)
		}
	}
}

// A CA that is damaged or open to others is an error, and stays as it is: never a new root.
func TestOpenRefusesADamagedCA(t *testing.T) {
	root, intermediate := rootFile, intermediateFile
	for name, harm := range map[string]func(dir string) error{
		"the folder open to others": func(dir string) error { return os.Chmod(dir, 0o750) },
		"a key open to others":      func(dir string) error { return os.Chmod(filepath.Join(dir, root), 0o640) },
		"the intermediate's too":    func(dir string) error { return os.Chmod(filepath.Join(dir, intermediate), 0o604) },
		"no root":                   func(dir string) error { return os.Remove(filepath.Join(dir, root)) },
		"no intermediate":           func(dir string) error { return os.Remove(filepath.Join(dir, intermediate)) },
		"an empty root":             func(dir string) error { return os.Truncate(filepath.Join(dir, root), 0) },
		"half an intermediate":      func(dir string) error { return os.Truncate(filepath.Join(dir, intermediate), 700) },
		"another's intermediate":    func(dir string) error { return swap(t, dir, intermediate) },
		"another's root":            func(dir string) error { return swap(t, dir, root) },
		"an empty folder":           func(dir string) error { return empty(dir) },
		"a folder instead of a key": func(dir string) error {
			return errors.Join(os.Remove(filepath.Join(dir, root)), os.Mkdir(filepath.Join(dir, root), 0o700))
		},
		"a file in place of a folder": func(dir string) error { return os.WriteFile(dir+"x", nil, 0o600) },
	} {
		_, clock, dir := open(t)
		if err := harm(dir); err != nil {
			t.Fatal(err)
		}
		if strings.Contains(name, "in place") {
			dir += "x"
		}
		before := contents(t, dir)
		if _, err := Open(dir, td, clock.now); err == nil {
			t.Errorf("%s: no error", name)
		} else if !strings.Contains(err.Error(), remedy) && !strings.Contains(err.Error(), "chmod go=") {
			t.Errorf("%s: no remedy: %v", name, err)
		}
		if after := contents(t, dir); after != before {
			t.Errorf("%s: the folder was changed:\n%s\nwas\n%s", name, after, before)
		}
	}
}

func swap(t *testing.T, dir, file string) error {
	t.Helper()
	_, _, other := open(t)
	text, err := os.ReadFile(filepath.Join(other, file))
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, file), text, 0o600)
}

func empty(dir string) error {
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	return os.Mkdir(dir, 0o700)
}

func contents(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := os.ReadFile(path)
		b.WriteString(path + "\n" + string(text))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// The intermediate is renewed at half its life; leaves of the one before stay good.
func TestTheIntermediateIsRenewed(t *testing.T) {
	c, clock, dir := open(t)
	old, err := c.Sign(request(t, &x509.CertificateRequest{}, newKey(t)), spiffe.ForNode(td, "h1"), "h1")
	if err != nil {
		t.Fatal(err)
	}
	clock.Time = clock.Add(20 * 24 * time.Hour)
	same, err := Open(dir, td, clock.now)
	if err != nil || !bytes.Equal(same.intermediate.Raw, c.intermediate.Raw) {
		t.Errorf("renewed too early: %v", err)
	}
	clock.Time = clock.Add(IntermediateLife / 2)
	next, err := Open(dir, td, clock.now)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Equal(next.intermediate.Raw, c.intermediate.Raw) || next.Pin() != c.Pin() {
		t.Error("the intermediate is the same, or the root is not")
	}
	leafOf(t, next, old, clock.Add(-IntermediateLife/2))
	info, err := os.Stat(filepath.Join(dir, intermediateFile))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if again, err := Open(dir, td, clock.now); err != nil || !bytes.Equal(again.intermediate.Raw, next.intermediate.Raw) {
		t.Errorf("the new one was not kept: %v", err)
	}
}

func TestALeafNeverOutlivesItsIssuer(t *testing.T) {
	c, clock, _ := open(t)
	clock.Time = c.intermediate.NotAfter.Add(-time.Hour)
	csr := request(t, &x509.CertificateRequest{}, newKey(t))
	leaf, err := c.Sign(csr, spiffe.ForNode(td, "h1"), "h1")
	if err != nil || leaf.NotAfter.After(c.intermediate.NotAfter) {
		t.Errorf("until %v, its issuer until %s: %v", leaf, c.intermediate.NotAfter, err)
	}
	clock.Time = c.intermediate.NotAfter.Add(time.Second)
	if leaf, err := c.Sign(csr, spiffe.ForNode(td, "h1"), "h1"); err == nil {
		t.Errorf("an issuer that ended signed until %s", leaf.NotAfter)
	}
}

func TestKeysOfTheCAAreSealedOnTheDisk(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "ca")
	plain, err := Open(dir, "td.example", time.Now)
	if err != nil {
		t.Fatal(err)
	}
	credentials := t.TempDir()
	if err := os.WriteFile(filepath.Join(credentials, "key"), bytes.Repeat([]byte("x"), 32), 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := seal.Open(credentials, "key", "a test")
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // it is sealed, and then it is opened
		c, err := OpenSealed(dir, "td.example", s, time.Now)
		if err != nil || c.Pin() != plain.Pin() {
			t.Fatal(err, "or another CA")
		}
		for _, name := range []string{rootFile, intermediateFile} {
			if raw, err := os.ReadFile(filepath.Join(dir, name)); err != nil || bytes.Contains(raw, []byte("PRIVATE KEY")) {
				t.Errorf("%s is not sealed: %v", name, err)
			}
		}
	}
	if _, err := Open(dir, "td.example", time.Now); err == nil || !strings.Contains(err.Error(), "sealed") {
		t.Errorf("without the credential: %v", err)
	}
	fresh := filepath.Join(t.TempDir(), "ca")
	if _, err := OpenSealed(fresh, "td.example", s, time.Now); err != nil {
		t.Fatal(err)
	}
	if raw, err := os.ReadFile(filepath.Join(fresh, rootFile)); err != nil || bytes.Contains(raw, []byte("PRIVATE KEY")) {
		t.Errorf("a new one is not sealed: %v", err)
	}
}
