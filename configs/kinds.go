package configs

import (
	"fmt"
	"math/big"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/zclconf/go-cty/cty"
)

// kind is a kind of value: how the documentation calls it, and how it is read. parse reports what is wrong.
type kind[V any] struct {
	name  string // "duration"
	hint  string // what else is asked of it: "1ms to 24h"
	parse func(*decoder, cty.Value) (V, bool)
}

// what names the value that is being decoded: `headers["end-user"].regex`.
func (d *decoder) what() string {
	var b strings.Builder
	b.WriteString(d.attr)
	for _, step := range d.path {
		switch {
		case step.Type() != cty.String:
			i, _ := step.AsBigFloat().Int64()
			fmt.Fprintf(&b, "[%d]", i)
		case word.MatchString(step.AsString()):
			b.WriteString("." + step.AsString())
		default:
			fmt.Fprintf(&b, "[%q]", step.AsString())
		}
	}
	return b.String()
}

// inside decodes a part of the value.
func (d *decoder) inside(step cty.Value, decode func()) {
	d.path = append(d.path, step)
	decode()
	d.path = d.path[:len(d.path)-1]
}

func (d *decoder) wrongType(v cty.Value, want string) {
	detail := fmt.Sprintf("Types are not converted. Write %s.", want)
	switch {
	case v.IsNull():
		detail = "Give it a value, or leave it out."
	case want == "a list" && v.Type() == cty.String:
		detail = fmt.Sprintf("Write it in brackets: [%q].", short(v.AsString()))
	case want == "a list":
		detail = "Write it in brackets: [...]."
	case want == "an object":
		detail = "Write it in braces: { name = value }."
	case v.Type() == cty.String && (strings.HasPrefix(want, "a number") || strings.HasPrefix(want, "a whole number") || want == "true or false"):
		detail = "Write it without quotes; a variable needs the attribute type."
	case v.Type() == cty.Number && strings.HasPrefix(want, "a duration"):
		detail = fmt.Sprintf("Write it with its unit, in quotes: \"%ss\".", short(valueWord(v)))
	case v.Type().IsPrimitiveType() && (want == "a string" || strings.HasPrefix(want, "a duration")):
		detail = fmt.Sprintf("Write it in quotes: %q.", valueWord(v))
	}
	d.fail(codeType, fmt.Sprintf("%s is %s, not %s", d.what(), typeName(v), want), detail)
}

func typeName(v cty.Value) string {
	t := v.Type()
	switch {
	case v.IsNull():
		return "null"
	case t == cty.Bool:
		return valueWord(v)
	case t.IsObjectType() || t.IsMapType():
		return "an object"
	case t.IsTupleType() || t.IsListType():
		return "a list"
	}
	return "a " + t.FriendlyName()
}

// valueWord writes a primitive value without quotes.
func valueWord(v cty.Value) string {
	switch v.Type() {
	case cty.String:
		return v.AsString()
	case cty.Bool:
		return strconv.FormatBool(v.True())
	case cty.Number:
		return v.AsBigFloat().Text('f', -1)
	}
	return ""
}

// valueText writes a default for the documentation.
func valueText(v cty.Value) string {
	if t := v.Type(); t.IsTupleType() {
		var words []string
		for _, e := range v.AsValueSlice() {
			words = append(words, valueText(e))
		}
		return "[" + strings.Join(words, ", ") + "]"
	}
	if v.Type() == cty.String {
		return strconv.Quote(v.AsString())
	}
	return valueWord(v)
}

// text is any string, as far as it has characters and no control characters.
func text() kind[string] {
	return checked("string", "", func(d *decoder, s string) bool {
		switch {
		case s == "":
			d.fail(codeEmpty, d.what()+" is empty", "Leave it out, or say what is meant.")
			return false
		case strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f }):
			d.fail(codeName, d.what()+" has control characters", "Remove new lines, tabs and the like.")
			return false
		}
		return true
	})
}

// anyText is any string.
func anyText() kind[string] {
	return checked("string", "", func(*decoder, string) bool { return true })
}

// checked is a string that check accepts.
func checked(name, hint string, check func(*decoder, string) bool) kind[string] {
	return kind[string]{name, hint, func(d *decoder, v cty.Value) (string, bool) {
		if v.Type() != cty.String || v.IsNull() {
			d.wrongType(v, "a string")
			return "", false
		}
		s := v.AsString()
		return s, check(d, s)
	}}
}

// oneOf is one of some words.
func oneOf(words ...string) kind[string] {
	hint := ""
	for i, w := range words {
		if i > 0 {
			hint += ", "
		}
		hint += strconv.Quote(w)
	}
	oneOfMany := ""
	if len(words) > 1 {
		oneOfMany = "one of "
	}
	return checked("string", hint, func(d *decoder, s string) bool {
		if slices.Contains(words, s) {
			return true
		}
		d.fail(codeWord, fmt.Sprintf("%s cannot be %q", d.what(), s), fmt.Sprintf("Write %s%s.%s", oneOfMany, hint, didYouMean(s, words)))
		return false
	})
}

// boolean is true or false.
func boolean() kind[bool] {
	return kind[bool]{"bool", "", func(d *decoder, v cty.Value) (bool, bool) {
		if v.Type() != cty.Bool || v.IsNull() {
			d.wrongType(v, "true or false")
			return false, false
		}
		return v.True(), true
	}}
}

