package etcd

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/wattle-mesh/wattle/registry"
)

// filled is a table that read these keys and values, in their order.
func filled(kv ...string) *table {
	t := newTable(base)
	t.begin()
	for i := 0; i < len(kv); i += 2 {
		t.put([]byte(base+kv[i]), []byte(kv[i+1]), int64(i))
	}
	t.sweep()
	return t
}

// text is what a table says: its services, and its diagnostics without base.
func text(t *table) (string, []string) {
	all, _ := t.services()
	ds, _ := t.faults.diagnostics()
	var said []string
	for _, d := range ds {
		said = append(said, strings.ReplaceAll(d.Code+" "+d.Summary, base, ""))
	}
	return brief(all), said
}

func TestTables(t *testing.T) {
	tcp := doc{Address: "10.0.0.2", Ports: []docPort{{Number: 80, Protocol: "tcp"}}}.String()
	http := doc{Address: "10.0.0.1", Ports: []docPort{{Number: 80, Target: 8080, Protocol: "http"}, {Number: 90}}}.String()
	for name, c := range map[string]struct {
		kv   []string
		want string
		said []string
	}{
		"several ports and targets": {[]string{"a/web/1", http}, "a/web 10.0.0.1:90 10.0.0.1:8080", nil},
		"a key without a namespace": {[]string{"web/1", at("10.0.0.1"), "a/web/1", at("10.0.0.2")}, "a/web 10.0.0.2:80",
			[]string{`W4501 key "web/1" is left out: it is not NAMESPACE/SERVICE/INSTANCE`}},
		"a key with too many parts":   {[]string{"a/web/1/x", at("10.0.0.1")}, "", []string{`W4501 key "a/web/1/x" is left out: it is not NAMESPACE/SERVICE/INSTANCE`}},
		"a key with an empty part":    {[]string{"a//1", at("10.0.0.1")}, "", []string{`W4501 key "a//1" is left out: it is not NAMESPACE/SERVICE/INSTANCE`}},
		"a key that is no UTF-8":      {[]string{"a/web/\xff", at("10.0.0.1")}, "", []string{"W4501 key \"a/web/\uFFFD\" is left out: it is not NAMESPACE/SERVICE/INSTANCE"}},
		"a value that is malformed":   {[]string{"a/web/1", "x", "a/web/2", at("10.0.0.2")}, "a/web 10.0.0.2:80", []string{`W4501 the instance at key "a/web/1" is left out: it is not JSON: invalid character 'x' looking for beginning of value`}},
		"a field that nobody knows":   {[]string{"a/web/1", with(`"wieght": 1`)}, "a/web 10.0.0.1:80", []string{`W4502 the instance at key "a/web/1" has what this version does not know: wieght`}},
		"an instance that was mended": {[]string{"a/web/1", "x", "a/web/1", at("10.0.0.1")}, "a/web 10.0.0.1:80", nil},
		"an instance that went bad":   {[]string{"a/web/1", at("10.0.0.1"), "a/web/1", "{}"}, "", []string{`W4501 the instance at key "a/web/1" is left out: address is no IP address: ""`}},
		"two protocols": {[]string{"a/web/2", tcp, "a/web/1", http}, "a/web 10.0.0.1:90 10.0.0.1:8080 10.0.0.2:80",
			[]string{`W4201 port 80 of service a/web is tcp here, but http at key "a/web/1"`}},
		"two at one place": {[]string{"a/web/2", at("10.0.0.1"), "a/web/1", at("10.0.0.1")}, "a/web 10.0.0.1:80",
			[]string{`W4503 the instance at key "a/web/2" listens on 10.0.0.1:80, as does that at "a/web/1"; the one that was registered last is used`}},
		"two at one place, the later key last": {[]string{"a/web/1", at("10.0.0.1"), "a/web/2", at("10.0.0.1")}, "a/web 10.0.0.1:80",
			[]string{`W4503 the instance at key "a/web/1" listens on 10.0.0.1:80, as does that at "a/web/2"; the one that was registered last is used`}},
	} {
		got, said := text(filled(c.kv...))
		if diff := cmp.Diff(c.said, said); diff != "" || got != c.want {
			t.Errorf("%s: %q, want %q\n%s", name, got, c.want, diff)
		}
	}
}

