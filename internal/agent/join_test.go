package agent

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/wattle-mesh/wattle/configs"
	"github.com/wattle-mesh/wattle/internal/ca"
	"github.com/wattle-mesh/wattle/internal/spiffe"
)

func TestAHostThatCannotJoinSaysWhy(t *testing.T) {
	w := newWorld(t)
	w.listen()
	used := w.token()
	w.tokens[used] = false
	open := filepath.Join(w.dir, "token")
	write(t, open, w.token())
	if err := os.Chmod(open, 0o644); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		change func(*configs.Agent)
		want   string
	}{
		"no token":            {func(*configs.Agent) {}, "wattle token create"},
		"a used token":        {func(c *configs.Agent) { c.Token = used }, "used up"},
		"no token at all":     {func(c *configs.Agent) { c.Token = "hello" }, "token"},
		"another host's":      {func(c *configs.Agent) { c.Token, c.Node = used, "h2" }, `node = "h2"`},
		"a file of others":    {func(c *configs.Agent) { c.TokenFile = open }, "chmod go= " + open},
		"a file that is gone": {func(c *configs.Agent) { c.TokenFile = "/nonexistent/token" }, "/nonexistent/token"},
	} {
		cfg := w.config()
		c.change(cfg)
		a, err := New(Options{Config: cfg, Log: discard()})
		if err != nil {
			t.Fatal(err)
		}
		if err := a.Run(t.Context()); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestATokenIsShownToNoServerButThatOfItsRoot(t *testing.T) {
	w := newWorld(t)
	w.listen()
	token := w.token()
	real := w.ca
	other, err := ca.Open(filepath.Join(w.dir, "other"), trustDomain, real.Now)
	if err != nil {
		t.Fatal(err)
	}
	w.stop()
	w.ca = other
	w.listen()
	cfg := w.config()
	cfg.Token = token
	a, err := New(Options{Config: cfg, Log: discard()})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	conf, err := a.node.joinTLS(real.Pin())
	if err != nil {
		t.Fatal(err)
	}
	if err := dialTLS(ctx, w.at("ADDR:7501"), conf); err == nil || !strings.Contains(err.Error(), "another hash") {
		t.Errorf("the handshake with a server of another root: %v", err)
	}
	if !w.tokens[token] {
		t.Error("the token was used")
	}
}

func TestAJoinedHostTalksToServersOfItsMeshOnly(t *testing.T) {
	w := newWorld(t)
	n := w.provision("h1")
	other, err := ca.Open(filepath.Join(w.dir, "other"), trustDomain, w.ca.Now)
	if err != nil {
		t.Fatal(err)
	}
	server, err := w.ca.Server(nil).Certificate()
	if err != nil {
		t.Fatal(err)
	}
	stranger, err := other.Server(nil).Certificate()
	if err != nil {
		t.Fatal(err)
	}
	r, td := n.held.Now().roots, trustDomain
	if err := r.verifyServer(shown(t, server.Certificate), td); err != nil {
		t.Errorf("a server of the mesh: %v", err)
	}
	if err := r.verifyServer(shown(t, stranger.Certificate), td); err == nil {
		t.Error("a server of another root was believed")
	}
	// A host's own certificate, or a workload's, does not make it a server.
	if err := r.verifyServer(shown(t, n.held.Now().cert.Certificate), td); err == nil || !strings.Contains(err.Error(), "node/h1") {
		t.Errorf("a node that plays the server: %v", err)
	}
}

func TestFilesOfCAIssueAreEnough(t *testing.T) {
	w := newWorld(t)
	w.listen()
	w.policy(twoServices)
	w.application("ADDR:9080")
	w.provision("h1")
	w.start(func(c *configs.Agent) {
		c.Node = ""                                           // the certificate says it
		c.Servers = []string{w.at("ADDR:7599"), c.Servers[0]} // nobody listens on the first
	})
	w.answers("ADDR:10080", 200)
}

func TestAStateFolderThatIsNotRightIsRefused(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(t *testing.T, w *world, state string)
		want  string
	}{
		"a key that others may read": {func(t *testing.T, _ *world, state string) {
			if err := os.Chmod(filepath.Join(state, nodeKeyFile), 0o644); err != nil {
				t.Fatal(err)
			}
		}, "chmod go="},
		"a folder that others may write to": {func(t *testing.T, _ *world, state string) {
			if err := os.Chmod(state, 0o777); err != nil {
				t.Fatal(err)
			}
		}, "chmod go="},
		"a certificate for another key": {func(t *testing.T, _ *world, state string) {
			if err := os.Remove(filepath.Join(state, nodeKeyFile)); err != nil {
				t.Fatal(err)
			}
		}, "another key"},
		"another host's certificate": {func(t *testing.T, w *world, _ string) { w.provision("h2") }, "node h2"},
		"no roots": {func(t *testing.T, _ *world, state string) {
			if err := os.Remove(filepath.Join(state, rootsFile)); err != nil {
				t.Fatal(err)
			}
		}, rootsFile},
		"a key that is none": {func(t *testing.T, _ *world, state string) {
			write(t, filepath.Join(state, nodeKeyFile), "hello")
		}, "not a PEM file"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.provision("h1")
			c.spoil(t, w, w.config().StateDir)
			if _, err := New(Options{Config: w.config(), Log: discard()}); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Error(err)
			}
		})
	}
}

func TestTwoAgentsDoNotShareAFolder(t *testing.T) {
	w := newWorld(t)
	l, err := lock(w.dir)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	cfg := w.config()
	cfg.RunDir = w.dir
	a, err := New(Options{Config: cfg, Log: discard()})
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "another agent") {
		t.Error(err)
	}
	cfg.RunDir = filepath.Join(w.dir, strings.Repeat("long", 30))
	if _, err := New(Options{Config: cfg, Log: discard()}); err == nil || !strings.Contains(err.Error(), "too long") {
		t.Error(err)
	}
}

// provision writes what wattle ca issue writes for a node into the state folder, and opens it.
func (w *world) provision(name string) *node {
	w.t.Helper()
	dir := w.config().StateDir
	if err := os.RemoveAll(dir); err != nil {
		w.t.Fatal(err)
	}
	err := Provision(dir, func(csr []byte) (chain, roots [][]byte, err error) {
		leaf, err := w.ca.Sign(csr, spiffe.ForNode(trustDomain, name), name)
		if err != nil {
			return nil, nil, err
		}
		return leaf.Chain, w.ca.Roots(), nil
	})
	if err != nil {
		w.t.Fatal(err)
	}
	n, err := openNode(discard(), newDisk(dir, &alarms{log: discard()}), name, time.Now)
	if err != nil {
		w.t.Fatal(err)
	}
	return n
}

func TestTheHostsKeyIsMadeOnce(t *testing.T) {
	dir := t.TempDir()
	for range 2 {
		if _, err := openNode(discard(), newDisk(dir, &alarms{log: discard()}), "", time.Now); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(filepath.Join(dir, nodeKeyFile))
	if err != nil {
		t.Fatal(err)
	}
	b, rest := pem.Decode(text)
	if b == nil || len(rest) > 0 {
		t.Fatalf("%q", text)
	}
	if _, err := x509.ParsePKCS8PrivateKey(b.Bytes); err != nil {
		t.Error(err)
	}
}
