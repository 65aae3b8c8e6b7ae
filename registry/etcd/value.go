package etcd

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/netip"
	"slices"
	"sort"
	"strings"
	"unicode/utf8"

	"github.com/wattle-mesh/wattle/registry"
)

// What a value may be. schema.json says the same; a test holds the two together.
const (
	maxValue  = 64 << 10 // bytes
	maxPorts  = 64
	maxLabels = 64
	maxWeight = 1_000_000
	maxReason = 1024 // characters
)

// instance is one instance of a service as its value says it.
type instance struct {
	Address  netip.Addr
	Ports    []instancePort
	Meta     map[string]string
	Weight   uint32
	Locality registry.Locality
	Health   registry.Health
	Reason   string
}

// instancePort is one port of the service that the instance serves.
type instancePort struct {
	registry.Port
	Target uint16 // where the instance listens; it is Number if the value does not say it
}

// decode reads a value. ignored names what stands in it that Wattle does not know, such as a misspelt field, or one of
// a later version: the rest of the value is used.
func decode(value []byte) (i *instance, ignored []string, err error) {
	if len(value) > maxValue {
		return nil, nil, fmt.Errorf("it has %d bytes, at most %d are allowed", len(value), maxValue)
	}
	if !utf8.Valid(value) {
		return nil, nil, errors.New("it is not UTF-8")
	}
	d := json.NewDecoder(bytes.NewReader(value))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		return nil, nil, fmt.Errorf("it is not JSON: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, nil, fmt.Errorf("it is not JSON: something follows at byte %d", d.InputOffset())
	}
	r := &reader{}
	i = r.instance(v)
	if r.err != nil {
		return nil, nil, r.err
	}
	sort.Strings(r.ignored)
	return i, r.ignored, nil
}

// reader turns JSON into an instance. It remembers the first thing that is wrong.
type reader struct {
	err     error
	ignored []string
}

func (r *reader) fail(path, format string, args ...any) {
	if r.err == nil {
		r.err = fmt.Errorf("%s %s", path, fmt.Sprintf(format, args...))
	}
}

// fields is a JSON object. What is taken from it is removed; what is left in the end is unknown.
type fields map[string]any

func (f fields) take(name string) (any, bool) {
	v, ok := f[name]
	delete(f, name)
	return v, ok
}

func (r *reader) object(path string, v any) fields {
	f, ok := v.(map[string]any)
	if !ok {
		r.fail(path, "is no object")
	}
	return f
}

// end notes what is left of an object.
func (r *reader) end(prefix string, f fields) {
	for name := range f {
		r.ignored = append(r.ignored, prefix+name)
	}
}

func (r *reader) instance(v any) *instance {
	f := r.object("the value", v)
	i := &instance{Address: r.address(f), Ports: r.ports(f)}
	if v, ok := f.take("meta"); ok {
		i.Meta = r.meta(v)
	}
	if v, ok := f.take("weight"); ok {
		i.Weight = uint32(r.integer("weight", v, 0, maxWeight))
	}
	if v, ok := f.take("locality"); ok {
		l := r.object("locality", v)
		i.Locality = registry.Locality{
			Region: r.text(l, "locality.", "region"), Zone: r.text(l, "locality.", "zone"), Rack: r.text(l, "locality.", "rack"),
		}
		r.end("locality.", l)
	}
	i.Health = registry.Health(r.word(f, "", "health", string(registry.Healthy), string(registry.Unhealthy), string(registry.Draining)))
	i.Reason = r.text(f, "", "reason")
	if n := utf8.RuneCountInString(i.Reason); n > maxReason {
		r.fail("reason", "has %d characters, at most %d are allowed", n, maxReason)
	}
	r.end("", f)
	return i
}

func (r *reader) address(f fields) netip.Addr {
	s := r.text(f, "", "address")
	a, err := netip.ParseAddr(s)
	if err != nil || a.Zone() != "" {
		r.fail("address", "is no IP address: %q", shorten(s))
	}
	return a.Unmap()
}

func (r *reader) ports(f fields) []instancePort {
	v, _ := f.take("ports")
	list, ok := v.([]any)
	if !ok || len(list) == 0 || len(list) > maxPorts {
		r.fail("ports", "is no list of 1 to %d ports", maxPorts)
		return nil
	}
	out := make([]instancePort, 0, len(list))
	for n, v := range list {
		at := fmt.Sprintf("ports[%d]", n)
		o := r.object(at, v)
		at += "."
		number, _ := o.take("number")
		p := instancePort{Port: registry.Port{
			Number: uint16(r.integer(at+"number", number, 1, math.MaxUint16)), Name: r.text(o, at, "name"),
			Protocol: registry.Protocol(r.word(o, at, "protocol", string(registry.HTTP), string(registry.HTTP2), string(registry.GRPC), string(registry.TCP))),
		}}
		p.Target = p.Number
		if v, ok := o.take("target"); ok {
			p.Target = uint16(r.integer(at+"target", v, 1, math.MaxUint16))
		}
		r.end(at, o)
		if slices.ContainsFunc(out, func(o instancePort) bool { return o.Number == p.Number }) {
			r.fail(at+"number", "repeats port %d", p.Number)
		}
		out = append(out, p)
	}
	return out
}

func (r *reader) meta(v any) map[string]string {
	f := r.object("meta", v)
	if len(f) > maxLabels {
		r.fail("meta", "has %d labels, at most %d are allowed", len(f), maxLabels)
		return nil
	}
	out := make(map[string]string, len(f))
	for k, v := range f {
		s, ok := v.(string)
		if !ok || k == "" {
			r.fail("meta", "has a label that is no text, or has no name: %q", shorten(k))
			return nil
		}
		out[k] = s
	}
	return out
}

// text takes a string from an object; it is empty if it is missing.
func (r *reader) text(f fields, prefix, name string) string {
	v, ok := f.take(name)
	s, isText := v.(string)
	if ok && !isText {
		r.fail(prefix+name, "is no text")
	}
	return s
}

// word takes one of these words from an object, or none if it is missing.
func (r *reader) word(f fields, prefix, name string, words ...string) string {
	_, there := f[name]
	s := r.text(f, prefix, name)
	if there && !slices.Contains(words, s) {
		r.fail(prefix+name, "is none of %s: %q", strings.Join(words, ", "), shorten(s))
	}
	return s
}

// integer reads a number. 80.0 is one, as in JSON Schema.
func (r *reader) integer(path string, v any, least, most int) int {
	n, ok := v.(json.Number)
	if !ok {
		r.fail(path, "is no number")
		return 0
	}
	x, err := n.Float64()
	if err != nil || x != math.Trunc(x) || x < float64(least) || x > float64(most) {
		r.fail(path, "is no whole number from %d to %d: %s", least, most, shorten(n.String()))
		return 0
	}
	return int(x)
}

// shorten makes somebody else's text fit to be shown.
func shorten(s string) string {
	const most = 80
	s = strings.ToValidUTF8(s, "\uFFFD")
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "..."
}
