package seal

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const credential = "key"

func open(t *testing.T, secret string) *Seal {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, credential), []byte(secret), 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := Open(dir, credential, "a test")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestTextIsSealedForOneFileAndOneCredential(t *testing.T) {
	s := open(t, strings.Repeat("secret", 10))
	sealed := s.Wrap("state/node.key", []byte("the key"))
	if bytes.Contains(sealed, []byte("the key")) {
		t.Errorf("%q", sealed)
	}
	if got, stale, err := s.Unwrap("elsewhere/node.key", sealed); err != nil || stale || string(got) != "the key" {
		t.Errorf("%q, %v, %v", got, stale, err)
	}
	none, err := Open(t.TempDir(), credential, "a test")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, path string
		s          *Seal
		want       string
	}{
		{"without a seal", "node.key", nil, "was not given"},
		{"without the credential", "node.key", none, "credential key"},
		{"with another credential", "node.key", open(t, strings.Repeat("other!", 10)), "another credential"},
		{"for another file", "another.key", s, "damaged"},
	} {
		if _, _, err := c.s.Unwrap(c.path, sealed); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

func TestWithoutACredentialTextIsAsItIs(t *testing.T) {
	for _, dir := range []string{"", t.TempDir()} {
		s, err := Open(dir, credential, "a test")
		if err != nil {
			t.Fatal(err)
		}
		if got := s.Wrap("node.key", []byte("the key")); string(got) != "the key" {
			t.Errorf("%q", got)
		}
		if got, stale, err := s.Unwrap("node.key", []byte("the key")); err != nil || stale || string(got) != "the key" {
			t.Errorf("%q, %v, %v", got, stale, err)
		}
	}
	if got, stale, err := open(t, strings.Repeat("secret", 10)).Unwrap("node.key", []byte("the key")); err != nil || !stale || string(got) != "the key" {
		t.Errorf("not sealed yet: %q, %v, %v", got, stale, err)
	}
}

func TestACredentialThatIsTooShortIsRefused(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, credential), []byte("short"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir, credential, "a test"); err == nil {
		t.Error("no error")
	}
}
