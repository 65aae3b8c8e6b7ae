package consul

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/wattle-mesh/wattle/registry"
)

// modes are the two ways to watch an agent through a cable.
var modes = map[string]func(t testing.TB, p *peer) (*cable, string){
	"TLS": func(t testing.TB, p *peer) (*cable, string) {
		c := newCable(t, p.tls)
		return c, tlsTo(c.addr(), p.ca)
	},
	"plaintext": func(t testing.TB, p *peer) (*cable, string) {
		c := newCable(t, p.http)
		return c, plainTo(c.addr())
	},
}

func inBothModes(t *testing.T, test func(t *testing.T, start func(t testing.TB, p *peer) (*cable, string))) {
	for name, start := range modes {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, start)
		})
	}
}

func TestAnAgentThatIsKilledKeepsItsSet(t *testing.T) {
	t.Parallel()
	inBothModes(t, func(t *testing.T, start func(testing.TB, *peer) (*cable, string)) {
		p := newPeer(t, nil).ready()
		p.register(web(1, 8080))
		_, body := start(t, p)
		m := join(t, body)
		m.await("web:8080 10.0.0.1:8080")
		before := m.Sets()[0].Services[0]
		p.kill()
		m.awaitError("cannot be read")
		m.await("web:8080 10.0.0.1:8080")
		p.start()
		p.ready()
		m.awaitSound()
		if after := m.Sets()[0].Services[0]; after != before {
			t.Error("the service did not change, but lost its pointer")
		}
		p.register(web(2, 8080))
		m.await("web:8080 10.0.0.1:8080 10.0.0.2:8080")
	})
}

func TestAConsulThatIsMadeAnewIsBelieved(t *testing.T) {
	t.Parallel()
	inBothModes(t, func(t *testing.T, start func(testing.TB, *peer) (*cable, string)) {
		p := newPeer(t, nil).ready()
		for n := range 5 {
			p.register(web(n+1, 8080))
		}
		_, body := start(t, p)
		m := join(t, body)
		m.await("web:8080 10.0.0.1:8080 10.0.0.2:8080 10.0.0.3:8080 10.0.0.4:8080 10.0.0.5:8080")
		p.wipe()
		m.await()
		if d := m.faults(); d != "" {
			t.Error(d)
		}
		p.ready()
		p.register(web(1, 9090))
		m.await("web:9090 10.0.0.1:9090")
	})
}

func TestCutConnectionsKeepTheSet(t *testing.T) {
	t.Parallel()
	inBothModes(t, func(t *testing.T, start func(testing.TB, *peer) (*cable, string)) {
		p := newPeer(t, nil).ready()
		p.register(web(1, 8080))
		c, body := start(t, p)
		m := join(t, body)
		m.await("web:8080 10.0.0.1:8080")
		c.sever()
		m.awaitError("cannot be read")
		p.register(web(2, 8080))
		c.mend()
		m.await("web:8080 10.0.0.1:8080 10.0.0.2:8080")
		m.awaitSound()
	})
}

func TestAConnectionThatStallsKeepsTheSet(t *testing.T) {
	t.Parallel()
	inBothModes(t, func(t *testing.T, start func(testing.TB, *peer) (*cable, string)) {
		p := newPeer(t, nil).ready()
		p.register(web(1, 8080))
		c, body := start(t, p)
		s := quick(t, body)
		s.config.beat = 500 * time.Millisecond
		m := joinSource(t, s)
		m.await("web:8080 10.0.0.1:8080")
		c.stall()
		m.awaitError("no answer within")
		p.register(web(2, 8080))
		m.await("web:8080 10.0.0.1:8080")
		c.flow()
		m.await("web:8080 10.0.0.1:8080 10.0.0.2:8080")
		m.awaitSound()
	})
}

func TestServersWithoutALeaderKeepTheirSet(t *testing.T) {
	t.Parallel()
	all := newCluster(t, 3)
	all[0].register(web(1, 8080))
	_, body := modes["TLS"](t, all[0])
	s := quick(t, body)
	s.config.beat = 500 * time.Millisecond
	m := joinSource(t, s)
	m.await("web:8080 10.0.0.1:8080")
	all[1].kill()
	all[2].kill()
	m.awaitError("cannot be read")
	m.await("web:8080 10.0.0.1:8080")
	all[1].start()
	all[2].start()
	all[0].ready()
	all[0].register(web(2, 8080))
	m.await("web:8080 10.0.0.1:8080 10.0.0.2:8080")
	m.awaitSound()
}

