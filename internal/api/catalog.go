package api

import (
	"fmt"
	"maps"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/wattle-mesh/wattle/internal/mesh"
	"github.com/wattle-mesh/wattle/internal/pipeline"
	"github.com/wattle-mesh/wattle/registry"
)

// CatalogServices is the answer of GET /v1/catalog/services, sorted by namespace and name.
type CatalogServices struct {
	Services []CatalogService `json:"services"`
}

// CatalogService is what is told of a service in a list.
type CatalogService struct {
	registry.Name
	Ports     []registry.Port `json:"ports"`   // with the protocols that the policy says where no registry does
	Sources   []SourceCount   `json:"sources"` // the one whose word holds first
	Endpoints int             `json:"endpoints"`
	Healthy   int             `json:"healthy"`   // of the endpoints, by the service's healthy_if
	Mesh      int             `json:"mesh"`      // called over mTLS
	Plaintext int             `json:"plaintext"` // called at their own addresses
	LeftOut   int             `json:"left_out"`  // not called
	Held      int             `json:"held"`      // served though their registries no longer name them
	Proxies   int             `json:"proxies"`   // whose calls can reach the service
}

// SourceCount is how many endpoints of a service a registry names.
type SourceCount struct {
	Registry  string `json:"registry"`
	Endpoints int    `json:"endpoints"`
}

// DescribedService is the answer of GET /v1/catalog/{namespace}/{name}: one service of the catalog, and how it is called.
type DescribedService struct {
	registry.Name
	Ports     []registry.Port     `json:"ports"`
	Sources   []string            `json:"sources"` // the registries that know it, the one whose word holds first
	Origin    string              `json:"origin,omitempty"`
	HealthyIf registry.HealthRule `json:"healthy_if"`        // what decides the health of its endpoints
	Proxies   []string            `json:"proxies,omitempty"` // whose calls can reach it, sorted; a watch does not tell them
	Endpoints []DescribedEndpoint `json:"endpoints"`
}

// DescribedEndpoint is one endpoint of it.
type DescribedEndpoint struct {
	Address     netip.Addr             `json:"address"`
	Port        uint16                 `json:"port"`
	ServicePort uint16                 `json:"service_port"`
	Sources     []string               `json:"sources"` // every registry that names it, the one whose word holds first
	Workload    string                 `json:"workload,omitempty"`
	Meta        map[string]string      `json:"meta,omitempty"`
	Weight      uint32                 `json:"weight"` // as proxies have it; of one that is left out, as its registries say
	Priority    uint32                 `json:"priority"`
	Locality    registry.Locality      `json:"locality,omitzero"`
	Since       time.Time              `json:"since,omitzero"` // in the catalog; at the earliest when the server started
	Health      registry.Health        `json:"health"`
	HealthSince time.Time              `json:"health_since,omitzero"` // likewise
	Reason      string                 `json:"reason,omitempty"`      // why the health is what it is
	Words       []registry.Word        `json:"words,omitempty"`       // what each voice says of its health
	Path        mesh.Path              `json:"path"`
	At          netip.AddrPort         `json:"at,omitzero"` // where proxies connect to; none: it is left out
	Why         string                 `json:"why"`         // why Path is what it is
	Code        string                 `json:"code,omitempty"`
	Held        *registry.HeldEndpoint `json:"held,omitempty"`
	Taken       bool                   `json:"taken"`          // proxies that have the service in scope send requests there
	Idle        string                 `json:"idle,omitempty"` // why they do not
}

func (h *handler) inForce() (*pipeline.State, error) {
	if st := h.o.State(); st.Catalog != nil && st.View != nil {
		return st, nil
	}
	return nil, errNotReady
}

// filter picks services.
type filter struct {
	namespace, registry, prefix, name string
	unhealthy                         bool
}

// filterOf reads a filter from a request that may say what is named.
func filterOf(r *http.Request, may ...string) (f filter, err error) {
	q := r.URL.Query()
	for key := range q {
		if !slices.Contains(may, key) {
			return f, fmt.Errorf("%w: there is no parameter %q, only %s", ErrInput, clip(key, 64), strings.Join(may, ", "))
		}
	}
	f = filter{namespace: q.Get("namespace"), registry: q.Get("registry"), prefix: q.Get("prefix"), name: q.Get("name")}
	switch v := q.Get("unhealthy"); v {
	case "true":
		f.unhealthy = true
	case "", "false":
	default:
		return f, fmt.Errorf("%w: unhealthy is true or false, not %q", ErrInput, clip(v, 64))
	}
	return f, nil
}

// names reports whether the filter picks a service of that name.
func (f filter) names(n registry.Name) bool {
	return (f.namespace == "" || f.namespace == n.Namespace) && strings.HasPrefix(n.Name, f.prefix) && (f.name == "" || f.name == n.Name)
}

func (h *handler) services(r *http.Request) (any, error) {
	f, err := filterOf(r, "namespace", "registry", "prefix", "unhealthy")
	if err != nil {
		return nil, err
	}
	st, err := h.inForce()
	if err != nil {
		return nil, err
	}
	held := map[registry.Name]int{}
	for _, holds := range h.o.Holds.Holds() {
		for _, x := range holds {
			held[x.Service] += x.Endpoints
		}
	}
	out := CatalogServices{Services: []CatalogService{}}
	for s := range st.Catalog.All() {
		if !f.names(s.Name) || f.registry != "" && !slices.Contains(s.Sources, f.registry) {
			continue
		}
		c := count(st, s.Name)
		if c.Held = held[s.Name]; f.unhealthy && c.Healthy == c.Endpoints {
			continue
		}
		out.Services = append(out.Services, c)
	}
	slices.SortFunc(out.Services, func(a, b CatalogService) int { return a.Name.Compare(b.Name) })
	return out, nil
}

