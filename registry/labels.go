package registry

import (
	"encoding/binary"
	"encoding/json"
	"iter"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// Labels are keys with values, sorted by key; the zero value has none. They are one string, and so are compared with ==,
// shared without a copy, and a tenth of the size of a map: catalogs have many. Each key and value follows its length, as an
// unsigned varint.
type Labels string

// LabelsOf makes Labels of a map.
func LabelsOf(m map[string]string) Labels {
	if len(m) == 0 {
		return ""
	}
	var b []byte
	for _, k := range slices.Sorted(maps.Keys(m)) {
		for _, text := range [...]string{k, m[k]} {
			b = append(binary.AppendUvarint(b, uint64(len(text))), text...)
		}
	}
	return Labels(b)
}

// All gives the labels in the order of their keys.
func (l Labels) All() iter.Seq2[string, string] {
	return func(yield func(string, string) bool) {
		for rest := string(l); rest != ""; {
			var k, v string
			k, rest = cutText(rest)
			v, rest = cutText(rest)
			if !yield(k, v) {
				return
			}
		}
	}
}

// cutText returns the first text of what is encoded, and what follows it.
func cutText(s string) (text, rest string) {
	n, shift := 0, 0
	for i := range len(s) {
		n |= int(s[i]&0x7f) << shift
		if shift += 7; s[i] < 0x80 {
			return s[i+1 : i+1+n], s[i+1+n:]
		}
	}
	return "", ""
}

// Lookup returns the value of a key, and whether there is one.
func (l Labels) Lookup(key string) (value string, ok bool) {
	for k, v := range l.All() {
		if k >= key {
			return v, k == key
		}
	}
	return "", false
}

// Get returns the value of a key, empty if there is none.
func (l Labels) Get(key string) string {
	if v, ok := l.Lookup(key); ok {
		return v
	}
	return ""
}

// Len returns how many there are.
func (l Labels) Len() int {
	n := 0
	for range l.All() {
		n++
	}
	return n
}

// Map returns them as a map, which is the caller's; nil if there are none.
func (l Labels) Map() map[string]string {
	if l == "" {
		return nil
	}
	return maps.Collect(l.All())
}

// Or returns the labels with those of others whose keys they do not have.
func (l Labels) Or(others map[string]string) Labels {
	var m map[string]string
	for k, v := range others {
		if _, has := l.Lookup(k); has {
			continue
		}
		if m == nil {
			m = maps.Collect(l.All())
		}
		m[k] = v
	}
	if m == nil {
		return l
	}
	return LabelsOf(m)
}

// String returns them for people: version="v1" zone="a".
func (l Labels) String() string {
	var out []string
	for k, v := range l.All() {
		out = append(out, k+"="+strconv.Quote(v))
	}
	return strings.Join(out, " ")
}

// MarshalJSON writes an object.
func (l Labels) MarshalJSON() ([]byte, error) { return json.Marshal(maps.Collect(l.All())) }

// UnmarshalJSON reads an object.
func (l *Labels) UnmarshalJSON(text []byte) error {
	var m map[string]string
	err := json.Unmarshal(text, &m)
	*l = LabelsOf(m)
	return err
}

// Given reports whether a label is given by the driver of that name alone, from what the operator or the registry says: no metadata
// that an instance has itself stands for it, or a filter could be passed by whoever may register one instance.
func Given(label, driver string) bool {
	prefix, _, ok := strings.Cut(label, ".")
	return ok && (prefix == "tag" || prefix == "node" || prefix == driver)
}
