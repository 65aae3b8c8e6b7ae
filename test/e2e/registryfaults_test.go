package e2e

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/wattle-mesh/wattle/test/load"
	"github.com/wattle-mesh/wattle/test/peers"
)

// registered is a mesh whose services stand in other registries: web calls shop, of Consul, which does not know the
// protocol, so that it is TCP, and cart, of etcd, over HTTP and gRPC.
const registered = `
-- mesh.hcl --
mesh { trust_domain = "e2e.example" }
-- h1.hcl --
host "h1" {
  address = "127.0.X.11"

  service "web" {
    port  = 9000
    local = "127.0.X.11:9000"
    upstream "shop" {
      port = 9080
      bind = "127.0.X.11:9081"
    }
    upstream "cart" {
      port = 9080
      bind = "127.0.X.11:9082"
    }
    upstream "cart" {
      port = 9085
      bind = "127.0.X.11:9083"
    }
  }
}
`

// faultSide is how long the standard load runs on after each fault of a registry.
const faultSide = 5 * time.Second

// TestRegistriesMayFailUnderLoad kills, cuts off and stalls each registry: nobody who calls its services notices.
func TestRegistriesMayFailUnderLoad(t *testing.T) {
	t.Parallel()
	m := prepareMesh(t, registered)
	consul, etcd := m.startConsul(t, "127.0.X.50"), m.startEtcd(t, "127.0.X.51")
	toConsul, toEtcd := peers.NewCable(t, m.at("127.0.X.52"), consul.addr), peers.NewCable(t, m.at("127.0.X.53"), etcd.addr)
	instance := func(n int) *api.AgentService {
		return &api.AgentService{ID: fmt.Sprintf("shop-%d", n), Service: "shop", Address: m.at(fmt.Sprintf("127.0.X.%d", 20+n)), Port: 9080}
	}
	key := func(n int) (key, value string) {
		return fmt.Sprintf("/wattle/services/default/cart/i%d", n),
			fmt.Sprintf(`{"address": %q, "ports": [{"number": 9080, "protocol": "http"}, {"number": 9085, "protocol": "grpc"}]}`, m.at(fmt.Sprintf("127.0.X.%d", 30+n)))
	}
	for n := 1; n <= 3; n++ {
		m.echo(t, "shop", n, "-tcp", fmt.Sprintf("127.0.X.%d:9080", 20+n))
		m.echo(t, "cart", n, "-http", fmt.Sprintf("127.0.X.%d:9080", 30+n), fmt.Sprintf("127.0.X.%d:9085", 30+n))
		consul.register(t, instance(n))
		k, v := key(n)
		etcd.put(t, k, v)
	}
	m.extra = fmt.Sprintf("registry \"consul\" \"dc1\" { address = \"http://%s\" }\nregistry \"etcd\" \"kv\" { endpoints = [\"http://%s\"] }\n",
		toConsul.Addr(), toEtcd.Addr())
	m.startServer()
	m.lists(t, "shop", 3)
	m.lists(t, "cart", 6)
	m.sync()
	m.reached(t, request{Addr: "127.0.X.11:9082"})
	tr := m.startTrialOf(t, 0, faultSide, append(m.overHTTP("127.0.X.11:9082"),
		load.Target{Kind: load.TCP, Addr: m.at("127.0.X.11:9081")}, load.Target{Kind: load.GRPC, Addr: m.at("127.0.X.11:9083")})...)
	for _, f := range []struct {
		name   string
		inject func(t *testing.T)
	}{
		{"Consul is killed and comes back", func(t *testing.T) {
			consul.kill(t)
			m.failing(t, "dc1")
			consul.start(t)
			m.recovered(t, "dc1")
		}},
		{"etcd is killed and comes back", func(t *testing.T) {
			etcd.kill(t)
			m.failing(t, "kv")
			etcd.start(t)
			m.recovered(t, "kv")
		}},
		{"both are cut off", func(t *testing.T) {
			toConsul.Cut()
			toEtcd.Cut()
			m.failing(t, "dc1")
			m.failing(t, "kv")
			toConsul.Mend()
			toEtcd.Mend()
			m.recovered(t, "dc1")
			m.recovered(t, "kv")
		}},
		{"both answer nothing", func(t *testing.T) {
			toConsul.Stall()
			toEtcd.Stall()
			m.failing(t, "dc1")
			m.failing(t, "kv")
			toConsul.Flow()
			toEtcd.Flow()
			m.recovered(t, "dc1")
			m.recovered(t, "kv")
		}},
		{"both are down while the server restarts", func(t *testing.T) {
			toConsul.Cut()
			toEtcd.Cut()
			m.server.kill(t)
			m.server.start(t)
			m.lists(t, "shop", 3)
			m.lists(t, "cart", 6) // two ports each
			m.failing(t, "dc1")
			m.failing(t, "kv")
			toConsul.Mend()
			toEtcd.Mend()
			m.recovered(t, "dc1")
			m.recovered(t, "kv")
		}},
		{"Consul loses all it knew", func(t *testing.T) {
			consul.wipe(t)
			m.held(t, "dc1", 3)
			for n := 1; n <= 3; n++ {
				consul.register(t, instance(n))
			}
			m.recovered(t, "dc1")
		}},
		{"etcd loses all it knew", func(t *testing.T) {
			etcd.wipe(t)
			m.held(t, "kv", 6) // two ports each
			for n := 1; n <= 3; n++ {
				k, v := key(n)
				etcd.put(t, k, v)
			}
			m.recovered(t, "kv")
		}},
	} {
		tr.fault(f.name, f.inject, noneFailed)
	}
	// What is registered and deregistered afterwards is followed: the registries are still read.
	tr.fault("an instance of each comes, and one goes", func(t *testing.T) {
		m.echo(t, "shop", 4, "-tcp", "127.0.X.24:9080")
		m.echo(t, "cart", 4, "-http", "127.0.X.34:9080", "127.0.X.34:9085")
		k, v := key(4)
		consul.register(t, instance(4))
		etcd.put(t, k, v)
		tr.answered(t, "shop-4", 5)
		tr.answered(t, "cart-4", 5)
		k, _ = key(1)
		consul.deregister(t, "shop-1")
		etcd.remove(t, k)
		tr.silent(t, "shop-1", 100)
		tr.silent(t, "cart-1", 100)
	}, noneFailed)
}

