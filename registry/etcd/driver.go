// Package etcd is the registry of instances that register themselves in etcd: one key for each, with a lease that says
// that it lives. Keys and JSON values in, services out. docs/registries.md describes both.
package etcd

import (
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/gohcl"

	"github.com/wattle-mesh/wattle/registry"
)

const (
	defaultPrefix  = "/wattle/services/"
	defaultTimeout = 5 * time.Second
	maxEndpoints   = 64
	maxPrefix      = 512 // bytes
)

// Driver makes Sources of etcd clusters: registry "etcd" "main" { endpoints = ["https://10.0.0.1:2379"] }.
func Driver() registry.Driver {
	return registry.Driver{Type: "etcd", New: open, Reach: []string{"endpoints", "username", "password_file", "dial_timeout", "request_timeout", "tls"}}
}

// body is the body of a registry block. README.md says what stands in it.
type body struct {
	Endpoints      *hcl.Attribute `hcl:"endpoints,optional"` // gohcl takes no pointer for required: open does
	Prefix         *hcl.Attribute `hcl:"prefix,optional"`
	Username       *hcl.Attribute `hcl:"username,optional"`
	PasswordFile   *hcl.Attribute `hcl:"password_file,optional"`
	DialTimeout    *hcl.Attribute `hcl:"dial_timeout,optional"`
	RequestTimeout *hcl.Attribute `hcl:"request_timeout,optional"`
	TLS            *tlsBody       `hcl:"tls,block"`
}

type tlsBody struct {
	CAFile     *hcl.Attribute `hcl:"ca_file,optional"`
	CertFile   *hcl.Attribute `hcl:"cert_file,optional"`
	KeyFile    *hcl.Attribute `hcl:"key_file,optional"`
	ServerName *hcl.Attribute `hcl:"server_name,optional"`
}

// config is a body that was found to be right.
type config struct {
	endpoints      []string // URLs
	prefix         string   // ends in a slash
	username       string
	passwordFile   string
	secure         bool // https
	caFile         string
	certFile       string
	keyFile        string
	serverName     string
	dialTimeout    time.Duration
	requestTimeout time.Duration
}

func open(b hcl.Body, o registry.DriverOptions) (registry.Source, hcl.Diagnostics) {
	var raw body
	if diags := gohcl.DecodeBody(b, o.Eval, &raw); diags.HasErrors() {
		return nil, diags
	}
	if raw.Endpoints == nil {
		at := b.MissingItemRange()
		return nil, hcl.Diagnostics{{Severity: hcl.DiagError, Summary: "Missing endpoints", Subject: &at,
			Detail: "Name the members of the cluster: endpoints = [\"https://10.0.0.1:2379\"]."}}
	}
	d := &decoder{eval: o.Eval, dir: o.Dir}
	c := d.config(&raw)
	if d.diags.HasErrors() {
		return nil, d.diags
	}
	s := &Source{
		config: c, name: o.Name, log: o.Log.With("registry", o.Name), report: o.Report,
		table: newTable(c.prefix), probe: probe, steady: steady,
	}
	if s.report == nil {
		s.report = func([]registry.Diagnostic) {}
	}
	return s, d.diags
}

// decoder checks the values of a body.
type decoder struct {
	eval  *hcl.EvalContext
	dir   string // what relative paths start from
	diags hcl.Diagnostics
}

func (d *decoder) say(severity hcl.DiagnosticSeverity, a *hcl.Attribute, summary, detail string) {
	at := a.Expr.Range()
	d.diags = append(d.diags, &hcl.Diagnostic{Severity: severity, Summary: summary, Detail: detail, Subject: &at})
}

func (d *decoder) wrong(a *hcl.Attribute, summary, detail string) {
	d.say(hcl.DiagError, a, summary, detail)
}

// value decodes an attribute, and reports whether it is there and of its type.
func (d *decoder) value(a *hcl.Attribute, into any) bool {
	if a == nil {
		return false
	}
	diags := gohcl.DecodeExpression(a.Expr, d.eval, into)
	d.diags = append(d.diags, diags...)
	return !diags.HasErrors()
}

func (d *decoder) config(b *body) config {
	c := config{prefix: defaultPrefix}
	d.endpoints(b.Endpoints, &c)
	d.prefix(b.Prefix, &c.prefix)
	c.dialTimeout = d.duration(b.DialTimeout, "dial_timeout")
	c.requestTimeout = d.duration(b.RequestTimeout, "request_timeout")
	c.username, c.passwordFile = d.text(b.Username, "username"), d.path(b.PasswordFile, "password_file")
	d.both(b.Username, b.PasswordFile, "username", "password_file")
	d.cleartext(b.Username, &c)
	if b.TLS == nil {
		return c
	}
	c.caFile, c.certFile, c.keyFile = d.path(b.TLS.CAFile, "ca_file"), d.path(b.TLS.CertFile, "cert_file"), d.path(b.TLS.KeyFile, "key_file")
	c.serverName = d.text(b.TLS.ServerName, "server_name")
	d.both(b.TLS.CertFile, b.TLS.KeyFile, "cert_file", "key_file")
	if !c.secure && len(c.endpoints) > 0 {
		d.wrong(b.Endpoints, "TLS to http endpoints", "With a tls block the endpoints are https: write \"https://...\", or remove the block.")
	}
	return c
}

