package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"
	nomadapi "github.com/hashicorp/nomad/api"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/wattle-mesh/wattle/test/peers"
)

// consul is a real Consul server of a mesh.
type consul struct {
	*process
	addr string
	data string
	api  *api.Client
}

// startConsul starts a Consul at an address of the mesh and waits until it has a leader.
func (m *mesh) startConsul(t *testing.T, ip string) *consul {
	t.Helper()
	ip = m.at(ip)
	c := &consul{addr: ip + ":8500", data: m.path("consul")}
	text, err := json.Marshal(map[string]any{
		"server": true, "bootstrap_expect": 1, "node_name": "c1", "data_dir": c.data, "bind_addr": ip, "client_addr": ip,
		"log_level": "warn", "disable_update_check": true, "ports": map[string]any{"dns": -1, "grpc": -1, "grpc_tls": -1},
		"performance": map[string]any{"raft_multiplier": 1}, "connect": map[string]any{"enabled": false},
	})
	if err == nil {
		err = os.WriteFile(m.path("consul.json"), text, 0o600)
	}
	if err == nil {
		c.api, err = api.NewClient(&api.Config{Address: "http://" + c.addr, Transport: &http.Transport{DisableKeepAlives: true}})
	}
	if err != nil {
		t.Fatal(err)
	}
	c.process = m.peer("consul", filepath.Join(suite.root, ".bin", "consul"), "agent", "-config-file", m.path("consul.json"))
	c.start(t)
	c.ready(t)
	return c
}

func (c *consul) ready(t *testing.T) {
	t.Helper()
	eventually(t, "Consul's leader", func() error {
		services, _, err := c.api.Catalog().Services(nil)
		if err == nil && services["consul"] == nil {
			err = fmt.Errorf("it lists only %v", services)
		}
		return err
	})
}

// wipe kills it, removes all that it knows and starts it again.
func (c *consul) wipe(t *testing.T) {
	t.Helper()
	c.kill(t)
	if err := os.RemoveAll(c.data); err != nil {
		t.Fatal(err)
	}
	c.start(t)
	c.ready(t)
}

// register puts an instance into the catalog, on a node that has no agent.
func (c *consul) register(t *testing.T, s *api.AgentService) {
	t.Helper()
	r := &api.CatalogRegistration{Node: "elsewhere", Address: s.Address, Service: s}
	if _, err := c.api.Catalog().Register(r, nil); err != nil {
		t.Fatal(err)
	}
}

func (c *consul) deregister(t *testing.T, id string) {
	t.Helper()
	if _, err := c.api.Catalog().Deregister(&api.CatalogDeregistration{Node: "elsewhere", ServiceID: id}, nil); err != nil {
		t.Fatal(err)
	}
}

// nomad is a real Nomad of a mesh: a server, and a client as an agent of its own.
type nomad struct {
	*process // the server
	client   *process
	addr     string
	data     string
	api      *nomadapi.Client
}

