package nomad

import (
	"fmt"
	"net/url"
	"time"

	"github.com/hashicorp/hcl/v2"

	"github.com/wattle-mesh/wattle/registry"
)

// What is not configured.
const (
	defaultAddress = "http://127.0.0.1:4646"
	defaultWait    = 5 * time.Minute
	maxWait        = 10 * time.Minute // Nomad waits no longer
	defaultPort    = 80
	maxNamespaces  = 16    // each holds two connections
	everyNamespace = "*"   // all that the token may see
	lowestDynamic  = 20000 // Nomad's min_dynamic_port and max_dynamic_port
	highestDynamic = 32000
)

// body is the body of a registry block.
type body struct {
	Address      string         `hcl:"address,optional"`
	Region       string         `hcl:"region,optional"`
	Namespaces   []string       `hcl:"namespaces,optional"`
	TokenFile    string         `hcl:"token_file,optional"`
	Wait         string         `hcl:"wait,optional"`
	AddressFrom  string         `hcl:"address_from,optional"`
	NodeMeta     []string       `hcl:"node_meta,optional"`
	ServicePorts map[string]int `hcl:"service_ports,optional"`
	KeepDropped  *bool          `hcl:"keep_dropped,optional"`
	TLS          *registry.TLS  `hcl:"tls,block"`
}

// config is a registry block, checked.
type config struct {
	name        string // of the registry
	base        *url.URL
	address     string // of base
	region      string // empty: the agent's own
	namespaces  []string
	tokenFile   string
	wait        time.Duration
	fromHost    bool // endpoints are called at their node's address
	nodeMeta    []string
	ports       map[string]uint16 // by service: what callers name
	keepDropped bool
	tls         registry.TLS
	beat        time.Duration // the pause of the heartbeat
	pause       time.Duration // the first one between two tries
	lap         time.Duration // in which everything is read again
	most        int           // services that are read
}

// decode reads the body of a registry block. The config is of use only without errors.
func decode(b hcl.Body, o registry.DriverOptions) (*config, hcl.Diagnostics) {
	var raw body
	d, content, diags := registry.DecodeBody(b, o, &raw)
	if diags.HasErrors() {
		return nil, diags
	}
	c := &config{
		name: o.Name, region: raw.Region, keepDropped: raw.KeepDropped == nil || *raw.KeepDropped,
		beat: defaultBeat, pause: firstPause, lap: defaultLap, most: maxServices,
	}
	if c.base = d.Address("address", raw.Address, defaultAddress, map[string]string{"http": "4646", "https": "4646"}); c.base != nil {
		c.address = c.base.String()
		c.tls = d.TLS(content, o.Eval, c.base.Scheme == "https")
	}
	c.namespaces = d.Names("namespaces", raw.Namespaces)
	switch {
	case len(c.namespaces) == 0:
		c.namespaces = []string{everyNamespace}
	case len(c.namespaces) > maxNamespaces:
		d.Fail("namespaces", "Too many namespaces", fmt.Sprintf("At most %d are allowed. Leave the attribute out to read all that the token may see.", maxNamespaces))
	}
	for _, ns := range c.namespaces {
		if ns == everyNamespace && len(c.namespaces) > 1 {
			d.Fail("namespaces", "All namespaces and more", `"*" stands for all of them. Write it alone, or name each.`)
		}
	}
	c.nodeMeta = d.Names("node_meta", raw.NodeMeta)
	c.tokenFile = d.File("token_file", raw.TokenFile)
	c.wait = d.Duration("wait", raw.Wait, defaultWait, maxWait)
	switch {
	case !d.Has("address_from"), raw.AddressFrom == "service":
	case raw.AddressFrom == "host":
		c.fromHost = true
	default:
		d.Fail("address_from", "Unknown address_from", `Write "service" or "host".`)
	}
	c.ports = d.Ports("service_ports", raw.ServicePorts)
	return c, d.Diagnostics()
}
