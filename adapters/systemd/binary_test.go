package systemd

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/wattle-mesh/wattle/adapters"
	"github.com/wattle-mesh/wattle/internal/launch"
)

// envoyFile makes a binary that says it is a release of Envoy.
func envoyFile(t *testing.T, release string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "envoy")
	text := "#!/bin/sh\necho; echo \"$0  version: 0123abcd/" + release + "/Clean/RELEASE/BoringSSL\"\n"
	if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

// runs has the Envoy of the host say that it is a release: the one that is stored.
func (h *host) runs(release *atomic.Value) {
	h.t.Helper()
	dir := filepath.Join(h.envoys, "host")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		h.t.Fatal(err)
	}
	l, err := net.Listen("unix", filepath.Join(dir, launch.AdminSocket))
	if err != nil {
		h.t.Fatal(err)
	}
	s := &http.Server{ReadHeaderTimeout: time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, `{"version": "0123abcd/%s/Clean/RELEASE/BoringSSL", "state": "LIVE"}`, release.Load())
	})}
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	h.t.Cleanup(func() { s.Close(); <-done })
}

// starts returns the binary that the host's Envoy starts from.
func (h *host) starts(path string) func() bool {
	return func() bool {
		text, err := os.ReadFile(filepath.Join(h.o.Dir, "host", "launch.json"))
		return err == nil && strings.Contains(string(text), `"envoy": "`+path+`"`)
	}
}

func wants(version, path string) adapters.Proxy {
	return adapters.Proxy{ID: "h1/host", Name: "host", Bootstrap: []byte("{}"), Version: version, Envoy: path}
}

func TestAnEnvoyOfAnotherReleaseTakesOver(t *testing.T) {
	h := newHost(t)
	var release atomic.Value
	release.Store("1.40.0")
	h.runs(&release)
	h.plan("host")
	h.wait("it runs", h.is("host", "active"))
	next := envoyFile(t, "1.40.1")
	h.apply(wants("1.40.1", next))
	h.wait("it is replaced", func() bool { return h.did("reload "+unitName("host")) == 1 })
	if !h.starts(next)() {
		t.Error("it does not start from the new binary")
	}
	release.Store("1.40.1")
	h.poke()
	h.plan("host")
	h.wait("without a word of the policy it is the adapter's own", h.starts("/usr/bin/envoy"))
	if n := h.did("stop "+unitName("host")) + h.did("reload "+unitName("host")); n != 1 {
		t.Errorf("%q", h.Done())
	}
	if strings.Contains(h.log.String(), "another hand") {
		t.Error("the adapter takes itself for another")
	}
}

func TestABinaryThatIsNotFitIsNotUsedAndItIsSaidWhy(t *testing.T) {
	h := newHost(t)
	var release atomic.Value
	release.Store("1.40.0")
	h.runs(&release)
	none := filepath.Join(t.TempDir(), "none")
	broken := filepath.Join(t.TempDir(), "envoy")
	if err := os.WriteFile(broken, []byte("#!/bin/sh\necho \"version 'GLIBC_2.99' not found\"; exit 1\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	old := envoyFile(t, "1.39.0")
	for path, why := range map[string]string{none: "no such file", broken: "GLIBC_2.99", old: "is version 1.39.0, not 1.40.1"} {
		h.apply(wants("1.40.1", path))
		h.wait(why+" is said", func() bool { return strings.Contains(h.log.String(), why) })
		if !h.starts("/usr/bin/envoy")() {
			t.Errorf("%s: it starts from something else than before", path)
		}
	}
	if n := h.did("reload " + unitName("host")); n > 0 {
		t.Errorf("%q", h.Done())
	}
}

func TestAnUpgradeThatFailsIsGivenUp(t *testing.T) {
	h := newHost(t)
	var release atomic.Value
	release.Store("1.40.0")
	h.runs(&release)
	first := envoyFile(t, "1.40.0")
	h.apply(wants("1.40.0", first))
	h.wait("it runs", h.is("host", "active"))
	h.Fail(unitName("host"), "failed")
	next := envoyFile(t, "1.40.1")
	h.apply(wants("1.40.1", next))
	h.wait("it was tried", func() bool { return h.did("reload "+unitName("host")) == 1 })
	h.wait("it starts from what it had", h.starts(first))
	h.wait("that is said", func() bool { return strings.Contains(h.log.String(), "did not come to serve") })
	h.poke()
	if h.State(unitName("host")) != "active" || h.did("reload "+unitName("host")) != 1 {
		t.Errorf("%s, %q", h.State(unitName("host")), h.Done())
	}
}
