package registry

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"testing"
)

// A million services take as many pointers, of which only so many are looked into.
func TestAMillionServices(t *testing.T) {
	all := make([]*Service, 1_000_000)
	for i := range all {
		all[i] = &Service{Name: Name{"default", fmt.Sprintf("s%07d", i)}, Ports: []Port{{Number: 80}}}
	}
	before := heap()
	c := checked{}.next("consul", all)
	if grown := heap() - before; grown > 10<<20 {
		t.Errorf("it takes %d bytes", grown)
	}
	if len(c.clean) != maxServices || len(c.ds) != 1 || c.ds[0].Code != tooMuch ||
		c.ds[0].Summary != "registry consul has 1000000 services, of which 900000 are left out" {
		t.Errorf("%d services, %v", len(c.clean), texts(c.ds))
	}
	if again := c.next("consul", all); &again.clean[0] != &c.clean[0] {
		t.Error("the same set again is another one")
	}
	if fewer := c.next("consul", all[:maxServices]); len(fewer.ds) > 0 || len(fewer.clean) != maxServices {
		t.Errorf("%d services, %v", len(fewer.clean), texts(fewer.ds))
	}
	runtime.KeepAlive(all)
}

func heap() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

func TestTooManyEndpoints(t *testing.T) {
	e := outside("10.0.0.1")
	full := make([]*Endpoint, maxServiceEndpoints) // one endpoint again and again: only what is counted matters
	for i := range full {
		full[i] = e
	}
	var all []*Service
	for i := range 2 * maxEndpoints / maxServiceEndpoints {
		all = append(all, service(fmt.Sprintf("s%02d", i), full...))
	}
	got, over := checked{}.bounded("consul", all)
	if len(got) != maxEndpoints/maxServiceEndpoints || over.Code != tooMuch {
		t.Errorf("%d services, %v", len(got), over)
	}

	big := service("big")
	for i := range maxServiceEndpoints + 5 {
		big.Endpoints = append(big.Endpoints, &Endpoint{Address: netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}), Port: 1, ServicePort: 80})
	}
	for i := range 2 * maxPorts {
		big.Ports = append(big.Ports, Port{Number: uint16(1000 + i)})
	}
	v := inspect("consul", big)
	if len(v.clean.Endpoints) != maxServiceEndpoints || len(v.clean.Ports) != maxPorts || len(v.ds) != 2 || v.ds[0].Code != tooMuch || v.ds[1].Code != tooMuch {
		t.Errorf("%d endpoints, %d ports, %v", len(v.clean.Endpoints), len(v.clean.Ports), texts(v.ds))
	}
}

// A flood does not drive out what is served, nor, of what is new, bad services good ones.
func TestAFloodDrivesNothingOut(t *testing.T) {
	served, fresh := service("served", outside("10.0.0.1")), service("new", outside("10.0.0.2"))
	c := checked{}.next("consul", []*Service{served})
	all := make([]*Service, 0, maxServices+12)
	for i := range maxServices + 10 {
		all = append(all, &Service{Name: Name{"default", fmt.Sprintf("a_%06d", i)}, Ports: []Port{{Number: 80}}})
	}
	all = append(all, fresh, served)
	if c = c.next("consul", all); len(c.clean) != 2 || c.clean[0] != fresh || c.clean[1] != served {
		t.Errorf("%d services, %v", len(c.clean), texts(c.ds))
	}
	if over := c.ds[len(c.ds)-1]; over.Summary != "registry consul has 100012 services, of which 12 are left out" {
		t.Error(over.Summary)
	}
	for i := range all[:maxServices+10] { // as many good ones
		all[i] = &Service{Name: Name{"default", fmt.Sprintf("a-%06d", i)}, Ports: []Port{{Number: 80}}}
	}
	if c = c.next("consul", all); len(c.clean) != maxServices || c.clean[len(c.clean)-2] != fresh || c.clean[len(c.clean)-1] != served {
		t.Errorf("%d services, the last ones %v", len(c.clean), c.clean[len(c.clean)-2:])
	}
	over := []*Service{}
	for i := range 2 * maxEndpoints / maxServiceEndpoints {
		over = append(over, service(fmt.Sprintf("b%02d", i), make([]*Endpoint, maxServiceEndpoints)...))
	}
	if got, _ := c.bounded("consul", append(over, fresh, served)); !slices.Contains(got, fresh) || !slices.Contains(got, served) {
		t.Errorf("services with too many endpoints drive them out: %d", len(got))
	}
}

func TestRoom(t *testing.T) {
	all := []string{"a_b", "b", "c", "d_e", "f"}
	got := func(most int) string {
		return strings.Join(Room(all, most, func(n string) bool { return n == "f" || n == "d_e" }, func(n string) string { return n }), " ")
	}
	for most, want := range map[int]string{1: "d_e", 3: "d_e f b", 4: "d_e f b c", 5: "a_b b c d_e f"} {
		if got(most) != want {
			t.Errorf("%d: %q", most, got(most))
		}
	}
}

