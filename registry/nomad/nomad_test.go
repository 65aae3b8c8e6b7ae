package nomad

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/hashicorp/nomad/api"

	"github.com/wattle-mesh/wattle/registry"
	"github.com/wattle-mesh/wattle/registry/registrytest"
	"github.com/wattle-mesh/wattle/test/peers"
)

func parse(t testing.TB, text string) hcl.Body {
	t.Helper()
	parsed, diags := hclsyntax.ParseConfig([]byte(text), "server.hcl", hcl.InitialPos)
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	return parsed.Body
}

// source makes a Source from the text of a registry block's body. It does not wait long before it tries again.
func source(t testing.TB, text string) *Source {
	t.Helper()
	s, diags := Driver().New(parse(t, text), registry.DriverOptions{Name: "main", Log: slog.New(slog.DiscardHandler)})
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	out := s.(*Source)
	out.config.pause = 20 * time.Millisecond
	return out
}

func to(addr string) string { return fmt.Sprintf("address = \"http://%s\"\n", addr) }

// mesh is a Source under an Aggregator.
type mesh struct {
	t testing.TB
	*registry.Aggregator
	source *Source
}

// often makes the pauses between the runs of a Source that fails.
func often() backoff.BackOff { return backoff.NewConstantBackOff(200 * time.Millisecond) }

// join runs a Source until the test ends.
func join(t testing.TB, body string) *mesh {
	t.Helper()
	return joinSource(t, source(t, body))
}

func joinSource(t testing.TB, s *Source) *mesh {
	t.Helper()
	m := &mesh{t: t, source: s, Aggregator: registry.NewAggregator(registry.Options{Log: slog.New(slog.DiscardHandler), Backoff: often})}
	s.report = func(ds []registry.Diagnostic) { m.Report("main", ds) }
	if err := m.Add("main", s, 0); err != nil {
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
			t.Logf("status: %s\nservices: %s", text, m.text())
		}
	})
	return m
}

