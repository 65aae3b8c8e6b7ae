package store

import (
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/wattle-mesh/wattle/internal/mesh"
	"github.com/wattle-mesh/wattle/registry"
)

var now = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

func open(t *testing.T, dir string) *Store {
	t.Helper()
	s, err := Open(filepath.Join(dir, "wattle.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func reopen(t *testing.T, s *Store, dir string) *Store {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return open(t, dir)
}

func TestTheFileIsTheServersAlone(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	s := open(t, dir)
	file := filepath.Join(dir, "wattle.db")
	for path, want := range map[string]fs.FileMode{dir: 0o700, file: 0o600} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: mode %v, want %04o: %v", path, info.Mode(), want, err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(file, 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(filepath.Join(dir, "wattle.db")); err == nil {
		t.Error("a store that is open to others is used")
	}
}

func TestASecondServerIsToldSo(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	open(t, dir)
	if _, err := Open(filepath.Join(dir, "wattle.db")); !errors.Is(err, ErrLocked) {
		t.Errorf("a second Open: %v", err)
	}
}

func TestTheIDStays(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	s := open(t, dir)
	id := s.ID()
	if len(id) != 32 {
		t.Errorf("id %q", id)
	}
	if again := reopen(t, s, dir).ID(); again != id {
		t.Errorf("id %s after a restart, was %s", again, id)
	}
	if other := open(t, filepath.Join(t.TempDir(), "state")).ID(); other == id {
		t.Error("two stores have one id")
	}
}

func addToken(t *testing.T, s *Store, secret, node string, g Grant) {
	t.Helper()
	if err := s.AddToken(Token{Hash: Hash([]byte(secret)), Node: node, Grant: g, Expires: now.Add(10 * time.Minute)}, now); err != nil {
		t.Fatal(err)
	}
}

func TestATokenIsGoodOnceForItsNodeInItsTime(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	s := open(t, dir)
	grant := Grant{Services: []string{"shop/reviews"}}
	addToken(t, s, "one", "h1", grant)
	s = reopen(t, s, dir)
	for name, try := range map[string]struct {
		secret, node string
		at           time.Time
	}{
		"a secret that nobody made": {"two", "h1", now},
		"another node":              {"one", "h2", now},
		"too late":                  {"one", "h1", now.Add(10 * time.Minute)},
	} {
		if err := s.Redeem([]byte(try.secret), try.node, try.at); !errors.Is(err, ErrToken) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, ok, err := s.Node("h1"); ok || err != nil {
		t.Errorf("a refused token let the node in: %v", err)
	}
	if err := s.Redeem([]byte("one"), "h1", now); err != nil {
		t.Fatalf("a good token is refused: %v", err)
	}
	if n, ok, err := s.Node("h1"); !ok || err != nil || !reflect.DeepEqual(n, Node{Name: "h1", Grant: grant, Joined: now}) {
		t.Errorf("node %+v, %v", n, err)
	}
	if err := s.Redeem([]byte("one"), "h1", now); !errors.Is(err, ErrToken) {
		t.Errorf("a used token: %v", err)
	}
}

func TestOfManyThatRedeemATokenOneWins(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "state"))
	addToken(t, s, "one", "h1", Grant{})
	var wg sync.WaitGroup
	won := make(chan bool, 20)
	for range cap(won) {
		wg.Go(func() {
			err := s.Redeem([]byte("one"), "h1", now)
			if err != nil && !errors.Is(err, ErrToken) {
				t.Error(err)
			}
			won <- err == nil
		})
	}
	wg.Wait()
	close(won)
	n := 0
	for w := range won {
		if w {
			n++
		}
	}
	if n != 1 {
		t.Errorf("%d won", n)
	}
}

func TestTheSecretIsNotKept(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	s := open(t, dir)
	addToken(t, s, "correct horse battery staple", "h1", Grant{})
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(dir, "wattle.db"))
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(text, []byte("correct horse")) {
		t.Error("the secret is in the file")
	}
}

func TestOldTokensAreForgotten(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "state"))
	addToken(t, s, "one", "h1", Grant{})
	if err := s.AddToken(Token{Hash: Hash([]byte("two")), Node: "h2", Expires: now.Add(time.Hour)}, now.Add(10*time.Minute)); err != nil {
		t.Fatal(err)
	}
	left, err := all[Token](s.db, tokenBucket)
	if err != nil || len(left) != 1 || left[0].Node != "h2" {
		t.Errorf("left: %+v, %v", left, err)
	}
}

func TestATokenWithoutAGrantLeavesTheNodesOwn(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "state"))
	grant := Grant{Services: []string{"shop/reviews"}}
	if err := s.Admit("h1", grant, now); err != nil {
		t.Fatal(err)
	}
	addToken(t, s, "one", "h1", Grant{})
	if err := s.Redeem([]byte("one"), "h1", now); err != nil {
		t.Fatal(err)
	}
	if n, _, err := s.Node("h1"); err != nil || !reflect.DeepEqual(n.Grant, grant) {
		t.Errorf("grant %+v, %v", n.Grant, err)
	}
	if err := s.Admit("h1", Grant{Services: []string{"ops/*"}}, now); err != nil {
		t.Fatal(err)
	}
	if n, _, err := s.Node("h1"); err != nil || n.Grant.Service("shop", "reviews") || !n.Grant.Service("ops", "x") {
		t.Errorf("a new grant does not replace the old: %+v, %v", n.Grant, err)
	}
}