// What is wrong is told in a bounded number of bounded messages, and kept likewise.
func TestGarbageIsToldInFewWords(t *testing.T) {
	huge := strings.Repeat("\xffx", 5<<20)
	bad := func(i int) *Service {
		s := service(fmt.Sprintf("s%05d", i))
		for range maxTold + 50 {
			s.Endpoints = append(s.Endpoints, &Endpoint{})
		}
		return s
	}
	var all []*Service
	for i := range 1000 {
		all = append(all, bad(i))
	}
	loud := service("z", outside("10.0.0.1"), outside("10.0.0.2"), outside("10.0.0.3"), outside("10.0.0.4"), inside("z", "h1", "10.0.0.5", ""), outside("10.0.0.6"))
	loud.Origin = huge
	loud.Endpoints[0].Meta = LabelsOf(map[string]string{huge: "x"})
	loud.Endpoints[1].Health = Health(huge)
	loud.Endpoints[2].Reason = huge
	loud.Endpoints[3].Meta = LabelsOf(map[string]string{"x": huge})
	loud.Endpoints[4].Workload.Host.Name = huge
	loud.Ports = append(loud.Ports, Port{Number: 81, Protocol: Protocol(huge)}, Port{Number: 82, Name: huge})
	name := service(huge)
	for _, set := range [][]*Service{all, {name, loud}, {loud}} {
		c := checked{}.next("consul", set)
		if len(c.ds) > maxTold+1 || c.kept > maxKept {
			t.Errorf("%d diagnostics, %d are kept", len(c.ds), c.kept)
		}
		for _, d := range c.ds {
			if len(d.String()) > 2000 {
				t.Errorf("a message of %d bytes: %s", len(d.String()), d.String()[:200])
			}
		}
		if set[len(set)-1] == loud && (len(c.clean) != 1 || len(c.clean[0].Endpoints) != 1 || len(c.clean[0].Ports) != 1 || len(c.clean[0].Origin) > 3*maxOrigin) {
			t.Errorf("served: %d services", len(c.clean))
		}
		if set[0] == all[0] && c.ds[maxTold].Summary != fmt.Sprintf("%d more faults in what registry consul says", 1000*(maxTold+50)-maxTold) {
			t.Error(c.ds[maxTold])
		}
	}
	a := NewAggregator(Options{Log: discard})
	add(t, a, "consul", newFake(), 0)
	ds := make([]Diagnostic, 100_000)
	for i := range ds {
		ds[i] = Diagnostic{Severity: Error, Code: BadEntry, Summary: fmt.Sprint(i)}
	}
	a.Report("consul", ds)
	if got := a.Status()[0].Diagnostics; len(got) != maxReported+1 || got[maxReported].Summary != "99000 more faults in registry consul" {
		t.Errorf("%d diagnostics are kept", len(got))
	}
}

// fuzzed makes services of bytes: each takes some for what it is made of.
func fuzzed(data []byte) []*Service {
	next := func() byte {
		if len(data) == 0 {
			return 0
		}
		b := data[0]
		data = data[1:]
		return b
	}
	text := func() string {
		n := min(int(next()%8), len(data))
		s := string(data[:n])
		data = data[n:]
		return s
	}
	pick := func(usual, other string) string {
		if next()%4 > 0 {
			return usual
		}
		return other
	}
	var out []*Service
	for len(data) > 0 && len(out) < 32 {
		if next() == 255 {
			out = append(out, nil)
			continue
		}
		s := &Service{Name: Name{pick("default", text()), pick(string(rune('a'+next()%4)), text())}, Origin: text()}
		for range next() % 4 {
			s.Ports = append(s.Ports, Port{Number: uint16(next() % 4), Name: text(), Protocol: Protocol(pick("http", text()))})
		}
		for range next() % 8 {
			if next() == 255 {
				s.Endpoints = append(s.Endpoints, nil)
				continue
			}
			e := &Endpoint{Port: uint16(next() % 3), ServicePort: uint16(next() % 4), Health: Health(pick("", text())), Reason: text(), Weight: uint32(next()) << 16}
			e.Address, _ = netip.AddrFromSlice(append([]byte{10, 0, 0}, next()%4))
			if next()%8 == 0 {
				e.Address, _ = netip.ParseAddr(text())
			}
			if next()%4 == 0 {
				e.Meta = LabelsOf(map[string]string{text(): text()})
			}
			if next()%4 == 0 {
				e.Workload = &Workload{Host: Host{Name: pick("h1", text()), Address: e.Address}, Service: s.Name, Instance: pick("", text()),
					Ports: []WorkloadPort{{Port: Port{Number: e.ServicePort}}}}
			}
			s.Endpoints = append(s.Endpoints, e)
		}
		out = append(out, s)
	}
	return out
}

// Whatever a registry says, what is served of it is sound, the rest is told, and the merge, the holds and the disk take it.
func FuzzGarbage(f *testing.F) {
	f.Add([]byte("\x00\x01\x01a\x00\x02\x01\x00\x01"), []byte("\xff\x00"))
	f.Add([]byte{}, []byte("abcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyz"))
	f.Fuzz(func(t *testing.T, first, then []byte) {
		h := newHolding()
		var catalog *Catalog
		var c checked
		for _, data := range [][]byte{first, then, nil, first} {
			said := fuzzed(data)
			c = c.next("x", said)
			told := len(c.ds)
			if told > maxTold+2 || told == 0 && !slices.Equal(c.clean, said) {
				t.Errorf("%d diagnostics for %d services of which %d are served", told, len(said), len(c.clean))
			}
			h.after(5e9, c.clean...)
			sound(t, &h.keeper)
			catalog = Merge(catalog, []Set{{Name: "x", Services: h.served}}, nil)
			if _, err := json.Marshal(catalog); err != nil {
				t.Error(err)
			}
			text, err := (&snapshot{Services: h.served}).encode()
			if err != nil {
				t.Fatal(err)
			}
			if s, err := decodeSnapshot(text); err != nil || len(s.Services) != len(h.served) {
				t.Errorf("it is not what was written: %v", err)
			}
		}
	})
}