// text is what is served, a service a line: "web:80 10.0.0.1:8080 10.0.0.2:8080(draining)".
func (m *mesh) text() string {
	var out []string
	for _, s := range m.Sets()[0].Services {
		line := strings.TrimPrefix(s.Name.String(), "default/")
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
	eventually(m.t, "the services "+strings.Join(want, ", "), func() bool {
		return m.Status()[0].Synced && m.text() == strings.Join(want, "\n")
	})
}

func (m *mesh) faults() string {
	var out []string
	for _, d := range m.Status()[0].Diagnostics {
		out = append(out, d.String())
	}
	return strings.Join(out, "\n")
}

// awaitError waits until the status says something with this text.
func (m *mesh) awaitError(text string) {
	m.t.Helper()
	eventually(m.t, "an error with "+text, func() bool { return strings.Contains(m.faults(), text) })
}

func (m *mesh) awaitSound() {
	m.t.Helper()
	eventually(m.t, "no fault", func() bool { return m.faults() == "" })
}

// endpoint returns the only endpoint of a service.
func (m *mesh) endpoint(name string) *registry.Endpoint {
	m.t.Helper()
	for _, s := range m.Sets()[0].Services {
		if s.Name.Name == name && len(s.Endpoints) == 1 {
			return s.Endpoints[0]
		}
	}
	m.t.Fatalf("%s has not one endpoint: %s", name, m.text())
	return nil
}

// conform is a Source as the conformance suite knows it: its services have protocols.
type conform struct {
	*Source
	peer   *peer
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

// translate leaves out of a service what Nomad alone has, and adds what it cannot have.
func translate(s *registry.Service) *registry.Service {
	out := *s
	out.Ports = slices.Clone(s.Ports)
	out.Ports[0].Protocol = registry.HTTP
	out.Endpoints = nil
	for _, e := range s.Endpoints {
		d := *e
		meta := e.Meta.Map()
		d.Locality = registry.Locality{}
		if d.Health == registry.Healthy {
			d.Health = ""
		}
		maps.DeleteFunc(meta, func(k, _ string) bool { return strings.HasPrefix(k, "nomad.") })
		d.Meta = registry.LabelsOf(meta)
		out.Endpoints = append(out.Endpoints, &d)
	}
	return &out
}

// put has a job for each service with a group for each endpoint, and waits until Nomad lists just that.
func (c *conform) put(services []*registry.Service) {
	c.peer.t.Helper()
	want := map[string]int{}
	for _, s := range services {
		job := s.Name.Namespace + "-" + s.Name.Name
		var groups []peers.NomadGroup
		for _, e := range s.Endpoints {
			var tags []string
			for k, v := range e.Meta.All() {
				tags = append(tags, k+"="+v)
			}
			groups = append(groups, peers.NomadGroup{Name: "g" + strings.ReplaceAll(e.Address.String(), ".", "-"), Service: s.Name.Name, Address: e.Address.String(), Port: fmt.Sprint(e.Port), Tags: tags})
		}
		want[job] = len(groups)
		c.peer.run(s.Name.Namespace, job, groups...)
	}
	jobs, _, err := c.peer.api.Jobs().List(&api.QueryOptions{Namespace: "*"})
	if err != nil {
		c.peer.t.Fatal(err)
	}
	for _, j := range jobs {
		if _, ok := want[j.ID]; !ok {
			c.peer.stop(j.Namespace, j.ID)
		}
	}
	eventually(c.peer.t, "Nomad to list what was put", func() bool {
		allocs, _, err := c.peer.api.Allocations().List(&api.QueryOptions{Namespace: "*"})
		have := map[string]int{}
		for _, a := range allocs {
			switch {
			case a.ClientStatus == clientRunning && a.DesiredStatus == desiredRun && a.DeploymentStatus != nil && a.DeploymentStatus.Healthy != nil && *a.DeploymentStatus.Healthy:
				have[a.JobID]++
			case a.ClientStatus == clientRunning || a.ClientStatus == clientPending:
				return false
			}
		}
		return err == nil && maps.Equal(have, want)
	})
}

func TestConformance(t *testing.T) {
	p := newPeer(t, nil).ready()
	if _, err := p.api.Namespaces().Register(&api.Namespace{Name: "shop"}, nil); err != nil {
		t.Fatal(err)
	}
	registrytest.Run(t, func(t *testing.T) registrytest.Registry {
		c := &conform{peer: p, failed: make(chan struct{}, 1), memo: map[*registry.Service]*registry.Service{}}
		cable := peers.NewCable(t, "127.0.0.1", p.addr)
		c.Source = source(t, to(cable.Addr())+"service_ports = { db = 9080, web = 9080, cart = 9080 }")
		c.put(nil)
		return registrytest.Registry{
			Source: c, Put: c.put, Mend: cable.Mend,
			Break: func() {
				cable.Cut()
				c.mu.Lock()
				running := c.running
				c.mu.Unlock()
				if running {
					<-c.failed
				}
			},
		}
	})
}

// What becomes of the states of allocations, on one Nomad.
func TestJobs(t *testing.T) {
	t.Parallel()
	p := newPeer(t, nil).ready()
	m := join(t, to(p.addr)+"node_meta = [\"rack\"]\n")
	m.await()

	t.Run("a dynamic port is no name", func(t *testing.T) {
		p.run("default", "dyn", peers.NomadGroup{Name: "g", Service: "dyn", Port: "dyn", Count: 2})
		two := regexp.MustCompile(`^dyn:80 127\.0\.0\.1:[23]\d{4} 127\.0\.0\.1:[23]\d{4}$`) // lowestDynamic to highestDynamic
		eventually(t, "two endpoints at port 80", func() bool { return two.MatchString(m.text()) })
		p.stop("default", "dyn")
		m.await()
	})
	t.Run("labels tell where an instance is from", func(t *testing.T) {
		p.run("default", "web", peers.NomadGroup{Name: "g1", Service: "web", Address: "10.0.0.1", Port: "8080", Tags: []string{"blue", "version=v1"}, OfTask: true})
		m.await("web:8080 10.0.0.1:8080")
		eventually(t, "its deployment", func() bool { return m.endpoint("web").Meta.Get(labelDeployment) == "healthy" })
		e := m.endpoint("web")
		got := e.Meta.Map()
		if len(got[labelAlloc]) != 36 {
			t.Errorf("allocation %q", got[labelAlloc])
		}
		delete(got, labelAlloc)
		want := map[string]string{"tag.blue": "true", "version": "v1", labelJob: "web", labelGroup: "g1", labelTask: "main", labelVersion: "0", labelNode: "n1",
			labelNodePool: "default", labelDatacenter: "dc1", labelDeployment: "healthy", "node.rack": "r1"}
		if !maps.Equal(got, want) || e.Locality.Region != "dc1" {
			t.Errorf("labels %v, locality %v", got, e.Locality)
		}
	})
	t.Run("an update of the job moves the endpoint", func(t *testing.T) {
		p.run("default", "web", peers.NomadGroup{Name: "g1", Service: "web", Address: "10.0.0.2", Port: "8080", OfTask: true})
		m.await("web:8080 10.0.0.2:8080")
	})
	t.Run("a service that a job has no more is gone though its allocation runs", func(t *testing.T) {
		p.run("default", "web", peers.NomadGroup{Name: "g1", Service: "other", Address: "10.0.0.2", Port: "8080", OfTask: true})
		m.await("other:8080 10.0.0.2:8080")
	})
	t.Run("a registration that vanishes stays while its allocation runs", func(t *testing.T) {
		all, _, err := p.api.Services().Get("other", nil)
		if err != nil || len(all) != 1 {
			t.Fatal(all, err)
		}
		if _, err := p.api.Services().Delete("other", all[0].ID, nil); err != nil {
			t.Fatal(err)
		}
		m.awaitError("W4601")
		m.await("other:8080 10.0.0.2:8080")
		p.stop("default", "web")
		m.await()
		m.awaitSound()
	})
	t.Run("a canary says that it is one", func(t *testing.T) {
		p.run("default", "api", peers.NomadGroup{Name: "g", Service: "api", Address: "10.0.1.1", Port: "80", Canary: true})
		m.await("api:80 10.0.1.1:80")
		p.run("default", "api", peers.NomadGroup{Name: "g", Service: "api", Address: "10.0.1.2", Port: "80", Canary: true, Command: []string{"/bin/sleep", "1001"}})
		m.await("api:80 10.0.1.1:80 10.0.1.2:80")
		eventually(t, "the canary's label", func() bool {
			e := m.Sets()[0].Services[0].Endpoints
			return len(e) == 2 && e[0].Meta.Get(labelCanary) == "" && e[1].Meta.Get(labelCanary) == "true"
		})
		p.stop("default", "api")
		m.await()
	})
	t.Run("a task that is killed is started again at another place or the same", func(t *testing.T) {
		pid := filepath.Join(t.TempDir(), "pid")
		p.run("default", "k", peers.NomadGroup{Name: "g", Service: "k", Address: "10.0.3.1", Port: "80", OfTask: true, Command: []string{"/bin/sh", "-c", "echo $$ > " + pid + "; exec sleep 1000"}})
		m.await("k:80 10.0.3.1:80")
		text, err := os.ReadFile(pid)
		if err != nil {
			t.Fatal(err)
		}
		var n int
		if _, err := fmt.Sscan(string(text), &n); err != nil {
			t.Fatal(err)
		}
		if err := syscall.Kill(n, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		m.await()
		m.await("k:80 10.0.3.1:80")
		p.stop("default", "k")
		m.await()
	})
	t.Run("a host name is no address", func(t *testing.T) {
		p.run("default", "n", peers.NomadGroup{Name: "g", Service: "n", Address: "db.example", Port: "80"})
		m.awaitError("W4105")
		p.stop("default", "n")
		m.awaitSound()
	})
}

func TestRegistrationsThatVanishAreGoneIfTheyAreNotToBeKept(t *testing.T) {
	t.Parallel()
	p := newPeer(t, nil).ready()
	m := join(t, to(p.addr)+"keep_dropped = false\n")
	p.run("default", "web", peers.NomadGroup{Name: "g", Service: "web", Address: "10.0.0.1", Port: "80"})
	m.await("web:80 10.0.0.1:80")
	all, _, err := p.api.Services().Get("web", nil)
	if err != nil || len(all) != 1 {
		t.Fatal(all, err)
	}
	if _, err := p.api.Services().Delete("web", all[0].ID, nil); err != nil {
		t.Fatal(err)
	}
	m.await()
}

func TestNamespacesThatAreNamedAreReadAlone(t *testing.T) {
	t.Parallel()
	p := newPeer(t, nil).ready()
	for _, ns := range []string{"shop", "ops"} {
		if _, err := p.api.Namespaces().Register(&api.Namespace{Name: ns}, nil); err != nil {
			t.Fatal(err)
		}
	}
	m := join(t, to(p.addr)+"namespaces = [\"default\", \"shop\"]\n")
	all := join(t, to(p.addr))
	for i, ns := range []string{"default", "shop", "ops"} {
		p.run(ns, "web", peers.NomadGroup{Name: "g", Service: "web", Address: fmt.Sprintf("10.0.0.%d", i+1), Port: "80"})
	}
	all.await("web:80 10.0.0.1:80", "ops/web:80 10.0.0.3:80", "shop/web:80 10.0.0.2:80")
	m.await("web:80 10.0.0.1:80", "shop/web:80 10.0.0.2:80")
	p.stop("shop", "web")
	m.await("web:80 10.0.0.1:80")
	all.await("web:80 10.0.0.1:80", "ops/web:80 10.0.0.3:80")
}
