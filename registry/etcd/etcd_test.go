package etcd

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/wattle-mesh/wattle/registry"
	"github.com/wattle-mesh/wattle/registry/registrytest"
)

const base = "/wattle/services/"

// noted is a Source that tells when it fails.
type noted struct {
	*Source
	mu      sync.Mutex
	running bool
	failed  chan struct{} // has an element after a failure
}

func (n *noted) Run(ctx context.Context, publish func([]*registry.Service)) error {
	n.mu.Lock()
	n.running = true
	n.mu.Unlock()
	err := n.Source.Run(ctx, publish)
	if err != nil {
		select {
		case n.failed <- struct{}{}:
		default:
		}
	}
	return err
}

func TestConformance(t *testing.T) {
	registrytest.Run(t, func(t *testing.T) registrytest.Registry {
		c := startCluster(t, 1, security{})
		source := &noted{Source: newSource(t, block(c.urls()), nil), failed: make(chan struct{}, 1)}
		held := map[string]string{}
		var wanted []*registry.Service
		broken := false
		put := func(services []*registry.Service) {
			wanted = services
			if broken {
				return
			}
			now := values(services)
			var ops []clientv3.Op
			for k, v := range now {
				if held[k] != v {
					ops = append(ops, clientv3.OpPut(k, v))
				}
			}
			for k := range held {
				if _, ok := now[k]; !ok {
					ops = append(ops, clientv3.OpDelete(k))
				}
			}
			held = now
			c.commit(ops...)
		}
		return registrytest.Registry{
			Source: source,
			Put:    put,
			Break: func() {
				broken = true
				c.members[0].kill()
				source.mu.Lock()
				running := source.running
				source.mu.Unlock()
				if running {
					<-source.failed
				}
			},
			Mend: func() {
				broken = false
				c.members[0].start()
				c.await()
				put(wanted)
			},
		}
	})
}

// values are the keys and values of services.
func values(services []*registry.Service) map[string]string {
	out := map[string]string{}
	for _, s := range services {
		for _, e := range s.Endpoints {
			d := doc{Address: e.Address.String(), Meta: e.Meta.Map(), Weight: e.Weight, Health: string(e.Health)}
			d.Ports = []docPort{{Number: e.ServicePort, Target: e.Port, Protocol: string(s.Ports[0].Protocol)}}
			out[base+s.Name.String()+"/"+e.Address.String()] = d.String()
		}
	}
	return out
}

// TestWithANewerEtcd runs against etcd 3.7 what depends on the server; elsewhere it is Debian's.
func TestWithANewerEtcd(t *testing.T) {
	path, err := filepath.Abs("../../.bin/etcd-3.7")
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("ETCD", path)
	for _, test := range []struct {
		name string
		run  func(*testing.T)
	}{
		{"conformance", TestConformance},
		{"a lease that expires", TestALeaseThatExpiresTakesItsInstanceAlong},
		{"kill -9 and restart", TestKill9AndRestartKeepTheSet},
		{"a wiped cluster", TestAWipedClusterIsTakenAsItIs},
		{"a compacted revision", TestACompactedRevisionIsReadAnew},
		{"a watch from a compacted revision", TestAWatchFromACompactedRevisionEnds},
		{"a member that is behind", TestAWatchAtAMemberThatIsBehindEnds},
		{"a cluster that loses its leader", TestAClusterThatLosesMembersAndItsLeader},
		{"passwords and tokens", TestPasswordsAndTokensChangeUnderARunningWatch},
		{"client certificates", TestAClientCertificateIsAUserToo},
		{"certificates that rotate", TestCertificatesRotateUnderARunningWatch},
		{"a writer", TestWhatAWriterWritesASourceReads},
		{"a writer's lease", TestALeaseThatNobodyKeepsEnds},
		{"a writer's user", TestAWriterMayWhatItsUserMay},
	} {
		t.Run(test.name, test.run)
	}
}

func TestALeaseThatExpiresTakesItsInstanceAlong(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 1, security{})
	lease, err := c.client.Grant(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	c.put(base+"shop/web/a", at("10.0.0.1"), clientv3.WithLease(lease.ID))
	c.put(base+"shop/web/b", at("10.0.0.2"))
	w := watch(t, block(c.urls()))
	w.awaitSet("shop/web 10.0.0.1:80 10.0.0.2:80")
	w.awaitSet("shop/web 10.0.0.2:80")
	if errs := w.errors(); len(errs) > 0 {
		t.Error(errs)
	}
}

