package etcd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/wattle-mesh/wattle/registry"
)

func entry(change ...func(*Entry)) Entry {
	e := Entry{
		Service: registry.Name{Namespace: "shop", Name: "web"}, Instance: "h1", Address: netip.MustParseAddr("10.0.0.1"),
		Ports: []EntryPort{{Port: registry.Port{Number: 80, Protocol: registry.HTTP, Name: "web"}, Target: 8080}},
		Meta:  map[string]string{"version": "v2"}, Weight: 3,
	}
	for _, f := range change {
		f(&e)
	}
	return e
}

func newWriter(t *testing.T, text string) *Writer {
	t.Helper()
	w, diags := OpenWriter(parse(t, text), registry.DriverOptions{Name: "main", Log: slog.New(slog.DiscardHandler)})
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	t.Cleanup(w.Close)
	return w
}

func (c *cluster) leases(t *testing.T) int {
	t.Helper()
	all, err := c.client.Leases(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return len(all.Leases)
}

func TestWhatAWriterWritesASourceReads(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 1, security{})
	w := newWriter(t, block(c.urls()))
	read := watch(t, block(c.urls()))
	e, ctx := entry(), t.Context()
	put := func(e Entry, ttl time.Duration, want bool) {
		t.Helper()
		if changed, err := w.Put(ctx, e, ttl); err != nil || changed != want {
			t.Fatalf("changed %t, %v", changed, err)
		}
	}
	put(e, 0, true)
	read.awaitSet("shop/web 10.0.0.1:8080")
	schema := compileSchema(t)
	got, err := c.client.Get(ctx, base+"shop/web/h1")
	if err != nil || len(got.Kvs) != 1 {
		t.Fatal(got, err)
	}
	if err := agrees(schema, got.Kvs[0].Value); err != nil {
		t.Errorf("%s: %v", got.Kvs[0].Value, err)
	}
	revision := got.Header.Revision
	put(e, 0, false)
	if again, err := c.client.Get(ctx, base); err != nil || again.Header.Revision != revision {
		t.Error("what is the same was written", err)
	}

	put(e, time.Hour, true) // it gets a lease
	put(e, time.Hour, false)
	if err := w.Beat(ctx, e.Service, e.Instance); err != nil || c.leases(t) != 1 {
		t.Errorf("%v, %d leases", err, c.leases(t))
	}
	put(e, 2*time.Hour, true)
	put(e, 0, true) // and loses it
	if err := w.Beat(ctx, e.Service, e.Instance); !errors.Is(err, ErrNoLease) {
		t.Error(err)
	}
	e.Address = netip.MustParseAddr("fd00::1")
	put(e, time.Hour, true)
	read.awaitSet("shop/web [fd00::1]:8080")
	before := c.leases(t)
	if was, err := w.Delete(ctx, e.Service, e.Instance); err != nil || !was {
		t.Errorf("%t, %v", was, err)
	}
	read.awaitSet("shop/web [fd00::1]:8080 draining")
	if c.leases(t) != before { // that of the farewell
		t.Error("its lease is left")
	}
	if was, err := w.Delete(ctx, e.Service, e.Instance); err != nil || was {
		t.Errorf("again: %t, %v", was, err)
	}
	if err := w.Beat(ctx, e.Service, e.Instance); !errors.Is(err, ErrMissing) {
		t.Error(err)
	}
}

func TestALeaseThatNobodyKeepsEnds(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 1, security{})
	w := newWriter(t, block(c.urls()))
	read := watch(t, block(c.urls()))
	e := entry()
	if _, err := w.Put(t.Context(), e, time.Second); err != nil {
		t.Fatal(err)
	}
	read.awaitSet("shop/web 10.0.0.1:8080")
	read.awaitSet("")
	if changed, err := w.Put(t.Context(), e, time.Hour); err != nil || !changed {
		t.Errorf("%t, %v", changed, err)
	}
	read.awaitSet("shop/web 10.0.0.1:8080")
}

