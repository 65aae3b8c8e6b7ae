package mesh

import (
	"fmt"
	"hash/fnv"
	"maps"
	"net/netip"
	"slices"

	"github.com/wattle-mesh/wattle/registry"
)

// The addresses for capture, 127.64.0.0/10: each captured workload of a host has a slice of them, and each service that
// needs an address of its own the same place in every slice.
const (
	captureBase   = 127<<24 | 64<<16
	sliceBits     = 14                    // of the addresses of a slice
	sliceCount    = 1 << (22 - sliceBits) // on one host
	sharedAddress = 1                     // in a slice; the first is left out
	lastAddress   = 1<<sliceBits - 2      // likewise the last
	addressCount  = lastAddress - sharedAddress
	redirectBase  = 15100 // the redirect port of the first slice; the others' follow
)

// Addresses gives each service that has one its place in every slice, for as long as it is called by name.
type Addresses map[registry.Name]uint16

// Slices gives each captured workload the number of its slice, for as long as it is registered.
type Slices map[registry.WorkloadKey]uint16

// ScopeCapture is how a caller's calls by name reach its proxy.
type ScopeCapture struct {
	Mode         registry.CaptureMode
	Slice        netip.Prefix // of 127.64.0.0/10; this workload's alone on its host
	RedirectPort uint16       // with Transparent
	Reach        string       // key
	Surface      *Surface     // the reach's
}

// captureBegins and captureEnds note what a workload that came, went or changed means for the slices of its host, and for
// its reach.
func (r *resolver) captureBegins(w *registry.Workload) {
	if key := reachKey(w); key != "" {
		r.slicing[w.Host.Name] = true
		r.reachers.add(key, w.Key().String())
		r.rereach[key] = true
	}
}

func (r *resolver) captureEnds(w *registry.Workload) {
	if key := reachKey(w); key != "" {
		r.slicing[w.Host.Name] = true
		r.reachers.remove(key, w.Key().String())
		r.rereach[key] = true
	}
}

// placeSlices allots the slices of the hosts whose captured workloads changed: to each the one that it had, else the one
// that its service's name leads to, or the next free one. So equal workloads have equal slices on most hosts, and share
// their listeners.
func (r *resolver) placeSlices() {
	for host := range r.slicing {
		r.allotSlices(host)
	}
	r.reachers.flush()
}

func (r *resolver) allotSlices(host string) {
	var taken [sliceCount]bool
	var fresh []*registry.Workload
	for _, key := range r.onHost.get(host) {
		w := r.workloads.get(key).Workload
		if w.Capture == nil {
			r.setSlice(w.Key(), 0, false)
			continue
		}
		if n, ok := r.old.Slices[w.Key()]; ok && n < sliceCount && !taken[n] {
			taken[n] = true
			r.setSlice(w.Key(), n, true)
			continue
		}
		fresh = append(fresh, w)
	}
	slices.SortFunc(fresh, compareWorkloads)
	var notes []note
	for _, w := range fresh {
		n, ok := freePlace(w.Service, sliceCount, func(n uint16) bool { return taken[n] })
		if ok {
			taken[n] = true
		} else {
			notes = append(notes, noSlice(w))
		}
		r.setSlice(w.Key(), n, ok)
	}
	r.note("slices "+host, notes)
}

// freePlace returns the place of count that a name leads to, or the next one that is not taken.
func freePlace(n registry.Name, count uint16, taken func(uint16) bool) (uint16, bool) {
	h := fnv.New32a()
	h.Write([]byte(n.String()))
	first := h.Sum32() % uint32(count)
	for i := range uint32(count) {
		if at := uint16((first + i) % uint32(count)); !taken(at) {
			return at, true
		}
	}
	return 0, false
}

// setSlice writes the slice of a workload, if ok, and else that it has none.
func (r *resolver) setSlice(key registry.WorkloadKey, n uint16, ok bool) {
	was, had := r.slices[key]
	if had == ok && was == n {
		return
	}
	if !r.slicesCopied {
		r.slices, r.slicesCopied = maps.Clone(r.slices), true
		if r.slices == nil {
			r.slices = Slices{}
		}
	}
	if !ok {
		delete(r.slices, key)
	} else {
		r.slices[key] = n
	}
	r.rescope[key.String()] = true
}

// needsAddress reports whether a service has a port at which it is not told apart by Host.
func needsAddress(s *Service) bool {
	return s != nil && slices.ContainsFunc(s.Ports, func(p *Port) bool { return !p.Protocol.IsHTTP() })
}