// newCluster starts servers that make one cluster.
func newCluster(t testing.TB, n int) []*peer {
	t.Helper()
	var all []*peer
	for i := range n {
		conf := map[string]any{"bootstrap_expect": n}
		if i > 0 {
			conf["retry_join"] = []string{at(all[0].port("serf_lan"))}
		}
		all = append(all, newPeer(t, conf))
	}
	for _, p := range all {
		p.ready()
	}
	eventually(t, "all servers vote", func() bool {
		peers, err := all[0].api.Status().Peers()
		return err == nil && len(peers) == n
	})
	return all
}

func TestAClientAgentThatStreams(t *testing.T) {
	t.Parallel()
	server := newPeer(t, nil).ready()
	agent := newPeer(t, map[string]any{"server": false, "bootstrap_expect": nil, "retry_join": []string{at(server.port("serf_lan"))}}).ready()
	server.register(web(1, 8080))
	_, body := modes["TLS"](t, agent)
	m := join(t, body)
	m.await("web:8080 10.0.0.1:8080")
	server.register(web(2, 8080))
	m.await("web:8080 10.0.0.1:8080 10.0.0.2:8080")
	agent.kill()
	m.awaitError("cannot be read")
	server.register(web(3, 8080))
	agent.start()
	m.await("web:8080 10.0.0.1:8080 10.0.0.2:8080 10.0.0.3:8080")
	server.register(web(4, 8080))
	m.await("web:8080 10.0.0.1:8080 10.0.0.2:8080 10.0.0.3:8080 10.0.0.4:8080")
}

func TestTwoDatacentresAreOneSet(t *testing.T) {
	t.Parallel()
	one := newPeer(t, nil).ready()
	two := newPeer(t, map[string]any{"datacenter": "dc2", "retry_join_wan": []string{at(one.port("serf_wan"))}}).ready()
	one.register(web(1, 8080))
	two.register(web(2, 8080))
	two.register(&api.AgentService{ID: "db", Service: "db", Address: "10.0.1.1", Port: 5432})
	eventually(t, "the datacentres know each other", func() bool {
		s, _, err := one.api.Catalog().Services(&api.QueryOptions{Datacenter: "dc2"})
		return err == nil && s["db"] != nil
	})
	_, body := modes["TLS"](t, one)
	m := join(t, `datacenters = ["dc1", "dc2"]`+"\n"+body)
	m.await("db:5432 10.0.1.1:5432", "web:8080 10.0.0.1:8080 10.0.0.2:8080")
	web12 := m.Sets()[0].Services[1].Endpoints
	if web12[0].Locality.Region != "dc1" || web12[1].Meta.Get("consul.datacenter") != "dc2" {
		t.Errorf("%+v, %+v", web12[0], web12[1])
	}
	two.kill()
	m.awaitError("datacentre dc2 of registry dc1 cannot be read")
	one.register(web(3, 8080))
	m.await("db:5432 10.0.1.1:5432", "web:8080 10.0.0.1:8080 10.0.0.2:8080 10.0.0.3:8080")
	two.start()
	two.ready()
	two.deregister("db")
	m.await("web:8080 10.0.0.1:8080 10.0.0.2:8080 10.0.0.3:8080")
	m.awaitSound()
}

const (
	rootToken = "5f0c7a52-1d4e-4c1b-9f6a-000000000001"
	oneToken  = "5f0c7a52-1d4e-4c1b-9f6a-000000000011"
	twoToken  = "5f0c7a52-1d4e-4c1b-9f6a-000000000012"
)

