package configs

import (
	"cmp"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/ext/typeexpr"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/convert"
)

// env is what the files of a folder share: the values of variables and locals, the folders' namespaces and the
// mesh block. As long as it is equal, files that did not change are not decoded again. Immutable.
type env struct {
	ctx    *hcl.EvalContext
	vars   cty.Value
	locals cty.Value
	spaces []space // the deepest folder first
	mesh   *Mesh
	folder folderKind
	bad    bool // a variable or local has no value: expressions that use it are not reported again
}

// space gives a folder to a namespace.
type space struct{ path, namespace string }

// equal reports whether files decode alike under both.
func (e *env) equal(o *env) bool {
	return e != nil && o != nil && e.folder == o.folder && e.bad == o.bad && slices.Equal(e.spaces, o.spaces) &&
		e.mesh.Domain == o.mesh.Domain && e.vars.RawEquals(o.vars) && e.locals.RawEquals(o.locals)
}

// namespaceOf returns the namespace that blocks of a file have if they say none.
func (e *env) namespaceOf(file string) string {
	for _, s := range e.spaces {
		if file == s.path || strings.HasPrefix(file, s.path+"/") || s.path == "." {
			return s.namespace
		}
	}
	return "default"
}

// globals is what the files say about what they share, before it has values.
type globals struct {
	variables  []*variable
	locals     []*local
	namespaces []*namespace
	meshes     []*Mesh
}

type variable struct {
	name    string
	typ     cty.Type
	typed   bool
	deflt   cty.Value // NilVal if there is none
	comment string
	broken  bool // its block has errors
	place   place
}

type local struct {
	name  string
	expr  hcl.Expression
	needs []string // other locals
	place place
	meter *meter
	ctx   *hcl.EvalContext // with the file's functions; its parent gets the variables
}

type namespace struct {
	name, path string
	place      place
}

func (e *env) setVariables(list []*variable, given map[string]string, out *decoded) {
	values := map[string]cty.Value{}
	seen := map[string]*variable{}
	for _, v := range list {
		if first := seen[v.name]; first != nil {
			out.report(duplicate("variable", v.name, first.place, v.place))
			continue
		}
		seen[v.name] = v
		val, err := v.value(given)
		switch {
		case v.broken:
			val, e.bad = cty.DynamicVal, true
		case err != "":
			out.report(v.place.diagnostic(Error, codeVariable, fmt.Sprintf("variable %q has no fitting value", v.name), err))
			val, e.bad = cty.DynamicVal, true
		}
		values[v.name] = val
	}
	for _, name := range slices.Sorted(maps.Keys(given)) {
		if seen[name] == nil {
			out.report(Diagnostic{
				Severity: Error, Code: codeVariable, Summary: fmt.Sprintf("there is no variable %q", name),
				Detail: fmt.Sprintf("A value was given for it. Declare it: variable %q {}.%s", name, didYouMean(name, slices.Sorted(maps.Keys(seen)))),
			})
		}
	}
	e.vars = cty.ObjectVal(values)
	e.ctx.Variables = map[string]cty.Value{"var": e.vars, "local": cty.EmptyObjectVal}
}

// value is the given value or the default, converted to the variable's type.
func (v *variable) value(given map[string]string) (cty.Value, string) {
	text, ok := given[v.name]
	val := v.deflt
	typ := v.typ
	if !v.typed {
		typ = cty.DynamicPseudoType
		if v.deflt != cty.NilVal && !v.deflt.IsNull() && v.deflt.Type().IsPrimitiveType() {
			typ = v.deflt.Type()
		}
	}
	switch {
	case ok && (typ.IsPrimitiveType() || typ == cty.DynamicPseudoType):
		val = cty.StringVal(text)
	case ok:
		if mayRecurse([]byte(text)) > maxDepth {
			return cty.NilVal, "The value given for it is nested too deep. Write a simpler one."
		}
		expr, diags := hclsyntax.ParseExpression([]byte(text), "-var", hcl.InitialPos)
		if !diags.HasErrors() {
			val, diags = expr.Value(nil)
		}
		if diags.HasErrors() {
			return cty.NilVal, fmt.Sprintf("The value given with -var is no expression: %s Write it as in a file, and text in quotes.", diags[0].Detail)
		}
	case val == cty.NilVal:
		return cty.NilVal, fmt.Sprintf("Give it a default, or a value with -var %s=VALUE.", v.name)
	}
	val, err := convert.Convert(val, typ)
	if err != nil {
		return cty.NilVal, fmt.Sprintf("Its type is %s: %s. Correct the value or the type.", typeexpr.TypeString(typ), err)
	}
	return val, ""
}

