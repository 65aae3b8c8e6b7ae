package configs

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"regexp"
	"slices"

	"github.com/hashicorp/hcl/v2/ext/tryfunc"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/function"
	"github.com/zclconf/go-cty/cty/function/stdlib"
)

// maxText bounds the text that one function call makes.
const maxText = 4 << 20

// functions are those that do not depend on the file they are called in. All are pure: there is no environment,
// no clock, no randomness and no program to run.
var functions = map[string]function.Function{
	"abs": stdlib.AbsoluteFunc, "ceil": stdlib.CeilFunc, "floor": stdlib.FloorFunc, "log": stdlib.LogFunc,
	"max": stdlib.MaxFunc, "min": stdlib.MinFunc, "parseint": stdlib.ParseIntFunc, "pow": stdlib.PowFunc, "signum": stdlib.SignumFunc,

	"chomp": stdlib.ChompFunc, "format": bounded(stdlib.FormatFunc, formatCost), "formatlist": bounded(stdlib.FormatListFunc, formatCost),
	"indent": bounded(stdlib.IndentFunc, indentCost), "join": bounded(stdlib.JoinFunc, joinCost), "lower": stdlib.LowerFunc, "regex": stdlib.RegexFunc,
	"regexall": stdlib.RegexAllFunc, "regexreplace": bounded(stdlib.RegexReplaceFunc, replaceCost), "replace": bounded(stdlib.ReplaceFunc, replaceCost),
	"split": stdlib.SplitFunc, "strlen": stdlib.StrlenFunc, "strrev": stdlib.ReverseFunc, "substr": stdlib.SubstrFunc, "title": stdlib.TitleFunc,
	"trim": stdlib.TrimFunc, "trimprefix": stdlib.TrimPrefixFunc, "trimsuffix": stdlib.TrimSuffixFunc, "trimspace": stdlib.TrimSpaceFunc, "upper": stdlib.UpperFunc,

	"chunklist": stdlib.ChunklistFunc, "coalesce": stdlib.CoalesceFunc, "coalescelist": stdlib.CoalesceListFunc, "compact": stdlib.CompactFunc,
	"concat": stdlib.ConcatFunc, "contains": stdlib.ContainsFunc, "distinct": bounded(stdlib.DistinctFunc, squareCost), "element": stdlib.ElementFunc,
	"flatten": stdlib.FlattenFunc, "index": stdlib.IndexFunc, "keys": stdlib.KeysFunc, "length": stdlib.LengthFunc, "lookup": stdlib.LookupFunc,
	"merge": stdlib.MergeFunc, "range": stdlib.RangeFunc, "reverse": stdlib.ReverseListFunc, "setintersection": stdlib.SetIntersectionFunc,
	"setproduct": bounded(stdlib.SetProductFunc, productCost), "setsubtract": stdlib.SetSubtractFunc, "setunion": stdlib.SetUnionFunc,
	"slice": stdlib.SliceFunc, "sort": stdlib.SortFunc, "values": stdlib.ValuesFunc, "zipmap": stdlib.ZipmapFunc,

	"csvdecode": stdlib.CSVDecodeFunc, "jsondecode": stdlib.JSONDecodeFunc, "jsonencode": stdlib.JSONEncodeFunc,
	"formatdate": stdlib.FormatDateFunc, "timeadd": stdlib.TimeAddFunc,

	"tobool": stdlib.MakeToFunc(cty.Bool), "tonumber": stdlib.MakeToFunc(cty.Number), "tostring": stdlib.MakeToFunc(cty.String),
	"tolist": stdlib.MakeToFunc(cty.List(cty.DynamicPseudoType)), "tomap": stdlib.MakeToFunc(cty.Map(cty.DynamicPseudoType)), "toset": stdlib.MakeToFunc(cty.Set(cty.DynamicPseudoType)),

	"try": tryfunc.TryFunc, "can": tryfunc.CanFunc,
}

// functionNames returns the names of all functions, file included, sorted.
func functionNames() []string {
	return slices.Sorted(slices.Values(append(slices.Collect(maps.Keys(functions)), "file")))
}

// bounded refuses a call whose result would be too big, before it is made.
func bounded(f function.Function, cost func([]cty.Value) int) function.Function {
	params, variadic := f.Params(), f.VarParam()
	return function.New(&function.Spec{
		Description: f.Description(), Params: params, VarParam: variadic,
		Type: f.ReturnTypeForValues,
		Impl: func(args []cty.Value, _ cty.Type) (cty.Value, error) {
			if n := cost(args); n < 0 || n > maxText {
				return cty.NilVal, errors.New("the result would be too big")
			}
			return f.Call(args)
		},
	})
}

func textLen(v cty.Value) int {
	if v.Type() != cty.String || !v.IsKnown() || v.IsNull() {
		return 0
	}
	return len(v.AsString())
}

// listText returns the number of elements of a list of strings and the length of their text.
func listText(v cty.Value) (n, size int) {
	if !v.CanIterateElements() {
		return 1, textLen(v)
	}
	for it := v.ElementIterator(); it.Next(); n++ {
		_, e := it.Element()
		size += textLen(e)
	}
	return n, size
}

// replaceCost: every place between two characters may become the replacement.
func replaceCost(args []cty.Value) int {
	return (textLen(args[0]) + 1) * (textLen(args[2]) + 1)
}

func joinCost(args []cty.Value) int {
	cost := 0
	for _, list := range args[1:] {
		n, size := listText(list)
		cost += n*textLen(args[0]) + size
	}
	return cost
}

func indentCost(args []cty.Value) int {
	f, _ := args[0].AsBigFloat().Float64()
	if f > maxText {
		return -1
	}
	return (int(f) + 1) * textLen(args[1])
}

// wide matches a width or precision in a format that is too big to be meant.
var wide = regexp.MustCompile(`%[^a-zA-Z%]*[0-9]{5}`)

func formatCost(args []cty.Value) int {
	if args[0].Type() != cty.String {
		return 0
	}
	if wide.MatchString(args[0].AsString()) {
		return -1
	}
	most, cost := 1, textLen(args[0])
	for _, a := range args[1:] {
		n, size := listText(a)
		most = max(most, n)
		cost += size
	}
	if cost > maxText {
		return -1
	}
	return cost * most
}

func productCost(args []cty.Value) int {
	cost := len(args)
	for _, a := range args {
		if cost *= a.LengthInt(); cost > maxText/64 {
			return -1
		}
	}
	return cost
}

// squareCost is for functions that compare every element with every other.
func squareCost(args []cty.Value) int {
	n := args[0].LengthInt()
	if n > 2000 {
		return -1
	}
	return n
}

// fileFunction is file(), which reads a text below the loaded folder; its argument is relative to the folder of
// the file that calls it.
func fileFunction(from *source, read func(string) (*source, error)) function.Function {
	return function.New(&function.Spec{
		Params: []function.Parameter{{Name: "path", Type: cty.String}},
		Type:   function.StaticReturnType(cty.String),
		Impl: func(args []cty.Value, _ cty.Type) (cty.Value, error) {
			name := args[0].AsString()
			if path.IsAbs(name) {
				return cty.NilVal, function.NewArgErrorf(0, "%q is outside the policy folder", name)
			}
			full := path.Join(path.Dir(from.path), name)
			if !fs.ValidPath(full) {
				return cty.NilVal, function.NewArgErrorf(0, "%q is outside the policy folder", name)
			}
			src, err := read(full)
			if err != nil {
				return cty.NilVal, function.NewArgError(0, fmt.Errorf("%q cannot be read: %w", name, err))
			}
			return cty.StringVal(string(src.data)), nil
		},
	})
}
