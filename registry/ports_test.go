package registry

import (
	"math/rand/v2"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

func TestThePortThatCallersName(t *testing.T) {
	for name, c := range map[string]struct {
		all    []Listener
		port   uint16
		agreed bool
	}{
		"they agree":                       {[]Listener{{8080, 9}, {8080, 1}}, 8080, true},
		"most of them":                     {[]Listener{{9090, 1}, {8081, 2}, {9090, 3}}, 9090, false},
		"as many: the first that came":     {[]Listener{{8080, 7}, {9090, 5}}, 9090, false},
		"nobody knows who came: lowest":    {[]Listener{{9090, 0}, {8080, 0}}, 8080, false},
		"a newcomer with a lower port":     {[]Listener{{8080, 1}, {80, 2}}, 8080, false},
		"a newcomer beside many of old":    {[]Listener{{8080, 3}, {8080, 4}, {80, 9}}, 8080, false},
		"the oldest is alone with its own": {[]Listener{{80, 1}, {8080, 3}, {8080, 4}}, 8080, false},
	} {
		if port, agreed := NamedPort(c.all); port != c.port || agreed != c.agreed {
			t.Errorf("%s: %d, %t", name, port, agreed)
		}
	}
}

func TestTheNamedPortHasNoOrderAndDoesNotFollowOneInstance(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		ports := rapid.SliceOfN(rapid.Uint16Range(80, 83), 1, 12).Draw(t, "ports")
		var all []Listener
		for i, p := range ports {
			all = append(all, Listener{p, uint64(i + 1)})
		}
		want, agreed := NamedPort(all)
		shuffled := slices.Clone(all)
		r := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))
		r.Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
		if port, same := NamedPort(shuffled); port != want || same != agreed {
			t.Fatalf("%v: %d, shuffled %d", all, want, port)
		}
		count := map[uint16]int{}
		for _, l := range all {
			count[l.Port]++
		}
		// One that comes, with any port: the name stays unless its port is now as common.
		comes := Listener{rapid.Uint16Range(79, 84).Draw(t, "comes"), uint64(len(all) + 1)}
		if port, _ := NamedPort(append(slices.Clone(all), comes)); port != want && (port != comes.Port || count[comes.Port]+1 < count[want]) {
			t.Fatalf("%v and %v: %d becomes %d", all, comes, want, port)
		}
		// One that goes: the name stays while more instances have it than have any other.
		i := rapid.IntRange(0, len(all)-1).Draw(t, "goes")
		rest := slices.Delete(slices.Clone(all), i, i+1)
		if len(rest) == 0 {
			return
		}
		clear(count)
		for _, l := range rest {
			count[l.Port]++
		}
		ahead := true
		for p, n := range count {
			ahead = ahead && (p == want || n < count[want])
		}
		if port, _ := NamedPort(rest); ahead && port != want {
			t.Fatalf("%v without %v: %d becomes %d", all, all[i], want, port)
		}
		if port, _ := NamedPort(rest); all[i].Port != want && port != want {
			t.Fatalf("%v without %v, which was not named: %d becomes %d", all, all[i], want, port)
		}
	})
}