// setLocals computes locals in the order of their needs.
func (e *env) setLocals(list []*local, out *decoded) {
	byName := map[string]*local{}
	for _, l := range list {
		if first := byName[l.name]; first != nil {
			out.report(duplicate("local", l.name, first.place, l.place))
			continue
		}
		byName[l.name] = l
	}
	values := map[string]cty.Value{}
	const visiting, done = 1, 2
	state := map[string]int{}
	var visit func(l *local, depth int)
	visit = func(l *local, depth int) {
		state[l.name] = visiting
		for _, need := range l.needs {
			n := byName[need]
			switch {
			case n == nil || state[need] == done:
			case state[need] == visiting || depth > 1000:
				out.report(l.place.diagnostic(Error, codeCircle, fmt.Sprintf("local %q needs its own value", l.name), fmt.Sprintf("It refers to local.%s, which refers back to it. Compute one of them without the other.", need)))
				values[need], e.bad = cty.DynamicVal, true
			default:
				visit(n, depth+1)
			}
		}
		state[l.name] = done
		if _, broken := values[l.name]; broken {
			return
		}
		known := map[string]cty.Value{}
		for _, need := range l.needs {
			if v, ok := values[need]; ok {
				known[need] = v
			}
		}
		e.ctx.Variables["local"] = cty.ObjectVal(known)
		v, diags := l.meter.eval(l.expr, l.ctx)
		reportHCL(out, l.place, diags, false)
		e.bad = e.bad || !v.IsWhollyKnown()
		values[l.name] = v
	}
	for _, name := range slices.Sorted(maps.Keys(byName)) {
		if state[name] == 0 {
			visit(byName[name], 0)
		}
	}
	e.locals = cty.ObjectVal(values)
	e.ctx.Variables = map[string]cty.Value{"var": e.vars, "local": e.locals}
}

func (e *env) setSpaces(list []*namespace, out *decoded) {
	names, paths := map[string]*namespace{}, map[string]*namespace{}
	for _, n := range list {
		clean := path.Clean(n.path)
		switch first, other := names[n.name], paths[clean]; {
		case first != nil:
			out.report(duplicate("namespace", n.name, first.place, n.place))
		case other != nil:
			out.report(n.place.diagnostic(Error, codeNamespaceTwice, fmt.Sprintf("folder %q belongs to two namespaces", n.path),
				fmt.Sprintf("The namespace %q at %s has it already. Remove one of the two blocks, or correct its path.", other.name, other.place.origin())))
		default:
			names[n.name], paths[clean] = n, n
			e.spaces = append(e.spaces, space{clean, n.name})
		}
	}
	depth := func(s space) int {
		if s.path == "." {
			return -1
		}
		return strings.Count(s.path, "/")
	}
	slices.SortFunc(e.spaces, func(a, b space) int {
		return cmp.Or(depth(b)-depth(a), strings.Compare(a.path, b.path))
	})
}

// localNeeds returns the locals that an expression refers to. It is asked before guard hides them.
func localNeeds(expr hcl.Expression) []string {
	var needs []string
	for _, t := range expr.Variables() {
		if len(t) < 2 || t.RootName() != "local" {
			continue
		}
		switch step := t[1].(type) {
		case hcl.TraverseAttr:
			needs = append(needs, step.Name)
		case hcl.TraverseIndex:
			if step.Key.Type() == cty.String {
				needs = append(needs, step.Key.AsString())
			}
		}
	}
	return needs
}
