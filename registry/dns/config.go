package dns

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/gohcl"

	"github.com/wattle-mesh/wattle/registry"
)

// config is what a registry block says.
type config struct {
	resolvers    []netip.AddrPort // none: those of resolvConf
	resolvConf   string
	minTTL       time.Duration
	maxTTL       time.Duration
	timeout      time.Duration // of one query
	negativeHold time.Duration
	types        []uint16 // of address records
	maxQueries   int      // at once
	rate         int      // queries a second
	services     []*serviceConfig
}

// serviceConfig is a service block.
type serviceConfig struct {
	registry.Name
	port     uint16 // zero: that of the SRV records
	protocol registry.Protocol
	origin   string
	sets     []set
}

// set is one name whose records are endpoints of a service.
type set struct {
	name string // canonical: lower case, with the dot at its end
	srv  bool   // SRV records; else addresses
	port uint16 // where addresses listen
	meta registry.Labels
}

// body is the body of a registry block. What is no *hcl.Attribute needs no check.
type body struct {
	Resolvers    *hcl.Attribute `hcl:"resolvers"`
	MinTTL       *hcl.Attribute `hcl:"min_ttl"`
	MaxTTL       *hcl.Attribute `hcl:"max_ttl"`
	Timeout      *hcl.Attribute `hcl:"timeout"`
	NegativeHold *hcl.Attribute `hcl:"negative_hold"`
	Family       *hcl.Attribute `hcl:"family"`
	MaxQueries   *hcl.Attribute `hcl:"max_queries"`
	QueryRate    *hcl.Attribute `hcl:"queries_per_second"`
	Services     []serviceBody  `hcl:"service,block"`
}

type serviceBody struct {
	Name      string         `hcl:"name,label"`
	NameRange hcl.Range      `hcl:"name,label_range"`
	Range     hcl.Range      `hcl:",def_range"`
	Namespace *hcl.Attribute `hcl:"namespace"`
	Port      *hcl.Attribute `hcl:"port"`
	Protocol  *hcl.Attribute `hcl:"protocol"`
	Sets      []setBody      `hcl:"set,block"`
	Set       setBody        `hcl:",remain"` // a service's only set may stand in the service
}

type setBody struct {
	Range        hcl.Range         `hcl:",def_range"`
	SRV          *hcl.Attribute    `hcl:"srv"`
	Name         *hcl.Attribute    `hcl:"name"`
	EndpointPort *hcl.Attribute    `hcl:"endpoint_port"`
	Meta         map[string]string `hcl:"meta,optional"`
}

func (b setBody) empty() bool {
	return b.SRV == nil && b.Name == nil && b.EndpointPort == nil && b.Meta == nil
}

// defaultMaxTTL is how long an answer is used at most if nothing else is said.
const defaultMaxTTL = time.Minute

func decode(b hcl.Body, eval *hcl.EvalContext) (*config, hcl.Diagnostics) {
	var in body
	r := &reader{eval: eval}
	r.diags = gohcl.DecodeBody(b, eval, &in)
	c := &config{resolvConf: defaultResolvConf}
	c.resolvers = r.resolvers(in.Resolvers)
	c.minTTL = r.duration(in.MinTTL, time.Second, 100*time.Millisecond, time.Hour)
	c.maxTTL = r.duration(in.MaxTTL, max(defaultMaxTTL, c.minTTL), time.Second, 24*time.Hour)
	if in.MaxTTL != nil && c.maxTTL < c.minTTL {
		r.fail(in.MaxTTL.Expr.Range(), "max_ttl is below min_ttl", "Raise max_ttl, or lower min_ttl.")
	}
	c.timeout = r.duration(in.Timeout, 2*time.Second, 100*time.Millisecond, 30*time.Second)
	c.negativeHold = r.duration(in.NegativeHold, 30*time.Second, 0, 24*time.Hour)
	c.types = r.family(in.Family)
	c.maxQueries = r.number(in.MaxQueries, 32, 1, 1000)
	c.rate = r.number(in.QueryRate, 1000, 1, 100_000)
	first := map[registry.Name]hcl.Range{}
	for _, s := range in.Services {
		service := r.service(s)
		if at, twice := first[service.Name]; twice {
			r.fail(s.NameRange, "Service "+service.Name.String()+" is there twice", "It stands at "+at.String()+", too. Put all its names into one block, each in a set block of its own.")
			continue
		}
		first[service.Name] = s.NameRange
		c.services = append(c.services, service)
	}
	slices.SortFunc(c.services, func(a, b *serviceConfig) int { return a.Name.Compare(b.Name) })
	slices.SortStableFunc(r.diags, func(a, b *hcl.Diagnostic) int { // gohcl goes through maps
		if a.Subject == nil || b.Subject == nil {
			return 0
		}
		return cmp.Compare(a.Subject.Start.Byte, b.Subject.Start.Byte)
	})
	return c, r.diags
}

// service reads a service block.
func (r *reader) service(b serviceBody) *serviceConfig {
	s := &serviceConfig{Name: registry.Name{Namespace: "default", Name: b.Name}, origin: originOf(b.Range)}
	r.label(b.Name, b.NameRange)
	if b.Namespace != nil {
		s.Namespace = r.text(b.Namespace)
		r.label(s.Namespace, b.Namespace.Expr.Range())
	}
	s.port = uint16(r.number(b.Port, 0, 1, 65535))
	s.protocol = r.protocol(b.Protocol)
	sets := b.Sets
	b.Set.Range = b.Range
	switch {
	case len(sets) == 0:
		sets = []setBody{b.Set}
	case !b.Set.empty():
		r.fail(b.Range, "Both a set block and a set of the service's own", "Move srv, name, endpoint_port and meta of the service into a set block.")
	}
	seen := map[string]bool{}
	for _, in := range sets {
		one, ok := r.set(in, b, s.port)
		if key := one.name; ok && seen[key] {
			r.fail(in.Range, "The name "+one.name+" is there twice in one service", "Remove one of them.")
		} else if ok {
			seen[key] = true
			s.sets = append(s.sets, one)
		}
	}
	return s
}

// set reads a set block, or what stands for it in a service. The service has the port if that is not zero.
func (r *reader) set(b setBody, in serviceBody, port uint16) (set, bool) {
	out := set{srv: b.SRV != nil, meta: registry.LabelsOf(b.Meta)}
	named := cmp.Or(b.SRV, b.Name)
	switch {
	case named == nil:
		r.fail(b.Range, "No name to ask for", `Write srv = "_web._tcp.example.com" for SRV records, or name = "web.example.com" for addresses.`)
		return out, false
	case b.SRV != nil && b.Name != nil:
		r.fail(b.Name.Range, "Both srv and name", "SRV records lead to addresses by themselves: keep one of them. Two names are two set blocks.")
		return out, false
	case out.srv && b.EndpointPort != nil:
		r.fail(b.EndpointPort.Range, "endpoint_port beside srv", "SRV records say where endpoints listen: remove endpoint_port. The port that callers name is the service's port.")
		return out, false
	}
	out.port = uint16(r.number(b.EndpointPort, int(port), 1, 65535))
	if !out.srv && port == 0 && in.Port == nil {
		r.fail(b.Range, "No port", "Address records say no port: write port = 5432 into the service.")
		return out, false
	}
	var ok bool
	out.name, ok = r.domain(named)
	return out, ok
}
