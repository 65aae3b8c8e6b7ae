package registry

import (
	"fmt"
	"net/url"
	"path/filepath"
	"strings"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/gohcl"
)

// Body checks the body of a registry block that gohcl has decoded, and gathers what is wrong with it: every attribute's
// fault points at the attribute.
type Body struct {
	body  hcl.Body
	attrs hcl.Attributes
	dir   string
	diags hcl.Diagnostics
}

// DecodeBody decodes a body into the struct that raw points to, and returns the Body to check it with, and its content.
// Without one the diagnostics have errors.
func DecodeBody[T any](b hcl.Body, o DriverOptions, raw *T) (*Body, *hcl.BodyContent, hcl.Diagnostics) {
	if diags := gohcl.DecodeBody(b, o.Eval, raw); diags.HasErrors() {
		return nil, nil, diags
	}
	schema, _ := gohcl.ImpliedBodySchema(*raw)
	content, _, _ := b.PartialContent(schema) // it was decoded: there is nothing wrong
	return &Body{body: b, attrs: content.Attributes, dir: o.Dir}, content, nil
}

// Diagnostics returns what was found to be wrong so far.
func (d *Body) Diagnostics() hcl.Diagnostics { return d.diags }

// Has reports whether an attribute is written.
func (d *Body) Has(name string) bool { return d.attrs[name] != nil }

// Fail says what is wrong with an attribute, or with the block if it is not there.
func (d *Body) Fail(name, summary, detail string) {
	at := d.body.MissingItemRange()
	if a := d.attrs[name]; a != nil {
		at = a.Expr.Range()
	}
	d.FailAt(at, summary, detail)
}

// FailAt says what is wrong at a place.
func (d *Body) FailAt(at hcl.Range, summary, detail string) {
	d.diags = append(d.diags, &hcl.Diagnostic{Severity: hcl.DiagError, Summary: summary, Detail: detail, Subject: &at})
}

// Address takes the address of an HTTP API: "http://host:port", "https://host:port", with or without a path, and
// "unix:///path"; or otherwise, if the attribute is not there. ports has the port of each scheme for addresses without one. It is nil if it has no right form.
func (d *Body) Address(attr, text, otherwise string, ports map[string]string) *url.URL {
	if !d.Has(attr) {
		text = otherwise
	}
	u, err := url.Parse(text)
	remedy := fmt.Sprintf(`Write "http://127.0.0.1:%s", "https://registry.example:%s" or "unix:///run/registry.sock".`, ports["http"], ports["https"])
	switch {
	case err != nil:
		d.Fail(attr, "Invalid address", remedy)
		return nil
	case u.User != nil:
		d.Fail(attr, "Address with a secret", "Secrets come from files: leave the user and password out, and set token_file.")
		return nil
	case u.RawQuery != "" || u.Fragment != "" || u.Opaque != "":
		d.Fail(attr, "Invalid address", remedy)
		return nil
	}
	switch u.Scheme {
	case "unix":
		if u.Host != "" || !filepath.IsAbs(u.Path) {
			d.Fail(attr, "Invalid address", `The path of a socket is absolute: "unix:///run/registry.sock".`)
		}
	case "http", "https":
		if u.Hostname() == "" {
			d.Fail(attr, "Address without a host", remedy)
			return nil
		}
		if u.Port() == "" {
			u.Host += ":" + ports[u.Scheme]
		}
		u.Path = strings.TrimRight(u.Path, "/")
	default:
		d.Fail(attr, "Invalid address", remedy)
		return nil
	}
	return u
}

// Names takes a list of names that are not empty and not repeated.
func (d *Body) Names(attr string, names []string) []string {
	seen := map[string]bool{}
	for _, n := range names {
		switch {
		case n == "":
			d.Fail(attr, "Empty name in "+attr, "Leave it out, or write the name.")
		case seen[n]:
			d.Fail(attr, "Repeated name in "+attr, fmt.Sprintf("%q stands there twice. Write it once.", n))
		}
		seen[n] = true
	}
	if d.Has(attr) && len(names) == 0 {
		d.Fail(attr, "Empty "+attr, "Leave the attribute out, or name at least one.")
	}
	return names
}

// File takes the path of a file that the server reads: see ResolvePath.
func (d *Body) File(attr, path string) string {
	if d.Has(attr) && path == "" {
		d.Fail(attr, "Empty "+attr, "Write the path of a file.")
	}
	at, err := ResolvePath(d.dir, path)
	if err != nil {
		d.Fail(attr, "No such credential", err.Error()+".")
	}
	return at
}

// Duration takes a duration from 1 s to most.
func (d *Body) Duration(attr, text string, otherwise, most time.Duration) time.Duration {
	if !d.Has(attr) {
		return otherwise
	}
	t, err := time.ParseDuration(text)
	if err != nil || t < time.Second || t > most {
		d.Fail(attr, "Invalid duration", fmt.Sprintf(`%s is a duration from "1s" to %q, with its unit.`, attr, most))
	}
	return t
}

// Ports takes numbers of ports by name.
func (d *Body) Ports(attr string, ports map[string]int) map[string]uint16 {
	out := make(map[string]uint16, len(ports))
	for name, n := range ports {
		if n < 1 || n > 65535 {
			d.Fail(attr, "Invalid port", fmt.Sprintf("The port of %q is %d: a port is a number from 1 to 65535.", name, n))
		}
		out[name] = uint16(n)
	}
	return out
}

// TLS is a tls block: files in PEM, and the name that the server's certificate must have, if it is not the address.
type TLS struct {
	CAFile     string `hcl:"ca_file,optional"`
	CertFile   string `hcl:"cert_file,optional"`
	KeyFile    string `hcl:"key_file,optional"`
	ServerName string `hcl:"server_name,optional"`
}

// TLS takes the tls block, if there is one. secure says whether the registry is reached over TLS at all.
func (d *Body) TLS(content *hcl.BodyContent, eval *hcl.EvalContext, secure bool) TLS {
	var raw TLS
	blocks := content.Blocks.OfType("tls")
	if len(blocks) == 0 {
		return raw
	}
	gohcl.DecodeBody(blocks[0].Body, eval, &raw)
	in := &Body{body: blocks[0].Body, dir: d.dir}
	in.attrs, _ = blocks[0].Body.JustAttributes()
	if !secure {
		d.FailAt(blocks[0].DefRange, "TLS options without TLS", `They are for addresses that begin with "https://". Correct the address, or remove the block.`)
	}
	raw.CAFile, raw.CertFile, raw.KeyFile = in.File("ca_file", raw.CAFile), in.File("cert_file", raw.CertFile), in.File("key_file", raw.KeyFile)
	if (raw.CertFile == "") != (raw.KeyFile == "") {
		in.Fail("cert_file", "Certificate or key missing", "Set both cert_file and key_file, or neither.")
	}
	d.diags = append(d.diags, in.diags...)
	return raw
}
