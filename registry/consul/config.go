package consul

import (
	"fmt"
	"net/url"
	"path/filepath"
	"strings"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/gohcl"

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
	TLS          *tlsBody       `hcl:"tls,block"`
}

type tlsBody struct {
	CAFile     string `hcl:"ca_file,optional"`
	CertFile   string `hcl:"cert_file,optional"`
	KeyFile    string `hcl:"key_file,optional"`
	ServerName string `hcl:"server_name,optional"`
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
	tls         tlsBody
	beat        time.Duration // the pause of the heartbeat
	pause       time.Duration // the first one between two tries
	most        int           // services of a part that are read
	slots       int           // how many services may have a query of their own
}

// decoder checks a body and gathers what is wrong with it.
type decoder struct {
	body  hcl.Body
	attrs hcl.Attributes
	dir   string
	diags hcl.Diagnostics
}

// decode reads the body of a registry block. The config is of use only without errors.
func decode(b hcl.Body, o registry.DriverOptions) (*config, hcl.Diagnostics) {
	var raw body
	if diags := gohcl.DecodeBody(b, o.Eval, &raw); diags.HasErrors() {
		return nil, diags
	}
	schema, _ := gohcl.ImpliedBodySchema(raw)
	content, _, _ := b.PartialContent(schema) // it was decoded: there is nothing wrong
	d := &decoder{body: b, attrs: content.Attributes, dir: o.Dir}
	c := &config{
		name: o.Name, partition: raw.Partition, onlyPassing: raw.OnlyPassing,
		stale: raw.Stale == nil || *raw.Stale, beat: defaultBeat, pause: firstPause, slots: slots, most: maxServices,
	}
	d.address(c, raw)
	c.datacenters = d.names("datacenters", raw.Datacenters)
	c.namespaces = d.names("namespaces", raw.Namespaces)
	c.nodeMeta = d.names("node_meta", raw.NodeMeta)
	if n := len(orOwn(c.datacenters)) * len(orOwn(c.namespaces)); n > maxParts {
		d.fail("datacenters", "Too many datacentres and namespaces", fmt.Sprintf("They make %d parts to watch, at most %d are allowed. Spread them over several registry blocks.", n, maxParts))
	}
	c.tokenFile = d.file("token_file", raw.TokenFile)
	c.wait = d.duration("wait", raw.Wait, defaultWait, maxWait)
	c.maxStale = d.duration("max_stale", raw.MaxStale, defaultMaxStale, maxMaxStale)
	c.addressFrom = "service"
	if d.has("address_from") {
		if c.addressFrom = raw.AddressFrom; raw.AddressFrom == "" {
			d.fail("address_from", "Empty address_from", `Write "service", "node", or the name of a tagged address such as "lan" or "wan".`)
		}
	}
	d.servicePorts(c, raw)
	d.tls(c, content, o.Eval)
	return c, d.diags
}

func (d *decoder) has(name string) bool { return d.attrs[name] != nil }

// fail says what is wrong with an attribute, or with the block if it is not there.
func (d *decoder) fail(name, summary, detail string) {
	at := d.body.MissingItemRange()
	if a := d.attrs[name]; a != nil {
		at = a.Expr.Range()
	}
	d.diags = append(d.diags, &hcl.Diagnostic{Severity: hcl.DiagError, Summary: summary, Detail: detail, Subject: &at})
}

