package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	consulapi "github.com/hashicorp/consul/api"
	nomadapi "github.com/hashicorp/nomad/api"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/wattle-mesh/wattle/internal/api"
	"github.com/wattle-mesh/wattle/test/peers"
)

// Where the mesh of this measurement is.
const (
	benchHost = "127.77.0.2"
	otherHost = "127.77.0.6"
	consulIP  = "127.77.0.3"
	etcdIP    = "127.77.0.4"
	nomadIP   = "127.77.0.5"
)

// quiet is how long a service does not change before it is measured: the server changes one at most once a second.
const quiet = 1100 * time.Millisecond

// kinds are the registries, each with one service, of-KIND, that the host calls.
var kinds = []string{"consul", "nomad", "etcd", "static"}

// field is a server, two agents with their Envoys, and real registries.
type field struct {
	site
	host, other *host
	consul      *consulapi.Client
	nomad       *nomadapi.Client
	etcd        *clientv3.Client
	instance    string // that Consul has
}

// start starts all of it and waits until the Envoy has every service.
func (f *field) start(ctx context.Context) error {
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
	if err := errors.Join(
		writeFile(f.dir, "consul.json", string(consul)),
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
		if _, err := f.run(ctx, argv...); err != nil {
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
	if err := f.serve(ctx, "mesh {}\n"+callerOfKinds("h1", benchHost)+callerOfKinds("h2", otherHost), fmt.Sprintf(`
registry "consul" "consul" { address = "http://%[2]s:8500" }
registry "nomad" "nomad" { address = "http://%[4]s:4646" }
registry "etcd" "etcd" { endpoints = ["http://%[3]s:2379"] }
registry "static" "static" { path = "%[1]s/services" }
`, f.dir, consulIP, etcdIP, nomadIP)); err != nil {
		return err
	}
	if f.host, err = f.join(ctx, "h1", benchHost, registered); err != nil {
		return err
	}
	if f.other, err = f.join(ctx, "h2", otherHost); err != nil {
		return err
	}
	agent := api.NewClient(api.ClientOptions{Address: "unix:" + filepath.Join(f.host.run, "agent.sock"), Agent: true})
	defer agent.Close()
	if err := await(ctx, "the agent", func() error { return register(ctx, agent, "a", 9001) }); err != nil {
		return err
	}
	return await(ctx, "Envoy", func() error {
		return errors.Join(f.has(ctx, len(kinds), marker(0).String()), f.host.shows(ctx, 1, benchHost+":7443::health_flags::healthy"),
			f.other.shows(ctx, len(kinds), marker(0).String()))
	})
}

func (f *field) nodeReady() error {
	nodes, _, err := f.nomad.Nodes().List(nil)
	if err == nil && (len(nodes) == 0 || nodes[0].Status != "ready") {
		err = errors.New("it is not ready")
	}
	return err
}

// callerOfKinds is a host whose Envoy is looked at.
func callerOfKinds(node, ip string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "host %q {\n  address = %q\n  service \"web-%[1]s\" {\n    port  = 9000\n    local = \"%[2]s:9000\"\n", node, ip)
	names := []string{registered}
	for _, kind := range kinds {
		names = append(names, "of-"+kind)
	}
	for i := range flappers {
		names = append(names, flapper(i))
	}
	for i, name := range names {
		fmt.Fprintf(&b, "    upstream %q { bind = \"%s:%d\" }\n", name, ip, 10000+i)
	}
	b.WriteString("  }\n}\n")
	return b.String()
}

// close ends all of it.
func (f *field) close() error {
	f.stop()
	if f.etcd == nil {
		return nil
	}
	return f.etcd.Close()
}