// allotAddresses gives those services an address, or takes it, that came into a reach, left one, or changed.
func (r *resolver) allotAddresses(touched map[registry.Name]bool) {
	var fresh []registry.Name
	for n := range touched {
		switch needs := needsAddress(r.services.get(n.String())) && len(r.reachesOf(n)) > 0; {
		case !needs:
			if _, had := r.addresses[n]; had {
				delete(r.writableAddresses(), n)
			}
			r.note("address "+n.String(), nil)
		default:
			if _, has := r.addresses[n]; has {
				continue
			}
			if at, had := r.old.Addresses[n]; had && r.fresh {
				r.writableAddresses()[n] = at
				continue
			}
			fresh = append(fresh, n)
		}
	}
	if len(fresh) == 0 {
		return
	}
	slices.SortFunc(fresh, registry.Name.Compare)
	taken := map[uint16]bool{}
	for _, at := range r.addresses {
		taken[at] = true
	}
	for _, n := range fresh {
		at, ok := freePlace(n, addressCount, func(at uint16) bool { return taken[at+sharedAddress+1] })
		if !ok {
			r.note("address "+n.String(), []note{noAddress(n, r.services.get(n.String()), r.service(n))})
			continue
		}
		at += sharedAddress + 1
		taken[at] = true
		r.writableAddresses()[n] = at
		r.note("address "+n.String(), nil)
	}
}

func (r *resolver) writableAddresses() Addresses {
	if !r.addressesCopied {
		r.addresses, r.addressesCopied = maps.Clone(r.addresses), true
		if r.addresses == nil {
			r.addresses = Addresses{}
		}
	}
	return r.addresses
}

// scopeCapture is the captured part of a workload's scope, nil if it has none.
func (r *resolver) scopeCapture(w *Workload) *ScopeCapture {
	n, ok := r.slices[w.Key()]
	if w.Capture == nil || !ok {
		return nil
	}
	key := reachKey(w.Workload)
	out := &ScopeCapture{Mode: w.Capture.Mode, Slice: sliceOf(n), Reach: key, Surface: r.reaches.get(key).Surface}
	if out.Mode == registry.Transparent {
		out.RedirectPort = redirectBase + n
	}
	return out
}

// captureNotes says which services a workload calls by name, and not by a pattern, that nobody knows.
func (r *resolver) captureNotes(w *Workload) []note {
	var notes []note
	if w.Capture == nil {
		return nil
	}
	for _, n := range w.Capture.Services {
		if n.Name != registry.Any && r.service(n) == nil {
			notes = append(notes, unknownCaptured(w, n))
		}
	}
	for _, u := range w.Upstreams {
		if u.Bound() {
			continue
		}
		to := r.service(u.Service)
		if to == nil {
			notes = append(notes, unknownUpstream(w, u))
		} else if _, ok := pickPort(to, u.Port, 0); u.Port != 0 && !ok {
			notes = append(notes, noSuchUpstreamPort(u, to))
		}
	}
	return notes
}

// captureConflicts finds what else of a host wants to listen where calls by name arrive.
func captureConflicts(host string, scopes []*Scope, all []claim) []note {
	redirects := map[uint16]bool{}
	captured := false
	for _, s := range scopes {
		if s.Capture != nil {
			captured = true
			redirects[s.Capture.RedirectPort] = true
		}
	}
	var notes []note
	for _, c := range all {
		a := c.bind.Addr()
		if captured && c.socket == "" && (captureRange.Contains(a) || redirects[c.bind.Port()] && (a.IsUnspecified() || a == loopback4 || a == netip.IPv6Loopback())) {
			notes = append(notes, bindInSlice(host, c))
		}
	}
	return notes
}

// captureRange is all slices, and loopback4 where redirected connections arrive.
var (
	captureRange = netip.PrefixFrom(sliceOf(0).Addr(), 10)
	loopback4    = netip.AddrFrom4([4]byte{127, 0, 0, 1})
)

func bindInSlice(host string, c claim) note {
	return warn(codeBindInSlice, c.origin, fmt.Sprintf("%s wants to listen at %s on host %s, where calls by name arrive", c.who, c.bind, host),
		fmt.Sprintf("On a host with captured workloads %s is theirs, and so are their redirect ports. Give it another address: 127.0.0.1 and a port of its own.", captureRange)).at(c.block, c.attr, "")
}

func unknownCaptured(w *Workload, n registry.Name) note {
	x := warn(codeUnknownCaptured, w.Capture.Origin, fmt.Sprintf("%q may call %q by name, which no registry knows", short(w.Service), short(n)),
		"Register the service, or correct the name. Until then calls are answered 503.").at("capture", "services", short(n))
	x.service = n
	return x
}

func noSlice(w *registry.Workload) note {
	return warn(codeNoAddress, w.Origin, fmt.Sprintf("no addresses are left on host %s for the calls of %s by name", w.Host.Name, w.Key()),
		fmt.Sprintf("A host has addresses for %d workloads with capture. This one calls nothing by name; bind its upstreams, or place it on another host.", sliceCount)).at("service", "", "")
}

func noAddress(n registry.Name, _ *Service, s *registry.Service) note {
	return warn(codeNoAddress, s.Origin, fmt.Sprintf("no address is left for calls of service %q by name", short(n)),
		fmt.Sprintf("Services that do not speak HTTP need one each, and there are %d. Its callers need an upstream with bind.", addressCount)).at("service", "", "")
}