func TestTheTokenIsReadAgain(t *testing.T) {
	t.Parallel()
	p := newPeer(t, map[string]any{"acl": map[string]any{"enabled": true, "default_policy": "deny", "down_policy": "deny",
		"tokens": map[string]any{"initial_management": rootToken, "agent": rootToken}}})
	p.api = p.client(rootToken)
	p.ready()
	if _, _, err := p.api.ACL().PolicyCreate(&api.ACLPolicy{Name: "read", Rules: `service_prefix "" { policy = "read" } node_prefix "" { policy = "read" }`}, nil); err != nil {
		t.Fatal(err)
	}
	give := func(secret string) string {
		k, _, err := p.api.ACL().TokenCreate(&api.ACLToken{SecretID: secret, Policies: []*api.ACLLink{{Name: "read"}}}, nil)
		if err != nil {
			t.Fatal(err)
		}
		return k.AccessorID
	}
	file := filepath.Join(t.TempDir(), "token")
	save := func(text string) {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	first := give(oneToken)
	p.register(web(1, 8080))

	_, body := modes["TLS"](t, p)
	m := join(t, body+"token_file = \""+file+"\"\n")
	m.awaitError("no such file")
	save("\n")
	m.awaitError("is empty")
	save("not-a-token\n")
	m.awaitError("403")
	save(oneToken + "\n")
	m.await("web:8080 10.0.0.1:8080")
	m.awaitSound()

	if _, err := p.api.ACL().TokenDelete(first, nil); err != nil {
		t.Fatal(err)
	}
	p.register(web(2, 8080))
	m.awaitError("403")
	m.await("web:8080 10.0.0.1:8080")
	give(twoToken)
	save(twoToken)
	m.await("web:8080 10.0.0.1:8080 10.0.0.2:8080")
	m.awaitSound()
}

func TestATokenThatSeesNothingIsNoEmptyRegistry(t *testing.T) {
	t.Parallel()
	p := newPeer(t, map[string]any{"acl": map[string]any{"enabled": true, "default_policy": "deny",
		"tokens": map[string]any{"initial_management": rootToken, "agent": rootToken}}})
	p.api = p.client(rootToken)
	p.ready()
	_, body := modes["plaintext"](t, p)
	m := join(t, body)
	m.awaitError("no service at all")
	if m.Status()[0].Synced {
		t.Error("it was published")
	}
}

// warp is an HTTP proxy before an agent, which bends its answers.
type warp struct {
	*httptest.Server
	mu    sync.Mutex
	bend  func(*http.Response) error // nil: answers go through
	asked int
}

func newWarp(t testing.TB, p *peer) *warp {
	w := &warp{}
	proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: p.http})
	proxy.Transport = &http.Transport{DisableKeepAlives: true}
	proxy.ErrorHandler = func(rw http.ResponseWriter, _ *http.Request, _ error) { rw.WriteHeader(http.StatusBadGateway) }
	proxy.ModifyResponse = func(res *http.Response) error {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.asked++
		if w.bend != nil {
			return w.bend(res)
		}
		return nil
	}
	w.Server = httptest.NewServer(proxy)
	t.Cleanup(func() { w.CloseClientConnections(); w.Close() })
	return w
}

func (w *warp) set(bend func(*http.Response) error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.bend = bend
}

func (w *warp) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.asked
}

func status(code int) func(*http.Response) error {
	return func(res *http.Response) error {
		res.StatusCode = code
		return nil
	}
}

func header(name, value string) func(*http.Response) error {
	return func(res *http.Response) error {
		res.Header.Set(name, value)
		return nil
	}
}

func TestAnswersThatAreNoTruthKeepTheSet(t *testing.T) {
	t.Parallel()
	p := newPeer(t, nil).ready()
	for name, c := range map[string]struct {
		bend func(*http.Response) error
		want string
	}{
		"500":             {status(500), "500"},
		"502":             {status(502), "502"},
		"429":             {status(429), "429"},
		"403":             {status(403), "set token_file"},
		"no known leader": {header("X-Consul-Knownleader", "false"), "no leader"},
		"an empty list": {func(res *http.Response) error {
			if res.Request.URL.Path == typical.path {
				return answer(res, "{}")
			}
			return nil
		}, "no service at all"},
		"an index that is no number": {header("X-Consul-Index", "x"), "no leader"},
		"no JSON":                    {func(res *http.Response) error { return answer(res, "<html>") }, "invalid character"},
	} {
		t.Run(name, func(t *testing.T) {
			p.register(web(1, 8080))
			p.deregister("db")
			w := newWarp(t, p)
			s := quick(t, plainTo(w.Listener.Addr().String()))
			s.config.beat = 300 * time.Millisecond
			m := joinSource(t, s)
			m.await("web:8080 10.0.0.1:8080")
			w.set(c.bend)
			p.register(&api.AgentService{ID: "db", Service: "db", Address: "10.0.1.1", Port: 5432})
			m.awaitError(c.want)
			m.await("web:8080 10.0.0.1:8080")
			w.set(nil)
			m.await("db:5432 10.0.1.1:5432", "web:8080 10.0.0.1:8080")
			m.awaitSound()
		})
	}
}

