package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/wattle-mesh/wattle/test/load"
)

// shopFile is shop as h3 itself registers it, where the policy does not know it there.
const shopFile = `
service "shop" {
  ports = {
    http  = { number = 9080, local = "127.0.X.13:9080" }
    rpc   = { number = 9085, local = "127.0.X.13:9085", protocol = "grpc" }
    lines = { number = 9090, local = "127.0.X.13:9090", protocol = "tcp" }
  }
  check "http" {
    path     = "/healthz"
    interval = "250ms"
  }
}
`

// service runs a command of wattle service at the agent of h3.
func (m *mesh) service(command string, args ...string) string {
	m.t.Helper()
	return m.wattle(append([]string{"service", command, "-socket", m.path("h3", "run", "agent.sock")}, args...)...)
}

// TestServicesRegisteredUnderLoad registers a workload of h3, which the policy does not know, at its agent, while web calls
// shop.
func TestServicesRegisteredUnderLoad(t *testing.T) {
	t.Parallel()
	m := newMesh(t, faults)
	m.reached(t, request{Addr: "127.0.X.11:9081"})
	tr := m.startTrial(t, 100, faultSide)
	file := m.path("shop.hcl")
	if err := os.WriteFile(file, []byte(m.at(shopFile)), 0o600); err != nil {
		t.Fatal(err)
	}
	app := []string{filepath.Join(suite.bin, "app"), "-name", "shop", "-host", "h3",
		"-http", m.at("127.0.X.13:9080"), "-http", m.at("127.0.X.13:9085"), "-tcp", m.at("127.0.X.13:9090")}
	run := m.process("run", append([]string{filepath.Join(suite.bin, "wattle"), "service", "run",
		"-socket", m.path("h3", "run", "agent.sock"), "-file", file, "--"}, app...)...)
	m.apps["run"] = run
	register := func(t *testing.T) {
		t.Helper()
		if out := m.service("register", file, "-wait", "30s"); out != "default/shop: registered" {
			t.Errorf("register says %q", out)
		}
		tr.answered(t, "h3", 20)
	}

	// What was not granted is refused, kept, and counts once it is granted.
	m.join("h3", m.at("127.0.X.13"), "")
	m.apps["shop-3"] = m.process("app-shop-3", app...)
	m.apps["shop-3"].start(t)
	eventually(t, "the agent to refuse", func() error {
		out, err := m.tryWattle("service", "register", "-socket", m.path("h3", "run", "agent.sock"), "-wait", "5s", file)
		if err == nil || !strings.Contains(out, "default/shop is refused: node h3 was not granted service default/shop") {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	})
	tr.fault("a registration that was refused is granted", func(t *testing.T) {
		m.write("h3.hcl", "host \"h3\" {\n  address = \"127.0.X.13\"\n  service \"shop\" {\n    instance = \"p\"\n    port = 9099\n  }\n}\n")
		tr.answered(t, "h3", 20)
		if out := m.service("list"); !strings.Contains(out, "accepted") || !strings.Contains(out, "by uid") {
			t.Errorf("list says %s", out)
		}
	}, noneFailed)
	tr.fault("it is deregistered", func(t *testing.T) {
		if out := m.service("deregister", "shop"); out != "default/shop: deregistered" {
			t.Errorf("deregister says %q", out)
		}
		tr.silent(t, "h3", 200)
		if out := m.service("deregister", "shop"); out != "default/shop: was not registered" {
			t.Errorf("deregister says %q", out)
		}
	}, noneFailed)
	tr.fault("it is registered again", register, noneFailed)
	tr.fault("its agent is killed and started again", func(t *testing.T) {
		m.agents["h3"].kill(t)
		tr.answered(t, "h3", 50)
		m.agents["h3"].start(t)
		eventually(t, "the agent to know it", func() error {
			out, err := m.tryWattle("service", "describe", "shop", "-socket", m.path("h3", "run", "agent.sock"))
			if err != nil || !strings.Contains(out, "accepted") || !strings.Contains(out, "healthy") {
				return fmt.Errorf("%w: %s", err, out)
			}
			return nil
		})
		tr.answered(t, "h3", 50)
	}, noneFailed)
	tr.fault("its place is taken by a program that is run", func(t *testing.T) {
		m.service("deregister", "shop")
		tr.silent(t, "h3", 200)
		if err := m.apps["shop-3"].stop(); err != nil {
			t.Fatal(err)
		}
		run.start(t)
		tr.answered(t, "h3", 50)
	}, noneFailed)
	tr.fault("the program is told to end", func(t *testing.T) {
		if err := run.cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		<-run.done
		if run.err != nil {
			t.Errorf("run ended with %v", run.err)
		}
		tr.silent(t, "h3", 200)
		if out := m.service("list"); strings.Contains(out, "shop") {
			t.Errorf("list says %s", out)
		}
	}, noneFailed)
	tr.fault("a machine without an agent is registered at the server", func(t *testing.T) {
		argv := append([]string(nil), app...)
		for i := range argv {
			argv[i] = strings.NewReplacer(m.at("127.0.X.13"), m.at("127.0.X.24"), "h3", "bare").Replace(argv[i])
		}
		m.apps["bare"] = m.process("app-bare", argv...)
		m.apps["bare"].start(t)
		eventually(t, "it to listen", func() error { return dial(t.Context(), m.at("127.0.X.24:9090")) })
		m.wattle("service", "register", "-name", "shop", "-port", "http=9080", "-port", "rpc=9085/grpc", "-port", "lines=9090/tcp", "-address", m.at("127.0.X.24"))
		tr.answered(t, "bare", 50)
	}, noneFailed)
	tr.fault("it is deregistered at the server", func(t *testing.T) {
		m.wattle("service", "deregister", "shop", "-address", m.at("127.0.X.24"))
		tr.silent(t, "bare", 200)
	}, noneFailed)
	out, err := m.tryWattle("service", "register", "-name", "shop", "-port", "9080", "-address", m.at("127.0.X.13"))
	if err == nil || !strings.Contains(out, "host h3, which has an agent") {
		t.Errorf("the address of a host: %v, %s", err, out)
	}
}

// TestServicesRegisteredInEtcd registers instances in a real etcd with wattle service, while web calls them.
func TestServicesRegisteredInEtcd(t *testing.T) {
	t.Parallel()
	m := prepareMesh(t, registered)
	e := m.startEtcd(t, "127.0.X.51")
	m.extra = fmt.Sprintf("registry \"etcd\" \"kv\" { endpoints = [\"http://%s\"] }\n", e.addr)
	m.startServer()
	m.sync()
	etcd := func(command string, args ...string) string {
		return m.wattle(append([]string{"service", command, "-registry", "etcd"}, args...)...)
	}
	m.echo(t, "cart", 1, "-http", "127.0.X.31:9080")
	first := []string{"-endpoint", "http://" + e.addr, "-name", "cart", "-port", "9080", "-address", m.at("127.0.X.31")}
	if out := etcd("register", first...); out != m.at("default/cart/127.0.X.31: registered") {
		t.Errorf("register says %q", out)
	}
	if out := etcd("register", first...); !strings.HasSuffix(out, "nothing changed") {
		t.Errorf("register says %q", out)
	}
	m.reached(t, request{Addr: "127.0.X.11:9082"})
	l, err := load.Start(t.Context(), load.Options{Rate: 100, Targets: []load.Target{{Kind: load.Get, Addr: m.at("127.0.X.11:9082")}}})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Stop()
	tr := &trial{m, t, l, faultSide}
	run := m.process("run", filepath.Join(suite.bin, "wattle"), "service", "run", "-registry", "etcd", "-config", m.path("server.hcl"),
		"-name", "cart", "-port", "9080", "-address", m.at("127.0.X.32"), "-ttl", "15s", "-drain", "2s", "--",
		filepath.Join(suite.bin, "app"), "-name", "cart", "-host", "cart-2", "-http", m.at("127.0.X.32:9080"))
	m.apps["run"] = run
	const key = "/wattle/services/default/cart/"
	tr.fault("a program is run", func(t *testing.T) {
		run.start(t)
		tr.answered(t, "cart-2", 20)
		got, err := e.client.Get(limited(t), m.at(key+"127.0.X.32"))
		if err != nil || len(got.Kvs) != 1 || got.Kvs[0].Lease == 0 {
			t.Errorf("the key of the program: %v, %v", got, err)
		}
	}, noneFailed)
	tr.fault("it is told to end", func(t *testing.T) {
		if err := run.cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		<-run.done
		if run.err != nil {
			t.Errorf("run ended with %v", run.err)
		}
		tr.silent(t, "cart-2", 100)
	}, noneFailed)
	tr.fault("an instance with a ttl comes and goes", func(t *testing.T) {
		m.echo(t, "cart", 3, "-http", "127.0.X.33:9080")
		third := []string{"-config", m.path("server.hcl"), "-registry-name", "kv", "-address", m.at("127.0.X.33")}
		etcd("register", append([]string{"-name", "cart", "-port", "9080/http", "-ttl", "1m"}, third...)...)
		etcd("heartbeat", append([]string{"cart"}, third...)...)
		tr.answered(t, "cart-3", 20)
		if out := etcd("deregister", append([]string{"cart"}, third...)...); !strings.HasSuffix(out, ": deregistered") {
			t.Errorf("deregister says %q", out)
		}
		tr.silent(t, "cart-3", 100)
		if out := etcd("deregister", append([]string{"cart"}, third...)...); !strings.HasSuffix(out, ": was not registered") {
			t.Errorf("deregister says %q", out)
		}
		if out, err := m.tryWattle(append([]string{"service", "heartbeat", "cart", "-registry", "etcd"}, third...)...); err == nil || !strings.Contains(out, "(W5012)") {
			t.Errorf("a heartbeat for what is gone: %v, %s", err, out)
		}
	}, noneFailed)
}
