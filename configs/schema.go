package configs

import (
	"github.com/hashicorp/hcl/v2"
	"github.com/zclconf/go-cty/cty"
)

// block is everything that is written about one type of block: its documentation, its labels, attributes and
// inner blocks with the places in T they go to, and what is checked at the end. Decoding, the JSON form, "did you
// mean" and docs/policy.md all come from this one table.
type block[T any] struct {
	doc    string
	labels []label[T]
	attrs  []attr[T] // decoded in this order
	blocks []child[T]
	origin func(*T) *string
	begin  func(*decoder, *T) // after labels and attributes, before inner blocks
	finish func(*decoder, *T) // after everything: defaults and checks over several fields
	shape  *shape             // derived
}

// label is one label of a block.
type label[T any] struct {
	fieldDoc
	set func(*decoder, *T, cty.Value)
}

// attr is one attribute of a block.
type attr[T any] struct {
	fieldDoc
	set     func(*decoder, *T, cty.Value)
	expr    func(*decoder, *T, hcl.Expression) // instead of set: takes the expression itself
	initial cty.Value                          // what set gets if the attribute is absent; NilVal: nothing
}

// child is one type of block in another.
type child[T any] struct {
	name, doc      string
	many, required bool
	decode         func(*decoder, header, *T)
	shape          func() *shape
}

// shape is what can be said of a block without its Go type.
type shape struct {
	doc    string
	labels []fieldDoc
	attrs  []fieldDoc
	blocks []blockDoc
	open   bool // any attribute may stand here
	schema *hcl.BodySchema
}

// fieldDoc documents a label or attribute.
type fieldDoc struct {
	name, kind, hint, doc string
	required              bool
	absent                string // what holds without it
	keyword               bool   // the value is a name or a type, not an expression
}

// blockDoc documents an inner block.
type blockDoc struct {
	name, doc      string
	many, required bool
	shape          func() *shape
}

// newBlock derives what follows from the table.
func newBlock[T any](b block[T]) *block[T] {
	s := &shape{doc: b.doc, schema: &hcl.BodySchema{}}
	for _, l := range b.labels {
		s.labels = append(s.labels, l.fieldDoc)
	}
	for _, a := range b.attrs {
		s.attrs = append(s.attrs, a.fieldDoc)
		s.schema.Attributes = append(s.schema.Attributes, hcl.AttributeSchema{Name: a.name})
	}
	for _, c := range b.blocks {
		s.blocks = append(s.blocks, blockDoc{c.name, c.doc, c.many, c.required, c.shape})
		h := hcl.BlockHeaderSchema{Type: c.name}
		for _, l := range c.shape().labels {
			h.LabelNames = append(h.LabelNames, l.name)
		}
		s.schema.Blocks = append(s.schema.Blocks, h)
	}
	b.shape = s
	return &b
}

// field is an attribute of the kind k that is stored where at says.
func field[T, V any](name string, k kind[V], at func(*T) *V, doc string) attr[T] {
	return attr[T]{
		fieldDoc: fieldDoc{name: name, kind: k.name, hint: k.hint, doc: doc},
		set: func(d *decoder, t *T, v cty.Value) {
			if got, ok := k.parse(d, v); ok {
				*at(t) = got
			}
		},
	}
}

// optional is field for a pointer that stays nil if the attribute is absent.
func optional[T, V any](name string, k kind[V], at func(*T) **V, doc string) attr[T] {
	return field(name, kind[*V]{k.name, k.hint, func(d *decoder, v cty.Value) (*V, bool) {
		got, ok := k.parse(d, v)
		return &got, ok
	}}, at, doc)
}

// must makes the attribute required.
func (a attr[T]) must() attr[T] {
	a.required = true
	return a
}

// or gives the attribute a default.
func (a attr[T]) or(v cty.Value) attr[T] {
	a.initial, a.absent = v, valueText(v)
	return a
}

// orText says what holds if the attribute is absent, where that is no value.
func (a attr[T]) orText(s string) attr[T] {
	a.absent = s
	return a
}

// named is a label of the kind k that is stored where at says.
func named[T, V any](name string, k kind[V], at func(*T) *V, doc string) label[T] {
	f := field(name, k, at, doc)
	f.required = true
	return label[T]{fieldDoc: f.fieldDoc, set: f.set}
}

// table is what inner blocks are decoded by: a block, or a block whose value is turned into another.
type table[T any] interface {
	decode(*decoder, header) *T
	describe() *shape
}

func (b *block[T]) describe() *shape { return b.shape }

// through is a table for blocks whose Go value differs from what is written; make turns one into the other.
func through[U, T any](b *block[U], make func(*U) *T) table[T] { return turned[U, T]{b, make} }

type turned[U, T any] struct {
	*block[U]
	make func(*U) *T
}

func (t turned[U, T]) decode(d *decoder, h header) *T { return t.make(t.block.decode(d, h)) }

// many is an inner block that may stand any number of times.
func many[T, U any](name string, b table[U], at func(*T) *[]*U, doc string) child[T] {
	return child[T]{
		name: name, doc: doc, many: true, shape: b.describe,
		decode: func(d *decoder, h header, t *T) { *at(t) = append(*at(t), b.decode(d, h)) },
	}
}

// one is an inner block that may stand once.
func one[T, U any](name string, b table[U], at func(*T) **U, doc string) child[T] {
	return child[T]{
		name: name, doc: doc, shape: b.describe,
		decode: func(d *decoder, h header, t *T) {
			got := b.decode(d, h)
			if *at(t) != nil {
				d.failFrame(d.last, codeBlockTwice, "block "+d.last.head.String()+" given twice", "It may stand once at this place: put both into one.")
				return
			}
			*at(t) = got
		},
	}
}

// must makes the inner block required.
func (c child[T]) must() child[T] {
	c.required = true
	return c
}

// find returns the attribute's documentation, or nil.
func (s *shape) find(attr string) *fieldDoc {
	for i := range s.attrs {
		if s.attrs[i].name == attr {
			return &s.attrs[i]
		}
	}
	return nil
}

// inner returns the inner block's documentation, or nil.
func (s *shape) inner(name string) *blockDoc {
	for i := range s.blocks {
		if s.blocks[i].name == name {
			return &s.blocks[i]
		}
	}
	return nil
}

func (s *shape) attrNames() []string {
	names := make([]string, 0, len(s.attrs))
	for _, a := range s.attrs {
		names = append(names, a.name)
	}
	return names
}

func (s *shape) blockNames() []string {
	names := make([]string, 0, len(s.blocks))
	for _, b := range s.blocks {
		names = append(names, b.name)
	}
	return names
}
