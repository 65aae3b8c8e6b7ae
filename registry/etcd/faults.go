package etcd

import (
	"fmt"
	"hash/maphash"
	"maps"
	"slices"
	"strings"

	"github.com/wattle-mesh/wattle/registry"
)

const (
	maxNamed      = 1000 // faulty keys whose fault is kept; of others only how many they are
	maxTold       = 100  // diagnostics of keys, and of services, that are reported
	maxComplaints = 10   // diagnostics of one service
	maxKey        = 512  // bytes of a key that are shown
)

// faults is what is wrong with single keys, and what the instances of services disagree about. Its memory is bounded,
// but for 12 bytes for each faulty key.
type faults struct {
	named      map[string]fault  // by key
	unnamed    map[uint64]uint32 // by the key's hash: the full read that saw it last
	complaints map[registry.Name][]registry.Diagnostic
	changed    bool // since diagnostics was called
	seed       maphash.Seed
}

type fault struct {
	d     registry.Diagnostic
	round uint32 // the full read that saw the key last
}

func newFaults() faults {
	return faults{
		named: map[string]fault{}, unnamed: map[uint64]uint32{}, complaints: map[registry.Name][]registry.Diagnostic{},
		changed: true, seed: maphash.MakeSeed(),
	}
}

// set says what is wrong with a key.
func (f *faults) set(key string, round uint32, d registry.Diagnostic) {
	was, known := f.named[key]
	if !known && len(f.named) >= maxNamed {
		h := maphash.String(f.seed, key)
		if _, known := f.unnamed[h]; !known {
			f.changed = true
		}
		f.unnamed[h] = round
		return
	}
	f.named[key] = fault{d, round}
	if was.d != d {
		delete(f.unnamed, maphash.String(f.seed, key))
		f.changed = true
	}
}

// touch notes that a key is as it was.
func (f *faults) touch(key string, round uint32) {
	if was, ok := f.named[key]; ok {
		f.named[key] = fault{was.d, round}
		return
	}
	if len(f.unnamed) == 0 {
		return
	}
	if h := maphash.String(f.seed, key); f.unnamed[h] != 0 {
		f.unnamed[h] = round
	}
}

// clear says that nothing is wrong with a key, or that it is gone.
func (f *faults) clear(key string) {
	if _, ok := f.named[key]; ok {
		delete(f.named, key)
		f.changed = true
		return
	}
	if len(f.unnamed) == 0 {
		return
	}
	h := maphash.String(f.seed, key)
	if _, ok := f.unnamed[h]; ok {
		delete(f.unnamed, h)
		f.changed = true
	}
}

// sweep forgets the keys that the full read of that number has not seen.
func (f *faults) sweep(round uint32) {
	before := len(f.named) + len(f.unnamed)
	maps.DeleteFunc(f.named, func(_ string, x fault) bool { return x.round != round })
	maps.DeleteFunc(f.unnamed, func(_ uint64, r uint32) bool { return r != round })
	f.changed = f.changed || len(f.named)+len(f.unnamed) != before
}

// complain replaces what the instances of a service disagree about.
func (f *faults) complain(name registry.Name, ds []registry.Diagnostic) {
	if slices.Equal(f.complaints[name], ds) {
		return
	}
	f.changed = true
	if len(ds) == 0 {
		delete(f.complaints, name)
		return
	}
	f.complaints[name] = ds
}

// diagnostics returns what is to be reported, in the order of the keys, then of the services, and whether it may
// differ from what was returned last.
func (f *faults) diagnostics() (ds []registry.Diagnostic, changed bool) {
	if !f.changed {
		return nil, false
	}
	f.changed = false
	for _, key := range slices.Sorted(maps.Keys(f.named)) {
		if len(ds) == maxTold {
			break
		}
		ds = append(ds, f.named[key].d)
	}
	if more := len(f.named) + len(f.unnamed) - len(ds); more > 0 {
		ds = append(ds, registry.Diagnostic{Severity: registry.Error, Code: registry.BadEntry,
			Summary: fmt.Sprintf("%d more keys are not as they should be", more), Detail: "Mend those that are named, and others are."})
	}
	told := 0
	for _, name := range slices.SortedFunc(maps.Keys(f.complaints), registry.Name.Compare) {
		for _, d := range f.complaints[name] {
			if told++; told <= maxTold {
				ds = append(ds, d)
			}
		}
	}
	if told > maxTold {
		ds = append(ds, registry.Diagnostic{Severity: registry.Warning, Code: registry.EntriesCollide,
			Summary: fmt.Sprintf("%d more instances contradict others", told-maxTold), Detail: "Mend those that are named, and others are."})
	}
	return ds, true
}

// show makes a key fit to be shown.
func show(key string) string {
	key = strings.ToValidUTF8(key, "\uFFFD")
	if len(key) > maxKey {
		key = strings.ToValidUTF8(key[:maxKey], "") + "..."
	}
	return key
}

func strayKey(key, prefix string) registry.Diagnostic {
	return registry.Diagnostic{Severity: registry.Error, Code: registry.BadEntry, Origin: show(key),
		Summary: fmt.Sprintf("key %q is left out: it is not %sNAMESPACE/SERVICE/INSTANCE", show(key), prefix),
		Detail:  fmt.Sprintf("The prefix is for instances alone. Move the key elsewhere; an instance's name has at most %d bytes of UTF-8.", maxName)}
}

func badValue(key string, err error) registry.Diagnostic {
	return registry.Diagnostic{Severity: registry.Error, Code: registry.BadEntry, Origin: show(key),
		Summary: fmt.Sprintf("the instance at key %q is left out: %s", show(key), shorten(err.Error())),
		Detail:  "Write the value as docs/registries.md describes it; registry/etcd/schema.json checks it."}
}

func tooMany(key string, most int) registry.Diagnostic {
	return registry.Diagnostic{Severity: registry.Error, Code: registry.BadEntry, Origin: show(key),
		Summary: fmt.Sprintf("the instance at key %q is left out: the registry has more than %d", show(key), most),
		Detail:  "See whether something registers without end. Instances that are left out are taken in at the next full read once there is room."}
}

func unknownFields(key string, names []string) registry.Diagnostic {
	const most = 5
	shown := make([]string, 0, most)
	for _, n := range names[:min(most, len(names))] {
		shown = append(shown, shorten(n))
	}
	return registry.Diagnostic{Severity: registry.Warning, Code: registry.OddEntry, Origin: show(key),
		Summary: fmt.Sprintf("the instance at key %q has what this version does not know: %s", show(key), strings.Join(shown, ", ")),
		Detail:  "The rest of it is used. Correct the name if it is misspelt; if a newer Wattle wrote it, update the server."}
}

func twoProtocols(name registry.Name, p registry.Port, key string, known registry.Port, knownKey string) registry.Diagnostic {
	return registry.Diagnostic{Severity: registry.Warning, Code: registry.PortConflict, Origin: show(key),
		Summary: fmt.Sprintf("port %d of service %s is %s here, but %s at key %q", p.Number, show(name.String()), p.Protocol, known.Protocol, show(knownKey)),
		Detail:  "The first key's word holds. Let all instances of the service give the port the same protocol."}
}

func twoAtOnePlace(out, in string, e *registry.Endpoint) registry.Diagnostic {
	return registry.Diagnostic{Severity: registry.Warning, Code: registry.EntriesCollide, Origin: show(out),
		Summary: fmt.Sprintf("the instance at key %q listens on %s, as does that at %q; the one that was registered last is used", show(out), e, show(in)),
		Detail:  "If it is the same instance with a new name, the older key goes when its lease runs out; else correct one of them."}
}
