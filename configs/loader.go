package configs

import (
	"bytes"
	"cmp"
	"io/fs"
	"os"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// Options say how a Loader works. The zero value is usable.
type Options struct {
	Vars map[string]string // values of variables, by name: text for primitive types, else an HCL expression
	work int               // instead of maxWork, if not zero
}

// Loader loads one folder again and again. What has not changed on disk is not decoded again, and a block whose
// value has not changed keeps its pointer. Not for concurrent use.
type Loader struct {
	opts  Options
	dir   string
	kind  folderKind
	files map[string]*file   // by path
	texts map[string]*source // what file() read, by path
	env   *env
	last  *Policy // the last one without errors, whose blocks keep their pointers
	// What must not just vanish, and whether the next load may lack it.
	guarded guarded
	allowed bool
	// The result of the last load, which holds until a file changes.
	policy  *Policy
	diags   Diagnostics
	settled bool
}

// NewLoader returns a Loader with an empty cache.
func NewLoader(opts Options) *Loader { return &Loader{opts: opts} }

// Load reads a folder of policy files (*.hcl, *.hcl.json, *.json; subfolders too, but none that begin with a
// dot), or one file. The policy is nil if the diagnostics have errors.
func (l *Loader) Load(dir string) (*Policy, Diagnostics) { return l.load(dir, policyFolder) }

// LoadServices reads a folder in which only host, service, variable and locals blocks may stand: an agent's
// services.d. Of the policy only Hosts and Services are set. A service without endpoint blocks is a workload.
func (l *Loader) LoadServices(dir string) (*Policy, Diagnostics) { return l.load(dir, servicesFolder) }

// LoadRegistry reads a folder of the same blocks, of a static registry: workloads stand in host blocks alone.
func (l *Loader) LoadRegistry(dir string) (*Policy, Diagnostics) { return l.load(dir, registryFolder) }

// Load reads a folder of policy files once.
func Load(dir string) (*Policy, Diagnostics) { return NewLoader(Options{}).Load(dir) }

// ParseServices reads a folder of host and service blocks once; see (*Loader).LoadServices.
func ParseServices(dir string) (*Policy, Diagnostics) { return NewLoader(Options{}).LoadServices(dir) }

// run is one load.
type run struct {
	*Loader
	root   *os.Root
	vars   map[string]string
	kind   folderKind
	shared decoded // what is about no single file
	mu     sync.Mutex
}

func (l *Loader) load(dir string, kind folderKind) (*Policy, Diagnostics) {
	if dir != l.dir || kind != l.kind {
		*l = Loader{opts: l.opts, dir: dir, kind: kind}
	}
	r := &run{Loader: l, vars: l.opts.Vars, kind: kind}
	root, entries, diags := openFolder(dir)
	if root == nil {
		l.forget()
		return nil, diags
	}
	defer root.Close()
	r.root = root
	r.shared.diags = diags

	files, changed := r.readAll(entries)
	if !changed && l.settled && len(diags) == 0 && !r.textsChanged() {
		return l.policy, slices.Clone(l.diags)
	}
	r.each(files, func(f *file) {
		if f.src != nil && f.tree == nil && f.mayHaveGlobals() {
			f.parse()
		}
	})
	e := r.environment(files)
	mesh := e.mesh
	if l.env.equal(e) {
		e = l.env
	}
	l.env = e
	r.each(files, func(f *file) { r.decodeFile(f, e) })
	l.policy, l.diags = r.assemble(files, mesh)
	if l.policy != nil && !l.allowed {
		if lost := l.removed(l.policy); len(lost) > 0 {
			l.policy, l.diags = nil, append(l.diags, lost...).Sort()
		}
	}
	l.settled, l.allowed = len(diags) == 0, false
	if l.policy != nil {
		l.last = l.policy
	}
	return l.policy, slices.Clone(l.diags)
}

// forget drops the result of the last load, but keeps what is known of files and blocks.
func (l *Loader) forget() { l.policy, l.diags, l.settled = nil, nil, false }

// each runs f for all files, on all cores.
func (r *run) each(files []*file, f func(*file)) {
	var g errgroup.Group
	cores := min(runtime.GOMAXPROCS(0), 8)
	next := make(chan []*file, cores)
	for range cores {
		g.Go(func() error {
			for batch := range next {
				for _, x := range batch {
					f(x)
				}
			}
			return nil
		})
	}
	for batch := range slices.Chunk(files, 16) {
		next <- batch
	}
	close(next)
	_ = g.Wait() // f returns no errors
}

// file is what is known of one file.
type file struct {
	path    string
	link    bool        // a symbolic link, which is followed
	info    os.FileInfo // when it was read
	readAt  time.Time
	src     *source     // nil if it could not be read
	diag    *Diagnostic // why
	tree    *parsed     // during a load; longer if it has globals
	env     *env        // under which it was decoded
	out     *decoded
	fresh   bool     // decoded in this load
	outline *outline // where its blocks are; made when Locate is asked

	known, globals bool // whether it has blocks that the folder shares; known once it was parsed
}

// globalBlock matches the beginning of a block that the whole folder shares, and some other text.
var globalBlock = regexp.MustCompile(`\b(variable|locals|namespace|mesh)\b[ \t]*[^ \t=]`)

// mayHaveGlobals is a cheap and cautious test. In JSON words can be spelled with escapes.
func (f *file) mayHaveGlobals() bool {
	if f.known {
		return f.globals
	}
	if strings.HasSuffix(f.path, ".json") {
		return true
	}
	for _, word := range []string{"variable", "locals", "namespace", "mesh"} {
		if bytes.Contains(f.src.data, []byte(word)) {
			return globalBlock.Match(f.src.data)
		}
	}
	return false
}

// parse makes the tree.
func (f *file) parse() {
	f.tree = parse(f.src, fileBlock.shape)
	f.known, f.globals = true, false
	if f.tree.body == nil {
		return
	}
	for _, b := range f.tree.body.Blocks {
		switch b.Type {
		case "variable", "locals", "namespace", "mesh", "dynamic":
			f.globals = true
		}
	}
}

// readAll reads what has changed, and reports whether anything has.
func (r *run) readAll(entries []entry) (files []*file, changed bool) {
	old := r.files
	files = make([]*file, len(entries))
	before := make([]*source, len(entries))
	listed := make(map[*file]fs.FileInfo, len(entries))
	r.files = make(map[string]*file, len(entries))
	for i, e := range entries {
		f := old[e.path]
		if f == nil {
			f = &file{path: e.path}
		}
		files[i], before[i], listed[f], r.files[e.path] = f, f.src, e.info, f
	}
	r.each(files, func(f *file) { f.read(r.root, listed[f]) })
	changed = len(old) != len(files)
	total := 0
	for i, f := range files {
		changed = changed || f.src != before[i] || f.src == nil
		if f.src != nil {
			total += len(f.src.data)
		}
		f.fresh = false
	}
	if total > maxFolder {
		r.shared.report(Diagnostic{Severity: Error, Code: codeTooBig, Summary: "the folder is too big", Detail: "Its files may have 64 MiB together. Make large policies with variables, locals and dynamic blocks."})
		for _, f := range files {
			f.src, f.tree, f.out = nil, nil, nil
		}
	}
	return files, changed
}

// textsChanged reports whether a file that file() read has changed.
func (r *run) textsChanged() bool {
	for path, src := range r.texts {
		now, err := readText(r.root, path)
		if err != nil || string(now.data) != string(src.data) {
			return true
		}
	}
	return false
}

// text reads a file for file(). One that has not changed is the same source as before.
func (r *run) text(path string) (*source, error) {
	src, err := readText(r.root, path)
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if old := r.texts[path]; old != nil && string(old.data) == string(src.data) {
		return old, nil
	}
	if r.texts == nil {
		r.texts = map[string]*source{}
	}
	r.texts[path] = src
	return src, nil
}

// decodeFile decodes a file unless what it said last time still holds.
func (r *run) decodeFile(f *file, e *env) {
	if f.src == nil || f.out != nil && f.env == e && !r.stale(f.out) {
		return
	}
	if f.tree == nil {
		f.parse()
	}
	out := &decoded{diags: f.tree.diags}
	if f.tree.body != nil {
		f.tree.meter.left = cmp.Or(r.opts.work, maxWork)
		r.decoder(f, e, out).file(f.tree)
	}
	f.out, f.env, f.fresh = out, e, true
	if !f.globals {
		f.tree = nil
	}
}

// stale reports whether a text that the file reads has changed.
func (r *run) stale(out *decoded) bool {
	for _, src := range out.reads {
		if now, err := r.text(src.path); err != nil || now != src {
			return true
		}
	}
	return false
}
