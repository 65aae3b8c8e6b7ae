package configs

import (
	"crypto/sha256"
	_ "embed" // the default files
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"
)

// Server is the configuration of wattle server.
type Server struct {
	StateDir     string     `json:"state_dir"`     // keys, tokens, revisions
	Policy       string     `json:"policy"`        // the folder of policy files
	HTTP         string     `json:"http"`          // "127.0.0.1:7500": loopback only, or "unix:/path"
	Agents       string     `json:"agents"`        // "0.0.0.0:7501", where agents connect
	Names        []string   `json:"names"`         // DNS names and addresses in the server's certificate
	WorkloadLife Duration   `json:"workload_life"` // how long certificates of workloads and gateways live
	Registries   []Registry `json:"registries"`    // in the order of the file
	LogLevel     string     `json:"log_level"`     // debug, info, warn, error
	LogFormat    string     `json:"log_format"`    // text, json
	registries   []*Registry
}

// Registry is one registry block. Its driver decodes Body with Eval; what is the same for all drivers is no longer in it.
type Registry struct {
	Type        string        `json:"type"` // the first label: which driver
	Name        string        `json:"name"` // the second label
	SyncTimeout time.Duration `json:"sync_timeout"`
	Shape       RegistryShape `json:"shape"`
	Hold        *Hold         `json:"hold,omitempty"` // nil: the block has none
	// Fingerprint is of all that a change of needs another Source: everything but sync_timeout and hold.
	Fingerprint string `json:"-"`
	// Choice is of what of the registry is taken: neither of how its endpoints rank, nor of the driver's part, which is in Driven.
	Choice string            `json:"-"`
	Driven map[string]string `json:"-"` // the text of each attribute of the driver's part, and of all blocks of a name

	Body     hcl.Body         `json:"-"`
	Eval     *hcl.EvalContext `json:"-"`
	Origin   string           `json:"origin,omitempty"`
	src      *source
	frame    *frame
	locality map[string]string
}

// Hold says when the disappearance of endpoints is not believed at once.
type Hold struct {
	Share        float64  `json:"share"` // percent
	Window       Duration `json:"window"`
	After        Duration `json:"after"`
	MinEndpoints int      `json:"min_endpoints"`
}

// Diagnostics translates what a driver found wrong in Body.
func (r *Registry) Diagnostics(ds hcl.Diagnostics) Diagnostics {
	var out Diagnostics
	for _, h := range ds {
		out = append(out, translate(r.src, r.frame, h, hclCode(h.Summary)))
	}
	return out
}

//go:embed server.hcl
var defaultServer []byte

// DefaultServer returns the commented default file of the server.
func DefaultServer() []byte { return slices.Clone(defaultServer) }

// LoadServer reads a server's configuration file. The server is nil if the diagnostics have errors. Relative paths
// in it are relative to its folder.
func LoadServer(file string) (*Server, Diagnostics) {
	s, diags := loadFile(file, serverBlock)
	if s != nil {
		base := filepath.Dir(file)
		s.StateDir, s.Policy = under(base, s.StateDir), under(base, s.Policy)
		s.HTTP = underSocket(base, s.HTTP)
	}
	return s, diags
}

// under makes a path relative to a folder.
func under(base, path string) string {
	if path == "" || filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(base, path)
}

func underSocket(base, address string) string {
	if p, ok := strings.CutPrefix(address, "unix:"); ok {
		return "unix:" + under(base, p)
	}
	return address
}

