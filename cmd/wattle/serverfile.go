package main

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/wattle-mesh/wattle/configs"
	"github.com/wattle-mesh/wattle/internal/pipeline"
	"github.com/wattle-mesh/wattle/registry"
	"github.com/wattle-mesh/wattle/registry/builtin"
)

// meshRegistry is the registry of what agents register.
const meshRegistry = "mesh"

// serverFile keeps the registries as the server's file says, while the server runs. Its methods may be called from any
// goroutine.
type serverFile struct {
	log      *slog.Logger
	path     string
	load     func() (*configs.Server, configs.Diagnostics)
	started  *configs.Server // what the server started with
	registry *registry.Aggregator
	mesh     registry.Source

	reading sync.Mutex // one reading of the file at a time

	mu      sync.Mutex
	sources map[string]source // by name, of the file that is in force
	blocks  []registry.Entry  // of them, in order
	absent  configs.Absence[string]
	wrong   configs.Diagnostics
}

// source is a registry block's source.
type source struct {
	registry.Source
	fingerprint string
}

// diagnostics returns what is wrong with the file as it is now.
func (f *serverFile) diagnostics() configs.Diagnostics {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.wrong
}

// watch brings the file into force whenever it changes, until ctx is done.
func (f *serverFile) watch(ctx context.Context) error {
	return configs.WatchFileAgain(ctx, f.path, func() time.Duration { return f.read(time.Now()) })
}

// reload brings the file into force if it is right, with all that it lacks: an operator says so.
func (f *serverFile) reload() { f.read(time.Time{}) }

// read brings the file into force if it is right. A registry that it lacks stays until it has done so for a while; with no
// time it goes. It returns when the file is to be read again; zero: when it changes.
func (f *serverFile) read(now time.Time) (again time.Duration) {
	f.reading.Lock()
	defer f.reading.Unlock()
	cfg, diags := f.load()
	if !diags.HasErrors() {
		var ds configs.Diagnostics
		ds, again = f.apply(cfg, now)
		diags = append(diags, ds...)
	}
	if !diags.HasErrors() {
		diags = append(diags, f.unheeded(cfg)...)
	}
	f.mu.Lock()
	was := f.wrong
	f.wrong = diags
	f.mu.Unlock()
	switch {
	case slices.Equal(was, diags):
	case diags.HasErrors():
		f.log.Error("the server's file is wrong, its registries stay as they were\n" + diags.Text())
	case len(diags) > 0:
		f.log.Warn("the server's file is in force in part\n" + diags.Text())
	default:
		f.log.Info("the server's file is in force again", "file", f.path)
	}
	return again
}

// apply makes the registries of a file those of the server, or changes nothing if it finds errors. A source whose block
// is what it was goes on; one whose block is gone does, too, until it has been gone for a while at this time, or there is no
// time. It returns when to look at that again.
func (f *serverFile) apply(cfg *configs.Server, now time.Time) (configs.Diagnostics, time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	sources := map[string]source{}
	entries := []registry.Entry{{Name: meshRegistry, Type: meshRegistry, Source: f.mesh}}
	var diags configs.Diagnostics
	for _, r := range cfg.Registries {
		s, known := f.sources[r.Name]
		if !known || s.fingerprint != r.Fingerprint {
			made, ds := openRegistry(r, filepath.Dir(f.path), f.log, f.registry.Report)
			diags = append(diags, ds...)
			if ds.HasErrors() {
				continue
			}
			s = source{made, r.Fingerprint}
		}
		sources[r.Name] = s
		entries = append(entries, registry.Entry{
			Name: r.Name, Type: r.Type, Source: s.Source, SyncTimeout: r.SyncTimeout,
			Hold: holdOf(r), Snapshot: true, Choice: choiceOf(r),
		})
	}
	if diags.HasErrors() {
		return diags, 0
	}
	again := f.outlive(&entries, sources, now, &diags)
	if err := f.registry.Configure(entries); err != nil {
		return append(diags, configs.Diagnostic{Severity: configs.Error, Code: registry.BadRegistry, Summary: err.Error(), File: filepath.Base(f.path)}), 0
	}
	f.sources, f.blocks = sources, entries[1:]
	return diags, again
}

// outlive adds the registries whose blocks are gone and not yet believed to be, each behind the one that it stood behind.
func (f *serverFile) outlive(entries *[]registry.Entry, sources map[string]source, now time.Time, diags *configs.Diagnostics) time.Duration {
	if now.IsZero() {
		f.absent = configs.Absence[string]{}
		return 0
	}
	var was []string
	for _, e := range f.blocks {
		was = append(was, e.Name)
	}
	kept := f.absent.Keep(now, was, func(name string) bool { _, there := sources[name]; return there })
	at := 1 // behind that of the mesh
	for _, e := range f.blocks {
		if end, stays := kept[e.Name]; stays {
			*entries = slices.Insert(*entries, at, e)
			sources[e.Name] = f.sources[e.Name]
			*diags = append(*diags, configs.Vanished("registry", e.Name, filepath.Base(f.path), end))
		}
		if i := slices.IndexFunc(*entries, func(o registry.Entry) bool { return o.Name == e.Name }); i >= 0 {
			at = i + 1
		}
	}
	return configs.Next(now, kept)
}