// answer replaces the body of an answer.
func answer(res *http.Response, text string) error {
	res.Body.Close()
	res.Body = http.NoBody
	res.Header.Del("Content-Length")
	res.Body = readCloser{strings.NewReader(text)}
	res.ContentLength = int64(len(text))
	return nil
}

type readCloser struct{ *strings.Reader }

func (readCloser) Close() error { return nil }

func TestAnIndexThatGoesBackDoesNotSpin(t *testing.T) {
	t.Parallel()
	p := newPeer(t, nil).ready()
	p.register(web(1, 8080))
	w := newWarp(t, p)
	m := joinSource(t, source(t, plainTo(w.Listener.Addr().String()), nil)) // with the pauses of real life
	m.await("web:8080 10.0.0.1:8080")
	sets := m.published()
	for _, index := range []string{"0", "1"} {
		w.set(header("X-Consul-Index", index))
		before := w.count()
		p.register(web(2, 8080))
		m.await("web:8080 10.0.0.1:8080 10.0.0.2:8080")
		p.deregister("web-2")
		m.await("web:8080 10.0.0.1:8080")
		pace := time.NewTimer(1500 * time.Millisecond)
		<-pace.C
		if asked := w.count() - before; asked > 200 {
			t.Errorf("with the index %s it asked %d times within a few seconds", index, asked)
		}
	}
	w.set(nil)
	p.register(web(3, 8080))
	m.await("web:8080 10.0.0.1:8080 10.0.0.3:8080")
	if n := m.published() - sets; n > 40 {
		t.Errorf("%d sets were published for 5 changes", n)
	}
}

func TestARateLimitedRegistryIsReadInTheEnd(t *testing.T) {
	t.Parallel()
	p := newPeer(t, nil).ready()
	fill(t, p, 50, 1)
	w := newWarp(t, p)
	asked := map[string]int{}
	w.set(func(res *http.Response) error { // each question is put off twice
		q := res.Request.URL.Path
		if asked[q]++; asked[q]%3 != 0 {
			res.StatusCode = http.StatusTooManyRequests
		}
		return nil
	})
	m := join(t, plainTo(w.Listener.Addr().String()))
	eventually(t, "all services", func() bool { return m.Status()[0].Endpoints == 50 })
	if r := m.Status()[0].Restarts; r > 0 {
		t.Errorf("%d restarts", r)
	}
}

func TestABehindServerIsNotBelieved(t *testing.T) {
	t.Parallel()
	p := newPeer(t, nil).ready()
	p.register(web(1, 8080))
	w := newWarp(t, p)
	m := join(t, plainTo(w.Listener.Addr().String()))
	m.await("web:8080 10.0.0.1:8080")
	w.set(func(res *http.Response) error { // stale answers know of nothing
		if res.Request.URL.Query().Has("stale") {
			res.Header.Set("X-Consul-Lastcontact", "60000")
			if res.Request.URL.Path == checks.path {
				return answer(res, "[]")
			}
			return answer(res, `{"consul":[]}`)
		}
		return nil
	})
	p.register(web(2, 8080))
	m.await("web:8080 10.0.0.1:8080 10.0.0.2:8080")
}

func TestWhatNoHintNamesIsFound(t *testing.T) {
	t.Parallel()
	p := newPeer(t, nil).ready()
	fill(t, p, 5, perService)
	p.register(web(1, 8080))
	_, body := modes["plaintext"](t, p)
	m := join(t, body)
	eventually(t, "all services", func() bool { return m.Status()[0].Endpoints == 16 })
	p.register(web(1, 9090)) // no check, no tag: its port alone changes
	eventually(t, "the port", func() bool { return strings.Contains(m.text(), "web:9090 10.0.0.1:9090") })
	p.deregister("web-1")
	eventually(t, "the service is gone", func() bool { return !strings.Contains(m.text(), "web") })
	if _, err := p.api.Catalog().Register(&api.CatalogRegistration{Node: "node-3", Address: "10.9.9.9", SkipNodeUpdate: true,
		Check: &api.AgentCheck{Node: "node-3", CheckID: "disk", Name: "disk", Status: api.HealthCritical}}, nil); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a check of a node counts for its services", func() bool { return strings.Contains(m.text(), "(unhealthy)") })
}