func TestARenewedLeaseAndARewrittenValuePublishNothing(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 1, security{})
	c.put(base+"shop/web/a", at("10.0.0.1"))
	w := watch(t, block(c.urls()))
	w.awaitSet("shop/web 10.0.0.1:80")
	c.put(base+"shop/web/a", at("10.0.0.1"))
	c.commit(clientv3.OpPut(base+"shop/web/a", " "+at("10.0.0.1")))
	c.put(base+"shop/db/a", at("10.0.0.9"))
	w.awaitSet("shop/db 10.0.0.9:80", "shop/web 10.0.0.1:80")
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.sets) != 2 || w.sets[0][0] != w.sets[1][1] {
		t.Errorf("%d sets were published, want 2, with one pointer for web", len(w.sets))
	}
}

func TestKill9AndRestartKeepTheSet(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 1, security{})
	c.put(base+"shop/web/a", at("10.0.0.1"))
	w := watch(t, block(c.urls()))
	before := w.awaitSet("shop/web 10.0.0.1:80")
	for range 2 {
		c.members[0].kill()
		w.awaitError("refused")
		c.members[0].start()
		c.await()
		c.put(base+"shop/db/a", at("10.0.0.2"))
		after := w.awaitSet("shop/db 10.0.0.2:80", "shop/web 10.0.0.1:80")
		if after[1] != before[0] {
			t.Error("web did not change, but lost its pointer")
		}
		c.remove(base + "shop/db/a")
		w.awaitSet("shop/web 10.0.0.1:80")
	}
	w.neverEmpty()
}

// That what disappeared is held is the Aggregator's part: the source says what there is.
func TestAWipedClusterIsTakenAsItIs(t *testing.T) {
	t.Parallel()
	for name, args := range map[string][2]string{
		"with the same cluster id": {"--initial-cluster-token", "etcd-cluster"},
		"with another cluster id":  {"--initial-cluster-token", "another"},
	} {
		t.Run(name, func(t *testing.T) {
			c := startCluster(t, 1, security{flags: []string{"--initial-cluster-token", "etcd-cluster"}})
			c.put(base+"shop/web/a", at("10.0.0.1"))
			c.put(base+"shop/web/b", at("10.0.0.2"))
			w := watch(t, block(c.urls()))
			w.awaitSet("shop/web 10.0.0.1:80 10.0.0.2:80")
			m := c.members[0]
			m.kill()
			m.wipe()
			m.setArg(args[0], args[1])
			m.start()
			c.await()
			w.awaitSet()
			c.put(base+"shop/web/b", at("10.0.0.2"))
			w.awaitSet("shop/web 10.0.0.2:80")
		})
	}
}

func TestACompactedRevisionIsReadAnew(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 1, security{})
	p := startProxy(t, c.members[0].url)
	c.put(base+"shop/web/a", at("10.0.0.1"))
	c.put(base+"shop/web/b", at("10.0.0.2"))
	w := watch(t, block([]string{p.url}))
	before := w.awaitSet("shop/web 10.0.0.1:80 10.0.0.2:80")
	p.refuse()
	w.awaitError("")
	c.remove(base + "shop/web/a")
	c.put(base+"shop/db/a", at("10.0.0.3"))
	now, err := c.client.Get(t.Context(), "x")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.client.Compact(t.Context(), now.Header.Revision, clientv3.WithCompactPhysical()); err != nil {
		t.Fatal(err)
	}
	p.flow()
	w.awaitSet("shop/db 10.0.0.3:80", "shop/web 10.0.0.2:80")
	if before[0].Endpoints[1] == nil {
		t.Error("a published service was changed")
	}
}

// A watch that starts at a compacted revision ends, and the source knows why.
func TestAWatchFromACompactedRevisionEnds(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 1, security{})
	s := newSource(t, block(c.urls()), nil)
	for i := range 5 {
		c.put(base+"shop/web/a", at(fmt.Sprintf("10.0.0.%d", i)))
	}
	if _, err := c.client.Compact(t.Context(), 5); err != nil {
		t.Fatal(err)
	}
	id, err := c.client.Get(t.Context(), "x")
	if err != nil {
		t.Fatal(err)
	}
	s.store = store{id.Header.ClusterId, 2}
	err = s.watch(t.Context(), c.client, &secrets{}, &output{publish: func([]*registry.Service) {}})
	if err == nil || !strings.Contains(err.Error(), "compacted") {
		t.Error(err)
	}
}

