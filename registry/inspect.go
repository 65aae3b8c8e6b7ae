package registry

import (
	"cmp"
	"errors"
	"fmt"
	"iter"
	"maps"
	"reflect"
	"slices"
	"strings"
	"unicode/utf8"
)

// What an endpoint may bring along.
const (
	maxMeta      = 64        // labels
	maxMetaBytes = 4 << 10   // of all keys and values
	maxWeight    = 1_000_000 // Envoy's sum over a locality is 32 bits
	maxLabel     = 63        // a DNS label, RFC 1035
	maxText      = 16 << 10  // bytes of its reason and locality
)

// What a service may have.
const (
	maxServiceEndpoints = 20_000
	maxPorts            = 1000
	maxPortName         = 255  // bytes
	maxOrigin           = 4096 // bytes
)

// maxShown bounds in bytes what a message repeats of what a registry said.
const maxShown = 128

// clip cuts a text that a registry said, in front of a character, and makes it UTF-8.
func clip(s string, n int) string {
	if len(s) > n {
		for n > 0 && !utf8.RuneStart(s[n]) {
			n--
		}
		s = s[:n] + "..."
	}
	return strings.ToValidUTF8(s, "\uFFFD")
}

// short is clip for a message that quotes it as it is.
func short(s string) string {
	if len(s) > maxShown {
		return s[:maxShown] + "..."
	}
	return s
}

// inspector looks into one service.
type inspector struct {
	source string
	*Service
	ds   []Diagnostic
	more int // faults that ds does not have
}

// inspect returns the service without what is faulty in it, and what that is. It returns s itself if nothing is,
// and nil if nothing of it can be used.
func inspect(source string, s *Service) verdict {
	if s == nil {
		return verdict{ds: []Diagnostic{{Severity: Error, Code: badName, Source: source,
			Summary: "a service is missing where one should be", Detail: "This is a fault of the driver: please report it."}}}
	}
	in := &inspector{source: source, Service: s}
	if why := in.nameFault(); why != "" {
		in.fault(badName, fmt.Sprintf("service %q is left out: %s", short(s.Name.String()), why), in.renaming())
		return verdict{nil, in.ds, 0}
	}
	ports := in.ports()
	endpoints := in.endpoints(ports)
	if len(in.ds) == 0 {
		return verdict{clean: s}
	}
	clean := *s
	clean.Ports, clean.Endpoints, clean.Origin = ports, endpoints, clip(s.Origin, maxOrigin)
	return verdict{&clean, in.ds, in.more}
}

func (in *inspector) fault(code, summary, detail string) {
	if len(in.ds) == maxTold {
		in.more++
		return
	}
	in.ds = append(in.ds, Diagnostic{Severity: Error, Code: code, Summary: summary, Detail: detail, Source: in.source,
		Origin: clip(in.Origin, maxShown)})
}

func (in *inspector) nameFault() string {
	switch {
	case in.Namespace == "":
		return "its namespace is empty"
	case in.Service.Name.Name == "":
		return "its name is empty"
	case !isLabel(in.Namespace):
		return "its namespace is not of lower-case letters, digits and hyphens"
	case !isLabel(in.Service.Name.Name):
		return "its name is not of lower-case letters, digits and hyphens"
	}
	return ""
}

// renaming says how the service gets a name that the mesh can have.
func (in *inspector) renaming() string {
	attr, name := "rename", in.Service.Name.Name
	if !isLabel(in.Namespace) {
		attr, name = "namespaces", in.Namespace
	}
	other := legible(name)
	if other == "" || len(name) > maxShown {
		return "Give it another name in its registry."
	}
	return fmt.Sprintf("Give it another name in its registry, or in the registry's block: %s = { %q = %q }.", attr, name, other)
}

// legible makes a label of a name, empty if there is nothing to make it of.
func legible(name string) string {
	out := strings.Map(func(c rune) rune {
		if c < 'a' && c != '-' && (c < '0' || c > '9') || c > 'z' {
			return '-'
		}
		return c
	}, strings.ToLower(name))
	return strings.Trim(out[:min(len(out), maxLabel)], "-")
}

// isLabel reports whether s can be a label of a host name (RFC 1123), in lower case.
func isLabel(s string) bool {
	for _, c := range []byte(s) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return false
		}
	}
	return s != "" && len(s) <= maxLabel && s[0] != '-' && s[len(s)-1] != '-'
}

// ports returns those that can be used.
func (in *inspector) ports() []Port {
	all := in.Ports[:min(len(in.Ports), maxPorts)]
	if len(all) < len(in.Ports) {
		in.fault(tooMuch, fmt.Sprintf("service %s has %d ports, of which the first %d are used", in.Service.Name, len(in.Ports), maxPorts),
			"Split it into several services.")
	}
	good := make([]Port, 0, len(all))
	for _, p := range all {
		if why := portFault(good, p); why != "" {
			in.fault(badPort, fmt.Sprintf("port %d of service %s is left out: %s", p.Number, in.Service.Name, why),
				"Correct it in its registry.")
			continue
		}
		good = append(good, p)
	}
	return good
}

func portFault(others []Port, p Port) string {
	switch {
	case p.Number == 0:
		return "0 is no port"
	case slices.ContainsFunc(others, func(o Port) bool { return o.Number == p.Number }):
		return "the service has this port twice"
	case p.Protocol != "" && !p.Protocol.IsHTTP() && p.Protocol != TCP:
		return fmt.Sprintf("%q is none of the protocols http, http2, grpc and tcp", short(string(p.Protocol)))
	case len(p.Name) > maxPortName:
		return fmt.Sprintf("its name is longer than %d bytes", maxPortName)
	case !utf8.ValidString(p.Name):
		return "its name is not UTF-8"
	}
	return ""
}