// unheeded says what of a file is not in force.
func (f *serverFile) unheeded(cfg *configs.Server) configs.Diagnostics {
	var names []string
	for name, same := range map[string]bool{
		"state_dir": cfg.StateDir == f.started.StateDir, "policy": cfg.Policy == f.started.Policy,
		"http": cfg.HTTP == f.started.HTTP, "agents": cfg.Agents == f.started.Agents, "names": slices.Equal(cfg.Names, f.started.Names),
		"workload_life": cfg.WorkloadLife == f.started.WorkloadLife,
		"log_level":     cfg.LogLevel == f.started.LogLevel, "log_format": cfg.LogFormat == f.started.LogFormat,
	} {
		if !same {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return nil
	}
	slices.Sort(names)
	return configs.Diagnostics{{Severity: configs.Warning, Code: registry.NeedsRestart, File: filepath.Base(f.path),
		Summary: "a change of " + strings.Join(names, ", ") + " takes effect when the server is started again",
		Detail:  "Registries that changed are in force already."}}
}

// openRegistry makes the source of a registry block.
func openRegistry(r configs.Registry, base string, log *slog.Logger, report func(string, []registry.Diagnostic)) (registry.Source, configs.Diagnostics) {
	bad := func(summary, detail string) configs.Diagnostics {
		return configs.Diagnostics{{Severity: configs.Error, Code: registry.BadRegistry, Summary: summary, Detail: detail, File: r.Origin}}
	}
	switch r.Name {
	case meshRegistry:
		return nil, bad(fmt.Sprintf("the name %q is taken", r.Name), "What agents register is the registry of this name. Take another one.")
	case pipeline.PolicySet:
		return nil, bad(fmt.Sprintf("the name %q is taken", r.Name), "What the policy's own files declare is the registry of this name. Take another one.")
	}
	driver, ok := driverOf(r.Type)
	if !ok {
		return nil, bad(fmt.Sprintf("there is no registry driver %q", r.Type), "There are: "+strings.Join(driverNames(), ", ")+".")
	}
	shaper := registry.NewShaper(shapeOf(&r.Shape), func(ds []registry.Diagnostic) { report(r.Name, ds) })
	s, diags := driver.New(r.Body, registry.DriverOptions{Name: r.Name, Dir: base, Eval: r.Eval, Log: log, Report: shaper.Report})
	if diags.HasErrors() {
		return nil, r.Diagnostics(diags)
	}
	return shaper.Source(s), r.Diagnostics(diags)
}

// choiceOf identifies what of a registry is taken: all of its block but how it is reached and how its endpoints rank.
func choiceOf(r configs.Registry) string {
	out := r.Choice
	driver, _ := driverOf(r.Type)
	for _, name := range slices.Sorted(maps.Keys(r.Driven)) {
		if !slices.Contains(driver.Reach, name) {
			out += fmt.Sprintf(" %q", r.Driven[name])
		}
	}
	return out
}

// holdOf says what of a registry is held. A static registry's files are an operator's word: it holds only if its block
// says so.
func holdOf(r configs.Registry) registry.Hold {
	switch {
	case r.Hold != nil:
		return registry.Hold{Share: r.Hold.Share / 100, Window: time.Duration(r.Hold.Window), After: time.Duration(r.Hold.After), MinEndpoints: r.Hold.MinEndpoints}
	case r.Type == "static":
		return registry.Hold{}
	}
	return registry.DefaultHold()
}

func driverOf(kind string) (registry.Driver, bool) {
	for _, d := range builtin.Drivers() {
		if d.Type == kind {
			return d, true
		}
	}
	return registry.Driver{}, false
}

func driverNames() []string {
	var out []string
	for _, d := range builtin.Drivers() {
		out = append(out, d.Type)
	}
	return out
}

// alive reports whether an endpoint lives besides what its registry says: the agent of its workload says so, or, where
// there is none, something listens there. Until the first catalog it is not known where workloads are, and all live.
func (s *server) alive(name registry.Name, e *registry.Endpoint) bool {
	if e.Workload != nil {
		return s.registrar.Alive(e.Workload.Key())
	}
	c := s.loop.State().Catalog
	if c == nil {
		return true
	}
	place := netip.AddrPortFrom(e.Address, e.Port)
	if of := c.Service(name); of != nil {
		at, _ := slices.BinarySearchFunc(of.Endpoints, e, func(a, b *registry.Endpoint) int {
			return cmp.Or(a.Address.Compare(b.Address), cmp.Compare(a.Port, b.Port))
		})
		workload := false
		for _, o := range of.Endpoints[at:] {
			if netip.AddrPortFrom(o.Address, o.Port) != place {
				break
			}
			if o.Workload != nil && s.registrar.Alive(o.Workload.Key()) {
				return true
			}
			workload = workload || o.Workload != nil
		}
		if workload {
			return false
		}
	}
	if alive, known := s.checker.alive(name, e); known {
		return alive
	}
	return s.prober.alive(place)
}
