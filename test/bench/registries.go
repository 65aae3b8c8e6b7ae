package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	consulapi "github.com/hashicorp/consul/api"
	nomadapi "github.com/hashicorp/nomad/api"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/wattle-mesh/wattle/configs"
	"github.com/wattle-mesh/wattle/internal/api"
	"github.com/wattle-mesh/wattle/test/peers"
)

// Where the mesh of this measurement is.
const (
	benchHost = "127.77.0.2"
	consulIP  = "127.77.0.3"
	etcdIP    = "127.77.0.4"
	nomadIP   = "127.77.0.5"
)

// quiet is how long a service does not change before it is measured: the server changes one at most once a second.
const quiet = 1100 * time.Millisecond

// kinds are the registries, each with one service, of-KIND, that the host calls.
var kinds = []string{"consul", "nomad", "etcd", "static"}

// field is a server, an agent with its Envoy, and real registries.
type field struct {
	dir       string
	processes []*exec.Cmd
	consul    *consulapi.Client
	nomad     *nomadapi.Client
	etcd      *clientv3.Client
	envoy     *http.Client // its admin interface
	instance  string       // that Consul has
}

// registries measures how long a change in a real registry takes to the real Envoy that uses it.
func (d *driver) registries(ctx context.Context) (err error) {
	f := &field{dir: filepath.Join(d.dir, "registries")}
	defer func() { err = errors.Join(err, f.stop()) }()
	if err := f.start(ctx, d.wattle); err != nil {
		return err
	}
	change := 0
	for _, kind := range kinds {
		var took []time.Duration
		for range 2 + 3*d.effort.repeats {
			if err := f.pause(ctx); err != nil {
				return err
			}
			change++
			t, err := f.change(ctx, kind, marker(change).String())
			if err != nil {
				return fmt.Errorf("%s: %w", kind, err)
			}
			took = append(took, t)
		}
		what := "endpoint change in a registry " + kind
		if kind == "nomad" { // it says of the allocation first that it changes, and what, within the second that a service has for a change
			what += ", an update in place,"
		}
		d.out.Note(what+" to the real Envoy, p50", milliseconds(median(took[2:])), "ms")
	}
	return f.registrations(ctx, d)
}

// registrations measures how long a workload that is registered at its agent takes to be called by the real Envoy: its
// certificate is made meanwhile, and its chain put into the Envoy of its host.
func (f *field) registrations(ctx context.Context, d *driver) error {
	agent := api.NewClient(api.ClientOptions{Address: "unix:" + filepath.Join(f.dir, "run", "agent.sock"), Agent: true})
	defer agent.Close()
	ref := api.ServiceRef{Namespace: "default", Name: registered, Instance: "b"}
	var took []time.Duration
	for range 2 + 3*d.effort.repeats {
		began := time.Now()
		if err := register(ctx, agent, ref.Instance, 9002); err != nil {
			return fmt.Errorf("register: %w", err)
		}
		if err := await(ctx, "the workload in Envoy", func() error { return f.shows(ctx, 1, benchHost+":7444::health_flags::healthy") }); err != nil {
			return err
		}
		took = append(took, time.Since(began))
		if err := f.pause(ctx); err != nil {
			return err
		}
		if _, err := agent.Deregister(ctx, ref); err != nil {
			return fmt.Errorf("deregister: %w", err)
		}
		gone := func() error {
			if f.shows(ctx, 1, benchHost+":7444::health_flags::") == nil {
				return errors.New("it is still there")
			}
			return ctx.Err()
		}
		if err := errors.Join(await(ctx, "Envoy without the workload", gone), f.pause(ctx)); err != nil {
			return err
		}
	}
	d.out.Note("wattle service register to the real Envoy that calls it, p50", milliseconds(median(took[2:])), "ms")
	return nil
}

// registered is the service of the host's own workloads.
const registered = "of-register"

