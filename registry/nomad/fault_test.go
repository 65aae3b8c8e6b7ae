package nomad

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/nomad/api"

	"github.com/wattle-mesh/wattle/registry"
	"github.com/wattle-mesh/wattle/test/peers"
)

func TestAServerThatIsKilledAndComesBackWithItsDataChangesNothing(t *testing.T) {
	t.Parallel()
	p := newPeers(t).ready()
	m := join(t, to(p.addr))
	p.run("default", "web", peers.NomadGroup{Name: "g", Service: "web", Address: "10.0.0.1", Port: "80", Count: 1})
	m.await("web:80 10.0.0.1:80")
	before := m.Sets()[0].Services[0]
	p.kill()
	m.awaitError("connection refused")
	p.start()
	m.awaitSound()
	m.await("web:80 10.0.0.1:80")
	p.run("default", "db", peers.NomadGroup{Name: "g", Service: "db", Address: "10.0.0.2", Port: "80"})
	m.await("db:80 10.0.0.2:80", "web:80 10.0.0.1:80")
	if now := m.Sets()[0].Services[1]; now.Endpoints[0].Meta.Get(labelAlloc) != before.Endpoints[0].Meta.Get(labelAlloc) {
		t.Error("web is another one")
	}
}

func TestANomadThatWasMadeAnewIsServedAsItSays(t *testing.T) {
	t.Parallel()
	p := newPeer(t, nil).ready()
	m := join(t, to(p.addr))
	p.run("default", "web", peers.NomadGroup{Name: "g", Service: "web", Address: "10.0.0.1", Port: "80"})
	m.await("web:80 10.0.0.1:80")
	p.wipe()
	m.await()
	p.ready().run("default", "web", peers.NomadGroup{Name: "g", Service: "web", Address: "10.0.0.2", Port: "80"})
	m.await("web:80 10.0.0.2:80")
}

func TestAConnectionThatIsCutOrHangsKeepsTheSet(t *testing.T) {
	t.Parallel()
	p := newPeer(t, nil).ready()
	cable := peers.NewCable(t, "127.0.0.1", p.addr)
	s := source(t, to(cable.Addr()))
	s.config.beat = 500 * time.Millisecond
	m := joinSource(t, s)
	p.run("default", "web", peers.NomadGroup{Name: "g", Service: "web", Address: "10.0.0.1", Port: "80"})
	m.await("web:80 10.0.0.1:80")
	for i, fault := range []struct {
		name       string
		harm, mend func()
	}{{"cut", cable.Cut, cable.Mend}, {"hangs", cable.Stall, cable.Flow}} {
		fault.harm()
		m.awaitError("W4001")
		address := fmt.Sprintf("10.0.1.%d", i)
		p.run("default", fmt.Sprint("db", i), peers.NomadGroup{Name: "g", Service: fmt.Sprint("db", i), Address: address, Port: "80"})
		eventually(t, "Nomad to list it", func() bool {
			all, _, err := p.api.Services().Get(fmt.Sprint("db", i), nil)
			return err == nil && len(all) == 1
		})
		if got := m.text(); !strings.HasSuffix(got, "web:80 10.0.0.1:80") || strings.Contains(got, address) {
			t.Errorf("%s: %s", fault.name, got)
		}
		fault.mend()
		eventually(t, "what is new", func() bool { return strings.Contains(m.text(), address+":80") })
		m.awaitSound()
	}
	if _, most, _ := cable.Connections(); most > maxConns {
		t.Errorf("%d connections at once", most)
	}
}

// A Nomad without a stream of events is read, too: its lists say that something moved.
func TestWithoutEventsAllIsRead(t *testing.T) {
	t.Parallel()
	p := newPeer(t, nil).ready()
	forward := &http.Client{}
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == events {
			http.Error(w, "not here", http.StatusNotFound)
			return
		}
		relay(forward, p.url, w, r)
	}))
	defer proxy.Close()
	defer forward.CloseIdleConnections()
	m := join(t, fmt.Sprintf("address = %q\n", proxy.URL))
	for n := 1; n <= 2; n++ {
		p.run("default", "web", peers.NomadGroup{Name: "g", Service: "web", Address: fmt.Sprintf("10.0.0.%d", n), Port: "80"})
		m.await(fmt.Sprintf("web:80 10.0.0.%d:80", n))
	}
	p.stop("default", "web")
	m.await()
}

