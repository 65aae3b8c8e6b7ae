package consul

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/hashicorp/consul/api"
	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"

	"github.com/wattle-mesh/wattle/registry"
	"github.com/wattle-mesh/wattle/registry/registrytest"
)

func parse(t testing.TB, text string) hcl.Body {
	t.Helper()
	parsed, diags := hclsyntax.ParseConfig([]byte(text), "server.hcl", hcl.InitialPos)
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	return parsed.Body
}

// source makes a Source from the text of a registry block's body.
func source(t testing.TB, text string, report func([]registry.Diagnostic)) *Source {
	t.Helper()
	s, diags := Driver().New(parse(t, text), registry.DriverOptions{Name: "dc1", Log: slog.New(slog.DiscardHandler), Report: report})
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	return s.(*Source)
}

// plainTo and tlsTo are bodies for an agent behind an address.
func plainTo(addr string) string { return fmt.Sprintf("address = \"http://%s\"\n", addr) }

func tlsTo(addr, ca string) string {
	return fmt.Sprintf("address = \"https://%s\"\ntls { ca_file = %q }\n", addr, ca)
}

// mesh is a Source under an Aggregator.
type mesh struct {
	t testing.TB
	*registry.Aggregator
	source *Source

	mu      sync.Mutex
	sets    int // published
	changed chan struct{}
}

// Run counts what the Source publishes.
func (m *mesh) Run(ctx context.Context, publish func([]*registry.Service)) error {
	return m.source.Run(ctx, func(s []*registry.Service) {
		m.mu.Lock()
		m.sets++
		m.mu.Unlock()
		publish(s)
		select {
		case m.changed <- struct{}{}:
		default:
		}
	})
}

func (m *mesh) published() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.sets
}

// quick makes a Source that does not wait long before it tries again.
func quick(t testing.TB, text string) *Source {
	t.Helper()
	s := source(t, text, nil)
	s.config.pause = 20 * time.Millisecond
	return s
}

// join runs a quick Source until the test ends.
func join(t testing.TB, body string) *mesh {
	t.Helper()
	return joinSource(t, quick(t, body))
}

// often makes the pauses between the runs of a Source that fails.
func often() backoff.BackOff { return backoff.NewConstantBackOff(200 * time.Millisecond) }

// joinSource runs a Source until the test ends.
func joinSource(t testing.TB, s *Source) *mesh {
	t.Helper()
	return joinShaped(t, s, registry.Shape{})
}

// joinShaped runs a Source, in the shape that its block gives it, until the test ends.
func joinShaped(t testing.TB, s *Source, shape registry.Shape) *mesh {
	t.Helper()
	m := &mesh{t: t, source: s, Aggregator: registry.NewAggregator(registry.Options{Log: slog.New(slog.DiscardHandler), Backoff: often}), changed: make(chan struct{}, 1)}
	shaper := registry.NewShaper(shape, func(ds []registry.Diagnostic) { m.Report("dc1", ds) })
	s.report = shaper.Report
	if err := m.Add("dc1", shaper.Source(m), 0); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- m.Aggregator.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		<-done
		if t.Failed() {
			text, _ := json.Marshal(m.Status())
			served := m.text()
			t.Logf("status: %s\nservices: %s", text, served[:min(len(served), 2000)])
		}
	})
	return m
}

// text is what is served, a service a line: "web:80 10.0.0.1:8080 10.0.0.2:8080".
func (m *mesh) text() string {
	var out []string
	for _, s := range m.Sets()[0].Services {
		line := s.Name.Name
		for _, p := range s.Ports {
			line += fmt.Sprint(":", p.Number)
		}
		for _, e := range s.Endpoints {
			line += " " + e.String()
			if e.Health != registry.Healthy {
				line += "(" + string(e.Health) + ")"
			}
		}
		out = append(out, line)
	}
	return strings.Join(out, "\n")
}

// await waits until these services are served, one a line.
func (m *mesh) await(want ...string) {
	m.t.Helper()
	defer func() {
		if m.t.Failed() {
			m.t.Logf("served:\n%s\nwant:\n%s", m.text(), strings.Join(want, "\n"))
		}
	}()
	eventually(m.t, "the services", func() bool { return m.Status()[0].Synced && m.text() == strings.Join(want, "\n") })
}

