package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/wattle-mesh/wattle/internal/api"
	"github.com/wattle-mesh/wattle/internal/pipeline"
	"github.com/wattle-mesh/wattle/internal/store"
	"github.com/wattle-mesh/wattle/internal/xds"
	"github.com/wattle-mesh/wattle/registry"
)

// serverRole is the server, wired as cmd/wattle does: registry, pipeline, translator, xDS and the agents' port with its
// certificates. Only its registry is in memory, so that a change has an exact moment,
// a service may change at any pace, and it has no HTTP API.
type serverRole struct {
	dir    string
	source *memorySource
}

func newServer(dir string) *serverRole { return &serverRole{dir: dir} }

// layout says what mesh a server serves.
type layout struct {
	Proxies int  `json:"proxies"`
	All     bool `json:"all"` // every service is in every proxy's scope
}

// edit says what changes.
type edit struct {
	Service int `json:"service"`
	Change  int `json:"change"` // numbers the change; see marker
}

func (s *serverRole) do(ctx context.Context, name string, arg json.RawMessage) (any, error) {
	switch name {
	case "start":
		var m layout
		if err := json.Unmarshal(arg, &m); err != nil {
			return nil, err
		}
		return s.start(ctx, m)
	case "change":
		var e edit
		if err := json.Unmarshal(arg, &e); err != nil {
			return nil, err
		}
		began := time.Now().UnixNano()
		s.source.change(e.Service, marker(e.Change))
		return began, nil
	}
	return nil, fmt.Errorf("no order %q", name)
}

// start serves and returns the address.
func (s *serverRole) start(ctx context.Context, m layout) (string, error) {
	log := slog.New(slog.DiscardHandler)
	policy := filepath.Join(s.dir, "policy")
	if err := os.MkdirAll(policy, 0o700); err != nil {
		return "", err
	}
	if err := os.WriteFile(filepath.Join(policy, "mesh.hcl"), []byte("mesh {}\n"), 0o600); err != nil {
		return "", err
	}
	db, err := store.Open(filepath.Join(s.dir, "wattle.db"))
	if err != nil {
		return "", err
	}
	authority, err := openCA(s.dir)
	if err != nil {
		return "", err
	}
	var loop *pipeline.Loop
	registries := registry.NewAggregator(registry.Options{Log: log, OnChange: func() { loop.Nudge() }})
	registrar, err := api.NewRegistrar(api.RegistrarOptions{Log: log, Store: db, OnHealth: func() { loop.Nudge() }})
	if err != nil {
		return "", err
	}
	s.source = &memorySource{set: world(m.Proxies, m.All), up: make(chan struct{})}
	if err := registries.Add("mesh", registrar, 0); err != nil {
		return "", err
	}
	if err := registries.Add("bench", s.source, 0); err != nil {
		return "", err
	}
	table := xds.New(xds.Options{Log: log, Metrics: prometheus.NewRegistry(), Authorize: api.AuthorizeProxy[*corev3.Node],
		OnConverged: func(gen uint64, n int, took time.Duration, nacked int) { loop.Converged(gen, n, nacked, took) }})
	loop = pipeline.New(pipeline.Options{Log: log, Dir: policy, TrustDomain: trustDomain, Revisions: db, Registries: registries,
		Health: registrar.Health, OnPolicy: registrar.SetPolicy, Publish: table.Apply})
	nodes := api.NewNode(api.NodeOptions{Log: log, CA: authority, Store: db, Registrar: registrar})
	port := api.NewPort(api.PortOptions{Log: log, CA: authority, Names: []string{serverName}, Node: nodes, XDS: table})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	// These run until the process ends with its input.
	go func() { exit(registries.Run(ctx)) }()
	go func() { exit(loop.Run(ctx)) }()
	go func() { exit(port.Serve(ctx, l)) }()
	<-s.source.up
	select {
	case <-loop.Ready():
	case <-ctx.Done():
		return "", ctx.Err()
	}
	return l.Addr().String(), nil
}

// exit ends the process if a task of it failed.
func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}