// startNomad starts a Nomad at an address of the mesh, and waits until it takes jobs.
func (m *mesh) startNomad(t *testing.T, ip string) *nomad {
	t.Helper()
	ip = m.at(ip)
	n := &nomad{addr: ip + ":4646", data: m.path("nomad-server")}
	t.Cleanup(func() { // what jobs run goes on without their agent
		for _, p := range []*process{n.client, n.process} {
			if p != nil && p.running() {
				p.kill(t)
			}
		}
		peers.SweepNomad(t, m.path("nomad-client"))
	})
	agent := func(name string, conf map[string]any) *process {
		text, err := json.Marshal(conf)
		if err == nil {
			err = os.WriteFile(m.path(name+".json"), text, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
		// With AWS_CA_BUNDLE its fingerprinting would fail.
		p := m.peer(name, "env", "-u", "AWS_CA_BUNDLE", peers.NomadMark(m.path("nomad-client")), filepath.Join(suite.root, ".bin", "nomad"), "agent", "-config", m.path(name+".json"))
		p.start(t)
		return p
	}
	conf := peers.NomadConfig(n.data, ip, [3]int{4646, 4647, 4648})
	client := conf["client"].(map[string]any)
	conf["client"] = map[string]any{"enabled": false}
	n.process = agent("nomad", conf)
	conf = peers.NomadConfig(m.path("nomad-client"), ip, [3]int{5646, 5647, 5648})
	client["servers"] = []string{ip + ":4647"}
	conf["server"], conf["client"], conf["name"] = map[string]any{"enabled": false}, client, "w1"
	var err error
	if n.api, err = nomadapi.NewClient(&nomadapi.Config{Address: "http://" + n.addr, HttpClient: &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}}); err != nil {
		t.Fatal(err)
	}
	n.leads(t)
	n.client = agent("nomad-client", conf)
	eventually(t, "Nomad's node to be ready", func() error {
		nodes, _, err := n.api.Nodes().List(nil)
		if err == nil && (len(nodes) == 0 || nodes[0].Status != "ready") {
			err = fmt.Errorf("nodes %v", nodes)
		}
		return err
	})
	return n
}

// leads waits until the server leads, and can tell a client who it is: a client that asks before tries again much later.
func (n *nomad) leads(t *testing.T) {
	t.Helper()
	eventually(t, "Nomad's leader", func() error {
		leader, err := n.api.Status().Leader()
		if err == nil && leader == "" {
			err = errors.New("there is none")
		}
		if err == nil {
			var keys []any
			if _, err = n.api.Raw().Query("/v1/operator/keyring/keys", &keys, nil); err == nil && len(keys) == 0 {
				err = errors.New("it has no key yet")
			}
		}
		return err
	})
}

// wipe kills the server, removes all that it knows and starts it again.
func (n *nomad) wipe(t *testing.T) {
	t.Helper()
	n.kill(t)
	if err := os.RemoveAll(n.data); err != nil {
		t.Fatal(err)
	}
	n.start(t)
	n.leads(t)
}

// run has Nomad run the echo application as an instance of a service. It says that it goes before it does.
func (m *mesh) nomadRun(t *testing.T, n *nomad, service string, i int, ip string, port int) {
	t.Helper()
	key, addr := fmt.Sprintf("%s-%d", service, i), fmt.Sprintf("%s:%d", ip, port)
	j := peers.NomadJob("default", key, peers.NomadGroup{Name: "g", Service: service, Address: m.at(ip), Port: strconv.Itoa(port),
		Command: []string{filepath.Join(suite.bin, "app"), "-name", service, "-host", key, "-http", m.at(addr)}})
	delay := 2 * time.Second
	j.TaskGroups[0].ShutdownDelay = &delay
	if _, _, err := n.api.Jobs().Register(j, nil); err != nil {
		t.Fatal(err)
	}
	eventually(t, key+" to listen", func() error { return dial(t.Context(), m.at(addr)) })
}

// etcd is a real etcd server of a mesh.
type etcd struct {
	*process
	addr   string
	data   string
	client *clientv3.Client
}

func (m *mesh) startEtcd(t *testing.T, ip string) *etcd {
	t.Helper()
	ip = m.at(ip)
	e := &etcd{addr: ip + ":2379", data: m.path("etcd")}
	peer := "http://" + ip + ":2380"
	e.process = m.peer("etcd", filepath.Join(suite.root, ".bin", "etcd"), "--name", "e1", "--data-dir", e.data, "--log-level", "warn",
		"--listen-client-urls", "http://"+e.addr, "--advertise-client-urls", "http://"+e.addr,
		"--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", "e1="+peer)
	e.start(t)
	var err error
	if e.client, err = clientv3.New(clientv3.Config{Endpoints: []string{"http://" + e.addr}, Logger: zap.NewNop()}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.client.Close() })
	e.ready(t)
	return e
}

func (e *etcd) ready(t *testing.T) {
	t.Helper()
	eventually(t, "etcd to answer", func() error {
		_, err := e.client.Get(limited(t), "x")
		return err
	})
}

// wipe kills it, removes all that it knows and starts it again.
func (e *etcd) wipe(t *testing.T) {
	t.Helper()
	e.kill(t)
	if err := os.RemoveAll(e.data); err != nil {
		t.Fatal(err)
	}
	e.start(t)
	e.ready(t)
}

func (e *etcd) put(t *testing.T, key, value string) {
	t.Helper()
	if _, err := e.client.Put(limited(t), key, value); err != nil {
		t.Fatal(err)
	}
}

// clear removes every key.
func (e *etcd) clear(t *testing.T) {
	t.Helper()
	if _, err := e.client.Delete(limited(t), "", clientv3.WithPrefix()); err != nil {
		t.Fatal(err)
	}
}

func (e *etcd) remove(t *testing.T, key string) {
	t.Helper()
	if _, err := e.client.Delete(limited(t), key); err != nil {
		t.Fatal(err)
	}
}

// peer makes a process that stops with the mesh, after the applications.
func (m *mesh) peer(name string, argv ...string) *process {
	p := m.process(name, argv...)
	m.apps["~"+name] = p
	return p
}