var serverBlock = newBlock(block[Server]{
	doc: "The server's configuration, mostly `/etc/wattle/server.hcl`. Relative paths are relative to the file.",
	attrs: []attr[Server]{
		field("state_dir", text(), func(s *Server) *string { return &s.StateDir }, "Where the server keeps its keys, tokens and revisions. Only its user may read it.").or(cty.StringVal("/var/lib/wattle/server")),
		field("policy", text(), func(s *Server) *string { return &s.Policy }, "The folder of policy files.").or(cty.StringVal("/etc/wattle/policy")),
		field("http", httpAddress(), func(s *Server) *string { return &s.HTTP }, "Where the HTTP API listens: a loopback address, or a unix socket.").or(cty.StringVal("127.0.0.1:7500")),
		field("agents", listenAddress(), func(s *Server) *string { return &s.Agents }, "Where agents connect, over mTLS.").or(cty.StringVal("0.0.0.0:7501")),
		field("names", list(serverName(), 0), func(s *Server) *[]string { return &s.Names }, "DNS names and addresses that agents use for the server; its certificate is made for them, and for localhost.").or(cty.EmptyTupleVal),
		field("workload_life", duration(time.Minute, 7*day), func(s *Server) *Duration { return &s.WorkloadLife }, "How long certificates of workloads and gateways live. They are renewed at a third of it: for the rest, at most, their hosts can do without a server.").or(cty.StringVal("24h")),
		logLevelAttr(func(s *Server) *string { return &s.LogLevel }),
		logFormatAttr(func(s *Server) *string { return &s.LogFormat }),
	},
	blocks: []child[Server]{
		many[Server, Registry]("registry", registryTable{registryBlock}, func(s *Server) *[]*Registry { return &s.registries }, "A registry that knows services, by the driver's name and a name of its own. What else stands in it is the driver's."),
	},
	finish: func(d *decoder, s *Server) {
		names := map[string]place{}
		for i, r := range s.registries {
			s.Registries = append(s.Registries, *r)
			p := d.src.place(d.frame.child("registry", i).head.rng, nil)
			if first, twice := names[r.Name]; twice && r.Name != "" {
				d.out.report(duplicate("registry", r.Name, first, p))
			}
			names[r.Name] = p
		}
	},
})

func logLevelAttr[T any](at func(*T) *string) attr[T] {
	return field("log_level", oneOf("debug", "info", "warn", "error"), at, "What is logged.").or(cty.StringVal("info"))
}

func logFormatAttr[T any](at func(*T) *string) attr[T] {
	return field("log_format", oneOf("text", "json"), at, "How it is logged.").or(cty.StringVal("text"))
}

// registryBlock is the part of a registry block that is the same for all drivers.
var registryBlock = newBlock(block[Registry]{
	doc: "A registry that knows services.",
	labels: []label[Registry]{
		named("type", dnsName(), func(r *Registry) *string { return &r.Type }, "The driver: `static`, ..."),
		named("name", dnsName(), func(r *Registry) *string { return &r.Name }, "Its name, in status and diagnostics; one of a kind."),
	},
	attrs: append([]attr[Registry]{
		field("sync_timeout", duration(0, day), func(r *Registry) *Duration { return (*Duration)(&r.SyncTimeout) }, "How long the server waits for the registry's first answer before it serves without it, or with what it said before the restart.").or(cty.StringVal("10s")),
	}, shapeAttrs...),
	blocks: append([]child[Registry]{
		one("hold", holdBlock, func(r *Registry) **Hold { return &r.Hold }, "When the disappearance of endpoints that still live is not believed at once. Without the block its defaults hold, but for `static` nothing is held: its files are an operator's word."),
	}, shapeBlocks...),
	origin: func(r *Registry) *string { return &r.Origin },
	finish: func(_ *decoder, r *Registry) {
		r.Shape.Region, r.Shape.Zone, r.Shape.Rack = r.locality["region"], r.locality["zone"], r.locality["rack"]
	},
})

