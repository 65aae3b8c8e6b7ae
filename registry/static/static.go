package static

import (
	"context"
	"log/slog"
	"path/filepath"
	"slices"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/gohcl"

	"github.com/wattle-mesh/wattle/configs"
	"github.com/wattle-mesh/wattle/registry"
)

// Driver makes Sources of folders: registry "static" "files" { path = "services" }.
func Driver() registry.Driver { return registry.Driver{Type: "static", New: open} }

// body is the body of a registry block.
type body struct {
	Path string `hcl:"path"` // the folder; relative to the server's configuration file
}

func open(b hcl.Body, o registry.DriverOptions) (registry.Source, hcl.Diagnostics) {
	var c body
	if diags := gohcl.DecodeBody(b, o.Eval, &c); diags.HasErrors() {
		return nil, diags
	}
	if c.Path == "" {
		at := b.MissingItemRange()
		return nil, hcl.Diagnostics{{Severity: hcl.DiagError, Summary: "Empty path", Detail: "Name the folder that holds the service files.", Subject: &at}}
	}
	dir := c.Path
	if !filepath.IsAbs(dir) {
		dir = filepath.Join(o.Dir, dir)
	}
	s := &Source{dir: dir, name: c.Path, log: o.Log, report: o.Report}
	if s.report == nil {
		s.report = func([]registry.Diagnostic) {}
	}
	return s, nil
}

// Source watches a folder of host and service blocks. A folder that cannot be loaded as a whole changes nothing:
// what is wrong is reported, and the last set stays until it is mended.
type Source struct {
	dir, name string
	log       *slog.Logger
	report    func([]registry.Diagnostic)
}

// Run implements registry.Source.
func (s *Source) Run(ctx context.Context, publish func([]*registry.Service)) error {
	loader := configs.NewLoader(configs.Options{})
	var memo Memo
	var settler configs.Settler
	return configs.WatchAgain(ctx, s.dir, func() time.Duration {
		policy, diags := loader.LoadRegistry(s.dir)
		if diags.HasErrors() {
			s.log.Debug("static registry folder does not load", "dir", s.dir, "errors", diags.Error())
			s.tell(diags, registry.Diagnostic{Severity: registry.Error, Code: registry.SourceFailed, Origin: s.name,
				Summary: "the folder does not load, what its files said last is served", Detail: "Correct what is wrong with the files; it is read again at once."})
			return 0
		}
		policy, gone, again := settler.Settle(policy, time.Now())
		services := memo.Services(policy)
		publish(services)
		s.tell(append(slices.Concat(diags, gone), loader.Locate(memo.Diagnostics())...))
		return again
	})
}

// tell reports what is wrong with the files, and what that comes to.
func (s *Source) tell(ds configs.Diagnostics, sum ...registry.Diagnostic) {
	ds = slices.Clone(ds)
	for i := range ds {
		ds[i].File = filepath.Join(s.name, ds[i].File)
	}
	s.report(append(Diagnostics(ds), sum...))
}

// Diagnostics turns what is wrong with files into what is wrong with a registry.
func Diagnostics(ds configs.Diagnostics) []registry.Diagnostic {
	out := make([]registry.Diagnostic, len(ds))
	for i, d := range ds {
		out[i] = registry.Diagnostic{
			Severity: registry.Severity(d.Severity), Code: d.Code, Summary: d.Summary, Detail: d.Detail,
			Origin: d.Origin(), Excerpt: excerpt(d),
		}
	}
	return out
}

// excerpt returns the source line of a diagnostic, if it has one.
func excerpt(d configs.Diagnostic) registry.Excerpt {
	if d.Snippet == "" {
		return registry.Excerpt{}
	}
	return registry.Excerpt{Line: d.Line, Column: d.Column, Length: d.Length, Text: d.Snippet, TextColumn: d.SnippetColumn}
}
