package registry

import (
	"encoding/json"
	"maps"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestLabelsAreAsTheMapThatTheyWereMadeOf(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.OneOf(rapid.StringN(0, 8, -1), rapid.SampledFrom([]string{"", "a", strings.Repeat("x", 127), strings.Repeat("y", 128), strings.Repeat("z", 20_000)}))
		m, others := rapid.MapOfN(text, text, 0, 8).Draw(t, "labels"), rapid.MapOfN(text, text, 0, 4).Draw(t, "others")
		l := LabelsOf(m)
		if !maps.Equal(maps.Collect(l.All()), m) || l.Len() != len(m) || (l == "") != (len(m) == 0) {
			t.Fatalf("%q are %q", m, l)
		}
		last := ""
		for k := range l.All() {
			if k < last {
				t.Fatalf("%q after %q", k, last)
			}
			last = k
		}
		for k := range others {
			want, has := m[k]
			if v, ok := l.Lookup(k); v != want && ok || ok != has || l.Get(k) != want {
				t.Fatalf("%q is %q, %t", k, v, ok)
			}
		}
		both := maps.Clone(others)
		maps.Copy(both, m)
		if l.Or(others) != LabelsOf(both) {
			t.Fatalf("%q or %q are %q", m, others, l.Or(others))
		}
		encoded, err := json.Marshal(l)
		if err != nil {
			t.Fatal(err)
		}
		plain, _ := json.Marshal(m)
		if m == nil {
			plain = []byte("{}")
		}
		var back Labels
		if err := json.Unmarshal(encoded, &back); err != nil || string(encoded) != string(plain) || string(back.String()) != string(roundTrip(t, m).String()) {
			t.Fatalf("%s, %v", encoded, err)
		}
	})
}

// roundTrip is what JSON makes of a map: text that is not UTF-8 does not survive it.
func roundTrip(t *rapid.T, m map[string]string) Labels {
	text, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	var back map[string]string
	if err := json.Unmarshal(text, &back); err != nil {
		t.Fatal(err)
	}
	return LabelsOf(back)
}
