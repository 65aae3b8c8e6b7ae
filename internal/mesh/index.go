package mesh

import (
	"slices"

	iradix "github.com/hashicorp/go-immutable-radix/v2"
)

// table writes to a persistent tree for the time of one Resolve. Without a write it costs nothing and gives
// the tree back as it was.
type table[T any] struct {
	tree *iradix.Tree[T]
	txn  *iradix.Txn[T]
}

func tableOf[T any](tree *iradix.Tree[T]) table[T] {
	if tree == nil {
		tree = iradix.New[T]()
	}
	return table[T]{tree: tree}
}

// get returns the zero value for a key that is not there.
func (t *table[T]) get(key string) T {
	if t.txn != nil {
		v, _ := t.txn.Get([]byte(key))
		return v
	}
	v, _ := t.tree.Get([]byte(key))
	return v
}

func (t *table[T]) put(key string, v T) {
	if t.txn == nil {
		t.txn = t.tree.Txn()
	}
	t.txn.Insert([]byte(key), v)
}

func (t *table[T]) drop(key string) {
	if t.txn == nil {
		t.txn = t.tree.Txn()
	}
	t.txn.Delete([]byte(key))
}

// under calls f for each value whose key begins with prefix, in the order of the keys.
func (t *table[T]) under(prefix string, f func(T)) {
	root := t.tree.Root()
	if t.txn != nil {
		root = t.txn.Root()
	}
	root.WalkPrefix([]byte(prefix), func(_ []byte, v T) bool {
		f(v)
		return false
	})
}

// done returns the tree with all writes.
func (t *table[T]) done() *iradix.Tree[T] {
	if t.txn != nil {
		t.tree, t.txn = t.txn.Commit(), nil
	}
	return t.tree
}

// index is an inverted index: a table from a key to a sorted set of members. Writes are gathered, and count
// from the next flush on.
type index[T any] struct {
	table[[]T]
	compare func(a, b T) int
	edits   map[string][]edit[T]
}

type edit[T any] struct {
	member T
	add    bool
}

func indexOf[T any](tree *iradix.Tree[[]T], compare func(a, b T) int) index[T] {
	return index[T]{table: tableOf(tree), compare: compare}
}

// add puts member in the set of key, in the place of one that compares equal.
func (x *index[T]) add(key string, member T) { x.edit(key, edit[T]{member, true}) }

// remove takes member out of the set of key. Of several edits of one member the last one counts.
func (x *index[T]) remove(key string, member T) { x.edit(key, edit[T]{member, false}) }

func (x *index[T]) edit(key string, e edit[T]) {
	if x.edits == nil {
		x.edits = map[string][]edit[T]{}
	}
	x.edits[key] = append(x.edits[key], e)
}

// flush brings the gathered edits about, each set copied once.
func (x *index[T]) flush() {
	for key, edits := range x.edits {
		slices.SortStableFunc(edits, func(a, b edit[T]) int { return x.compare(a.member, b.member) })
		if set := x.merge(x.get(key), edits); len(set) > 0 {
			x.put(key, set)
		} else {
			x.drop(key)
		}
	}
	x.edits = nil
}

// merge applies sorted edits to a sorted set, and gives a new one.
func (x *index[T]) merge(old []T, edits []edit[T]) []T {
	out := make([]T, 0, len(old)+len(edits))
	for i := 0; i < len(edits); i++ {
		if i+1 < len(edits) && x.compare(edits[i].member, edits[i+1].member) == 0 {
			continue // a later edit of the same member counts
		}
		e := edits[i]
		for len(old) > 0 && x.compare(old[0], e.member) < 0 {
			out, old = append(out, old[0]), old[1:]
		}
		if len(old) > 0 && x.compare(old[0], e.member) == 0 {
			old = old[1:]
		}
		if e.add {
			out = append(out, e.member)
		}
	}
	return slices.Clip(append(out, old...))
}