// nomadJobs is a mesh of one caller of two services whose instances are jobs.
const nomadJobs = `
-- mesh.hcl --
mesh { trust_domain = "e2e.example" }

service_defaults "api" { protocol = "http" }
service_defaults "rpc" { protocol = "grpc" }
-- h1.hcl --
host "h1" {
  address = "127.0.X.11"

  service "web" {
    port  = 9000
    local = "127.0.X.11:9000"
    upstream "api" { bind = "127.0.X.11:9081" }
    upstream "rpc" { bind = "127.0.X.11:9082" }
  }
}
`

// TestNomadMayFailUnderLoad kills, cuts off, stalls and wipes Nomad's server while its jobs are called.
func TestNomadMayFailUnderLoad(t *testing.T) {
	t.Parallel()
	m := prepareMesh(t, nomadJobs)
	nomad := m.startNomad(t, "127.0.X.54")
	cable := peers.NewCable(t, m.at("127.0.X.55"), nomad.addr)
	for n := 1; n <= 3; n++ {
		m.nomadRun(t, nomad, "api", n, fmt.Sprintf("127.0.X.%d", 40+n), 9080)
		m.nomadRun(t, nomad, "rpc", n, fmt.Sprintf("127.0.X.%d", 40+n), 9085)
	}
	m.extra = fmt.Sprintf("registry \"nomad\" \"jobs\" { address = \"http://%s\" }\n", cable.Addr())
	m.startServer()
	m.lists(t, "api", 3)
	m.lists(t, "rpc", 3)
	m.sync()
	m.reached(t, request{Addr: "127.0.X.11:9081"})
	tr := m.startTrialOf(t, 0, faultSide, append(m.overHTTP("127.0.X.11:9081"), load.Target{Kind: load.GRPC, Addr: m.at("127.0.X.11:9082")})...)
	tr.fault("the server is killed and comes back", func(t *testing.T) {
		nomad.kill(t)
		m.failing(t, "jobs")
		nomad.start(t)
		nomad.leads(t)
		m.recovered(t, "jobs")
	}, noneFailed)
	tr.fault("it is cut off", func(t *testing.T) {
		cable.Cut()
		m.failing(t, "jobs")
		cable.Mend()
		m.recovered(t, "jobs")
	}, noneFailed)
	tr.fault("it answers nothing", func(t *testing.T) {
		cable.Stall()
		m.failing(t, "jobs")
		cable.Flow()
		m.recovered(t, "jobs")
	}, noneFailed)
	tr.fault("an instance comes, and one goes", func(t *testing.T) {
		m.nomadRun(t, nomad, "api", 4, "127.0.X.44", 9080)
		tr.answered(t, "api-4", 5)
		if _, _, err := nomad.api.Jobs().Deregister("api-1", true, nil); err != nil {
			t.Fatal(err)
		}
		tr.silent(t, "api-1", 100)
	}, noneFailed)
	tr.fault("it loses all it knew, and its client is gone", func(t *testing.T) {
		nomad.client.kill(t) // else it would end what the new server does not know
		nomad.wipe(t)
		m.held(t, "jobs", 6)
	}, noneFailed)
}

