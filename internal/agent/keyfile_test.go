package agent

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/wattle-mesh/wattle/test/smalldisk"
)

// sealing returns a disk in dir with a credential.
func sealing(t *testing.T, dir string) *disk {
	t.Helper()
	credentials := t.TempDir()
	if err := os.WriteFile(filepath.Join(credentials, Credential), []byte(strings.Repeat("secret", 10)), 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := openSeal(credentials)
	if err != nil {
		t.Fatal(err)
	}
	d := newDisk(dir, &alarms{log: discard()})
	d.seal = s
	return d
}

func TestAKeyThatWasNotSealedIsFromNowOn(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "node.key")
	newDisk(dir, &alarms{log: discard()}).writeKey(path, []byte("the key"))
	d := sealing(t, dir)
	for range 2 {
		if got, err := d.readKey(path); err != nil || string(got) != "the key" {
			t.Errorf("%q, %v", got, err)
		}
		if raw, err := os.ReadFile(path); err != nil || bytes.Contains(raw, []byte("the key")) {
			t.Errorf("%q, %v", raw, err)
		}
	}
}

// Whoever could read the key has it: that it is sealed from now on mends nothing.
func TestAKeyThatIsOpenToOthersIsNotSealedButRefused(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, nodeKeyFile)
	if _, err := openNode(discard(), newDisk(dir, &alarms{log: discard()}), "", time.Now); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := openNode(discard(), sealing(t, dir), "", time.Now); err == nil || !strings.Contains(err.Error(), "is open to others") {
		t.Error(err)
	}
}

// An agent must start on a full disk, too: its key is sealed when there is room.
func TestAKeyThatCannotBeSealedYetIsUsed(t *testing.T) {
	smalldisk.Run(t, 1<<20, func(t *testing.T, full smalldisk.Disk) {
		path := filepath.Join(full.Dir, "node.key")
		newDisk(full.Dir, &alarms{log: discard()}).writeKey(path, []byte("the key"))
		d := sealing(t, full.Dir)
		full.Fill()
		if got, err := d.readKey(path); err != nil || string(got) != "the key" || len(d.alarms.held.Now()) != 1 {
			t.Errorf("%q, %v, alarms %v", got, err, d.alarms.held.Now())
		}
		full.Free()
		if !d.again() || len(d.alarms.held.Now()) != 0 {
			t.Errorf("alarms %v", d.alarms.held.Now())
		}
		if raw, err := os.ReadFile(path); err != nil || bytes.Contains(raw, []byte("the key")) {
			t.Errorf("%q, %v", raw, err)
		}
	})
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