// awaitError waits until the status says that the registry cannot be read, with this text.
func (m *mesh) awaitError(text string) {
	m.t.Helper()
	eventually(m.t, "an error with "+text, func() bool { return strings.Contains(m.faults(), text) })
}

func (m *mesh) faults() string {
	var out []string
	for _, d := range m.Status()[0].Diagnostics {
		out = append(out, d.String())
	}
	return strings.Join(out, "\n")
}

func (m *mesh) awaitSound() {
	m.t.Helper()
	eventually(m.t, "no fault", func() bool { return m.faults() == "" })
}

func web(n int, port int) *api.AgentService {
	return &api.AgentService{ID: fmt.Sprintf("web-%d", n), Service: "web", Address: fmt.Sprintf("10.0.0.%d", n), Port: port}
}

// conform is a Source as the conformance suite knows it: its services have protocols, and one is in a namespace of its own.
type conform struct {
	*Source
	peer   *peer
	cable  *cable
	failed chan struct{}

	mu      sync.Mutex
	memo    map[*registry.Service]*registry.Service
	running bool
}

func (c *conform) Run(ctx context.Context, publish func([]*registry.Service)) error {
	c.mu.Lock()
	c.running = true
	c.mu.Unlock()
	err := c.Source.Run(ctx, func(set []*registry.Service) {
		out := make([]*registry.Service, len(set))
		c.mu.Lock()
		defer c.mu.Unlock()
		for i, s := range set {
			if c.memo[s] == nil {
				c.memo[s] = translate(s)
			}
			out[i] = c.memo[s]
		}
		slices.SortFunc(out, func(a, b *registry.Service) int { return a.Name.Compare(b.Name) })
		publish(out)
	})
	if err != nil {
		select {
		case c.failed <- struct{}{}:
		default:
		}
	}
	return err
}

// translate leaves out of a service what Consul alone has, and adds what it cannot have.
func translate(s *registry.Service) *registry.Service {
	out := *s
	if s.Name.Name == "cart" {
		out.Namespace = "shop"
	}
	out.Ports = slices.Clone(s.Ports)
	out.Ports[0].Protocol = registry.HTTP
	out.Endpoints = nil
	for _, e := range s.Endpoints {
		d := *e
		meta := e.Meta.Map()
		d.Locality, d.Health = registry.Locality{}, ""
		maps.DeleteFunc(meta, func(k, _ string) bool { return strings.HasPrefix(k, "consul.") })
		d.Meta = registry.LabelsOf(meta)
		out.Endpoints = append(out.Endpoints, &d)
	}
	return &out
}

func (c *conform) put(services []*registry.Service) {
	want := map[string]bool{}
	for _, s := range services {
		for i, e := range s.Endpoints {
			id := fmt.Sprintf("%s-%d", s.Name.Name, i)
			want[id] = true
			c.peer.register(&api.AgentService{ID: id, Service: s.Name.Name, Address: e.Address.String(), Port: int(e.Port), Meta: e.Meta.Map()})
		}
	}
	node, _, err := c.peer.api.Catalog().Node("elsewhere", nil)
	if err != nil {
		c.peer.t.Fatal(err)
	}
	if node != nil {
		for id := range node.Services {
			if !want[id] {
				c.peer.deregister(id)
			}
		}
	}
}

func TestConformance(t *testing.T) {
	for _, how := range []string{"TLS", "plaintext"} {
		t.Run(how, func(t *testing.T) {
			p := newPeer(t, nil).ready()
			registrytest.Run(t, func(t *testing.T) registrytest.Registry {
				c := &conform{peer: p, failed: make(chan struct{}, 1), memo: map[*registry.Service]*registry.Service{}}
				body := ""
				if how == "TLS" {
					c.cable = newCable(t, p.tls)
					body = tlsTo(c.cable.addr(), p.ca)
				} else {
					c.cable = newCable(t, p.http)
					body = plainTo(c.cable.addr())
				}
				c.Source = source(t, body+"service_ports = { db = 9080, web = 9080, cart = 9080 }", nil)
				c.put(nil)
				return registrytest.Registry{
					Source: c, Put: c.put, Mend: c.cable.mend,
					Break: func() {
						c.cable.sever()
						c.mu.Lock()
						running := c.running
						c.mu.Unlock()
						if running {
							<-c.failed
						}
					},
				}
			})
		})
	}
}
