package etcd

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"

	"github.com/wattle-mesh/wattle/registry"
)

// guarded is a cluster with TLS and users: root, who is its client by certificate; wattle, who may read the prefix; and
// stranger, who may nothing.
type guarded struct {
	*cluster
	ca       *authority
	password string // the file with wattle's
}

func startGuarded(t *testing.T) *guarded {
	t.Helper()
	ca := newAuthority(t)
	ca.issue("wattle")
	ca.issue("nobody") // is no user of etcd
	g := &guarded{cluster: startCluster(t, 1, ca.security("--auth-token-ttl", "1")), ca: ca, password: filepath.Join(t.TempDir(), "password")}
	c, ctx := g.client, t.Context()
	for _, do := range []func() error{
		func() error { _, err := c.RoleAdd(ctx, "reader"); return err },
		func() error {
			_, err := c.RoleGrantPermission(ctx, "reader", base, clientv3.GetPrefixRangeEnd(base), clientv3.PermissionType(clientv3.PermRead))
			return err
		},
		func() error { _, err := c.UserAdd(ctx, "root", "rootpw"); return err },
		func() error { _, err := c.UserGrantRole(ctx, "root", "root"); return err },
		func() error { _, err := c.UserAdd(ctx, "wattle", "first"); return err },
		func() error { _, err := c.UserGrantRole(ctx, "wattle", "reader"); return err },
		func() error { _, err := c.UserAdd(ctx, "stranger", "first"); return err },
		func() error { _, err := c.AuthEnable(ctx); return err },
	} {
		if err := do(); err != nil {
			t.Fatal(err)
		}
	}
	replace(t, g.password, "first\n")
	return g
}

// secure is the rest of a block for a user with a password.
func (g *guarded) secure(user, cert string) string {
	return fmt.Sprintf("username = %q\npassword_file = %q\n", user, g.password) + g.tls(cert)
}

func (g *guarded) tls(cert string) string {
	return fmt.Sprintf("tls {\n ca_file = %q\n cert_file = %q\n key_file = %q\n server_name = %q\n}\n",
		g.ca.file("ca.pem"), g.ca.file(cert+".pem"), g.ca.file(cert+".key"), serverName)
}

func TestTheFirstReadSaysWhatIsWrongWithTheSecrets(t *testing.T) {
	t.Parallel()
	g := startGuarded(t)
	other := newAuthority(t)
	wrong := filepath.Join(t.TempDir(), "wrong")
	replace(t, wrong, "guess")
	empty := filepath.Join(t.TempDir(), "empty")
	replace(t, empty, "\n")
	user := func(file string) string {
		return fmt.Sprintf("username = \"wattle\"\npassword_file = %q\n", file) + g.tls("nobody")
	}
	for name, c := range map[string]struct{ block, want string }{
		"a wrong password":             {user(wrong), `authentication failed, invalid user ID or password; see username "wattle"`},
		"an empty password file":       {user(empty), "is empty: it holds the password"},
		"a missing password file":      {user(empty + "2"), "no such file"},
		"no permission":                {g.secure("stranger", "nobody"), "permission denied; grant a role of the user: etcdctl role grant-permission ROLE --prefix=true read " + base},
		"a certificate that is no one": {g.tls("nobody"), ""},
		"another CA":                   {strings.Replace(g.secure("wattle", "nobody"), g.ca.file("ca.pem"), other.file("ca.pem"), 1), "unknown authority"},
		"another name":                 {strings.Replace(g.secure("wattle", "nobody"), serverName, "db.test", 1), "not db.test"},
		"no certificate":               {fmt.Sprintf("tls {\n ca_file = %q\n server_name = %q\n}", g.ca.file("ca.pem"), serverName), ""}, // TLS 1.3: a race of the alert with the first request
		"a key of another certificate": {strings.Replace(g.tls("nobody"), g.ca.file("nobody.key"), g.ca.file("root.key"), 1), "are no certificate and its key"},
		"a CA file without one":        {strings.Replace(g.tls("nobody"), g.ca.file("ca.pem"), wrong, 1), "holds no certificate in PEM"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSource(t, block(g.urls(), c.block), nil)
			err := s.Run(t.Context(), func([]*registry.Service) { t.Error("something was published") })
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.HasPrefix(err.Error(), "etcd main: ") {
				t.Errorf("%v, want %q", err, c.want)
			}
		})
	}
}

func TestAClientCertificateIsAUserToo(t *testing.T) {
	t.Parallel()
	g := startGuarded(t)
	g.put(base+"shop/web/a", at("10.0.0.1"))
	watch(t, block(g.urls(), g.tls("wattle"))).awaitSet("shop/web 10.0.0.1:80")
}