func (d *decoder) endpoints(a *hcl.Attribute, c *config) {
	if !d.value(a, &c.endpoints) {
		return
	}
	if n := len(c.endpoints); n == 0 || n > maxEndpoints {
		d.wrong(a, "Wrong number of endpoints", fmt.Sprintf("Name 1 to %d members of the cluster; there are %d.", maxEndpoints, n))
		return
	}
	for i, e := range c.endpoints {
		if why := endpointFault(e); why != "" {
			d.wrong(a, "Wrong endpoint", fmt.Sprintf("%q %s. Write \"https://10.0.0.1:2379\": http or https, a DNS name or an IP address, and the port.", shorten(e), why))
			return
		}
		if slices.Contains(c.endpoints[:i], e) {
			d.wrong(a, "Repeated endpoint", fmt.Sprintf("%q is there twice. Name each member once.", e))
			return
		}
		secure := strings.HasPrefix(e, "https:")
		if i > 0 && secure != c.secure {
			d.wrong(a, "Mixed endpoints", "Some are http and some https. Use one for all.")
			return
		}
		c.secure = secure
	}
}

// endpointFault says what is wrong with an endpoint.
func endpointFault(s string) string {
	u, err := url.Parse(s)
	if err != nil {
		return "is no URL"
	}
	port, portErr := strconv.ParseUint(u.Port(), 10, 16)
	switch {
	case u.Scheme != "http" && u.Scheme != "https":
		return "is neither http nor https"
	case u.User != nil:
		return "has a user in it; use username and password_file"
	case u.Path != "" || u.RawQuery != "" || u.Fragment != "" || u.ForceQuery:
		return "has more than a host and a port"
	case u.Hostname() == "":
		return "has no host"
	case portErr != nil || port == 0:
		return "has no port"
	}
	return ""
}

func (d *decoder) prefix(a *hcl.Attribute, into *string) {
	if !d.value(a, into) {
		return
	}
	if p := *into; !strings.HasSuffix(p, "/") || len(p) > maxPrefix || !utf8.ValidString(p) {
		d.wrong(a, "Wrong prefix", fmt.Sprintf("The prefix of all keys ends in a slash and has at most %d bytes: \"%s\".", maxPrefix, defaultPrefix))
	}
}

// text decodes text that may be left out, but not be empty.
func (d *decoder) text(a *hcl.Attribute, name string) string {
	var s string
	if d.value(a, &s) && s == "" {
		d.wrong(a, "Empty "+name, "Say what it is, or leave it out.")
	}
	return s
}

func (d *decoder) path(a *hcl.Attribute, name string) string {
	p, err := registry.ResolvePath(d.dir, d.text(a, name))
	if err != nil {
		d.wrong(a, "No such credential", err.Error()+".")
	}
	return p
}

// both asks for two attributes or none.
func (d *decoder) both(a, b *hcl.Attribute, first, second string) {
	switch {
	case a != nil && b == nil:
		d.wrong(a, "Missing "+second, fmt.Sprintf("%s needs %s.", first, second))
	case b != nil && a == nil:
		d.wrong(b, "Missing "+first, fmt.Sprintf("%s needs %s.", second, first))
	}
}

// cleartext warns of a password that others can read on its way.
func (d *decoder) cleartext(a *hcl.Attribute, c *config) {
	if a == nil || c.secure {
		return
	}
	for _, e := range c.endpoints {
		if u, err := url.Parse(e); err == nil && !loopback(u.Hostname()) {
			d.say(hcl.DiagWarning, a, "Password in plaintext", fmt.Sprintf("It is sent to %s unencrypted. Use https endpoints.", net.JoinHostPort(u.Hostname(), u.Port())))
			return
		}
	}
}

func loopback(host string) bool {
	a, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && a.IsLoopback()
}

const (
	leastTimeout = 100 * time.Millisecond
	mostTimeout  = time.Minute
)

func (d *decoder) duration(a *hcl.Attribute, name string) time.Duration {
	var s string
	if !d.value(a, &s) {
		return defaultTimeout
	}
	t, err := time.ParseDuration(s)
	if err != nil || t < leastTimeout || t > mostTimeout {
		d.wrong(a, "Wrong "+name, fmt.Sprintf("%q is no duration from %s to %s. Write a number and a unit: \"5s\".", shorten(s), leastTimeout, mostTimeout))
	}
	return t
}

// Source watches the keys under one prefix of a cluster. What it knows outlives its runs, so that services keep their
// pointers. It runs once at a time.
type Source struct {
	config
	name   string
	log    *slog.Logger
	report func([]registry.Diagnostic)

	probe  time.Duration // how long a watch may be silent until its member is asked whether it is there
	steady time.Duration // how long a session lasts that has gone well

	table   *table
	store   store
	secrets string // what is wrong with files that changed; empty: nothing
}

// store tells one life of a cluster's data from the next: a cluster that is wiped or restored has another id, or its
// revisions start again.
type store struct {
	cluster  uint64 // zero: none was read yet
	revision int64  // the highest that was heard of
}