var holdBlock = newBlock(block[Hold]{
	doc: "Endpoints that disappear though they live are served on if too many of them do so at once: the registry may have been wiped. Until when, and how to let them go: [registries](registries.md#when-a-registry-misbehaves).",
	attrs: []attr[Hold]{
		field("share", percent(), func(h *Hold) *float64 { return &h.Share }, "Held is when more than this share of the registry's endpoints, or of a service's, disappeared within `window`. With 100 nothing is ever held.").or(cty.NumberIntVal(50)),
		field("window", duration(time.Second, time.Hour), func(h *Hold) *Duration { return &h.Window }, "The time within which disappearances count together.").or(cty.StringVal("30s")),
		field("after", duration(time.Second, 30*day), func(h *Hold) *Duration { return &h.After }, "How long they are held before they are believed to be gone.").or(cty.StringVal("10m")),
		field("min_endpoints", whole[int](1, 1_000_000), func(h *Hold) *int { return &h.MinEndpoints }, "A service with fewer endpoints is held only together with its registry.").or(cty.NumberIntVal(4)),
	},
})

// registryTable decodes a registry block and leaves the driver's part in its body.
type registryTable struct{ *block[Registry] }

func (t registryTable) decode(d *decoder, h header) *Registry {
	body, rest, _ := h.body.PartialContent(t.shape.schema)
	ours := &hclsyntax.Body{Attributes: hclsyntax.Attributes{}}
	for name, a := range body.Attributes {
		if expr, ok := a.Expr.(hclsyntax.Expression); ok {
			ours.Attributes[name] = &hclsyntax.Attribute{Name: name, Expr: expr, SrcRange: a.Range, NameRange: a.NameRange}
		}
	}
	for _, b := range body.Blocks {
		if inner, ok := b.Body.(*hclsyntax.Body); ok {
			ours.Blocks = append(ours.Blocks, &hclsyntax.Block{Type: b.Type, Labels: b.Labels, Body: inner, TypeRange: b.TypeRange, LabelRanges: b.LabelRanges, OpenBraceRange: b.DefRange})
		}
	}
	texts := textsOf(d.src, h)
	h.body = ours
	r := t.block.decode(d, h)
	r.Driven = maps.Clone(texts)
	maps.DeleteFunc(r.Driven, func(name, _ string) bool { return t.knows(name) })
	r.Fingerprint = fingerprint(h, texts, "sync_timeout", "hold")
	r.Choice = fingerprint(h, texts, append(slices.Collect(maps.Keys(r.Driven)), "sync_timeout", "hold", "priority", "failover", "weight", "locality", "protocol_from")...)
	r.Body, r.Eval, r.src, r.frame = rest, d.ctx, d.src, d.last
	return r
}

// knows reports whether an attribute or a kind of block is the same for all drivers.
func (t registryTable) knows(name string) bool {
	return slices.ContainsFunc(t.shape.schema.Attributes, func(a hcl.AttributeSchema) bool { return a.Name == name }) ||
		slices.ContainsFunc(t.shape.schema.Blocks, func(b hcl.BlockHeaderSchema) bool { return b.Type == name })
}

// textsOf returns the text of each attribute of a block, and of all its blocks of one kind, by name.
func textsOf(src *source, h header) map[string]string {
	texts := map[string]string{}
	if body, ok := h.body.(*hclsyntax.Body); ok {
		for name, a := range body.Attributes {
			texts[name] = string(a.SrcRange.SliceBytes(src.data))
		}
		for _, b := range body.Blocks {
			texts[b.Type] += fmt.Sprintf("%q\n", b.Range().SliceBytes(src.data))
		}
	}
	return texts
}

// fingerprint is the hash of a block without what has one of these names.
func fingerprint(h header, texts map[string]string, without ...string) string {
	sum := sha256.New()
	fmt.Fprintf(sum, "%q\n", h.labels)
	for _, name := range slices.Sorted(maps.Keys(texts)) {
		if !slices.Contains(without, name) {
			fmt.Fprintf(sum, "%q %q\n", name, texts[name])
		}
	}
	return hex.EncodeToString(sum.Sum(nil))
}

