// Package datapath runs what the translator makes on real Envoys, without an agent: the translator's output and
// secrets made here go to two Envoys over internal/xds, applications are part of the test.
package datapath

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"github.com/rogpeppe/go-internal/txtar"
	"google.golang.org/grpc"

	"github.com/wattle-mesh/wattle/configs"
	"github.com/wattle-mesh/wattle/internal/mesh"
	"github.com/wattle-mesh/wattle/internal/xds"
	"github.com/wattle-mesh/wattle/registry"
	"github.com/wattle-mesh/wattle/registry/static"
	"github.com/wattle-mesh/wattle/test/space"
	"github.com/wattle-mesh/wattle/translator"
)

// limit is how long anything may take that takes moments. The machine may be busy.
const limit = 30 * time.Second

// path is a mesh of Envoys that get everything from the test.
type path struct {
	t      *testing.T
	dir    string
	prefix string // of the mesh's addresses: "127.0.N."
	pki    *pki
	server *xds.Server
	halt   func() // ends the server; may be called again
	policy *configs.Policy
	health registry.HealthMap
	cat    *registry.Catalog
	view   *mesh.View
	out    *translator.Output
	envoys map[string]*envoy       // by the proxy's id
	spaces map[string]*space.Space // of hosts that have one
}

// newPath starts an Envoy for each host and gateway of the policy. 127.0.X. in it is a network of the test's own.
func newPath(t *testing.T, policy string) *path {
	t.Helper()
	return newPathIn(t, policy, nil)
}

// newPathIn is newPath with hosts in namespaces of their own.
func newPathIn(t *testing.T, policy string, spaces map[string]*space.Space) *path {
	t.Helper()
	dir, err := os.MkdirTemp("", "wpath-") // short, for the sockets in it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	p := &path{t: t, dir: dir, prefix: network(t), pki: newPKI(t), envoys: map[string]*envoy{}, spaces: spaces}
	for _, f := range txtar.Parse([]byte(policy)).Files {
		name := filepath.Join(dir, "policy", f.Name)
		if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(p.at(string(f.Data))), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var diags configs.Diagnostics
	if p.policy, diags = configs.Load(filepath.Join(dir, "policy")); diags.HasErrors() {
		t.Fatal(diags)
	}
	p.serve()
	if spaces != nil { // whose Envoys are another user's
		if err := errors.Join(os.Chown(dir, proxyUser, proxyGroup), os.Chown(filepath.Join(dir, "xds.sock"), proxyUser, proxyGroup)); err != nil {
			t.Fatal(err)
		}
	}
	p.apply()
	for _, id := range p.view.ProxyIDs() {
		p.envoys[id] = startEnvoy(t, dir, id, spaces[p.view.Proxy(id).Host])
	}
	p.sync()
	return p
}

// at puts the mesh's own network into a text.
func (p *path) at(text string) string { return strings.ReplaceAll(text, "127.0.X.", p.prefix) }

// network returns "127.0.N." for an N that no other test uses, also in other processes, until this one ends.
func network(t *testing.T) string {
	t.Helper()
	for i := range 200 {
		prefix := fmt.Sprintf("127.1.%d.", 20+(os.Getpid()+i)%200)
		if l, err := net.Listen("tcp", prefix+"1:29999"); err == nil {
			t.Cleanup(func() { l.Close() })
			return prefix
		}
	}
	t.Fatal("no network is free")
	return ""
}

// serve starts the xDS server, on a socket where every claim of a node is believed.
func (p *path) serve() {
	p.t.Helper()
	p.server = xds.New(xds.Options{Authorize: func(_ context.Context, n *corev3.Node) (string, error) { return n.GetId(), nil }})
	l, err := net.Listen("unix", filepath.Join(p.dir, "xds.sock"))
	if err != nil {
		p.t.Fatal(err)
	}
	g := grpc.NewServer(xds.ServerOptions()...)
	p.server.Register(g)
	done := make(chan error)
	go func() { done <- g.Serve(l) }()
	p.halt = sync.OnceFunc(func() {
		g.Stop()
		<-done
	})
	p.t.Cleanup(p.halt)
}

// apply takes policy, services and health through all stages, and has what changed sent.
func (p *path) apply() {
	p.t.Helper()
	p.cat = registry.Merge(p.cat, []registry.Set{{Name: "policy", Services: static.Services(p.policy)}}, p.health)
	p.view, _ = mesh.Resolve(p.view, p.cat, p.policy)
	out, err := translator.Translate(p.out, p.view)
	if err != nil {
		p.t.Fatal(err)
	}
	p.out = out
	p.server.Apply(p.withSecrets(out.Changes))
}

// withSecrets adds to the changes the secrets of each proxy in it.
func (p *path) withSecrets(c translator.Changes) translator.Changes {
	p.t.Helper()
	for i, px := range c.Proxies {
		scope := &translator.Scope{Name: "secrets/" + px.ID}
		for _, r := range p.pki.secrets(p.t, p.view.Proxy(px.ID)) {
			c.Resources = append(c.Resources, r)
			scope.Keys = append(scope.Keys, r.Key)
		}
		c.Scopes = append(c.Scopes, scope)
		c.Proxies[i] = &translator.Proxy{ID: px.ID, Scopes: append(px.Scopes, scope.Name)}
	}
	return c
}

// setUnhealthy says of these workloads that they are unhealthy, and of all others that they are healthy, as agents do,
// and waits until all proxies know.
func (p *path) setUnhealthy(keys ...registry.WorkloadKey) {
	p.t.Helper()
	p.health = registry.HealthMap{}
	for _, id := range p.view.ProxyIDs() {
		for _, w := range p.view.Proxy(id).Workloads {
			p.health[w.Key()] = registry.HealthWord{Health: registry.Healthy}
		}
	}
	for _, k := range keys {
		p.health[k] = registry.HealthWord{Health: registry.Unhealthy}
	}
	p.apply()
	p.sync()
}

// sync waits until every Envoy has acknowledged everything. A refusal ends the test.
func (p *path) sync() {
	p.t.Helper()
	eventually(p.t, "all proxies are in sync", func() error {
		for _, s := range p.server.Proxies() {
			for _, ty := range s.Types {
				if ty.Nack != nil {
					p.t.Fatalf("%s refuses %s: %+v", s.ID, ty.Type, *ty.Nack)
				}
			}
			if p.envoys[s.ID] != nil && !s.Synced {
				return fmt.Errorf("%s is not: %+v", s.ID, s.Types)
			}
		}
		for _, e := range p.envoys {
			if err := e.ready(); err != nil {
				return err
			}
		}
		return nil
	})
}

// eventually fails the test unless f succeeds within the limit.
func eventually(t *testing.T, what string, f func() error) {
	t.Helper()
	end := time.NewTimer(limit)
	defer end.Stop()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := f()
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-end.C:
			t.Fatalf("%s: not within %s: %v", what, limit, err)
		}
	}
}