func relay(c *http.Client, to string, w http.ResponseWriter, r *http.Request) {
	req, _ := http.NewRequestWithContext(r.Context(), r.Method, to+r.URL.RequestURI(), r.Body)
	req.Header = r.Header
	res, err := c.Do(req)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	defer res.Body.Close()
	for k, v := range res.Header {
		w.Header()[k] = v
	}
	w.WriteHeader(res.StatusCode)
	buf := make([]byte, 1<<16)
	for {
		n, err := res.Body.Read(buf)
		if _, werr := w.Write(buf[:n]); werr != nil || err != nil {
			return
		}
		w.(http.Flusher).Flush()
	}
}

// withACLs is a configuration over that of newPeer.
func withACLs() map[string]any {
	return map[string]any{"acl": map[string]any{"enabled": true, "token_ttl": "1s", "policy_ttl": "1s"}}
}

// rules are what the driver needs to be allowed.
const rules = `namespace "*" { policy = "read" }
node { policy = "read" }`

func TestATokenMayBeReplacedInItsFile(t *testing.T) {
	t.Parallel()
	p := newPeer(t, withACLs()).bootstrap().ready()
	if _, err := p.api.ACLPolicies().Upsert(&api.ACLPolicy{Name: "wattle", Rules: rules}, nil); err != nil {
		t.Fatal(err)
	}
	issue := func() *api.ACLToken {
		token, _, err := p.api.ACLTokens().Create(&api.ACLToken{Name: "wattle", Type: "client", Policies: []string{"wattle"}}, nil)
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	file := filepath.Join(t.TempDir(), "token")
	save := func(text string) {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	without := join(t, to(p.addr))
	without.awaitError("set token_file")
	save("3f3c6a2e-0000-0000-0000-000000000000\n")
	m := join(t, to(p.addr)+fmt.Sprintf("token_file = %q\n", file))
	m.awaitError("put a token with")
	first := issue()
	save(first.SecretID + "\n")
	p.run("default", "web", peers.NomadGroup{Name: "g", Service: "web", Address: "10.0.0.1", Port: "80"})
	m.await("web:80 10.0.0.1:80")
	m.awaitSound()
	second := issue()
	save(second.SecretID + "\n")
	if _, err := p.api.ACLTokens().Delete(first.AccessorID, nil); err != nil {
		t.Fatal(err)
	}
	p.run("default", "web", peers.NomadGroup{Name: "g", Service: "web", Address: "10.0.0.2", Port: "80"})
	m.await("web:80 10.0.0.2:80")
	if _, err := p.api.ACLTokens().Delete(second.AccessorID, nil); err != nil {
		t.Fatal(err)
	}
	m.awaitError("put a token with")
	m.await("web:80 10.0.0.2:80")
}

func TestTLS(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	pki := peers.NewPKI(t, dir, "nomad.example")
	p := newPeer(t, map[string]any{"tls": map[string]any{"http": true, "ca_file": pki.CA, "cert_file": pki.Cert, "key_file": pki.Key, "verify_https_client": true}})
	p.url = "https://" + p.addr
	c := api.DefaultConfig()
	c.Address, c.TLSConfig = p.url, &api.TLSConfig{CACert: pki.CA, ClientCert: pki.Cert, ClientKey: pki.Key}
	var err error
	if p.api, err = api.NewClient(c); err != nil {
		t.Fatal(err)
	}
	defer p.api.Close()
	p.ready()
	block := func(tls string) string { return fmt.Sprintf("address = %q\ntls {\n%s\n}\n", p.url, tls) }
	client := fmt.Sprintf("cert_file = %q\nkey_file = %q\n", pki.Cert, pki.Key)
	m := join(t, block(fmt.Sprintf("ca_file = %q\nserver_name = \"nomad.example\"\n", pki.CA)+client))
	p.run("default", "web", peers.NomadGroup{Name: "g", Service: "web", Address: "10.0.0.1", Port: "80"})
	m.await("web:80 10.0.0.1:80")
	for want, tls := range map[string]string{
		"certificate signed by unknown authority": client,
		"certificate required":                    fmt.Sprintf("ca_file = %q\n", pki.CA),
		"not other.example":                       fmt.Sprintf("ca_file = %q\nserver_name = \"other.example\"\n", pki.CA) + client,
		"no such file":                            "ca_file = \"/no/such/file\"\n" + client,
	} {
		join(t, block(tls)).awaitError(want)
	}
}

// fake answers as a Nomad with one service would, as far as the driver asks, and misbehaves as it is told.
type fake struct {
	mu          sync.Mutex
	index       uint64
	answer      func(w http.ResponseWriter, path string) bool // nil, or whether it has answered
	services    map[string][]registration
	allocs      []alloc
	deployments []deployment
	changed     chan struct{}
}

func newFake(t *testing.T) (*fake, string) {
	f := &fake{index: 10, changed: make(chan struct{}), services: map[string][]registration{}}
	s := httptest.NewServer(f)
	t.Cleanup(s.Close)
	return f, s.URL
}

// set changes what it says.
func (f *fake) set(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
	close(f.changed)
	f.changed = make(chan struct{})
}

func (f *fake) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.answer != nil && f.answer(w, r.URL.Path) {
		return
	}
	var wait uint64
	fmt.Sscan(r.URL.Query().Get("index"), &wait)
	for r.URL.Path != events && wait > 0 && f.index == wait {
		changed := f.changed
		f.mu.Unlock()
		select {
		case <-changed:
		case <-r.Context().Done():
		case <-time.After(5 * time.Second):
		}
		f.mu.Lock()
		if r.Context().Err() != nil {
			return
		}
		if f.answer != nil && f.answer(w, r.URL.Path) {
			return
		}
	}
	var out any
	id, isAlloc := strings.CutPrefix(r.URL.Path, "/v1/allocation/")
	name, isService := strings.CutPrefix(r.URL.Path, "/v1/service/")
	switch {
	case r.URL.Path == "/v1/nodes":
		out = []node{{ID: "n", Name: "n1", Status: nodeReady, Datacenter: "dc1", NodePool: "default", ModifyIndex: 1}}
	case r.URL.Path == "/v1/allocations":
		out = f.allocs
	case r.URL.Path == "/v1/deployments":
		out = f.deployments
	case r.URL.Path == "/v1/services":
		l := namespaceServices{Namespace: "default"}
		for n := range f.services {
			l.Services = append(l.Services, struct{ ServiceName string }{n})
		}
		out = []namespaceServices{l}
	case isService:
		out = f.services[name]
	case isAlloc:
		for _, a := range f.allocs {
			if a.ID == id {
				out = a
			}
		}
		if out == nil {
			http.Error(w, "alloc not found", http.StatusNotFound)
			return
		}
	default:
		http.Error(w, "no such path", http.StatusNotFound)
		return
	}
	w.Header().Set("X-Nomad-Index", fmt.Sprint(f.index))
	w.Header().Set("X-Nomad-LastContact", "0")
	w.Header().Set("X-Nomad-KnownLeader", "true")
	_ = json.NewEncoder(w).Encode(out)
}

func instance(n int) registration {
	return registration{ID: fmt.Sprint("r", n), ServiceName: "web", Namespace: "default", NodeID: "n", AllocID: fmt.Sprint("a", n), Address: fmt.Sprintf("10.0.0.%d", n), Port: 80}
}

func running(n int) alloc {
	return alloc{ID: fmt.Sprint("a", n), Namespace: "default", NodeID: "n", ClientStatus: clientRunning, DesiredStatus: desiredRun, ModifyIndex: 5}
}

func TestWhatIsNoAnswerKeepsTheSet(t *testing.T) {
	t.Parallel()
	refuse := func(code int) func(http.ResponseWriter, string) bool {
		return func(w http.ResponseWriter, _ string) bool { http.Error(w, "no", code); return true }
	}
	for name, c := range map[string]struct {
		answer func(http.ResponseWriter, string) bool
		want   string
	}{
		"500":          {refuse(500), "500"},
		"429":          {refuse(429), "429"},
		"403":          {refuse(403), "set token_file"},
		"garbage":      {func(w http.ResponseWriter, _ string) bool { fmt.Fprint(w, "{"); return true }, "EOF"},
		"no leader":    {func(w http.ResponseWriter, _ string) bool { fmt.Fprint(w, "[]"); return true }, "no leader"},
		"another type": {func(w http.ResponseWriter, _ string) bool { fmt.Fprint(w, `{"a": 1}`); return true }, "cannot unmarshal"},
	} {
		t.Run(name, func(t *testing.T) {
			f, url := newFake(t)
			f.services["web"], f.allocs = []registration{instance(1), instance(2)}, []alloc{running(1), running(2)}
			m := join(t, fmt.Sprintf("address = %q\n", url))
			m.await("web:80 10.0.0.1:80 10.0.0.2:80")
			f.set(func() { f.index++; f.answer = c.answer })
			m.awaitError(c.want)
			m.await("web:80 10.0.0.1:80 10.0.0.2:80")
			f.set(func() { f.index++; f.answer = nil; f.services["web"] = f.services["web"][:1]; f.allocs = f.allocs[:1] })
			m.await("web:80 10.0.0.1:80")
			m.awaitSound()
		})
	}
}

func TestAnIndexThatGoesBackIsReadAnew(t *testing.T) {
	t.Parallel()
	f, url := newFake(t)
	f.services["web"], f.allocs = []registration{instance(1)}, []alloc{running(1)}
	m := join(t, fmt.Sprintf("address = %q\n", url))
	m.await("web:80 10.0.0.1:80")
	old := running(2)
	old.ModifyIndex = 1
	f.set(func() { f.index, f.services["web"], f.allocs = 3, []registration{instance(2)}, []alloc{old} })
	m.await("web:80 10.0.0.2:80")
}

func TestRegistrationsOfAllocationsThatAreNoMoreAreLeftOut(t *testing.T) {
	t.Parallel()
	f, url := newFake(t)
	dead := running(2)
	dead.ClientStatus = clientComplete
	f.services["web"], f.allocs = []registration{instance(1), instance(2), instance(3)}, []alloc{running(1), dead}
	s := source(t, fmt.Sprintf("address = %q\n", url))
	now := time.Now()
	var mu sync.Mutex
	s.table.now = func() time.Time { mu.Lock(); defer mu.Unlock(); return now }
	m := joinSource(t, s)
	m.await("web:80 10.0.0.1:80")
	mu.Lock()
	now = now.Add(deadGrace)
	mu.Unlock()
	s.table.nudge()
	m.awaitError("registrations r2, r3 are left out")
}

// A service beyond the number that is read is named, and the rest is served.
func TestTooManyServices(t *testing.T) {
	t.Parallel()
	f, url := newFake(t)
	f.allocs = []alloc{running(1)}
	for i := range 5 {
		r := instance(1)
		r.ServiceName = fmt.Sprint("s", i)
		f.services[r.ServiceName] = []registration{r}
	}
	s := source(t, fmt.Sprintf("address = %q\n", url))
	s.config.most = 3
	m := joinSource(t, s)
	m.await("s0:80 10.0.0.1:80", "s1:80 10.0.0.1:80", "s2:80 10.0.0.1:80")
	m.awaitError("2 services are left out")

	f.set(func() { // they come before what is called, by name
		f.index++
		for _, name := range []string{"a", "b_c"} {
			r := instance(1)
			r.ServiceName = name
			f.services[name] = []registration{r}
		}
	})
	m.awaitError("4 services are left out")
	m.await("s0:80 10.0.0.1:80", "s1:80 10.0.0.1:80", "s2:80 10.0.0.1:80")
	f.set(func() { f.index++; delete(f.services, "s0") })
	m.awaitError("3 services are left out")
	m.await("a:80 10.0.0.1:80", "s1:80 10.0.0.1:80", "s2:80 10.0.0.1:80")
}

func TestAServiceIsReadAgainFromTimeToTime(t *testing.T) {
	t.Parallel()
	f, url := newFake(t)
	f.services["web"], f.allocs = []registration{instance(1)}, []alloc{running(1), running(2)}
	s := source(t, fmt.Sprintf("address = %q\n", url))
	s.config.lap = 100 * time.Millisecond
	m := joinSource(t, s)
	m.await("web:80 10.0.0.1:80")
	f.mu.Lock() // nobody is told
	f.services["web"] = []registration{instance(2)}
	f.mu.Unlock()
	m.await("web:80 10.0.0.2:80")
}

func TestRunEndsAtOnce(t *testing.T) {
	t.Parallel()
	_, url := newFake(t)
	s := source(t, fmt.Sprintf("address = %q\n", url))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	published := make(chan struct{}, 1)
	go func() { done <- s.Run(ctx, func([]*registry.Service) { published <- struct{}{} }) }()
	select {
	case <-published:
	case err := <-done:
		t.Fatal(err)
	}
	cancel()
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(3 * time.Second):
		t.Error("it goes on")
	}
}