// register registers an instance of it.
func register(ctx context.Context, agent *api.Client, instance string, port uint16) error {
	local := netip.AddrPortFrom(netip.MustParseAddr(benchHost), port)
	_, err := agent.Register(ctx, api.ServiceRequest{Service: &configs.Service{
		Block: configs.Block{Namespace: "default", Name: registered}, Instance: instance, Weight: 1,
		Ports: []configs.ServicePort{{Number: 80, Protocol: "http", Local: local}},
	}})
	return err
}

// pause lets a moment pass without a change.
func (f *field) pause(ctx context.Context) error {
	select {
	case <-time.After(quiet):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// start starts all of it and waits until the Envoy has every service.
func (f *field) start(ctx context.Context, wattle string) error {
	consul, err := json.Marshal(map[string]any{
		"server": true, "bootstrap_expect": 1, "node_name": "c1", "data_dir": filepath.Join(f.dir, "consul"), "bind_addr": consulIP,
		"client_addr": consulIP, "log_level": "error", "disable_update_check": true,
		"ports":       map[string]any{"dns": -1, "grpc": -1, "grpc_tls": -1},
		"performance": map[string]any{"raft_multiplier": 1}, "connect": map[string]any{"enabled": false},
	})
	if err != nil {
		return err
	}
	conf := peers.NomadConfig("", nomadIP, [3]int{4646, 4647, 4648})
	delete(conf, "data_dir") // -dev has one of its own, in TMPDIR
	delete(conf, "server")
	nomad, err := json.Marshal(conf)
	if err != nil {
		return err
	}
	agents, err := freeAddress()
	if err != nil {
		return err
	}
	if err := errors.Join(
		writeFile(f.dir, "consul.json", string(consul)),
		writeFile(filepath.Join(f.dir, "policy"), "mesh.hcl", "mesh {}\n"+callerOfKinds()),
		writeFile(f.dir, "server.hcl", fmt.Sprintf(`
state_dir = "%[1]s/state"
policy    = "%[1]s/policy"
http      = "unix:%[1]s/http.sock"
agents    = "%[2]s"

registry "consul" "consul" { address = "http://%[3]s:8500" }
registry "nomad" "nomad" { address = "http://%[5]s:4646" }
registry "etcd" "etcd" { endpoints = ["http://%[4]s:2379"] }
registry "static" "static" { path = "%[1]s/services" }
`, f.dir, agents, consulIP, etcdIP, nomadIP)),
		os.MkdirAll(filepath.Join(f.dir, "nomad"), 0o700),
		writeFile(f.dir, "nomad.json", string(nomad)),
	); err != nil {
		return err
	}
	peer := "http://" + etcdIP + ":2380"
	for _, argv := range [][]string{
		{".bin/consul", "agent", "-config-file", filepath.Join(f.dir, "consul.json")},
		{"env", "-u", "AWS_CA_BUNDLE", "TMPDIR=" + filepath.Join(f.dir, "nomad"), ".bin/nomad", "agent", "-dev", "-config", filepath.Join(f.dir, "nomad.json")},
		{".bin/etcd", "--name", "e1", "--data-dir", filepath.Join(f.dir, "etcd"), "--log-level", "error",
			"--listen-client-urls", "http://" + etcdIP + ":2379", "--advertise-client-urls", "http://" + etcdIP + ":2379",
			"--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", "e1=" + peer},
	} {
		if err := f.run(ctx, argv...); err != nil {
			return err
		}
	}
	if f.consul, err = consulapi.NewClient(&consulapi.Config{Address: "http://" + consulIP + ":8500"}); err != nil {
		return err
	}
	if f.nomad, err = nomadapi.NewClient(&nomadapi.Config{Address: "http://" + nomadIP + ":4646"}); err != nil {
		return err
	}
	if err := await(ctx, "Nomad's node", f.nodeReady); err != nil {
		return err
	}
	f.etcd, err = clientv3.New(clientv3.Config{Endpoints: []string{"http://" + etcdIP + ":2379"}, Logger: zap.NewNop()})
	if err != nil {
		return err
	}
	for _, kind := range kinds {
		if err := await(ctx, kind, func() error { return f.write(ctx, kind, marker(0).String()) }); err != nil {
			return err
		}
	}
	if err := f.run(ctx, wattle, "server", "-config", filepath.Join(f.dir, "server.hcl")); err != nil {
		return err
	}
	if err := f.join(ctx, wattle, agents); err != nil {
		return err
	}
	f.envoy = &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		socks, err := filepath.Glob(filepath.Join(f.dir, "run", "*", "admin.sock"))
		if err != nil || len(socks) == 0 {
			return nil, errors.Join(err, errors.New("no Envoy yet"))
		}
		return new(net.Dialer).DialContext(ctx, "unix", socks[0])
	}}}
	agent := api.NewClient(api.ClientOptions{Address: "unix:" + filepath.Join(f.dir, "run", "agent.sock"), Agent: true})
	defer agent.Close()
	if err := await(ctx, "the agent", func() error { return register(ctx, agent, "a", 9001) }); err != nil {
		return err
	}
	return await(ctx, "Envoy", func() error {
		return errors.Join(f.has(ctx, len(kinds), marker(0).String()), f.shows(ctx, 1, benchHost+":7443::health_flags::healthy"))
	})
}