func TestGrants(t *testing.T) {
	g := Grant{Services: []string{"shop/reviews", "ops/*", "web", "*/probe"}}
	for _, name := range []string{"shop/reviews", "ops/a", "ops/b", "default/web", "x/probe"} {
		if ns, n := split(name); !g.Service(ns, n) {
			t.Errorf("%s is not granted", name)
		}
	}
	for _, name := range []string{"shop/reviews2", "shop/ratings", "shop/web", "ops2/a", "shop/*", "*/*"} {
		if ns, n := split(name); g.Service(ns, n) {
			t.Errorf("%s is granted", name)
		}
	}
	if (Grant{}).Service("default", "web") || !(Grant{Services: []string{"*/*"}}).Service("a", "b") {
		t.Error("the zero grant allows something, or */* does not allow all")
	}
	check := func(s string) error {
		if s == "" || s == "bad" || strings.Contains(s, "/") {
			return errors.New("no name")
		}
		return nil
	}
	clean, err := Grant{Services: []string{"web", "ops/*", "default/web"}}.Clean(check)
	if err != nil || !reflect.DeepEqual(clean.Services, []string{"default/web", "ops/*"}) {
		t.Errorf("clean: %v, %v", clean, err)
	}
	for _, p := range []string{"", "/", "a/", "/a", "a/b/c", "bad", "x/bad"} {
		if _, err := (Grant{Services: []string{p}}).Clean(check); err == nil {
			t.Errorf("%q is a grant", p)
		}
	}
}

func TestReportsStay(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	s := open(t, dir)
	reports := []Report{
		{Node: "h1", Address: netip.MustParseAddr("10.0.0.1"), MeshPort: 7443,
			Registrations: []Registration{{Namespace: "shop", Service: "reviews", Instance: "a", Body: json.RawMessage(`{"name":"reviews"}`), Origin: "h1:a.hcl:1"}},
			Health:        []Health{{Namespace: "shop", Service: "reviews", Instance: "a", Healthy: false, Reason: "503"}}},
		{Node: "h2", Address: netip.MustParseAddr("fd00::2")},
	}
	if err := s.SaveReports(reports); err != nil {
		t.Fatal(err)
	}
	s = reopen(t, s, dir)
	if got, err := s.Reports(); err != nil || !reflect.DeepEqual(got, reports) {
		t.Errorf("reports %+v, %v", got, err)
	}
	reports[0].Registrations = nil
	if err := s.SaveReports(reports[:1]); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Reports(); err != nil || !reflect.DeepEqual(got, reports) {
		t.Errorf("after a change: %+v, %v", got, err)
	}
}

func TestRevisions(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	s := open(t, dir)
	for i, step := range []struct {
		hash string
		want uint64
	}{{"a", 1}, {"a", 1}, {"b", 2}, {"a", 3}, {"a", 3}} {
		if i%2 == 1 {
			s = reopen(t, s, dir)
		}
		if got, err := s.Revision(step.hash); err != nil || got != step.want {
			t.Errorf("step %d: revision %d, want %d: %v", i, got, step.want, err)
		}
	}
	all, err := s.Revisions()
	if err != nil || len(all) != 3 || all[2].Hash != "a" || all[1].Number != 2 || all[0].Time.IsZero() {
		t.Errorf("revisions %+v, %v", all, err)
	}
}

func TestWhatWasAllottedStays(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	s := open(t, dir)
	key := func(host, instance string) registry.WorkloadKey {
		return registry.WorkloadKey{Host: host, Service: registry.Name{Namespace: "shop", Name: "reviews"}, Instance: instance}
	}
	db := registry.Name{Namespace: "shop", Name: "db"}
	at := func(port uint16) mesh.Seats { return mesh.Seats{Proxy: "host", MeshPort: port} }
	for _, want := range []mesh.Allotted{
		{
			Ports:  mesh.Allotment{key("h1", ""): at(7443), key("h1", "a"): at(7444), key("h2", ""): at(7443)},
			Slices: mesh.Slices{key("h1", ""): 0, key("h2", ""): 200}, Addresses: mesh.Addresses{db: 2, {Namespace: "default", Name: "db"}: 3},
		},
		{Ports: mesh.Allotment{key("h1", ""): at(7443), key("h1", "a"): at(7445)}, Slices: mesh.Slices{key("h1", ""): 1}, Addresses: mesh.Addresses{db: 4}},
		{
			Ports:  mesh.Allotment{key("h1", ""): {Proxy: "reviews", MeshPort: 7444, Other: mesh.Seat{Proxy: "host", Port: 7443, Leaving: true}}},
			Slices: mesh.Slices{}, Addresses: mesh.Addresses{},
		},
		{Ports: mesh.Allotment{}, Slices: mesh.Slices{}, Addresses: mesh.Addresses{}},
	} {
		if err := s.SetAllotted(want); err != nil {
			t.Fatal(err)
		}
		s = reopen(t, s, dir)
		if got, err := s.Allotted(); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("allotted %v, want %v: %v", got, want, err)
		}
	}
}

func TestAStampNeverGoesDown(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	s := open(t, dir)
	var policy, writes uint64
	later := func() {
		t.Helper()
		p, w, err := s.Stamp()
		if err != nil || p < policy || w < writes {
			t.Fatalf("%d %d after %d %d, %v", p, w, policy, writes, err)
		}
		policy, writes = p, w
	}
	later()
	for _, hash := range []string{"a", "b", "a"} {
		if _, err := s.Revision(hash); err != nil {
			t.Fatal(err)
		}
		was := writes
		later()
		if writes == was {
			t.Error("a write is not counted")
		}
	}
	if policy != 3 {
		t.Errorf("policy revision %d", policy)
	}
	id := s.ID()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, dir)
	later()
	if s.ID() != id {
		t.Error("it has another id")
	}
	if err := s.Renew(); err != nil || s.ID() == id {
		t.Errorf("%s, %v", s.ID(), err)
	}
	renewed := s.ID()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if s = open(t, dir); s.ID() != renewed {
		t.Error("the new id is not kept")
	}
}
