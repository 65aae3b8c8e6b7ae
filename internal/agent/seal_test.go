package agent

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func newSeal(t *testing.T, secret string) *seal {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, Credential), []byte(secret), 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := openSeal(dir)
	if err != nil || s == nil {
		t.Fatal(s, err)
	}
	return s
}

func TestKeysAreSealedWithTheCredential(t *testing.T) {
	s := newSeal(t, strings.Repeat("secret", 10))
	path := filepath.Join(t.TempDir(), "node.key")
	if err := s.write(path, []byte("the key")); err != nil {
		t.Fatal(err)
	}
	if raw, err := os.ReadFile(path); err != nil || bytes.Contains(raw, []byte("the key")) {
		t.Errorf("%q, %v", raw, err)
	}
	if got, err := s.read(path); err != nil || string(got) != "the key" {
		t.Errorf("%q, %v", got, err)
	}
	var none *seal
	if _, err := none.read(path); err == nil || !strings.Contains(err.Error(), Credential) {
		t.Errorf("without the credential: %v", err)
	}
	if _, err := newSeal(t, strings.Repeat("other!", 10)).read(path); err == nil {
		t.Error("another credential opens it")
	}
	other := filepath.Join(filepath.Dir(path), "another.key")
	if err := os.Rename(path, other); err != nil {
		t.Fatal(err)
	}
	if _, err := s.read(other); err == nil {
		t.Error("it passes for another file")
	}
}

func TestAKeyThatWasNotSealedIsFromNowOn(t *testing.T) {
	path := filepath.Join(t.TempDir(), "node.key")
	var none *seal
	if err := none.write(path, []byte("the key")); err != nil {
		t.Fatal(err)
	}
	s := newSeal(t, strings.Repeat("secret", 10))
	if got, err := s.read(path); err != nil || string(got) != "the key" {
		t.Errorf("%q, %v", got, err)
	}
	if raw, err := os.ReadFile(path); err != nil || !bytes.HasPrefix(raw, []byte(sealMagic)) {
		t.Errorf("%q, %v", raw, err)
	}
	if got, err := s.read(path); err != nil || string(got) != "the key" {
		t.Errorf("%q, %v", got, err)
	}
}

func TestACredentialThatIsTooShortIsRefused(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, Credential), []byte("short"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := openSeal(dir); err == nil {
		t.Error("no error")
	}
	for _, dir := range []string{"", t.TempDir()} {
		if s, err := openSeal(dir); s != nil || err != nil {
			t.Errorf("%q: %v, %v", dir, s, err)
		}
	}
}

func TestASealedHostServesAfterARestart(t *testing.T) {
	w := newWorld(t)
	w.credentials = t.TempDir()
	if err := os.WriteFile(filepath.Join(w.credentials, Credential), bytes.Repeat([]byte("x"), 64), 0o600); err != nil {
		t.Fatal(err)
	}
	w.listen()
	w.policy(twoServices)
	w.application("ADDR:9080")
	stop := w.join()
	w.answers("ADDR:10080", 200)
	stop()
	before := w.signatures(svc("web"))
	files, err := filepath.Glob(filepath.Join(w.dir, "state", "certs", "*.pem"))
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, f := range append(files, filepath.Join(w.dir, "state", nodeKeyFile)) {
		if raw, err := os.ReadFile(f); err != nil || bytes.Contains(raw, []byte("PRIVATE KEY")) {
			t.Errorf("%s is not sealed: %v", f, err)
		}
	}
	w.endEnvoys()
	w.start(nil)
	w.answers("ADDR:10080", 200)
	if n := w.signatures(svc("web")); n != before {
		t.Errorf("%d new certificates: the old ones were not opened", n-before)
	}
}