// TestNameServersMayFailUnderLoad kills, stops and empties the name server that knows what is called.
func TestNameServersMayFailUnderLoad(t *testing.T) {
	t.Parallel()
	m := prepareMesh(t, strings.NewReplacer(`service_defaults "api" { protocol = "http" }`, "", `service_defaults "rpc" { protocol = "grpc" }`, "").Replace(nomadJobs))
	const head = "$ORIGIN e2e.example.\n$TTL 1\n@ SOA ns hostmaster 1 3600 600 86400 1\n"
	zone := func(ips ...string) {
		text := head
		for i, ip := range ips {
			text += fmt.Sprintf("_api._tcp SRV 0 10 9080 api%[1]d\n_rpc._tcp SRV 0 10 9085 api%[1]d\napi%[1]d A %[2]s\n", i, m.at(ip))
		}
		if err := os.WriteFile(m.path("zone"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	zone("127.0.X.41", "127.0.X.42", "127.0.X.43")
	for n := 1; n <= 3; n++ {
		m.echo(t, "api", n, "-http", fmt.Sprintf("127.0.X.%d:9080", 40+n), fmt.Sprintf("127.0.X.%d:9085", 40+n))
	}
	server := m.peer("dns", filepath.Join(suite.bin, "demo-dns"), "-zone", m.path("zone"), "-listen", m.at("127.0.X.56:5353"))
	server.start(t)
	m.extra = m.at(`
registry "dns" "names" {
  resolvers     = ["127.0.X.56:5353"]
  negative_hold = "1s"

  service "api" {
    srv      = "_api._tcp.e2e.example"
    protocol = "http"
  }
  service "rpc" {
    srv      = "_rpc._tcp.e2e.example"
    protocol = "grpc"
  }
}
`)
	m.startServer()
	m.lists(t, "api", 3)
	m.lists(t, "rpc", 3)
	m.sync()
	m.reached(t, request{Addr: "127.0.X.11:9081"})
	tr := m.startTrialOf(t, 0, faultSide, append(m.overHTTP("127.0.X.11:9081"), load.Target{Kind: load.GRPC, Addr: m.at("127.0.X.11:9082")})...)
	tr.fault("the name server is killed and comes back", func(t *testing.T) {
		server.kill(t)
		m.failing(t, "names")
		server.start(t)
		m.recovered(t, "names")
	}, noneFailed)
	tr.fault("it answers nothing", func(t *testing.T) {
		if err := server.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		m.failing(t, "names")
		if err := server.cmd.Process.Signal(syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
		m.recovered(t, "names")
	}, noneFailed)
	tr.fault("its zone is empty", func(t *testing.T) {
		server.kill(t)
		zone()
		server.start(t)
		m.held(t, "names", 6)
		server.kill(t)
		zone("127.0.X.41", "127.0.X.42", "127.0.X.43")
		server.start(t)
		m.recovered(t, "names")
	}, noneFailed)
}

// echo starts the echo application outside the mesh. It answers as host NAME-N.
func (m *mesh) echo(t *testing.T, name string, n int, kind string, addrs ...string) {
	t.Helper()
	key := fmt.Sprintf("%s-%d", name, n)
	argv := []string{filepath.Join(suite.bin, "app"), "-name", name, "-host", key}
	for _, addr := range addrs {
		argv = append(argv, kind, m.at(addr))
	}
	m.apps[key] = m.process("app-"+key, argv...)
	m.apps[key].start(t)
	for _, addr := range addrs {
		eventually(t, key+" to listen", func() error { return m.alive(dial(t.Context(), m.at(addr)), m.apps[key]) })
	}
}

// lists waits until the server knows so many endpoints of a service.
func (m *mesh) lists(t *testing.T, service string, n int) {
	t.Helper()
	eventually(t, fmt.Sprintf("%d endpoints of %s", n, service), func() error {
		if e, err := m.endpoints(service); err != nil || len(e) != n {
			return fmt.Errorf("%d endpoints, %w", len(e), err)
		}
		return nil
	})
}

// failing waits until the server says that something is wrong with a registry.
func (m *mesh) failing(t *testing.T, name string) {
	t.Helper()
	eventually(t, "registry "+name+" to fail", func() error {
		if faults := m.faults(name); faults == "" {
			return fmt.Errorf("it has no fault")
		}
		return nil
	})
}

// held waits until so many endpoints of a registry are held.
func (m *mesh) held(t *testing.T, name string, n int) {
	t.Helper()
	eventually(t, fmt.Sprintf("%d endpoints of registry %s to be held", n, name), func() error {
		held := 0
		for _, r := range m.status().Registries {
			if r.Name != name {
				continue
			}
			for _, h := range r.Held {
				held += h.Endpoints
			}
		}
		if held != n {
			return fmt.Errorf("%d are held: %s", held, m.faults(name))
		}
		return nil
	})
}

// recovered waits until nothing is wrong with a registry any more.
func (m *mesh) recovered(t *testing.T, name string) {
	t.Helper()
	eventually(t, "registry "+name+" to recover", func() error {
		if faults := m.faults(name); faults != "" {
			return errors.New(faults)
		}
		return nil
	})
}

// faults returns what the server says is wrong with a registry.
func (m *mesh) faults(name string) string {
	m.t.Helper()
	var all []string
	for _, r := range m.status().Registries {
		if r.Name != name {
			continue
		}
		for _, d := range r.Diagnostics {
			all = append(all, d.Summary)
		}
	}
	return strings.Join(all, "; ")
}