func TestPasswordsAndTokensChangeUnderARunningWatch(t *testing.T) {
	t.Parallel()
	g := startGuarded(t)
	p := startProxy(t, g.members[0].url)
	g.put(base+"shop/web/a", at("10.0.0.1"))
	replace(t, g.password, "not yet right")
	w := watch(t, block([]string{p.url}, g.secure("wattle", "nobody")))
	w.awaitError("authentication failed")
	replace(t, g.password, "first")
	w.awaitSet("shop/web 10.0.0.1:80")

	g.awaitExpiry() // of every token that was given out until now
	failed := len(w.errors())
	g.put(base+"shop/web/a", at("10.0.0.2"))
	w.awaitSet("shop/web 10.0.0.2:80")
	p.reset()
	g.put(base+"shop/web/a", at("10.0.0.3"))
	w.awaitSet("shop/web 10.0.0.3:80")

	conns := p.accepted()
	if _, err := g.client.UserChangePassword(t.Context(), "wattle", "second"); err != nil {
		t.Fatal(err)
	}
	replace(t, g.password, "second")
	await(t, "a new connection", func() bool { return p.accepted() > conns })
	g.put(base+"shop/web/a", at("10.0.0.4"))
	w.awaitSet("shop/web 10.0.0.4:80")
	if errs := w.errors(); len(errs) > failed {
		t.Errorf("the change of a password made the registry fail: %v", errs[failed:])
	}

	g.members[0].kill() // it forgets its tokens
	g.members[0].start()
	g.put(base+"shop/web/a", at("10.0.0.5"))
	w.awaitSet("shop/web 10.0.0.5:80")
	w.neverEmpty()
}

// awaitExpiry waits until a token that is asked for now is no longer good.
func (g *guarded) awaitExpiry() {
	g.t.Helper()
	got, err := g.client.Authenticate(g.t.Context(), "wattle", "first")
	if err != nil {
		g.t.Fatal(err)
	}
	c, err := clientv3.New(clientv3.Config{
		Endpoints: g.urls(), TLS: g.ca.security().client, Token: got.Token, Logger: zap.NewNop(), DialOptions: []grpc.DialOption{grpc.WithAuthority(serverName)},
	})
	if err != nil {
		g.t.Fatal(err)
	}
	defer c.Close()
	// Each use prolongs a token's life: it is looked at with pauses longer than that.
	awaitEvery(g.t, 1500*time.Millisecond, "the token's end", func() bool {
		_, err := c.Get(g.t.Context(), base)
		return err == rpctypes.ErrInvalidAuthToken
	})
}

// A server of 3.4 refuses to log in whoever shows an old token: the client would try again and again.
func TestATokenThatHasExpiredIsNotRenewedInALoop(t *testing.T) {
	t.Parallel()
	g := startGuarded(t)
	s := newSource(t, block(g.urls(), g.secure("wattle", "nobody")), nil)
	files, err := s.readSecrets()
	if err != nil {
		t.Fatal(err)
	}
	client, err := s.connect(t.Context(), files)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	g.awaitExpiry()
	start := time.Now()
	if _, err = s.page(t.Context(), client, base); err != nil && !errors.Is(err, errStale) {
		t.Error(err)
	}
	if took := time.Since(start); took >= s.requestTimeout {
		t.Errorf("it took %s", took)
	}
}

func TestCertificatesRotateUnderARunningWatch(t *testing.T) {
	t.Parallel()
	g := startGuarded(t)
	p := startProxy(t, g.members[0].url)
	g.put(base+"shop/web/a", at("10.0.0.1"))
	w := watch(t, block([]string{p.url}, g.secure("wattle", "nobody")))
	w.awaitSet("shop/web 10.0.0.1:80")

	good, err := os.ReadFile(g.ca.file("nobody.pem"))
	if err != nil {
		t.Fatal(err)
	}
	replace(t, g.ca.file("nobody.pem"), "half of a certif")
	d := w.awaitReport(1)[0]
	if d.Code != registry.BadSecrets || !strings.Contains(d.Summary, "nobody.pem") {
		t.Errorf("%+v", d)
	}
	g.put(base+"shop/web/a", at("10.0.0.2"))
	w.awaitSet("shop/web 10.0.0.2:80") // the connection stays
	replace(t, g.ca.file("nobody.pem"), string(good))
	w.awaitReport(0)

	conns := p.accepted()
	g.ca.issue("nobody")
	await(t, "a new connection", func() bool { return p.accepted() > conns })
	g.put(base+"shop/web/a", at("10.0.0.3"))
	w.awaitSet("shop/web 10.0.0.3:80")
	if errs := w.errors(); len(errs) > 0 {
		t.Error(errs)
	}
}
