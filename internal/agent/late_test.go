package agent

import (
	"context"
	"crypto/x509"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"golang.org/x/sync/errgroup"

	"github.com/wattle-mesh/wattle/configs"
	"github.com/wattle-mesh/wattle/internal/api"
	"github.com/wattle-mesh/wattle/internal/ca"
	"github.com/wattle-mesh/wattle/internal/spiffe"
	"github.com/wattle-mesh/wattle/internal/store"
	"github.com/wattle-mesh/wattle/internal/xds"
)

// counted is a listener that counts.
type counted struct {
	net.Listener
	accepted atomic.Int64
}

func (c *counted) Accept() (net.Conn, error) {
	conn, err := c.Listener.Accept()
	if err == nil {
		c.accepted.Add(1)
	}
	return conn, err
}

// late is a world whose server is the real one, for a host that comes with a certificate that ends so much later than
// now; below zero, it has ended.
type late struct {
	*world
	node  *api.Node
	conns *counted
	serve func() // begins; until then nobody listens
}

func newLate(t *testing.T, left time.Duration) *late {
	t.Helper()
	w := newWorld(t)
	w.setSkew(left - ca.NodeLife - time.Hour)
	var err error
	if w.ca, err = ca.Open(filepath.Join(w.dir, "past", "ca"), trustDomain, w.ca.Now); err != nil { // made before the certificate
		t.Fatal(err)
	}
	kept, err := store.Open(filepath.Join(w.dir, "past", "wattle.db"))
	if err != nil {
		t.Fatal(err)
	}
	registrar, err := api.NewRegistrar(api.RegistrarOptions{Log: discard(), Store: kept})
	if err != nil {
		t.Fatal(err)
	}
	l := &late{world: w, node: api.NewNode(api.NodeOptions{
		Log: logTo(w.log), CA: w.ca, Store: kept, Registrar: registrar,
		Holds: func(string, spiffe.ID) bool { return true },
	})}
	w.xds = xds.New(xds.Options{Authorize: api.AuthorizeProxy[*corev3.Node]})
	w.policy(twoServices)
	policy, diags := w.loader.Load(filepath.Join(w.dir, "policy"))
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	registrar.SetPolicy(policy)

	w.setSkew(left - ca.NodeLife)
	err = Provision(w.config().StateDir, func(csr []byte) (chain, roots [][]byte, err error) {
		r, err := l.node.Issue("h1", api.CertificateRequest{CSR: csr})
		if err != nil {
			return nil, nil, err
		}
		return r.Chain, r.Roots, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	w.setSkew(0)
	t.Cleanup(func() {
		if err := kept.Close(); err != nil {
			t.Error(err)
		}
	})
	l.serve = func() {
		raw, err := net.Listen("tcp", w.at("ADDR:7501"))
		if err != nil {
			t.Fatal(err)
		}
		l.conns = &counted{Listener: raw}
		ctx, cancel := context.WithCancel(context.Background())
		g, ctx := errgroup.WithContext(ctx)
		g.Go(func() error {
			return api.NewPort(api.PortOptions{Log: discard(), CA: w.ca, Node: l.node, XDS: w.xds}).Serve(ctx, l.conns)
		})
		t.Cleanup(func() {
			cancel()
			if err := g.Wait(); err != nil {
				t.Error(err)
			}
		})
	}
	return l
}

func (w *world) setSkew(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.skew = d
}

// certificate returns the one on the host's disk.
func (w *world) certificate() *x509.Certificate {
	w.t.Helper()
	text, err := os.ReadFile(filepath.Join(w.config().StateDir, nodeCertFile))
	if err != nil {
		w.t.Fatal(err)
	}
	chain, _, err := parsePEM(text)
	if err != nil {
		w.t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(chain[0])
	if err != nil {
		w.t.Fatal(err)
	}
	return leaf
}

func TestAHostThatStartsWithAnExpiredCertificateRenewsItAndGoesOn(t *testing.T) {
	l := newLate(t, -6*24*time.Hour)
	old := l.certificate()
	l.application("ADDR:9080")
	l.serve()
	l.start(nil)
	l.answers("ADDR:10080", 200)
	now := l.certificate()
	if !slices.Equal(now.RawSubjectPublicKeyInfo, old.RawSubjectPublicKeyInfo) {
		t.Error("its key is another")
	}
	if left := time.Until(now.NotAfter); left < ca.NodeLife-time.Hour {
		t.Errorf("it lives for %s", left)
	}
	for _, words := range []string{"had expired, and is renewed", "renewed after its end"} { // the agent's and the server's
		if strings.Count(l.log.String(), words) != 1 {
			t.Errorf("the log does not say once that it %s", words)
		}
	}
}

func TestAHostWhoseCertificateExpiresWhileItsAgentRunsGoesOnWithoutARestart(t *testing.T) {
	l := newLate(t, 3*time.Second)
	old := l.certificate()
	l.application("ADDR:9080")
	l.start(nil) // nobody listens yet
	l.wait("the certificate to expire", func() error {
		if time.Now().Before(old.NotAfter) {
			return fmt.Errorf("it is good until %s", old.NotAfter)
		}
		return nil
	})
	l.serve()
	l.answers("ADDR:10080", 200)
	if strings.Count(l.log.String(), "had expired, and is renewed") != 1 {
		t.Error("it was not renewed late")
	}
}

func TestAHostThatIsTooLateSaysHowToJoinAgainAndDoesNotInsist(t *testing.T) {
	l := newLate(t, -7*24*time.Hour-time.Minute)
	l.application("ADDR:9080")
	l.serve()
	stop := l.start(nil)
	l.wait("the remedy", func() error {
		for _, words := range []string{"wattle token create -node h1", "remove " + filepath.Join(l.dir, "state", nodeCertFile), "again_in=10m"} {
			if !strings.Contains(l.log.String(), words) {
				return fmt.Errorf("the log does not say %q", words)
			}
		}
		return nil
	})
	time.Sleep(2 * time.Second) // its streams are tried again meanwhile
	if n := l.conns.accepted.Load(); n != 1 {
		t.Errorf("it connected %d times", n)
	}
	stop()

	// The remedy.
	for _, name := range []string{nodeCertFile, rootsFile} {
		if err := os.Remove(filepath.Join(l.config().StateDir, name)); err != nil {
			t.Fatal(err)
		}
	}
	token, err := l.node.CreateToken(api.TokenRequest{Node: "h1"})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(l.dir, "token")
	write(t, file, token.Token)
	l.start(func(c *configs.Agent) { c.TokenFile = file })
	l.answers("ADDR:10080", 200)
}

func TestAHopelessRenewalIsTriedSeldom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &renewal{now: time.Now, log: discard(), hopeless: func(err error) bool { return err != nil }}
		asked := clockwork(t, r, time.Hour, 65*time.Minute, func(int) bool { return true })
		if len(asked) < 6 || len(asked) > 7 {
			t.Errorf("asked at %v", asked)
		}
	})
}