// count makes the row of a service of the catalog.
func count(st *pipeline.State, n registry.Name) CatalogService {
	s := st.View.Amended(n)
	c := CatalogService{Name: n, Ports: s.Ports, Sources: []SourceCount{}, Endpoints: len(s.Endpoints), Proxies: len(st.View.Callers(n))}
	by := map[string]int{}
	for i, p := range st.View.Explain(n) {
		for _, source := range s.Endpoints[i].Sources {
			by[source]++
		}
		if healthOf(s.Endpoints[i], p) == registry.Healthy {
			c.Healthy++
		}
		switch p.Path {
		case mesh.OverMesh:
			c.Mesh++
		case mesh.InPlaintext:
			c.Plaintext++
		case mesh.LeftOut:
			c.LeftOut++
		}
	}
	for _, source := range st.Catalog.ByPrecedence(s.Sources) {
		c.Sources = append(c.Sources, SourceCount{source, by[source]})
	}
	return c
}

// healthOf returns what proxies believe of an endpoint, or would if it were not left out.
func healthOf(e *registry.Endpoint, p mesh.Placement) registry.Health {
	switch {
	case p.Path != mesh.LeftOut:
		return p.At.Health
	case e.Health == "":
		return registry.Healthy
	}
	return e.Health
}

func (h *handler) describe(r *http.Request) (any, error) {
	st, err := h.inForce()
	if err != nil {
		return nil, err
	}
	n := registry.Name{Namespace: r.PathValue("namespace"), Name: r.PathValue("name")}
	d := h.described(st, n)
	if d == nil {
		return nil, &Error{http.StatusNotFound, fmt.Sprintf("there is no service %q", clip(n.String(), 200)), "wattle catalog list lists them", ""}
	}
	d.Proxies = st.View.Callers(n)
	for i := range d.Endpoints {
		if e := &d.Endpoints[i]; e.Taken && len(d.Proxies) == 0 {
			e.Taken, e.Idle = false, "no proxy has the service in scope"
		}
	}
	return d, nil
}

// described describes a service, but for its proxies; nil if there is none.
func (h *handler) described(st *pipeline.State, n registry.Name) *DescribedService {
	s := st.View.Amended(n)
	if s == nil {
		return nil
	}
	out := &DescribedService{
		Name: n, Ports: s.Ports, Sources: st.Catalog.ByPrecedence(s.Sources), Origin: s.Origin, HealthyIf: st.View.Rule(n),
		Endpoints: make([]DescribedEndpoint, len(s.Endpoints)),
	}
	ages, held := st.Ages.Of(n), h.o.Holds.HeldOf(n)
	for i, p := range st.View.Explain(n) {
		e := s.Endpoints[i]
		d := DescribedEndpoint{
			Address: e.Address, Port: e.Port, ServicePort: e.ServicePort, Sources: st.Catalog.ByPrecedence(e.Sources), Meta: e.Meta.Map(),
			Weight: max(e.Weight, 1), Priority: e.Priority, Locality: e.Locality,
			Health: healthOf(e, p), Reason: e.Reason, Words: e.Words, Path: p.Path, Why: p.Why, Code: p.Code,
		}
		if e.Workload != nil {
			d.Workload = e.Workload.Key().String()
		}
		if i < len(ages) {
			d.Since, d.HealthSince = ages[i].Since, ages[i].HealthSince
		}
		if p.Path != mesh.LeftOut {
			d.At, d.Weight, d.Priority = netip.AddrPortFrom(p.At.Address, p.At.Port), p.At.Weight, p.At.Priority
			if p.At.MTLS {
				d.Workload = p.At.Workload.String()
			}
		}
		for k := range held {
			if held[k].Is(e) {
				d.Held = &held[k]
				break
			}
		}
		d.Taken, d.Idle = taken(d)
		out.Endpoints[i] = d
	}
	return out
}

// taken says whether callers send requests to an endpoint, and why not.
func taken(d DescribedEndpoint) (yes bool, why string) {
	switch {
	case d.Path == mesh.LeftOut:
		return false, string(mesh.LeftOut)
	case d.Health != registry.Healthy:
		return false, "it is " + string(d.Health)
	}
	return true, ""
}

// changedHolds lists the services of which something else is held now than before.
func changedHolds(was, now map[string][]registry.Held) []registry.Name {
	names := map[registry.Name]bool{}
	for name := range mergedKeys(was, now) {
		a, b := was[name], now[name]
		if slices.Equal(a, b) {
			continue
		}
		for _, x := range a {
			if !slices.Contains(b, x) {
				names[x.Service] = true
			}
		}
		for _, x := range b {
			if !slices.Contains(a, x) {
				names[x.Service] = true
			}
		}
	}
	return slices.SortedFunc(maps.Keys(names), registry.Name.Compare)
}

func mergedKeys(a, b map[string][]registry.Held) map[string]bool {
	out := map[string]bool{}
	for k := range a {
		out[k] = true
	}
	for k := range b {
		out[k] = true
	}
	return out
}

// servicePath is the path of a service's description.
func servicePath(n registry.Name) string {
	return "/v1/catalog/" + url.PathEscape(n.Namespace) + "/" + url.PathEscape(n.Name)
}