// whole is a whole number from least to most.
func whole[N int | uint16 | uint32 | uint64](least, most int64) kind[N] {
	return kind[N]{"number", fmt.Sprintf("%d to %d", least, most), func(d *decoder, v cty.Value) (N, bool) {
		if v.Type() != cty.Number || v.IsNull() {
			d.wrongType(v, "a whole number")
			return 0, false
		}
		n, accuracy := v.AsBigFloat().Int64()
		if accuracy != big.Exact || n < least || n > most {
			d.fail(codeRange, fmt.Sprintf("%s cannot be %s", d.what(), short(valueWord(v))), fmt.Sprintf("Write a whole number from %d to %d.", least, most))
			return 0, false
		}
		return N(n), true
	}}
}

// percent is a number from 0 to 100, with fractions.
func percent() kind[float64] {
	return kind[float64]{"number", "0 to 100, percent", func(d *decoder, v cty.Value) (float64, bool) {
		if v.Type() != cty.Number || v.IsNull() {
			d.wrongType(v, "a number")
			return 0, false
		}
		f, _ := v.AsBigFloat().Float64()
		if f < 0 || f > 100 {
			d.fail(codeRange, fmt.Sprintf("%s cannot be %s", d.what(), short(valueWord(v))), "Write a share in percent: a number from 0 to 100.")
			return 0, false
		}
		return f, true
	}}
}

const (
	day  = 24 * time.Hour
	year = 365 * day
)

// duration is a string with units from least to most; zero only if least is zero.
func duration(least, most time.Duration) kind[Duration] {
	hint := fmt.Sprintf("%s to %s", span(least), span(most))
	return kind[Duration]{"duration", hint, func(d *decoder, v cty.Value) (Duration, bool) {
		if v.Type() != cty.String || v.IsNull() {
			d.wrongType(v, `a duration such as "2s"`)
			return 0, false
		}
		t, err := time.ParseDuration(v.AsString())
		switch {
		case err != nil:
			d.fail(codeDuration, fmt.Sprintf("%s is no duration: %q", d.what(), short(v.AsString())), `Write numbers with units: "250ms", "2s", "1h30m".`)
			return 0, false
		case t < least || t > most:
			d.fail(codeRange, fmt.Sprintf("%s cannot be %s", d.what(), short(v.AsString())), fmt.Sprintf("Write a duration from %s.", hint))
			return 0, false
		case t%time.Millisecond != 0:
			d.fail(codeDuration, fmt.Sprintf("%s is not in whole milliseconds: %q", d.what(), short(v.AsString())), "Write it in whole milliseconds, in which Envoy counts.")
			return 0, false
		}
		return Duration(t), true
	}}
}

// span writes a duration without trailing zeros.
func span(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = s[:len(s)-2]
	}
	if strings.HasSuffix(s, "h0m") {
		s = s[:len(s)-2]
	}
	return s
}

// short cuts what a message repeats.
func short(s string) string {
	if len(s) > 60 {
		return strings.ToValidUTF8(s[:57], "") + "..."
	}
	return s
}

// list is a list of k, with at least least elements.
func list[V any](k kind[V], least int) kind[[]V] {
	return kind[[]V]{"list of " + k.name, k.hint, func(d *decoder, v cty.Value) ([]V, bool) {
		t := v.Type()
		if v.IsNull() || !(t.IsTupleType() || t.IsListType() || t.IsSetType()) {
			d.wrongType(v, "a list")
			return nil, false
		}
		if v.LengthInt() < least {
			d.fail(codeEmpty, d.what()+" is empty", "Give it at least one element.")
			return nil, false
		}
		out := make([]V, 0, v.LengthInt())
		ok := true
		i := int64(0)
		for it := v.ElementIterator(); it.Next(); i++ {
			_, e := it.Element()
			d.inside(cty.NumberIntVal(i), func() {
				got, good := k.parse(d, e)
				out, ok = append(out, got), ok && good
			})
		}
		return out, ok
	}}
}

// dict is an object whose values are of the kind k and whose keys are accepted, or changed, by key.
func dict[V any](k kind[V], hint string, key func(*decoder, string) (string, bool)) kind[map[string]V] {
	return kind[map[string]V]{"object of " + k.name, hint, func(d *decoder, v cty.Value) (map[string]V, bool) {
		t := v.Type()
		if v.IsNull() || !(t.IsObjectType() || t.IsMapType()) {
			d.wrongType(v, "an object")
			return nil, false
		}
		out := make(map[string]V, v.LengthInt())
		ok := true
		for it := v.ElementIterator(); it.Next(); {
			name, e := it.Element()
			d.inside(name, func() {
				d.onKey = true
				n, good := key(d, name.AsString())
				if _, twice := out[n]; good && twice {
					d.fail(codeHeader, fmt.Sprintf("%s is given twice", d.what()), "Names that differ only in case are the same name. Remove one of them.")
					good = false
				}
				d.onKey = false
				if good {
					var got V
					got, good = k.parse(d, e)
					out[n] = got
				}
				ok = ok && good
			})
		}
		return out, ok
	}}
}

// word is a key that is written without quotes.
var word = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_-]*$`)
