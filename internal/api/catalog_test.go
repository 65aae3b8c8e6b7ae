package api

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/wattle-mesh/wattle/internal/pipeline"
	"github.com/wattle-mesh/wattle/registry"
	"github.com/wattle-mesh/wattle/translator"
)

// fakeHolds holds what a test says.
type fakeHolds struct {
	mu  sync.Mutex
	all map[string][]registry.Held
	of  map[registry.Name][]registry.HeldEndpoint
}

func (f *fakeHolds) Holds() map[string][]registry.Held {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.all
}

func (f *fakeHolds) HeldOf(n registry.Name) []registry.HeldEndpoint {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.of[n]
}

// sets are registries that say what a test puts in.
type sets struct {
	mu    sync.Mutex
	all   []registry.Set
	ready chan struct{} // closed
}

func (s *sets) Sets() []registry.Set {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.all)
}

func (s *sets) Ready() <-chan struct{} { return s.ready }

// catalogSite is a site with the loop of a server, a policy and registries.
type catalogSite struct {
	*site
	loop *pipeline.Loop
	sets *sets
}

const catalogPolicy = `
host "h1" {
  address = "10.0.0.1"
  service "reviews" { port = 9080 }
  service "productpage" {
    port = 8080
    upstream "ratings" { bind = "127.0.0.1:9081" }
    upstream "reviews" { bind = "127.0.0.1:9082" }
  }
}
host "h2" { address = "10.0.0.2" }
virtual_service "ratings" {
  hosts = ["ratings"]
  http "all" {
    route { host = "details" }
  }
}
service_defaults "details" { healthy_if = "registry or agent" }
`

func newCatalogSite(t *testing.T, all ...registry.Set) *catalogSite {
	t.Helper()
	c := &catalogSite{site: newSite(t, "127.0.0.1:0"), sets: &sets{all: all, ready: make(chan struct{})}}
	close(c.sets.ready)
	dir := filepath.Join(c.dir, "policy")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "a.hcl"), []byte(catalogPolicy), 0o644); err != nil {
		t.Fatal(err)
	}
	c.loop = pipeline.New(pipeline.Options{
		Log: slog.New(slog.DiscardHandler), Dir: dir, Revisions: c.store, Registries: c.sets,
		Publish: func(translator.Changes) uint64 { return 0 },
	})
	c.current = c.loop.State
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- c.loop.Run(ctx) }()
	c.world.stop = append(c.world.stop, func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	select {
	case <-c.loop.Ready():
	case <-time.After(20 * time.Second):
		t.Fatal("no policy is in force")
	}
	return c
}

// say has the registries say something else.
func (c *catalogSite) say(all ...registry.Set) {
	c.sets.mu.Lock()
	c.sets.all = all
	c.sets.mu.Unlock()
	c.loop.Nudge()
}

// addresses makes a service of the namespace default with one HTTP port.
func addresses(name string, port uint16, health registry.Health, at ...string) *registry.Service {
	s := &registry.Service{Name: registry.Name{Namespace: "default", Name: name}, Ports: []registry.Port{{Number: port, Protocol: registry.HTTP}}}
	for _, a := range at {
		x := netip.MustParseAddrPort(a)
		s.Endpoints = append(s.Endpoints, &registry.Endpoint{Address: x.Addr(), Port: x.Port(), ServicePort: port, Health: health})
	}
	return s
}

func of(name string, services ...*registry.Service) registry.Set {
	slices.SortFunc(services, func(a, b *registry.Service) int { return a.Name.Compare(b.Name) })
	return registry.Set{Name: name, Services: services}
}

func defaultName(name string) registry.Name {
	return registry.Name{Namespace: "default", Name: name}
}