// address takes "http://host:port", "https://host:port" with or without a path, and "unix:///path".
func (d *decoder) address(c *config, raw body) {
	c.address = raw.Address
	if !d.has("address") {
		c.address = defaultAddress
	}
	u, err := url.Parse(c.address)
	const remedy = `Write "http://127.0.0.1:8500", "https://consul.example:8501" or "unix:///run/consul/http.sock".`
	switch {
	case err != nil:
		d.fail("address", "Invalid address", remedy)
		return
	case u.User != nil:
		d.fail("address", "Address with a secret", "Secrets come from files: leave the user and password out, and set token_file.")
		return
	case u.RawQuery != "" || u.Fragment != "" || u.Opaque != "":
		d.fail("address", "Invalid address", remedy)
		return
	}
	switch u.Scheme {
	case "unix":
		if u.Host != "" || !filepath.IsAbs(u.Path) {
			d.fail("address", "Invalid address", `The path of a socket is absolute: "unix:///run/consul/http.sock".`)
		}
	case "http", "https":
		if u.Hostname() == "" {
			d.fail("address", "Address without a host", remedy)
			return
		}
		if u.Port() == "" {
			u.Host += map[string]string{"http": ":8500", "https": ":8501"}[u.Scheme]
		}
		u.Path = strings.TrimRight(u.Path, "/")
		c.address = u.String()
	default:
		d.fail("address", "Invalid address", remedy)
	}
	c.base = u
}

// names takes a list of names that are not empty and not repeated.
func (d *decoder) names(attr string, names []string) []string {
	seen := map[string]bool{}
	for _, n := range names {
		switch {
		case n == "":
			d.fail(attr, "Empty name in "+attr, "Leave it out, or write the name.")
		case seen[n]:
			d.fail(attr, "Repeated name in "+attr, fmt.Sprintf("%q stands there twice. Write it once.", n))
		}
		seen[n] = true
	}
	if d.has(attr) && len(names) == 0 {
		d.fail(attr, "Empty "+attr, "Leave the attribute out, or name at least one.")
	}
	return names
}

// file takes a path and makes it relative to the server's configuration.
func (d *decoder) file(attr, path string) string {
	if d.has(attr) && path == "" {
		d.fail(attr, "Empty "+attr, "Write the path of a file.")
	}
	return under(d.dir, path)
}

func under(dir, path string) string {
	if path == "" || filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(dir, path)
}

// duration takes a duration from 1 s to most.
func (d *decoder) duration(attr, text string, otherwise, most time.Duration) time.Duration {
	if !d.has(attr) {
		return otherwise
	}
	t, err := time.ParseDuration(text)
	if err != nil || t < time.Second || t > most {
		d.fail(attr, "Invalid duration", fmt.Sprintf(`%s is a duration from "1s" to %q, with its unit.`, attr, most))
	}
	return t
}

func (d *decoder) servicePorts(c *config, raw body) {
	c.ports = make(map[string]uint16, len(raw.ServicePorts))
	for name, n := range raw.ServicePorts {
		if n < 1 || n > 65535 {
			d.fail("service_ports", "Invalid port", fmt.Sprintf("The port of %q is %d: a port is a number from 1 to 65535.", name, n))
		}
		c.ports[name] = uint16(n)
	}
}

// tls takes the tls block, which is for https only.
func (d *decoder) tls(c *config, content *hcl.BodyContent, eval *hcl.EvalContext) {
	blocks := content.Blocks.OfType("tls")
	if len(blocks) == 0 || c.base == nil {
		return
	}
	var raw tlsBody
	gohcl.DecodeBody(blocks[0].Body, eval, &raw)
	d.body = blocks[0].Body
	d.attrs, _ = blocks[0].Body.JustAttributes()
	if c.base.Scheme != "https" {
		at := blocks[0].DefRange
		d.diags = append(d.diags, &hcl.Diagnostic{Severity: hcl.DiagError, Summary: "TLS options without TLS", Subject: &at,
			Detail: `They are for addresses that begin with "https://". Correct the address, or remove the block.`})
	}
	raw.CAFile, raw.CertFile, raw.KeyFile = d.file("ca_file", raw.CAFile), d.file("cert_file", raw.CertFile), d.file("key_file", raw.KeyFile)
	if (raw.CertFile == "") != (raw.KeyFile == "") {
		d.fail("cert_file", "Certificate or key missing", "Set both cert_file and key_file, or neither.")
	}
	c.tls = raw
}
