package configs

import (
	"strings"
	"testing"
	"time"
)

func TestWhatVanishesFromAFileStaysForAWhile(t *testing.T) {
	a, b := &Service{Block: Block{Namespace: "default", Name: "a", Origin: "x.hcl:1"}}, &Service{Block: Block{Namespace: "default", Name: "b", Origin: "x.hcl:5"}}
	h := &Host{Name: "h1", Origin: "x.hcl:9"}
	whole, half := &Policy{Services: []*Service{a, b}, Hosts: []*Host{h}}, &Policy{Services: []*Service{a}}
	var s Settler
	start := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	step := func(p *Policy, after time.Duration, services, hosts int, again time.Duration, says string) {
		t.Helper()
		got, ds, next := s.Settle(p, start.Add(after))
		if len(got.Services) != services || len(got.Hosts) != hosts || next != again || !strings.Contains(ds.Text(), says) || (says == "") != (len(ds) == 0) {
			t.Errorf("after %s: %d services, %d hosts, again in %s: %s", after, len(got.Services), len(got.Hosts), next, ds.Text())
		}
	}
	step(half, 0, 1, 0, 0, "")
	step(whole, 0, 2, 1, 0, "")
	step(half, 0, 2, 1, SettleTime, "host h1 is gone from the files and stays in force until 03:04:10 UTC")
	step(&Policy{}, time.Second, 2, 1, SettleTime-time.Second, "service a is gone")
	step(whole, 2*time.Second, 2, 1, 0, "")
	step(half, 3*time.Second, 2, 1, SettleTime, "service b is gone") // it counts anew
	step(half, 8*time.Second, 1, 0, 0, "")
}
