package xds

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/wattle-mesh/wattle/translator"
)

func now() time.Time { return time.Now() }

// TestEveryClientConvergesInOrder applies random changes under random clients that answer late, refuse and
// reconnect. Whatever the order, no client ever holds a listener or route whose cluster it lacks, and each
// ends up with exactly what its proxy has in scope.
func TestEveryClientConvergesInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { rapid.Check(struct{ rapid.TB }{t}, checkModel) })
}

// mesh makes random worlds that hang together: a route or listener refers to clusters that are in every scope it is in.
type mesh struct {
	w      *world
	serial int
}

const services = 4

func (m *mesh) next() string { m.serial++; return fmt.Sprint(m.serial) }

// change alters one random thing.
func (m *mesh) change(rt *rapid.T) {
	i := rapid.IntRange(0, services-1).Draw(rt, "service")
	switch rapid.SampledFrom([]string{"endpoints", "cluster", "route", "scope", "caller", "proxy", "variant"}).Draw(rt, "what") {
	case "endpoints":
		m.bump(translator.Key{Type: translator.Endpoint, Name: cluster(i)})
	case "cluster":
		m.bump(translator.Key{Type: translator.Cluster, Name: cluster(i)})
	case "route":
		m.service(i, rapid.SliceOfNDistinct(rapid.IntRange(0, services-1), 0, services, rapid.ID[int]).Draw(rt, "to"))
	case "scope":
		m.drop(i)
	case "caller":
		k := rapid.IntRange(0, 2).Draw(rt, "caller")
		m.caller(k, rapid.SliceOfNDistinct(rapid.IntRange(0, services-1), 0, services, rapid.ID[int]).Draw(rt, "upstreams"))
	case "proxy":
		id := rapid.SampledFrom([]string{"p0", "p1"}).Draw(rt, "proxy")
		m.proxy(id, rapid.SliceOfNDistinct(rapid.IntRange(0, 2), 0, 3, rapid.ID[int]).Draw(rt, "callers"))
	case "variant":
		k := translator.Key{Type: translator.HostPlan, Name: "plan", Variant: rapid.SampledFrom([]string{"p0", "p1"}).Draw(rt, "proxy")}
		m.w.resources[k] = m.next()
	}
}

func cluster(i int) string { return fmt.Sprintf("c-%d", i) }

func (m *mesh) bump(k translator.Key) {
	if old, ok := m.w.resources[k]; ok {
		_, refs, _ := strings.Cut(old, ">")
		m.w.resources[k] = m.next() + ">" + refs
	}
}

// service gives service i a route to some services' clusters, all of which are in its scope.
func (m *mesh) service(i int, to []int) {
	var refs []string
	s := &translator.Scope{Name: fmt.Sprint("svc/", i)}
	for _, j := range append([]int{i}, to...) {
		c, e := translator.Key{Type: translator.Cluster, Name: cluster(j)}, translator.Key{Type: translator.Endpoint, Name: cluster(j)}
		if slices.Contains(s.Keys, c) {
			continue
		}
		refs = append(refs, cluster(j))
		s.Keys = append(s.Keys, c, e)
		for _, k := range []translator.Key{c, e} {
			if _, ok := m.w.resources[k]; !ok {
				m.w.resources[k] = m.next()
			}
		}
	}
	r := translator.Key{Type: translator.Route, Name: fmt.Sprint("r-", i)}
	s.Keys = append(s.Keys, r)
	m.w.resources[r] = m.next() + ">" + strings.Join(refs, ",")
	m.w.scopes[s.Name] = s
	m.tidy()
}

// drop removes service i, from its callers too.
func (m *mesh) drop(i int) {
	name := fmt.Sprint("svc/", i)
	if m.w.scopes[name] == nil {
		return
	}
	delete(m.w.scopes, name)
	delete(m.w.resources, translator.Key{Type: translator.Route, Name: fmt.Sprint("r-", i)})
	for _, c := range m.w.scopes {
		if slices.Contains(c.Uses, name) {
			m.caller(int(c.Name[len("caller/")]-'0'), m.upstreams(c, i))
		}
	}
	m.tidy()
}

func (m *mesh) upstreams(c *translator.Scope, but int) []int {
	var out []int
	for _, u := range c.Uses {
		if i := int(u[len("svc/")] - '0'); i != but {
			out = append(out, i)
		}
	}
	return out
}

// caller gives caller k a listener for each upstream.
func (m *mesh) caller(k int, upstreams []int) {
	s := &translator.Scope{Name: fmt.Sprint("caller/", k)}
	for _, i := range upstreams {
		if m.w.scopes[fmt.Sprint("svc/", i)] == nil {
			continue
		}
		l := translator.Key{Type: translator.Listener, Name: fmt.Sprint("l-", i)}
		s.Keys, s.Uses = append(s.Keys, l), append(s.Uses, fmt.Sprint("svc/", i))
		if _, ok := m.w.resources[l]; !ok {
			m.w.resources[l] = m.next() + ">" + cluster(i)
		}
	}
	m.w.scopes[s.Name] = s
	m.tidy()
}

