package registry

import (
	"cmp"
	"fmt"
	"slices"
)

// part is what one set says about the service that is merged.
type part struct {
	*Service
	Standing
	source  string
	sources []string // source alone; shared by all that no other set names
}

// mergeService joins what the sets say about one service; nil if none names it. What comes out as it was in old
// (nil if there was none) keeps its pointer: endpoints, workloads, the whole. sources has the name of each set alone.
func mergeService(name Name, old *Service, sets []Set, sources [][]string, health HealthMap, places hosts) (*Service, []Diagnostic) {
	var parts []part
	for i, set := range sets {
		if s := set.find(name); s != nil {
			parts = append(parts, part{s, set.Standing, set.Name, sources[i]})
		}
	}
	if len(parts) == 0 {
		return nil, nil
	}
	d := &dissent{service: name}
	now := &Service{Name: name, Ports: mergePorts(parts, d)}
	for _, p := range parts {
		now.Sources = unite(now.Sources, p.sources)
		now.Origin = cmp.Or(now.Origin, p.Origin)
	}
	if old == nil {
		now.Endpoints = mergeEndpoints(parts, nil, health, places, d)
		return now, d.diagnostics(parts)
	}
	now.Endpoints = mergeEndpoints(parts, old.Endpoints, health, places, d)
	if now.equal(old) {
		now = old
	}
	return now, d.diagnostics(parts)
}

// equal reports whether two merges of one service are the same. Endpoints are compared by pointer.
func (s *Service) equal(o *Service) bool {
	return s.Origin == o.Origin && slices.Equal(s.Ports, o.Ports) && slices.Equal(s.Sources, o.Sources) &&
		slices.Equal(s.Endpoints, o.Endpoints)
}

// mergePorts unites the ports: of each number the first name and the first protocol that a set knows, if any.
func mergePorts(parts []part, d *dissent) []Port {
	ports := []Port{}
	for _, p := range parts {
		for _, port := range p.Ports {
			i, found := slices.BinarySearchFunc(ports, port.Number, func(p Port, n uint16) int { return cmp.Compare(p.Number, n) })
			if !found {
				ports = slices.Insert(ports, i, port)
				continue
			}
			known := &ports[i]
			if differ(known.Protocol, port.Protocol) {
				d.ports = append(d.ports, fmt.Sprintf("port %d is %s, but %s says %s", port.Number, known.Protocol, p.source, port.Protocol))
			}
			known.Name = cmp.Or(known.Name, port.Name)
			known.Protocol = cmp.Or(known.Protocol, port.Protocol)
		}
	}
	return ports
}

// differ reports whether both say something, and not the same.
func differ[T comparable](a, b T) bool {
	var none T
	return a != none && b != none && a != b
}

// unite adds the sorted names in b to those in a. It changes neither.
func unite(a, b []string) []string {
	if len(a) == 0 {
		return b
	}
	for _, s := range b {
		if i, found := slices.BinarySearch(a, s); !found {
			a = slices.Insert(slices.Clone(a), i, s)
		}
	}
	return a
}

// dissent gathers what the sets disagree about, for one diagnostic of each kind and service.
type dissent struct {
	service   Name
	ports     []string
	workloads []string
	endpoints []string
}

func (d *dissent) diagnostics(parts []part) []Diagnostic {
	var out []Diagnostic
	add := func(code string, what []string, detail string) {
		if len(what) == 0 {
			return
		}
		slices.Sort(what) // the order in which registries list things says nothing
		summary := fmt.Sprintf("registries disagree about service %s: %s", d.service, what[0])
		if len(what) > 1 {
			summary += fmt.Sprintf(" (and %d more)", len(what)-1)
		}
		out = append(out, Diagnostic{Severity: Warning, Code: code, Summary: summary, Detail: detail, Origin: parts[0].Origin})
	}
	first := fmt.Sprintf("%s is asked first and its word holds.", parts[0].source)
	add(PortConflict, d.ports, first+" Let them say the same, or let only one of them name the protocol.")
	add(workloadConflict, d.workloads, "The registry that is asked first declares the workload alone. Declare it in one place.")
	add(endpointConflict, d.endpoints, "The registry that is asked first wins. Let them say the same, or let only one of them say it.")
	return out
}
