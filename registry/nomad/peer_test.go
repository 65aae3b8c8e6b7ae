package nomad

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
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/nomad/api"
	"go.uber.org/goleak"

	"github.com/wattle-mesh/wattle/test/peers"
)

// patience is how long a test waits for what has to happen.
const patience = 60 * time.Second

// TestMain lets more tests run at once than there are processors: they mostly wait for Nomad.
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
	within(t, patience, what, holds)
}

// within waits until a condition holds that takes its time.
func within(t testing.TB, most time.Duration, what string, holds func() bool) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(most)
	for !holds() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("not within %s: %s", most, what)
		}
	}
}

// peer is a real Nomad agent, server and client, in a folder of its own.
type peer struct {
	t    testing.TB
	dir  string
	conf map[string]any
	addr string // host:port of the API
	rpc  string // host:port where clients reach it
	url  string
	api  *api.Client

	worker *peer // its client, if that is an agent of its own

	cmd  *exec.Cmd
	done chan struct{}
	logs bytes.Buffer
}

// newPeers starts a server and a client as two agents, and returns the server: it may be killed, and the client's jobs run on.
func newPeers(t testing.TB) *peer {
	t.Helper()
	p := newPeer(t, map[string]any{"client": map[string]any{"enabled": false}})
	p.worker = p.newWorker("w1")
	return p
}

// newWorker starts a client of this server as an agent of its own.
func (p *peer) newWorker(name string) *peer {
	p.t.Helper()
	client := peers.NomadConfig("", "", [3]int{})["client"].(map[string]any)
	client["servers"] = []string{p.rpc}
	return newPeer(p.t, map[string]any{"server": map[string]any{"enabled": false}, "client": client, "name": name})
}

// newPeer starts an agent with this configuration over that of a server that is its own cluster, and its only client.
func newPeer(t testing.TB, conf map[string]any) *peer {
	t.Helper()
	p := &peer{t: t, dir: shortDir(t)}
	ports := freePorts(t, 3)
	p.conf = peers.NomadConfig(filepath.Join(p.dir, "data"), "127.0.0.1", [3]int(ports))
	maps.Copy(p.conf, conf)
	p.addr, p.rpc = at(ports[0]), at(ports[1])
	p.url = "http://" + p.addr
	p.api = p.client("")
	t.Cleanup(func() {
		p.purge()
		p.kill()
		peers.SweepNomad(t, p.dir)
		if t.Failed() {
			b := p.logs.Bytes()
			t.Logf("nomad printed:\n%s", b[max(0, len(b)-4000):])
		}
	})
	p.start()
	return p
}

// shortDir makes a folder that is removed when the test ends. Its path is short, as that of a socket has to be: Nomad makes
// some far below it.
func shortDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "nomad")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// client makes a client for the tests themselves; it keeps no connection open.
func (p *peer) client(token string) *api.Client {
	c, err := api.NewClient(&api.Config{Address: p.url, SecretID: token, HttpClient: &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}})
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
	file := filepath.Join(p.dir, "nomad.json")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		p.t.Fatal(err)
	}
	p.cmd = exec.Command(findNomad(p.t), "agent", "-config", file)
	p.cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool {
		return strings.HasPrefix(v, "AWS_CA_BUNDLE=") || strings.HasPrefix(v, "NOMAD_")
	})
	p.cmd.Env = append(p.cmd.Env, peers.NomadMark(p.dir))
	p.cmd.Stdout, p.cmd.Stderr = &p.logs, &p.logs
	if err := p.cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	done := make(chan struct{})
	p.done = done
	go func() { p.cmd.Wait(); close(done) }()
}

// kill is kill -9. What the agent's jobs run goes on.
func (p *peer) kill() {
	if p.done == nil {
		return
	}
	p.cmd.Process.Kill()
	<-p.done
	p.done = nil
}

// wipe ends the agent and the servers' memory with it, and starts it again.
func (p *peer) wipe() {
	p.t.Helper()
	p.purge()
	p.kill()
	if err := os.RemoveAll(filepath.Join(p.dir, "data", "server")); err != nil {
		p.t.Fatal(err)
	}
	p.start()
}

// purge ends all jobs, so that nothing of them runs on after the agent. It is no matter if the agent is gone.
func (p *peer) purge() {
	if p.done == nil {
		return
	}
	p.stopAll()
	deadline := time.Now().Add(20 * time.Second)
	for time.Now().Before(deadline) {
		allocs, _, err := p.api.Allocations().List(&api.QueryOptions{Namespace: "*"})
		if err != nil || !slices.ContainsFunc(allocs, func(a *api.AllocationListStub) bool { return a.ClientStatus == clientRunning }) {
			return
		}
		<-time.After(50 * time.Millisecond)
	}
}

func (p *peer) stopAll() {
	jobs, _, err := p.api.Jobs().List(&api.QueryOptions{Namespace: "*"})
	if err != nil {
		return
	}
	for _, j := range jobs {
		_, _, _ = p.api.Jobs().Deregister(j.ID, true, &api.WriteOptions{Namespace: j.Namespace})
	}
}

// ready waits until there is a leader and the node takes jobs.
func (p *peer) ready() *peer {
	p.t.Helper()
	return p.readyNodes(1)
}

// readyNodes waits until so many nodes take jobs.
func (p *peer) readyNodes(n int) *peer {
	p.t.Helper()
	eventually(p.t, "nodes that are ready", func() bool {
		nodes, _, err := p.api.Nodes().List(nil)
		return err == nil && len(nodes) == n && !slices.ContainsFunc(nodes, func(n *api.NodeListStub) bool { return n.Status != nodeReady })
	})
	return p
}

// bootstrap makes the first token of an agent with ACLs, and uses it from then on.
func (p *peer) bootstrap() *peer {
	p.t.Helper()
	eventually(p.t, "the first token", func() bool {
		root, _, err := p.api.ACLTokens().Bootstrap(nil)
		if err == nil {
			p.api = p.client(root.SecretID)
		}
		return err == nil
	})
	return p
}

// run runs a job and waits until its groups are placed.
func (p *peer) run(namespace, id string, groups ...peers.NomadGroup) {
	p.t.Helper()
	p.register(peers.NomadJob(namespace, id, groups...))
}

func (p *peer) register(j *api.Job) {
	p.t.Helper()
	if _, _, err := p.api.Jobs().Register(j, nil); err != nil {
		p.t.Fatal(err)
	}
}

// stop ends a job.
func (p *peer) stop(namespace, id string) {
	p.t.Helper()
	if _, _, err := p.api.Jobs().Deregister(id, true, &api.WriteOptions{Namespace: namespace}); err != nil {
		p.t.Fatal(err)
	}
}

func findNomad(t testing.TB) string {
	t.Helper()
	path, err := filepath.Abs(filepath.Join("..", "..", ".bin", "nomad"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("no Nomad: %v; make tools builds it", err)
	}
	return path
}

func at(port int) string { return fmt.Sprintf("127.0.0.1:%d", port) }

// lastPort is the last one that was given away. Ports of these numbers are not taken by connections that others make
// (ip_local_port_range), nor are they Nomad's dynamic ones, so that an agent finds its own free when it is started again.
var lastPort = struct {
	sync.Mutex
	n int
}{n: 10000 + os.Getpid()%9000}

// freePorts returns ports of the loopback address that nothing listens on, for TCP and UDP.
func freePorts(t testing.TB, n int) []int {
	t.Helper()
	lastPort.Lock()
	defer lastPort.Unlock()
	var out []int
	for len(out) < n {
		if lastPort.n++; lastPort.n >= 20000 {
			lastPort.n = 10000
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