// A member with another life of the same cluster would let a watch wait for ever: it is left.
func TestAWatchAtAMemberThatIsBehindEnds(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 1, security{})
	s := newSource(t, hasty(block(c.urls())), nil)
	id, err := c.client.Get(t.Context(), "x")
	if err != nil {
		t.Fatal(err)
	}
	none, err := s.readSecrets()
	if err != nil {
		t.Fatal(err)
	}
	s.store = store{id.Header.ClusterId, 1000}
	if err := s.watch(t.Context(), c.client, none, &output{publish: func([]*registry.Service) {}}); err != errBehind {
		t.Error(err)
	}
	s.store = store{id.Header.ClusterId + 1, 1}
	if err := s.watch(t.Context(), c.client, none, &output{publish: func([]*registry.Service) {}}); err != errClusters {
		t.Error(err)
	}
}

func TestAStalledOrResetConnectionIsLeftForAnotherMember(t *testing.T) {
	t.Parallel()
	for name, harm := range map[string]func(*proxy){"stalled": (*proxy).stall, "reset": (*proxy).refuse} {
		t.Run(name, func(t *testing.T) {
			c := startCluster(t, 1, security{})
			c.put(base+"shop/web/a", at("10.0.0.1"))
			one, two := startProxy(t, c.members[0].url), startProxy(t, c.members[0].url)
			w := watch(t, hasty(block([]string{one.url, two.url})))
			w.awaitSet("shop/web 10.0.0.1:80")
			for i, p := range []*proxy{one, two, one} {
				harm(p)
				address := fmt.Sprintf("10.0.1.%d", i)
				c.put(base+"shop/web/a", at(address))
				w.awaitSet("shop/web " + address + ":80")
				p.flow()
			}
			harm(one)
			harm(two)
			w.awaitError("")
			w.neverEmpty()
			c.put(base+"shop/web/a", at("10.0.2.1"))
			one.flow()
			w.awaitSet("shop/web 10.0.2.1:80")
		})
	}
}

func TestABlackHoleDoesNotHoldUpTheEnd(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 1, security{})
	p := startProxy(t, c.members[0].url)
	p.stall()
	w := watch(t, block([]string{p.url}))
	await(t, "a connection", func() bool { return p.accepted() > 0 })
	w.stop()
	if len(w.sets) > 0 {
		t.Error("a set of nothing was published")
	}
}

func TestAClusterThatLosesMembersAndItsLeader(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 3, security{})
	c.put(base+"shop/web/a", at("10.0.0.1"))
	w := watch(t, hasty(block(c.urls())))
	w.awaitSet("shop/web 10.0.0.1:80")
	for i, m := range c.members { // one after the other: the leader is among them
		m.kill()
		address := fmt.Sprintf("10.0.1.%d", i)
		c.put(base+"shop/web/a", at(address))
		w.awaitSet("shop/web " + address + ":80")
		m.start()
		c.awaitMember(m)
	}
	w.neverEmpty()
	c.members[0].kill()
	c.members[1].kill()
	w.awaitError("") // the one that is left has no leader
	w.neverEmpty()
	c.members[0].start()
	c.await()
	c.put(base+"shop/web/a", at("10.0.2.1"))
	w.awaitSet("shop/web 10.0.2.1:80")
}

// awaitMember waits until one member has caught up.
func (c *cluster) awaitMember(m *peer) {
	c.t.Helper()
	alone := &cluster{t: c.t, client: dial(c.t, nil, "", "", m.url)}
	alone.await()
}

// The registry of the size that the speed is promised for: three pages of keys.
const (
	manyServices = 1000
	perService   = 3
)

// fill writes many services.
func (c *cluster) fill() {
	c.t.Helper()
	ops := make([]clientv3.Op, 0, manyServices*perService)
	for i := range manyServices {
		for j := range perService {
			ops = append(ops, clientv3.OpPut(fmt.Sprintf("%sshop/s%d/i%d", base, i, j), at(fmt.Sprintf("10.%d.%d.%d", i/250, i%250, j+1))))
		}
	}
	c.commit(ops...)
}