func TestTheEndOfAnEarlierHolderDoesNotEndALaterOne(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 1, security{})
	old, later := newWriter(t, block(c.urls())), newWriter(t, block(c.urls()))
	ctx := t.Context()
	hold := func(w *Writer, renew, want bool) {
		t.Helper()
		if changed, err := w.Hold(ctx, entry(), time.Hour, renew); err != nil || changed != want {
			t.Fatalf("changed %t, %v", changed, err)
		}
	}
	leave := func(w *Writer, want bool) {
		t.Helper()
		if was, err := w.Leave(ctx, entry().Service, "h1"); err != nil || was != want {
			t.Fatalf("left %t, %v", was, err)
		}
	}
	leave(old, false) // it has written nothing
	hold(old, false, true)
	hold(old, true, false)
	hold(later, false, true) // it says the same
	hold(old, true, false)
	leave(old, false)
	if got, err := c.client.Get(ctx, base+"shop/web/h1"); err != nil || len(got.Kvs) != 1 || parted(got.Kvs[0].Value) {
		t.Errorf("%v, %v", got, err)
	}
	leave(later, true)
	hold(old, true, true) // it still lives
	leave(later, false)
	leave(old, true)
}

func TestAHolderDoesNotBringBackWhatWasDeleted(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 1, security{})
	w, other := newWriter(t, block(c.urls())), newWriter(t, block(c.urls()))
	ctx, e := t.Context(), entry()
	key := base + "shop/web/h1"
	if _, err := w.Hold(ctx, e, time.Hour, false); err != nil {
		t.Fatal(err)
	}
	if was, err := other.Delete(ctx, e.Service, "h1"); err != nil || !was {
		t.Fatal(was, err)
	}
	for range 2 {
		if changed, err := w.Hold(ctx, e, time.Hour, true); !errors.Is(err, ErrEnded) || changed {
			t.Fatal(changed, err)
		}
		if _, err := c.client.Delete(ctx, key); err != nil { // the farewell is over
			t.Fatal(err)
		}
	}
	// Who takes it over has it, and renews what is gone otherwise.
	if changed, err := w.Hold(ctx, e, time.Hour, false); err != nil || !changed {
		t.Fatal(changed, err)
	}
	if _, err := c.client.Delete(ctx, key); err != nil {
		t.Fatal(err)
	}
	if changed, err := w.Hold(ctx, e, time.Hour, true); err != nil || !changed {
		t.Fatal(changed, err)
	}
}

func TestALeaseIsSharedWithNobodyWhoLosesIt(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 1, security{})
	w := newWriter(t, block(c.urls()))
	lease, err := c.client.Grant(t.Context(), 3600)
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"shop/web/h1", "shop/other/h1"} {
		c.put(base+key, at("10.0.0.1"), clientv3.WithLease(lease.ID))
	}
	if was, err := w.Delete(t.Context(), entry().Service, "h1"); err != nil || !was {
		t.Fatal(was, err)
	}
	if got, err := c.client.Get(t.Context(), base+"shop/other/h1"); err != nil || len(got.Kvs) != 1 {
		t.Error("another key of the same lease is gone", err)
	}
}

func TestAWriterGoesOnAfterAFailure(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 1, security{})
	w := newWriter(t, hasty(block(c.urls())))
	if _, err := w.Put(t.Context(), entry(), 0); err != nil {
		t.Fatal(err)
	}
	c.members[0].kill()
	if _, err := w.Put(t.Context(), entry(), 0); err == nil || !strings.HasPrefix(err.Error(), "etcd: ") {
		t.Error(err)
	}
	c.members[0].start()
	await(t, "the writer to write again", func() bool {
		_, err := w.Put(t.Context(), entry(), time.Hour)
		return err == nil
	})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := w.Put(ctx, entry(), 0); err == nil {
		t.Error("a request that is taken back succeeds")
	}
}

