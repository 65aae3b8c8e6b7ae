package consul

import (
	"fmt"
	"net/url"
	"time"

	"github.com/hashicorp/hcl/v2"

	"github.com/wattle-mesh/wattle/registry"
)

// What is not configured.
const (
	defaultAddress  = "http://127.0.0.1:8500"
	defaultWait     = 5 * time.Minute
	defaultMaxStale = 30 * time.Second
	maxParts        = 16 // datacentres times namespaces: each holds two connections over plaintext
	maxWait         = 10 * time.Minute
	maxMaxStale     = 24 * time.Hour
)

// body is the body of a registry block.
type body struct {
	Address      string         `hcl:"address,optional"`
	Datacenters  []string       `hcl:"datacenters,optional"`
	Namespaces   []string       `hcl:"namespaces,optional"`
	Partition    string         `hcl:"partition,optional"`
	TokenFile    string         `hcl:"token_file,optional"`
	Wait         string         `hcl:"wait,optional"`
	Stale        *bool          `hcl:"stale,optional"`
	MaxStale     string         `hcl:"max_stale,optional"`
	OnlyPassing  bool           `hcl:"only_passing,optional"`
	AddressFrom  string         `hcl:"address_from,optional"`
	NodeMeta     []string       `hcl:"node_meta,optional"`
	ServicePorts map[string]int `hcl:"service_ports,optional"`
	TLS          *registry.TLS  `hcl:"tls,block"`
}

// config is a registry block, checked.
type config struct {
	name        string // of the registry
	address     string // "http://host:port", "https://host:port/prefix" or "unix:///path"
	base        *url.URL
	datacenters []string // empty: the agent's own
	namespaces  []string // empty: none is sent
	partition   string
	tokenFile   string
	wait        time.Duration
	stale       bool
	maxStale    time.Duration
	onlyPassing bool
	addressFrom string // "service", "node" or the name of a tagged address
	nodeMeta    []string
	ports       map[string]uint16 // by "service" or "service/port": what callers name
	tls         registry.TLS
	beat        time.Duration // the pause of the heartbeat
	pause       time.Duration // the first one between two tries
	most        int           // services of a part that are read
	slots       int           // how many services may have a query of their own
}

// decode reads the body of a registry block. The config is of use only without errors.
func decode(b hcl.Body, o registry.DriverOptions) (*config, hcl.Diagnostics) {
	var raw body
	d, content, diags := registry.DecodeBody(b, o, &raw)
	if diags.HasErrors() {
		return nil, diags
	}
	c := &config{
		name: o.Name, partition: raw.Partition, onlyPassing: raw.OnlyPassing,
		stale: raw.Stale == nil || *raw.Stale, beat: defaultBeat, pause: firstPause, slots: slots, most: maxServices,
	}
	if c.base = d.Address("address", raw.Address, defaultAddress, map[string]string{"http": "8500", "https": "8501"}); c.base != nil {
		c.address = c.base.String()
		c.tls = d.TLS(content, o.Eval, c.base.Scheme == "https")
	}
	c.datacenters = d.Names("datacenters", raw.Datacenters)
	c.namespaces = d.Names("namespaces", raw.Namespaces)
	c.nodeMeta = d.Names("node_meta", raw.NodeMeta)
	if n := len(orOwn(c.datacenters)) * len(orOwn(c.namespaces)); n > maxParts {
		d.Fail("datacenters", "Too many datacentres and namespaces", fmt.Sprintf("They make %d parts to watch, at most %d are allowed. Spread them over several registry blocks.", n, maxParts))
	}
	c.tokenFile = d.File("token_file", raw.TokenFile)
	c.wait = d.Duration("wait", raw.Wait, defaultWait, maxWait)
	c.maxStale = d.Duration("max_stale", raw.MaxStale, defaultMaxStale, maxMaxStale)
	c.addressFrom = "service"
	if d.Has("address_from") {
		if c.addressFrom = raw.AddressFrom; raw.AddressFrom == "" {
			d.Fail("address_from", "Empty address_from", `Write "service", "node", or the name of a tagged address such as "lan" or "wan".`)
		}
	}
	c.ports = d.Ports("service_ports", raw.ServicePorts)
	return c, d.Diagnostics()
}