func (f *field) nodeReady() error {
	nodes, _, err := f.nomad.Nodes().List(nil)
	if err == nil && (len(nodes) == 0 || nodes[0].Status != "ready") {
		err = errors.New("it is not ready")
	}
	return err
}

// callerOfKinds is the host whose Envoy is looked at.
func callerOfKinds() string {
	var b strings.Builder
	fmt.Fprintf(&b, "host \"h1\" {\n  address = %q\n  service \"web\" {\n    port  = 9000\n    local = \"%s:9000\"\n", benchHost, benchHost)
	for i, kind := range kinds {
		fmt.Fprintf(&b, "    upstream \"of-%s\" { bind = \"%s:%d\" }\n", kind, benchHost, 10000+i)
	}
	fmt.Fprintf(&b, "    upstream %q { bind = \"%s:%d\" }\n", registered, benchHost, 10000+len(kinds))
	b.WriteString("  }\n}\n")
	return b.String()
}

// join starts the agent of the host.
func (f *field) join(ctx context.Context, wattle, agents string) error {
	client := api.NewClient(api.ClientOptions{Address: "unix:" + filepath.Join(f.dir, "http.sock"), TokenFile: filepath.Join(f.dir, "state", "admin.token")})
	defer client.Close()
	var token api.TokenResponse
	err := await(ctx, "the server", func() (err error) {
		token, err = client.CreateToken(ctx, api.TokenRequest{Node: "h1", Services: []string{registered}})
		return err
	})
	if err != nil {
		return err
	}
	envoy, err := filepath.Abs(first(os.Getenv("ENVOY"), ".bin/envoy"))
	if err != nil {
		return err
	}
	if err := errors.Join(
		writeFile(f.dir, "token", token.Token),
		writeFile(f.dir, "agent.hcl", fmt.Sprintf(`
node           = "h1"
server         = [%q]
state_dir      = "%[2]s/agent"
run_dir        = "%[2]s/run"
token_file     = "%[2]s/token"
address        = %[3]q
source_address = %[3]q
envoy          = %[4]q
stop_proxies   = true
`, agents, f.dir, benchHost, envoy)),
	); err != nil {
		return err
	}
	return f.run(ctx, wattle, "agent", "-config", filepath.Join(f.dir, "agent.hcl"))
}

func first(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// run starts a process that ends with the measurement.
func (f *field) run(ctx context.Context, argv ...string) error {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) } // an agent that is killed leaves its Envoy behind
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("%w; make tools and make build make it", err)
	}
	f.processes = append(f.processes, cmd)
	return nil
}