func TestAWriterMayWhatItsUserMay(t *testing.T) {
	t.Parallel()
	g := startGuarded(t)
	o := WriterOptions{
		Endpoints: g.urls(), Prefix: base, Username: "wattle", PasswordFile: g.password,
		CAFile: g.ca.file("ca.pem"), CertFile: g.ca.file("nobody.pem"), KeyFile: g.ca.file("nobody.key"), ServerName: serverName,
	}
	made := func(o WriterOptions) *Writer {
		t.Helper()
		w, err := NewWriter(o, registry.DriverOptions{Name: "flags", Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		w.dialTimeout, w.requestTimeout = 20*time.Second, 20*time.Second
		t.Cleanup(w.Close)
		return w
	}
	if _, err := made(o).Put(t.Context(), entry(), 0); err == nil || !strings.Contains(err.Error(), "--prefix=true readwrite "+base) {
		t.Errorf("a user who may only read: %v", err)
	}
	if _, err := g.client.RoleGrantPermission(t.Context(), "reader", base, clientv3.GetPrefixRangeEnd(base), clientv3.PermissionType(clientv3.PermReadWrite)); err != nil {
		t.Fatal(err)
	}
	w := made(o)
	for _, ttl := range []time.Duration{0, time.Hour} {
		if changed, err := w.Put(t.Context(), entry(), ttl); err != nil || !changed {
			t.Errorf("%t, %v", changed, err)
		}
	}
	if was, err := w.Delete(t.Context(), entry().Service, "h1"); err != nil || !was {
		t.Errorf("%t, %v", was, err)
	}
	wrong := o
	wrong.PasswordFile = g.ca.file("ca.pem")
	if _, err := made(wrong).Put(t.Context(), entry(), 0); err == nil || !strings.Contains(err.Error(), "authentication failed") {
		t.Errorf("a wrong password: %v", err)
	}
}

func TestWhatAWriterDoesNotWrite(t *testing.T) {
	w := newWriter(t, block([]string{"http://127.0.0.1:1"}))
	for name, change := range map[string]func(*Entry){
		"no address":              func(e *Entry) { e.Address = netip.Addr{} },
		"no port":                 func(e *Entry) { e.Ports = nil },
		"a port twice":            func(e *Entry) { e.Ports = append(e.Ports, e.Ports[0]) },
		"a protocol that is none": func(e *Entry) { e.Ports[0].Protocol = "sctp" },
		"too many labels": func(e *Entry) {
			e.Meta = map[string]string{}
			for i := range maxLabels + 1 {
				e.Meta[fmt.Sprint(i)] = ""
			}
		},
		"an instance with a slash":     func(e *Entry) { e.Instance = "a/b" },
		"no instance":                  func(e *Entry) { e.Instance = "" },
		"a weight that is out of hand": func(e *Entry) { e.Weight = maxWeight + 1 },
	} {
		if _, err := w.Put(t.Context(), entry(change), 0); !errors.Is(err, ErrEntry) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, c := range map[string]struct {
		o    WriterOptions
		want string
	}{
		"no endpoints":        {WriterOptions{}, "Name the members of the cluster"},
		"no URL":              {WriterOptions{Endpoints: []string{"10.0.0.1:2379"}}, "Wrong endpoint"},
		"a user alone":        {WriterOptions{Endpoints: []string{"https://10.0.0.1:2379"}, Username: "x"}, "username needs password_file"},
		"TLS without https":   {WriterOptions{Endpoints: []string{"http://10.0.0.1:2379"}, CAFile: "x"}, "TLS to http endpoints"},
		"a prefix like none":  {WriterOptions{Endpoints: []string{"http://10.0.0.1:2379"}, Prefix: "/x"}, "ends in a slash"},
		"text like templates": {WriterOptions{Endpoints: []string{"http://${x}:1"}}, "Wrong endpoint"},
	} {
		if _, err := NewWriter(c.o, registry.DriverOptions{Log: slog.New(slog.DiscardHandler)}); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}