func TestMoreServicesThanStreamsAreHinted(t *testing.T) {
	t.Parallel()
	p := newPeer(t, nil).ready()
	fill(t, p, 5, perService)
	c, body := modes["TLS"](t, p)
	s := quick(t, body)
	s.config.slots = 6
	m := joinSource(t, s)
	m.awaitMany(5, perService)
	fill(t, p, 12, perService)
	m.awaitMany(12, perService)
	if err := change(p, 3, 0, 8080, api.HealthCritical); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the change", func() bool { return m.instance(3, 0).Health == registry.Unhealthy })
	if most, _ := c.peak(); most > 8 {
		t.Errorf("%d connections", most)
	}
}

func TestServicesBeyondTheMostAreLeftOutAndCounted(t *testing.T) {
	t.Parallel()
	inBothModes(t, func(t *testing.T, start func(testing.TB, *peer) (*cable, string)) {
		p := newPeer(t, nil).ready()
		p.register(web(1, 8080))
		p.register(&api.AgentService{ID: "db", Service: "db", Address: "10.0.1.1", Port: 5432})
		_, body := start(t, p)
		s := quick(t, body)
		s.config.most = 2 // one of them is Consul's own
		m := joinSource(t, s)
		m.await("db:5432 10.0.1.1:5432")
		m.awaitError("W4501: 1 services of the agent's own datacentre are left out")
		p.deregister("db")
		m.await("web:8080 10.0.0.1:8080")
		m.awaitSound()
		p.register(&api.AgentService{ID: "db", Service: "db", Address: "10.0.1.1", Port: 5432}) // it comes before what is called, by name
		m.awaitError("W4501")
		m.await("web:8080 10.0.0.1:8080")
	})
}

func TestTheEnvironmentDoesNotCount(t *testing.T) {
	for k, v := range map[string]string{"CONSUL_HTTP_TOKEN": "x", "CONSUL_HTTP_TOKEN_FILE": "/none", "CONSUL_NAMESPACE": "x", "CONSUL_PARTITION": "x",
		"CONSUL_HTTP_ADDR": "127.0.0.1:1", "CONSUL_HTTP_SSL": "true", "CONSUL_HTTP_AUTH": "a:b", "HTTP_PROXY": "http://127.0.0.1:1"} {
		t.Setenv(k, v)
	}
	asked := make(chan *http.Request, 100)
	fake := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked <- r
		w.Header().Set("X-Consul-Index", "7")
		w.Header().Set("X-Consul-Knownleader", "true")
		w.Header().Set("X-Consul-Lastcontact", "0")
		json.NewEncoder(w).Encode(map[string][]string{"consul": {}})
	}))
	defer fake.Close()
	join(t, plainTo(fake.Listener.Addr().String()))
	if r := <-asked; r.Header.Get("X-Consul-Token") != "" || r.Header.Get("Authorization") != "" || r.URL.Query().Has("ns") || r.URL.Query().Has("partition") {
		t.Errorf("%s %v", r.URL, r.Header)
	}
}

func TestNamespacesAndThePartitionAreSent(t *testing.T) {
	t.Parallel()
	asked := make(chan *http.Request, 1000)
	fake := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked <- r
		w.Header().Set("X-Consul-Index", "7")
		w.Header().Set("X-Consul-Knownleader", "true")
		w.Header().Set("X-Consul-Lastcontact", "0")
		switch {
		case r.URL.Query().Has("index"):
			<-r.Context().Done()
		case r.URL.Path == typical.path:
			json.NewEncoder(w).Encode(map[string][]string{"web": {}})
		case r.URL.Path == checks.path:
			w.Write([]byte("[]"))
		default:
			json.NewEncoder(w).Encode([]entry{{Node: &api.Node{Node: "n", Address: "10.0.0.1"}, Service: &api.AgentService{ID: "web", Service: "web", Port: 80}}})
		}
	}))
	t.Cleanup(func() { fake.CloseClientConnections(); fake.Close() })
	m := join(t, plainTo(fake.Listener.Addr().String())+"namespaces = [\"ops\", \"shop\"]\npartition = \"east\"\n")
	eventually(t, "both", func() bool { return m.Status()[0].Services == 2 })
	for i, s := range m.Sets()[0].Services {
		if want := []string{"ops", "shop"}[i]; s.Namespace != want {
			t.Errorf("%s, want %s", s.Name, want)
		}
	}
	for range len(asked) {
		r := <-asked
		if q := r.URL.Query(); q.Get("partition") != "east" || q.Get("ns") != "ops" && q.Get("ns") != "shop" {
			t.Errorf("%s", r.URL)
		}
	}
}