// endpoints returns those that can be used, given the service's ports.
func (in *inspector) endpoints(ports []Port) []*Endpoint {
	all := in.Endpoints[:min(len(in.Endpoints), maxServiceEndpoints)]
	if len(all) < len(in.Endpoints) {
		in.fault(tooMuch, fmt.Sprintf("service %s has %d endpoints, of which the first %d are used", in.Service.Name, len(in.Endpoints), maxServiceEndpoints),
			"Split it into several services.")
	}
	good := make([]*Endpoint, 0, len(all))
	known := make(map[identity]bool, len(all))
	declared := map[WorkloadKey]*Workload{}
	for _, e := range all {
		code, why := endpointFault(e)
		switch {
		case why != "":
		case !slices.ContainsFunc(ports, func(p Port) bool { return p.Number == e.ServicePort }):
			code, why = badEndpoint, fmt.Sprintf("the service has no port %d", e.ServicePort)
		case known[e.identity()]:
			code, why = badEndpoint, "the service has it twice"
		case e.Workload != nil:
			code, why = badWorkload, in.workloadFault(e, declared)
		}
		if why != "" {
			in.fault(code, fmt.Sprintf("endpoint %s of service %s is left out: %s", e.label(), in.Service.Name, why),
				"Correct it in its registry.")
			continue
		}
		known[e.identity()] = true
		good = append(good, e)
	}
	return good
}

// label names the endpoint in a message.
func (e *Endpoint) label() string {
	if e == nil {
		return "?"
	}
	if e.Workload != nil {
		return fmt.Sprintf("%s (%s)", e, clip(e.Workload.Key().String(), maxShown))
	}
	return e.String()
}

// endpointFault says what is wrong with an endpoint on its own.
func endpointFault(e *Endpoint) (code, why string) {
	code = badEndpoint
	switch {
	case e == nil:
		return code, "it is missing"
	case !e.Address.IsValid():
		return code, "it has no address"
	case e.Address.IsUnspecified(), e.Address.IsMulticast(), e.Address.Zone() != "", e.Address.Is4In6():
		return code, "nothing can be sent to this address"
	case e.Port == 0:
		return code, "0 is no port"
	case badness(e.Health) < 0:
		return code, fmt.Sprintf("%q is none of the states healthy, unhealthy and draining", short(string(e.Health)))
	case e.Weight > maxWeight:
		return code, fmt.Sprintf("its weight is above %d", maxWeight)
	case len(e.Reason)+len(e.Locality.Region)+len(e.Locality.Zone)+len(e.Locality.Rack) > maxText:
		return code, fmt.Sprintf("its health's reason and its locality are larger than %d bytes", maxText)
	case !utf8.ValidString(e.Reason + e.Locality.Region + e.Locality.Zone + e.Locality.Rack):
		return code, "it has text that is not UTF-8"
	}
	return badMeta, metaFault(e.Meta.Len(), e.Meta.All())
}

// CheckMeta says why no endpoint may have this metadata: the same as of what any registry says. nil: it may.
func CheckMeta(meta map[string]string) error {
	if why := metaFault(len(meta), maps.All(meta)); why != "" {
		return errors.New(why)
	}
	return nil
}

func metaFault(n int, all iter.Seq2[string, string]) string {
	if n > maxMeta {
		return fmt.Sprintf("it has %d metadata labels, at most %d are allowed", n, maxMeta)
	}
	size := 0
	for k, v := range all {
		size += len(k) + len(v)
		switch {
		case k == "":
			return "it has a metadata label without a name"
		case !utf8.ValidString(k), !utf8.ValidString(v):
			return fmt.Sprintf("its metadata label %q is not UTF-8", short(k))
		case size > maxMetaBytes:
			return fmt.Sprintf("its metadata is larger than %d bytes", maxMetaBytes)
		}
	}
	return ""
}

// workloadFault says what is wrong with the endpoint's workload. declared holds those that the service has had so far.
func (in *inspector) workloadFault(e *Endpoint, declared map[WorkloadKey]*Workload) string {
	w := e.Workload
	first := cmp.Or(declared[w.Key()], w)
	switch {
	case w.Service != in.Service.Name:
		return fmt.Sprintf("its workload is of service %q", short(w.Service.String()))
	case !isLabel(w.Host.Name):
		return fmt.Sprintf("its host's name %q is not of lower-case letters, digits and hyphens", short(w.Host.Name))
	case !w.Host.Address.IsValid():
		return fmt.Sprintf("its host %s has no address", w.Host.Name)
	case w.Instance != "" && !isLabel(w.Instance):
		return fmt.Sprintf("its instance's name %q is not of lower-case letters, digits and hyphens", short(w.Instance))
	case !slices.ContainsFunc(w.Ports, func(p WorkloadPort) bool { return p.Number == e.ServicePort }):
		return fmt.Sprintf("its workload has no port %d", e.ServicePort)
	case first != w && !reflect.DeepEqual(first, w):
		return fmt.Sprintf("host %s has two different workloads of this name; give each an instance", w.Host.Name)
	}
	declared[w.Key()] = w
	return ""
}