// httpAddress is where the HTTP API may listen.
func httpAddress() kind[string] {
	return checked("address and port, or socket", `"127.0.0.1:7500" or "unix:/run/wattle/http.sock"`, func(d *decoder, s string) bool {
		if p, ok := strings.CutPrefix(s, "unix:"); ok {
			if p == "" || len(p) > maxSocketPath {
				d.fail(codeAddress, fmt.Sprintf("%s is no path of a socket: %q", d.what(), short(p)), fmt.Sprintf("Write a path of at most %d bytes: \"unix:/run/wattle/http.sock\".", maxSocketPath))
				return false
			}
			return true
		}
		if port, ok := strings.CutPrefix(s, "localhost:"); ok {
			d.fail(codeAddress, fmt.Sprintf("%s is no address with a port: %q", d.what(), short(s)), fmt.Sprintf("Names are not resolved here: write \"127.0.0.1:%s\".", short(port)))
			return false
		}
		a, ok := d.addrPort(s)
		return ok && d.loopback(a.Addr(), "The HTTP API is for this machine: use 127.0.0.1, [::1] or \"unix:/path\". To reach it from elsewhere, forward the port over SSH.")
	})
}

// listenAddress is "address:port".
func listenAddress() kind[string] {
	return checked("address and port", `"0.0.0.0:7501"`, func(d *decoder, s string) bool {
		_, ok := d.addrPort(s)
		return ok
	})
}

// serverName is a DNS name or an address.
func serverName() kind[string] {
	return checked("name or address", "", func(d *decoder, s string) bool {
		if _, err := netip.ParseAddr(s); err == nil || domainName.MatchString(s) {
			return true
		}
		d.fail(codeDomain, fmt.Sprintf("%s is no host name: %q", d.what(), short(s)), "Write a DNS name or an IP address, without port.")
		return false
	})
}

// dialAddress is "host:port", where host is a name or an address.
func dialAddress() kind[string] {
	return checked("host and port", `"server.example:7501"`, func(d *decoder, s string) bool {
		host, port, err := net.SplitHostPort(s)
		n, numberErr := strconv.Atoi(port)
		_, addrErr := netip.ParseAddr(host)
		if err == nil && numberErr == nil && n >= 1 && n <= 65535 && (addrErr == nil || domainName.MatchString(host)) {
			return true
		}
		d.fail(codeAddress, fmt.Sprintf("%s is no host with a port: %q", d.what(), short(s)), `Write a DNS name or an IP address, a colon and a port: "server.example:7501".`)
		return false
	})
}

// isBrokenLink reports whether there is a link, if what it leads to is missing.
func isBrokenLink(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// loadFile reads one file whose content is a block's body.
func loadFile[T any](path string, b *block[T]) (*T, Diagnostics) {
	info, err := os.Stat(path)
	if err == nil && info.IsDir() {
		return nil, Diagnostics{wholeFile(codeFile, path, path+" is a folder", "Name the configuration file in it with -config.")}
	}
	missing := wholeFile(codeFile, path, path+" cannot be read: there is no such file", "Name your file with -config, or make this one: configs/server.hcl and configs/agent.hcl of Wattle's source have every default in a comment.")
	if errors.Is(err, fs.ErrNotExist) && !isBrokenLink(path) {
		return nil, Diagnostics{missing}
	}
	root, err := os.OpenRoot(filepath.Dir(path))
	if err != nil {
		return nil, Diagnostics{unreadable(path, err, false)}
	}
	defer root.Close()
	f := &file{path: filepath.Base(path)}
	if f.read(root, nil); f.src == nil {
		if f.diag != nil {
			return nil, Diagnostics{*f.diag}
		}
		return nil, Diagnostics{missing} // it was removed just now
	}
	f.src.closed = true
	r := &run{Loader: NewLoader(Options{}), root: root}
	f.tree = parse(f.src, b.shape)
	out := &decoded{diags: f.tree.diags}
	if f.tree.body == nil {
		return nil, out.diags
	}
	e := &env{ctx: &hcl.EvalContext{Functions: functions}, mesh: &Mesh{Domain: defaultDomain}}
	d := r.decoder(f, e, out)
	t := b.decode(d, header{body: f.tree.body, rng: f.tree.body.SrcRange})
	if out.diags.HasErrors() {
		return nil, out.diags.Sort()
	}
	return t, out.diags.Sort()
}