// stop ends the processes, the last one first.
func (f *field) stop() error {
	for i := len(f.processes) - 1; i >= 0; i-- {
		p := f.processes[i]
		_ = p.Process.Signal(syscall.SIGTERM) // it may have ended
		_ = p.Wait()                          // some end with the signal as their state
	}
	if f.etcd == nil {
		return nil
	}
	return f.etcd.Close()
}

// write gives a registry's service its one endpoint.
func (f *field) write(ctx context.Context, kind, address string) error {
	switch kind {
	case "consul": // another instance with its check, and then the old one goes
		_, err := f.consul.Catalog().Register(&consulapi.CatalogRegistration{
			Node: "elsewhere", Address: "10.9.9.9", Service: &consulapi.AgentService{ID: address, Service: "of-consul", Address: address, Port: 80},
			Check: &consulapi.AgentCheck{CheckID: address, Name: "alive", ServiceID: address, Status: consulapi.HealthPassing},
		}, nil)
		if err == nil && f.instance != "" {
			_, err = f.consul.Catalog().Deregister(&consulapi.CatalogDeregistration{Node: "elsewhere", ServiceID: f.instance}, nil)
		}
		if err == nil {
			f.instance = address
		}
		return err
	case "nomad": // the job is updated in place: its task runs on
		j := peers.NomadJob("default", "of-nomad", peers.NomadGroup{Name: "g", Service: "of-nomad", Address: address, Port: "80"})
		if _, _, err := f.nomad.Jobs().Register(j, nil); err != nil {
			return err
		}
		return await(ctx, "Nomad to list it", func() error {
			all, _, err := f.nomad.Services().Get("of-nomad", nil)
			if err == nil && (len(all) != 1 || all[0].Address != address) {
				err = errors.New("it is not listed")
			}
			return err
		})
	case "etcd":
		_, err := f.etcd.Put(ctx, "/wattle/services/default/of-etcd/i1", fmt.Sprintf(`{"address": %q, "ports": [{"number": 80}]}`, address))
		return err
	}
	dir := filepath.Join(f.dir, "services")
	err := writeFile(f.dir, "new.hcl", fmt.Sprintf("service \"of-static\" {\n  port = 80\n  endpoint { address = %q }\n}\n", address))
	return errors.Join(err, os.MkdirAll(dir, 0o700), os.Rename(filepath.Join(f.dir, "new.hcl"), filepath.Join(dir, "static.hcl")))
}

// change gives a registry's service another endpoint and returns how long the Envoy took to have it.
func (f *field) change(ctx context.Context, kind, address string) (time.Duration, error) {
	began := time.Now()
	if err := f.write(ctx, kind, address); err != nil {
		return 0, err
	}
	if kind == "nomad" {
		began = time.Now() // since it is listed: until then Nomad schedules
	}
	err := await(ctx, "Envoy", func() error { return f.has(ctx, 1, address) })
	return time.Since(began), err
}

// has fails as long as the Envoy has not n endpoints of an address.
func (f *field) has(ctx context.Context, n int, address string) error {
	return f.shows(ctx, n, address+":80::cx_active::")
}

// shows fails as long as the Envoy does not say something of n endpoints.
func (f *field) shows(ctx context.Context, n int, what string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://envoy/clusters", nil)
	if err != nil {
		return err
	}
	resp, err := f.envoy.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if got := strings.Count(string(text), "::"+what); got < n {
		return fmt.Errorf("it has %d of %d endpoints", got, n)
	}
	return nil
}

// await asks again every millisecond until it is so.
func await(ctx context.Context, what string, ask func() error) error {
	limit := time.After(patience)
	for {
		err := ask()
		if err == nil {
			return nil
		}
		select {
		case <-time.After(time.Millisecond):
		case <-limit:
			return fmt.Errorf("%s: %w", what, err)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