func TestAFullReadRemovesWhatItDoesNotShow(t *testing.T) {
	tab := filled("a/db/1", at("10.0.0.9"), "a/web/1", at("10.0.0.1"), "a/web/2", at("10.0.0.2"), "stray", "", "a/x/1", "bad")
	before, _ := tab.services()
	tab.begin()
	tab.put([]byte(base+"a/web/1"), []byte(at("10.0.0.1")), 2)
	tab.put([]byte(base+"a/db/1"), []byte(at("10.0.0.9")), 0)
	tab.sweep()
	after, changed := tab.services()
	if brief(after) != "a/db 10.0.0.9:80; a/web 10.0.0.1:80" || !changed || after[0] != before[0] || len(before[1].Endpoints) != 2 {
		t.Errorf("%s, %t", brief(after), changed)
	}
	if ds, _ := tab.faults.diagnostics(); len(ds) > 0 {
		t.Error(ds)
	}
	if after[1].Endpoints[0] != before[1].Endpoints[0] {
		t.Error("an instance that did not change has another endpoint")
	}
}

func TestWhatEndsUpTheSameKeepsItsPointer(t *testing.T) {
	tab := filled("a/web/1", at("10.0.0.1"))
	before, _ := tab.services()
	tab.remove([]byte(base + "a/web/1"))
	tab.put([]byte(base+"a/web/1"), []byte(" "+at("10.0.0.1")), 99)
	after, changed := tab.services()
	if changed || after[0] != before[0] {
		t.Error("an equal service was made anew")
	}
}

func TestTheOrderOfTheKeysDoesNotMatter(t *testing.T) {
	var kv [][2]string
	for i := range 60 {
		d := doc{Address: fmt.Sprintf("10.0.0.%d", i%50), Ports: []docPort{{Number: uint16(80 + i%3), Protocol: []string{"http", "tcp"}[i%2]}}}
		kv = append(kv, [2]string{fmt.Sprintf("a/s%d/%d", i%4, i), d.String()})
	}
	read := func() ([]*registry.Service, []registry.Diagnostic) {
		tab := newTable(base)
		tab.begin()
		for _, x := range kv {
			tab.put([]byte(base+x[0]), []byte(x[1]), int64(len(x[0])))
			if rand.IntN(4) == 0 {
				tab.services()
			}
		}
		tab.sweep()
		all, _ := tab.services()
		ds, _ := tab.faults.diagnostics()
		return all, ds
	}
	want, wantSaid := read()
	for range 20 {
		rand.Shuffle(len(kv), func(i, j int) { kv[i], kv[j] = kv[j], kv[i] })
		got, said := read()
		if diff := cmp.Diff(want, got, addresses); diff != "" {
			t.Fatal(diff)
		}
		if diff := cmp.Diff(wantSaid, said); diff != "" {
			t.Fatal(diff)
		}
	}
}

func TestFaultsAreBounded(t *testing.T) {
	tab := newTable(base)
	tab.begin()
	const n = 50_000
	for i := range n {
		tab.put(fmt.Appendf(nil, "%sstray%d", base, i), []byte("x"), 1)
	}
	tab.sweep()
	ds, _ := tab.faults.diagnostics()
	if len(ds) != maxTold+1 || !strings.Contains(ds[maxTold].Summary, fmt.Sprint(n-maxTold)) || len(tab.faults.named) != maxNamed {
		t.Errorf("%d diagnostics of %d faults, the last one %v", len(ds), len(tab.faults.named), ds[len(ds)-1])
	}
	for i := range n {
		tab.remove(fmt.Appendf(nil, "%sstray%d", base, i))
	}
	if ds, changed := tab.faults.diagnostics(); len(ds) > 0 || !changed || len(tab.faults.unnamed) > 0 {
		t.Errorf("%v, %t", ds, changed)
	}
	long := base + strings.Repeat("x", 100_000)
	tab.put([]byte(long), nil, 1)
	if ds, _ := tab.faults.diagnostics(); len(ds[0].Summary)+len(ds[0].Origin) > 3*maxKey {
		t.Errorf("%d bytes", len(ds[0].Summary))
	}
}

func TestInstancesAreBounded(t *testing.T) {
	tab := newTable(base)
	tab.most = 2
	read := func() (string, []string) {
		tab.begin()
		for i := range 4 {
			if tab.most == 2 || i < 3 {
				tab.put(fmt.Appendf(nil, "%sa/web/%d", base, i), []byte(at(fmt.Sprintf("10.0.0.%d", i))), 1)
			}
		}
		tab.sweep()
		return text(tab)
	}
	if got, said := read(); got != "a/web 10.0.0.0:80 10.0.0.1:80" || len(said) != 2 || !strings.Contains(said[0], "more than 2") {
		t.Error(got, said)
	}
	tab.most = 3
	if got, said := read(); got != "a/web 10.0.0.0:80 10.0.0.1:80 10.0.0.2:80" || len(said) != 0 {
		t.Error(got, said)
	}
}