// latency changes one instance after the other, and returns how long each took to be published, the shortest first.
func (w *watched) latency(c *cluster, changes int) []time.Duration {
	w.t.Helper()
	took := make([]time.Duration, 0, changes)
	for range changes {
		w.changes++
		i, sets := w.changes, w.published()
		start := time.Now()
		c.put(fmt.Sprintf("%sshop/s%d/i1", base, i*37%manyServices), at(fmt.Sprintf("10.99.%d.%d", i/250%250, i%250)))
		w.await("the change", func() bool { return len(w.sets) > sets })
		took = append(took, time.Since(start))
	}
	slices.Sort(took)
	return took
}

// BenchmarkChange is how long the change of one instance among 3000 takes to be published.
func BenchmarkChange(b *testing.B) {
	c := startCluster(b, 1, security{})
	c.fill()
	start := time.Now()
	w := watch(b, block(c.urls()))
	w.await("all", func() bool { return len(w.sets) == 1 && len(w.sets[0]) == manyServices })
	first := time.Since(start)
	w.latency(c, 5)
	b.ResetTimer()
	took := w.latency(c, b.N)
	b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "median-ms")
	b.ReportMetric(float64(took[len(took)-1].Microseconds())/1000, "longest-ms")
	b.ReportMetric(float64(first.Microseconds())/1000, "first-ms")
}

func TestOfManyServicesOnlyThoseThatChangedAreMadeAnew(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 1, security{})
	c.fill()
	w := watch(t, block(c.urls()))
	w.await("all", func() bool { return len(w.sets) == 1 && len(w.sets[0]) == manyServices })
	for i := range 5 {
		before := w.sets[len(w.sets)-1]
		c.put(fmt.Sprintf("%sshop/s%d/i1", base, 100+i), at("10.99.0.1"))
		w.await("the change", func() bool { return len(w.sets) == i+2 })
		after := w.sets[len(w.sets)-1]
		changed := 0
		for k := range after {
			if after[k] != before[k] {
				changed++
			}
		}
		if changed != 1 {
			t.Errorf("%d services changed, want 1", changed)
		}
	}
	// A burst is few publications, and it ends up whole.
	var burst []clientv3.Op
	for i := range manyServices {
		burst = append(burst, clientv3.OpDelete(fmt.Sprintf("%sshop/s%d/i0", base, i)))
	}
	c.commit(burst...)
	w.await("the burst", func() bool {
		return !slices.ContainsFunc(w.sets[len(w.sets)-1], func(s *registry.Service) bool { return len(s.Endpoints) != perService-1 })
	})
	if n := w.published(); n > 6+20 {
		t.Errorf("%d publications in all", n)
	}
}

func TestGarbageIsLeftOutAndNamed(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 1, security{})
	huge := strings.Repeat("x", 1<<20)
	for i := range 2 * maxMessage / len(huge) { // more than one answer may hold
		c.put(fmt.Sprintf("%sshop/huge/%02d", base, i), huge)
	}
	c.put(base+"shop/web/a", at("10.0.0.1"))
	c.put(base+"stray", "")
	w := watch(t, block(c.urls()))
	w.awaitSet("shop/web 10.0.0.1:80")
	ds := w.awaitReport(2*maxMessage/len(huge) + 1)
	if d := ds[0]; d.Severity != registry.Error || d.Code != registry.BadEntry || d.Origin != base+"shop/huge/00" || !strings.Contains(d.Summary, "at most 65536") || d.Detail == "" {
		t.Errorf("%+v", d)
	}
	c.remove(base+"shop/huge/", clientv3.WithPrefix())
	w.awaitReport(1)
	c.put(base+"shop/web/b", huge)
	c.put(base+"shop/web/c", at("10.0.0.3"))
	w.awaitSet("shop/web 10.0.0.1:80 10.0.0.3:80")
	w.awaitReport(2)
	c.put(base+"shop/web/b", at("10.0.0.2"))
	w.awaitSet("shop/web 10.0.0.1:80 10.0.0.2:80 10.0.0.3:80")
	w.awaitReport(1)
	c.remove(base + "stray")
	w.awaitReport(0)
}
