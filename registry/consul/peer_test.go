package consul

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"
	"go.uber.org/goleak"

	"github.com/wattle-mesh/wattle/test/peers"
)

// patience is how long a test waits for what has to happen.
const patience = 45 * time.Second // less than a lap, which finds all that was missed

// TestMain lets more tests run at once than there are processors: they mostly wait for Consul.
func TestMain(m *testing.M) {
	flag.Parse()
	if err := flag.Set("test.parallel", "5"); err != nil {
		panic(err)
	}
	goleak.VerifyTestMain(m)
}

// eventually waits until a condition holds.
func eventually(t testing.TB, what string, holds func() bool) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(patience)
	for !holds() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("not within %s: %s", patience, what)
		}
	}
}

// peer is a real Consul agent in a folder of its own.
type peer struct {
	t    testing.TB
	dir  string
	conf map[string]any
	http string // host:port
	tls  string // host:port; empty: no TLS
	ca   string // the file of the CA
	api  *api.Client

	cmd  *exec.Cmd
	done chan struct{}
	logs bytes.Buffer
}

// newPeer starts an agent with this configuration over that of a server that is its own cluster.
func newPeer(t testing.TB, conf map[string]any) *peer {
	t.Helper()
	p := &peer{t: t, dir: t.TempDir()}
	ports := freePorts(t, 6)
	p.http, p.tls = at(ports[0]), at(ports[1])
	pki := peers.NewPKI(t, p.dir, "consul.example")
	p.ca = pki.CA
	p.conf = map[string]any{
		"server": true, "bootstrap_expect": 1, "node_name": fmt.Sprint("n", ports[0]), "data_dir": filepath.Join(p.dir, "data"),
		"bind_addr": "127.0.0.1", "client_addr": "127.0.0.1", "log_level": "warn", "disable_update_check": true,
		"ports": map[string]any{"http": ports[0], "https": ports[1], "server": ports[2], "serf_lan": ports[3], "serf_wan": ports[4],
			"dns": -1, "grpc": -1, "grpc_tls": ports[5]},
		"tls":                   map[string]any{"https": map[string]any{"cert_file": pki.Cert, "key_file": pki.Key}},
		"performance":           map[string]any{"raft_multiplier": 1},
		"connect":               map[string]any{"enabled": false},
		"retry_interval":        "1s",
		"leave_on_terminate":    false,
		"discard_check_output":  true,
		"reconnect_timeout":     "8h",
		"raft_protocol":         3,
		"enable_debug":          false,
		"check_update_interval": "0s",
	}
	maps.Copy(p.conf, conf)
	p.api = p.client("")
	t.Cleanup(func() {
		p.kill()
		if t.Failed() {
			t.Logf("%s printed:\n%s", p.conf["node_name"], p.tail())
		}
	})
	p.start()
	return p
}

func (p *peer) tail() string {
	b := p.logs.Bytes()
	return string(b[max(0, len(b)-4000):])
}

// client makes a client for the tests themselves; it keeps no connection open.
func (p *peer) client(token string) *api.Client {
	c, err := api.NewClient(&api.Config{Address: "http://" + p.http, Token: token, Transport: &http.Transport{DisableKeepAlives: true}})
	if err != nil {
		p.t.Fatal(err)
	}
	return c
}

func (p *peer) start() {
	p.t.Helper()
	text, err := json.Marshal(p.conf)
	if err != nil {
		p.t.Fatal(err)
	}
	file := filepath.Join(p.dir, "consul.json")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		p.t.Fatal(err)
	}
	p.cmd = exec.Command(findConsul(p.t), "agent", "-config-file", file)
	p.cmd.Stdout, p.cmd.Stderr = &p.logs, &p.logs
	if err := p.cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	done := make(chan struct{})
	p.done = done
	go func() { p.cmd.Wait(); close(done) }()
}

// kill is kill -9.
func (p *peer) kill() {
	if p.done == nil {
		return
	}
	p.cmd.Process.Kill()
	<-p.done
	p.done = nil
}

// wipe ends the agent, removes all that it knows and starts it again.
func (p *peer) wipe() {
	p.t.Helper()
	p.kill()
	if err := os.RemoveAll(filepath.Join(p.dir, "data")); err != nil {
		p.t.Fatal(err)
	}
	p.start()
}

// ready waits until there is a leader and the agent lists it.
func (p *peer) ready() *peer {
	p.t.Helper()
	eventually(p.t, "a leader", func() bool {
		services, _, err := p.api.Catalog().Services(nil)
		return err == nil && services["consul"] != nil
	})
	return p
}

func (p *peer) port(name string) int { return p.conf["ports"].(map[string]any)[name].(int) }

// register puts an instance into the catalog. Its address is 10.0.0.n and its port 8080 if they are not given.
func (p *peer) register(s *api.AgentService, checks ...*api.HealthCheck) {
	p.t.Helper()
	if err := put(p.api, "elsewhere", s, checks...); err != nil {
		p.t.Fatal(err)
	}
}

// put registers an instance on a node.
func put(c *api.Client, node string, s *api.AgentService, checks ...*api.HealthCheck) error {
	for _, k := range checks {
		k.Node, k.ServiceID, k.ServiceName = node, s.ID, s.Service
	}
	_, err := c.Catalog().Register(&api.CatalogRegistration{Node: node, Address: "10.9.9.9", Service: s, Checks: checks, SkipNodeUpdate: false}, nil)
	return err
}

func (p *peer) deregister(id string) {
	p.t.Helper()
	if _, err := p.api.Catalog().Deregister(&api.CatalogDeregistration{Node: "elsewhere", ServiceID: id}, nil); err != nil {
		p.t.Fatal(err)
	}
}

func findConsul(t testing.TB) string {
	t.Helper()
	path, err := filepath.Abs(filepath.Join("..", "..", ".bin", "consul"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("no Consul: %v; make tools builds it", err)
	}
	return path
}

func at(port int) string { return fmt.Sprintf("127.0.0.1:%d", port) }

// lastPort is the last one that was given away. Ports of these numbers are not taken by connections that others make
// (ip_local_port_range), so that an agent finds its own free when it is started again.
var lastPort = struct {
	sync.Mutex
	n int
}{n: 20000 + os.Getpid()%10000}

// freePorts returns ports of the loopback address that nothing listens on, for TCP and UDP.
func freePorts(t testing.TB, n int) []int {
	t.Helper()
	lastPort.Lock()
	defer lastPort.Unlock()
	var out []int
	for len(out) < n {
		if lastPort.n++; lastPort.n > 32000 {
			lastPort.n = 20000
		}
		l, err := net.Listen("tcp", at(lastPort.n))
		if err != nil {
			continue
		}
		u, err := net.ListenPacket("udp", at(lastPort.n))
		if err == nil {
			u.Close()
			out = append(out, lastPort.n)
		}
		l.Close()
	}
	return out
}