func TestDescribeSaysWhereEachEndpointIsCalledAndWhy(t *testing.T) {
	c := newCatalogSite(t,
		of("one", addresses("reviews", 9080, "", "10.0.0.1:9080", "10.0.0.1:9999", "10.0.0.2:9080"), addresses("alias", 9080, "", "10.0.0.1:9080")),
		of("two", addresses("reviews", 9080, registry.Unhealthy, "10.9.9.9:9080"), addresses("details", 80, "", "10.9.9.8:80"), addresses("ratings", 80, "", "10.9.9.7:80")),
	)
	d, err := c.client.Describe(t.Context(), defaultName("reviews"))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range d.Endpoints {
		got = append(got, strings.Join([]string{e.Address.String(), string(e.Health), string(e.Path), e.Why, e.Idle, strings.Join(e.Sources, "+")}, "; "))
		if e.Since.IsZero() || time.Since(e.Since) > time.Minute || e.HealthSince.IsZero() {
			t.Errorf("%s: since %v, its health since %v", e.Address, e.Since, e.HealthSince)
		}
	}
	want := []string{
		"10.0.0.1; healthy; mesh; h1 runs reviews there, at its verified address; ; policy+one",
		"10.0.0.1; healthy; plaintext; port 9999 is no registered workload of h1; ; one",
		"10.0.0.2; healthy; plaintext; no workload is registered on h2; ; one",
		"10.9.9.9; unhealthy; plaintext; no host of the mesh has this address; it is unhealthy; two",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if !slices.Equal(d.Proxies, []string{"h1/host"}) || d.HealthyIf != registry.RegistryAndAgent || !slices.Equal(d.Sources, []string{"policy", "one", "two"}) {
		t.Errorf("%+v", d)
	}
	if d.Endpoints[0].At != netip.MustParseAddrPort("10.0.0.1:7443") || d.Endpoints[0].Workload != "h1/default/reviews" || !d.Endpoints[0].Taken {
		t.Errorf("the workload: %+v", d.Endpoints[0])
	}

	d, err = c.client.Describe(t.Context(), defaultName("alias"))
	if err != nil || len(d.Endpoints) != 1 {
		t.Fatal(d, err)
	}
	if e := d.Endpoints[0]; e.Path != "left out" || e.Code != "W2014" || !strings.Contains(e.Why, "another identity") || e.Taken || e.At.IsValid() {
		t.Errorf("a workload of another identity: %+v", e)
	}

	// Calls to ratings are routed to details.
	d, err = c.client.Describe(t.Context(), defaultName("details"))
	if err != nil || !slices.Equal(d.Proxies, []string{"h1/host"}) || d.HealthyIf != registry.RegistryOrAgent {
		t.Error(d, err)
	}

	_, err = c.client.Describe(t.Context(), defaultName("nobody"))
	if e, ok := errors.AsType[*Error](err); !ok || e.Status != http.StatusNotFound {
		t.Error(err)
	}
}

func TestAnEndpointThatNoProxyNeedsIsNotTaken(t *testing.T) {
	c := newCatalogSite(t, of("one", addresses("lonely", 80, "", "10.9.0.1:80")))
	d, err := c.client.Describe(t.Context(), defaultName("lonely"))
	if err != nil || len(d.Proxies) > 0 || d.Endpoints[0].Taken || d.Endpoints[0].Idle == "" {
		t.Error(d, err)
	}
}

func TestServicesAreListedAndFiltered(t *testing.T) {
	shop := addresses("web", 80, registry.Draining, "10.9.0.3:80")
	shop.Namespace = "shop"
	c := newCatalogSite(t,
		of("one", addresses("reviews", 9080, "", "10.0.0.1:9080", "10.9.0.1:9080"), shop),
		of("two", addresses("reviews", 9080, "", "10.9.0.2:9080"), addresses("details", 80, "", "10.9.9.8:80")),
	)
	c.holds.all = map[string][]registry.Held{"two": {{Service: defaultName("details"), Endpoints: 1}}}
	list := func(query string) []CatalogService {
		t.Helper()
		q, err := url.ParseQuery(query)
		if err != nil {
			t.Fatal(err)
		}
		all, err := c.client.CatalogServices(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		return all
	}
	names := func(query string) string {
		var out []string
		for _, s := range list(query) {
			out = append(out, s.Name.String())
		}
		return strings.Join(out, " ")
	}
	for query, want := range map[string]string{
		"":                             "default/details default/productpage default/reviews shop/web",
		"namespace=shop":               "shop/web",
		"registry=two":                 "default/details default/reviews",
		"prefix=re":                    "default/reviews",
		"unhealthy=true":               "shop/web",
		"unhealthy=true&namespace=ops": "",
	} {
		if got := names(query); got != want {
			t.Errorf("%s: %s, want %s", query, got, want)
		}
	}
	all := list("prefix=reviews")
	if s := all[0]; s.Endpoints != 3 || s.Healthy != 3 || s.Mesh != 1 || s.Plaintext != 2 || s.LeftOut != 0 || s.Proxies != 1 ||
		!slices.Equal(s.Sources, []SourceCount{{"policy", 1}, {"one", 2}, {"two", 1}}) {
		t.Errorf("%+v", s)
	}
	if s := list("prefix=details")[0]; s.Held != 1 {
		t.Errorf("%+v", s)
	}
	for _, query := range []string{"unhealthy=perhaps", "name=web"} {
		q, _ := url.ParseQuery(query)
		_, err := c.client.CatalogServices(t.Context(), q)
		if e, ok := errors.AsType[*Error](err); !ok || e.Status != http.StatusBadRequest {
			t.Errorf("%s: %v", query, err)
		}
	}
}