func (m *mesh) proxy(id string, callers []int) {
	list := []string{"proxy/" + id}
	m.w.scopes["proxy/"+id] = &translator.Scope{Name: "proxy/" + id, Keys: []translator.Key{{Type: translator.HostPlan, Name: "plan", Variant: id}}}
	for _, k := range callers {
		list = append(list, fmt.Sprint("caller/", k))
	}
	m.w.proxies[id] = list
}

// tidy removes the resources that no scope lists.
func (m *mesh) tidy() {
	listed := map[translator.Key]bool{}
	for _, s := range m.w.scopes {
		for _, k := range s.Keys {
			listed[k] = true
		}
	}
	maps.DeleteFunc(m.w.resources, func(k translator.Key, _ string) bool { return k.Type != translator.HostPlan && !listed[k] })
}

func checkModel(rt *rapid.T) {
	m := &mesh{w: newWorld()}
	var rounds []uint64
	srv := New(Options{Authorize: authorizeByID, OnConverged: func(gen uint64, _ int, _ time.Duration, _ int) { rounds = append(rounds, gen) }})
	peers := []*peer{newPeer(srv, "p0", false), newPeer(srv, "p1", true)}
	applied := newWorld()
	gens := 0
	apply := func() {
		srv.Apply(m.w.since(applied))
		applied = m.w.clone()
		gens++
	}
	fail := func(problem string) {
		if problem != "" {
			rt.Fatal(problem)
		}
	}
	for _, p := range peers {
		p.connect()
	}
	for i := range services {
		m.service(i, nil)
	}
	apply()
	rt.Repeat(map[string]func(*rapid.T){
		"change": func(rt *rapid.T) {
			for range rapid.IntRange(1, 3).Draw(rt, "changes") {
				m.change(rt)
			}
			apply()
			if rapid.Bool().Draw(rt, "wait") {
				synctest.Wait()
			}
		},
		"deliver": func(rt *rapid.T) {
			synctest.Wait()
			p := rapid.SampledFrom(peers).Draw(rt, "peer")
			fail(p.deliver(true))
		},
		"refuse": func(rt *rapid.T) {
			synctest.Wait()
			p := rapid.SampledFrom(peers).Draw(rt, "peer")
			p.mu.Lock()
			ok := len(p.inbox) > 0 && p.inbox[0].typ != translator.Cluster && p.inbox[0].typ != translator.Endpoint && len(p.inbox[0].resources) > 0
			p.mu.Unlock()
			if ok {
				fail(p.deliver(false))
			}
		},
		"answer": func(rt *rapid.T) {
			p := rapid.SampledFrom(peers).Draw(rt, "peer")
			p.answer(translator.Type(rapid.IntRange(0, translator.NumTypes-1).Draw(rt, "type")))
		},
		"ask": func(rt *rapid.T) { rapid.SampledFrom(peers).Draw(rt, "peer").ask() },
		"again": func(rt *rapid.T) {
			p := rapid.SampledFrom(peers).Draw(rt, "peer")
			if p.named && len(p.held[translator.Cluster]) > 0 {
				n := rapid.SampledFrom(slices.Sorted(maps.Keys(p.held[translator.Cluster]))).Draw(rt, "name")
				if p.asked[translator.Endpoint][n] {
					p.handle(&request{typ: translator.Endpoint, subscribe: []string{n}})
				}
			}
		},
		"reconnect": func(rt *rapid.T) {
			p := rapid.SampledFrom(peers).Draw(rt, "peer")
			synctest.Wait()
			if rapid.Bool().Draw(rt, "clean") {
				p.disconnect()
			}
			p.connect()
		},
	})
	for _, p := range peers {
		fail(p.settle(synctest.Wait))
	}
	for k := range m.w.resources { // what was refused is sent again when it changes
		m.bump(k)
	}
	apply()
	for range 3 {
		for _, p := range peers {
			fail(p.settle(synctest.Wait))
		}
		time.Sleep(2 * settle)
	}
	for _, p := range peers {
		want := m.w.inScope(p.id)
		for i, held := range p.held {
			if p.named && translator.Type(i) == translator.Secret {
				continue
			}
			if !maps.Equal(held, want[i]) {
				rt.Fatalf("%s holds %s %v, want %v", p.id, translator.Type(i), held, want[i])
			}
		}
		p.disconnect()
	}
	synctest.Wait()
	for _, st := range srv.Proxies() {
		if st.Connected {
			rt.Fatalf("%s still connected", st.ID)
		}
	}
	slices.Sort(rounds)
	if len(rounds) != gens || len(slices.Compact(rounds)) != gens {
		rt.Fatalf("%d generations, %d reported", gens, len(rounds))
	}
	if srv.jobs.workers != 0 {
		rt.Fatal("workers left")
	}
}
