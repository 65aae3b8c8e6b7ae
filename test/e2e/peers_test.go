package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"github.com/hashicorp/consul/api"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
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
