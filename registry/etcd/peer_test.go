package etcd

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
)

// patience is how long anything may take that a test waits for.
const patience = 45 * time.Second

// cluster is a real etcd cluster of a test's own.
type cluster struct {
	t       testing.TB
	members []*peer
	client  *clientv3.Client // of an operator
}

// peer is one member: a process.
type peer struct {
	t    testing.TB
	dir  string
	url  string // for clients
	args []string
	cmd  *exec.Cmd
}

// security is how a cluster's members speak to clients. The zero value is plaintext.
type security struct {
	flags  []string
	client *tls.Config
}

// findEtcd returns the etcd that make tools linked, or $ETCD.
func findEtcd(t testing.TB) string {
	t.Helper()
	if path := os.Getenv("ETCD"); path != "" {
		return path
	}
	path, err := filepath.Abs("../../.bin/etcd")
	if err == nil {
		_, err = os.Stat(path)
	}
	if err != nil {
		t.Fatalf("no etcd: %v; make tools fetches it, or set ETCD", err)
	}
	return path
}

// loopbackIP is an address that belongs to this test alone, so that nobody takes its ports.
func loopbackIP() net.IP {
	return net.IPv4(127, byte(100+rand.IntN(100)), byte(rand.IntN(256)), byte(1+rand.IntN(254)))
}

func freePort(t testing.TB, ip net.IP) string {
	t.Helper()
	l, err := net.Listen("tcp", net.JoinHostPort(ip.String(), "0"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// startCluster starts n members that the test ends, and waits until they answer.
func startCluster(t testing.TB, n int, sec security) *cluster {
	t.Helper()
	c := &cluster{t: t}
	scheme := "http"
	if sec.client != nil {
		scheme = "https"
	}
	tick := "20" // ms
	if n > 1 {
		tick = "100"
	}
	var initial []string
	peerURLs := make([]string, n)
	for i := range n {
		ip := loopbackIP()
		peerURLs[i] = "http://" + freePort(t, ip)
		initial = append(initial, fmt.Sprintf("m%d=%s", i, peerURLs[i]))
		c.members = append(c.members, &peer{t: t, dir: t.TempDir(), url: scheme + "://" + freePort(t, ip)})
	}
	for i, m := range c.members {
		m.args = append([]string{
			"--name", fmt.Sprintf("m%d", i), "--data-dir", filepath.Join(m.dir, "data"),
			"--listen-client-urls", m.url, "--advertise-client-urls", m.url,
			"--listen-peer-urls", peerURLs[i], "--initial-advertise-peer-urls", peerURLs[i],
			"--initial-cluster", strings.Join(initial, ","), "--initial-cluster-state", "new",
			"--heartbeat-interval", tick, "--election-timeout", tick + "0", "--log-level", "warn", "--logger", "zap",
			"--bcrypt-cost", "4",
		}, sec.flags...)
		m.start()
	}
	t.Cleanup(func() {
		for _, m := range c.members {
			m.kill()
		}
	})
	c.client = dial(t, sec.client, "", "", c.urls()...)
	c.await()
	return c
}

func (c *cluster) urls() []string {
	var out []string
	for _, m := range c.members {
		out = append(out, m.url)
	}
	return out
}

// dial makes a client that the test closes.
func dial(t testing.TB, secure *tls.Config, user, password string, urls ...string) *clientv3.Client {
	t.Helper()
	conf := clientv3.Config{Endpoints: urls, TLS: secure, Username: user, Password: password, DialTimeout: patience, Logger: zap.NewNop()}
	if secure != nil {
		conf.DialOptions = []grpc.DialOption{grpc.WithAuthority(serverName)}
	}
	client, err := clientv3.New(conf)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return client
}

// await waits until the cluster answers.
func (c *cluster) await() {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), patience)
	defer cancel()
	for {
		short, cancel := context.WithTimeout(ctx, time.Second)
		_, err := c.client.Get(short, "x")
		cancel()
		if err == nil {
			return
		}
		if ctx.Err() != nil {
			c.t.Fatalf("etcd does not answer: %v", err)
		}
	}
}

func (p *peer) start() {
	p.t.Helper()
	log, err := os.OpenFile(filepath.Join(p.dir, "log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		p.t.Fatal(err)
	}
	defer log.Close()
	p.cmd = exec.Command(findEtcd(p.t), p.args...)
	p.cmd.Stdout, p.cmd.Stderr = log, log
	if err := p.cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
}

// kill ends the process at once, as kill -9 does.
func (p *peer) kill() {
	if p.cmd == nil {
		return
	}
	p.cmd.Process.Kill() //nolint:errcheck // it may have ended
	p.cmd.Wait()         //nolint:errcheck // it was killed
	p.cmd = nil
	if p.t.Failed() {
		if text, err := os.ReadFile(filepath.Join(p.dir, "log")); err == nil {
			p.t.Logf("%s said:\n%s", p.url, text)
		}
	}
}

// wipe forgets all data. The process must have ended.
func (p *peer) wipe() {
	p.t.Helper()
	if err := os.RemoveAll(filepath.Join(p.dir, "data")); err != nil {
		p.t.Fatal(err)
	}
}

// setArg changes the value of a flag.
func (p *peer) setArg(name, value string) {
	for i, a := range p.args {
		if a == name {
			p.args[i+1] = value
		}
	}
}

// put writes a key.
func (c *cluster) put(key, value string, opts ...clientv3.OpOption) {
	c.t.Helper()
	c.commit(clientv3.OpPut(key, value, opts...))
}

func (c *cluster) remove(key string, opts ...clientv3.OpOption) {
	c.t.Helper()
	c.commit(clientv3.OpDelete(key, opts...))
}

// commit does operations in transactions of at most 100, again if they fail or take long: a leader may be about to be
// elected, and the members keep what comes meanwhile for 7 s before they refuse it.
func (c *cluster) commit(ops ...clientv3.Op) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), patience)
	defer cancel()
	for len(ops) > 0 {
		n := min(100, len(ops))
		short, cancel := context.WithTimeout(ctx, 2*time.Second)
		_, err := c.client.Txn(short).Then(ops[:n]...).Commit()
		cancel()
		switch {
		case err == nil:
			ops = ops[n:]
		case ctx.Err() != nil:
			c.t.Fatal(err)
		}
	}
}

// doc is a value as a test writes it.
type doc struct {
	Address string            `json:"address"`
	Ports   []docPort         `json:"ports"`
	Meta    map[string]string `json:"meta,omitempty"`
	Weight  uint32            `json:"weight,omitempty"`
	Health  string            `json:"health,omitempty"`
}

type docPort struct {
	Number   uint16 `json:"number"`
	Target   uint16 `json:"target,omitempty"`
	Protocol string `json:"protocol,omitempty"`
}

func (d doc) String() string {
	b, err := json.Marshal(d)
	if err != nil {
		panic(err)
	}
	return string(b)
}

// at is the value of an instance with one port.
func at(address string) string {
	return doc{Address: address, Ports: []docPort{{Number: 80}}}.String()
}
