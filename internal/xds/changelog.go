package xds

import (
	"sort"

	"github.com/wattle-mesh/wattle/translator"
)

// maxLogged bounds a change log. A stream that lags further behind is compared with all it has in scope.
const maxLogged = 8192

// maxReplayed bounds how many changes are looked up one by one before looking through the whole scope is cheaper.
const maxReplayed = 64

// changeLog remembers which entries of a type changed in which generation.
type changeLog struct {
	changes []change // in the order of generations
	after   uint64   // every change after this generation is there
}

type change struct {
	gen uint64
	e   *entry
}

func (l *changeLog) add(e *entry) {
	if len(l.changes) >= maxLogged {
		half := len(l.changes) / 2
		l.after = l.changes[half-1].gen
		l.changes = append(l.changes[:0], l.changes[half:]...)
		clear(l.changes[len(l.changes):cap(l.changes)])
	}
	l.changes = append(l.changes, change{e.gen, e})
}

// since returns the changes after gen, or false if the log does not reach back that far.
func (l *changeLog) since(gen uint64) ([]change, bool) {
	n := len(l.changes)
	if n == 0 || l.changes[n-1].gen <= gen {
		return nil, true
	}
	if gen < l.after {
		return nil, false
	}
	i := sort.Search(n, func(i int) bool { return l.changes[i].gen > gen })
	return l.changes[i:], true
}

// updates calls yield for each entry of typ in now that changed after gen. It may name one twice.
func (t *table) updates(now *set, typ translator.Type, gen uint64, yield func(*entry)) {
	changes, ok := t.logs[typ].since(gen)
	if ok && len(changes) <= maxReplayed {
		for _, c := range changes {
			if c.e.gen == c.gen && c.e.res != nil && now.has(c.e) {
				yield(c.e)
			}
		}
		return
	}
	for _, p := range now.parts {
		for _, e := range p.keys[typ] {
			if e.gen > gen {
				yield(e)
			}
		}
	}
}
