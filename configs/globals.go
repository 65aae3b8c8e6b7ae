package configs

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/function"
)

// environment reads the blocks that the whole folder shares and gives them values: variables first, then locals,
// then the namespaces and the mesh, whose attributes may use both.
func (r *run) environment(files []*file) *env {
	e := &env{ctx: &hcl.EvalContext{Functions: functions, Variables: map[string]cty.Value{}}, folder: r.kind}
	var g globals
	var decoders []*decoder
	for _, f := range files {
		if f.tree == nil || f.tree.body == nil {
			continue
		}
		f.tree.meter.left = cmp.Or(r.opts.work, maxWork)
		d := r.decoder(f, e, &r.shared)
		d.frame = &frame{}
		decoders = append(decoders, d)
		d.variablesAndLocals(f.tree, &g)
	}
	e.setVariables(g.variables, r.vars, &r.shared)
	e.setLocals(g.locals, &r.shared)

	e.mesh = &Mesh{Domain: defaultDomain, TrustDomain: defaultTrustDomain, MTLS: mtlsStrict, Plaintext: true, OutboundTrafficPolicy: AllowAny}
	var first place
	i := 0
	for _, f := range files {
		if f.tree == nil || f.tree.body == nil {
			continue
		}
		d := decoders[i]
		i++
		for _, b := range f.tree.body.Blocks {
			switch b.Type {
			case "namespace":
				g.namespaces = append(g.namespaces, namespaceBlock.decode(d, headerOf(b)))
			case "mesh":
				at := f.src.place(b.DefRange(), nil)
				if g.meshes = append(g.meshes, meshBlock.decode(d, headerOf(b))); len(g.meshes) > 1 {
					r.shared.report(at.diagnostic(Error, codeBlockTwice, "block mesh given twice", fmt.Sprintf("The first is at %s. There is one for the whole policy: put both into one.", first.origin())))
					continue
				}
				first, e.mesh = at, g.meshes[0]
			}
		}
	}
	e.setSpaces(g.namespaces, &r.shared)
	return e
}

// variablesAndLocals collects the blocks that have no values yet.
func (d *decoder) variablesAndLocals(tree *parsed, g *globals) {
	for _, b := range tree.body.Blocks {
		h := headerOf(b)
		switch b.Type {
		case "mesh", "namespace":
			if d.env.folder != policyFolder {
				d.notInFolder(h)
			}
		case "dynamic":
			if len(b.Labels) == 1 && slices.Contains([]string{"mesh", "namespace", "variable", "locals"}, b.Labels[0]) {
				d.report(d.src.place(h.rng, nil), Error, codeNotHere, b.Labels[0]+" in a dynamic block", "It is read before expressions have values. Write it out.")
			}
		case "variable":
			if v := variableBlock.decode(d, h); v.name != "" {
				g.variables = append(g.variables, v)
			}
		case "locals":
			d.locals(b, tree, g)
		}
	}
}

func (d *decoder) locals(b *hclsyntax.Block, tree *parsed, g *globals) {
	if len(b.Labels) > 0 {
		d.report(d.src.place(b.DefRange(), nil), Error, codeLabels, "locals has a label", "A locals block has no label; its attributes are the names. Remove the label.")
	}
	for _, inner := range b.Body.Blocks {
		d.report(d.src.place(inner.DefRange(), nil), Error, codeUnknownBlock, fmt.Sprintf("unknown block %q", inner.Type), fmt.Sprintf("A locals block has attributes only: write %s = { ... }.", inner.Type))
	}
	for _, name := range slices.Sorted(maps.Keys(b.Body.Attributes)) {
		a := b.Body.Attributes[name]
		g.locals = append(g.locals, &local{
			name: name, expr: a.Expr, needs: tree.needs[a], place: d.src.place(a.NameRange, nil), meter: d.meter, ctx: d.ctx,
		})
	}
}

// decoder returns a decoder for a file. The function file() knows which file calls it.
func (r *run) decoder(f *file, e *env, out *decoded) *decoder {
	ctx := e.ctx.NewChild()
	ctx.Functions = map[string]function.Function{"file": fileFunction(f.src, func(path string) (*source, error) {
		src, err := r.text(path)
		if err == nil && !slices.Contains(out.reads, src) {
			out.reads = append(out.reads, src)
		}
		return src, err
	})}
	return &decoder{src: f.src, env: e, ctx: ctx, out: out, meter: f.tree.meter}
}
