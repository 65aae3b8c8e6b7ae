package agent

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/wattle-mesh/wattle/internal/seal"
)

func TestAKeyThatWasNotSealedIsFromNowOn(t *testing.T) {
	path := filepath.Join(t.TempDir(), "node.key")
	var none *seal.Seal
	if err := writeKey(none, path, []byte("the key")); err != nil {
		t.Fatal(err)
	}
	credentials := t.TempDir()
	if err := os.WriteFile(filepath.Join(credentials, Credential), []byte(strings.Repeat("secret", 10)), 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := openSeal(credentials)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if got, err := readKey(s, path); err != nil || string(got) != "the key" {
			t.Errorf("%q, %v", got, err)
		}
		if raw, err := os.ReadFile(path); err != nil || bytes.Contains(raw, []byte("the key")) {
			t.Errorf("%q, %v", raw, err)
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
