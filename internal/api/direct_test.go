package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wattle-mesh/wattle/configs"
	"github.com/wattle-mesh/wattle/internal/api/apipb"
	"github.com/wattle-mesh/wattle/internal/store"
	"github.com/wattle-mesh/wattle/registry"
	"github.com/wattle-mesh/wattle/test/smalldisk"
)

// outside is a service at an address, as wattle service register -address makes it.
func outside(name, address string, change ...func(*configs.Service)) *configs.Service {
	a := netip.MustParseAddr(address)
	s := &configs.Service{Instance: InstanceAt(a), Weight: 1, Ports: []configs.ServicePort{{Number: 5432, Protocol: "tcp"}},
		Endpoints: []*configs.Endpoint{{Address: a, Port: 5432, PortFor: 5432, Weight: 1}}}
	s.Namespace, s.Name = "shop", name
	for _, f := range change {
		f(s)
	}
	return s
}

// places lists services with their endpoints, "!" before those that are unhealthy: "db 10.0.0.1 !10.0.0.2".
func places(set []*registry.Service) string {
	var out []string
	for _, s := range set {
		text := s.Name.Name
		for _, e := range s.Endpoints {
			text += " "
			if e.Health == registry.Unhealthy {
				text += "!"
			}
			text += e.Address.String()
		}
		out = append(out, text)
	}
	return strings.Join(out, ", ")
}

func wantError(t *testing.T, what string, err error, status int, code, says string) {
	t.Helper()
	e, ok := errors.AsType[*Error](err)
	if !ok || e.Status != status || e.Code != code || !strings.Contains(err.Error(), says) {
		t.Errorf("%s: %v, want %d %s %q", what, err, status, code, says)
	}
}

func TestAServiceWithoutAnAgentIsPublishedAndKept(t *testing.T) {
	s := newSite(t, "127.0.0.1:0")
	s.policy(nil)
	ctx := t.Context()
	register := func(x *configs.Service) (ServiceAnswer, error) {
		return s.client.Register(ctx, ServiceRequest{Service: x})
	}
	got, err := register(outside("db", "10.0.0.9"))
	if err != nil || !got.Changed || got.State != StateAccepted || got.Origin == "" {
		t.Fatalf("%+v, %v", got, err)
	}
	unweighted := outside("db", "10.0.0.9", func(x *configs.Service) { x.Weight = 0 })
	if again, err := register(unweighted); err != nil || again.Changed || again.Service.Weight != 1 {
		t.Errorf("without a weight: %+v, %v", again, err)
	}
	if again, err := register(outside("db", "10.0.0.9")); err != nil || again.Changed || !again.Registered.Equal(got.Registered) {
		t.Errorf("again: %+v, %v", again, err)
	}
	if _, err := register(outside("db", "fd00::1")); err != nil {
		t.Fatal(err)
	}
	s.await("both", func(set []*registry.Service) bool { return places(set) == "db 10.0.0.9 fd00::1" })
	if e := s.services()[0].Endpoints[0]; e.Workload != nil || e.Port != 5432 || e.ServicePort != 5432 {
		t.Errorf("%+v", e)
	}
	all, err := s.client.Services(ctx)
	if err != nil || len(all) != 2 || all[1].Instance != "fd00-0000-0000-0000-0000-0000-0000-0001" {
		t.Errorf("%+v, %v", all, err)
	}
	status, _, text := s.ask(http.MethodGet, "/v1/services/shop/db/10.0.0.9", "", nil)
	var one ServiceStatus
	if err := json.Unmarshal([]byte(text), &one); err != nil || status != 200 || one.Name != "db" {
		t.Errorf("%d %s", status, text)
	}

	gone, err := s.client.Deregister(ctx, ServiceRef{"shop", "db", "fd00-0000-0000-0000-0000-0000-0000-0001"})
	if err != nil || !gone.Changed {
		t.Errorf("%+v, %v", gone, err)
	}
	if gone, err = s.client.Deregister(ctx, gone.ServiceRef); err != nil || gone.Changed {
		t.Errorf("again: %+v, %v", gone, err)
	}
	s.await("one", func(set []*registry.Service) bool { return places(set) == "db 10.0.0.9" })
	s.restart()
	s.await("it after a restart", func(set []*registry.Service) bool { return places(set) == "db 10.0.0.9" })
}

func TestWhatAServerDoesNotRegister(t *testing.T) {
	s := newSite(t, "127.0.0.1:0")
	s.policy([]*configs.Host{{Name: "h9", Address: netip.MustParseAddr("10.0.0.90")}})
	r := s.registrar
	if _, err := r.Enroll([]*configs.Service{outside("db", "10.0.0.1")}, Run{}); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name   string
		s      *configs.Service
		status int
		code   string
		says   string
	}{
		{"a workload", service("web"), 400, CodeForeign, "no endpoint"},
		{"checks", outside("db", "10.0.0.2", func(s *configs.Service) { s.Checks = []*configs.Check{{Type: "tcp", Port: 5432}} }), 400, CodeForeign, "checks"},
		{"a unit", outside("db", "10.0.0.2", func(s *configs.Service) { s.Unit = "db.service" }), 400, CodeForeign, "unit"},
		{"a local port", outside("db", "10.0.0.2", func(s *configs.Service) { s.Ports[0].Local = netip.MustParseAddrPort("127.0.0.1:1") }), 400, CodeForeign, "listens on a host"},
		{"no machine's address", outside("db", "0.0.0.0"), 400, CodeMalformed, "0.0.0.0"},
		{"another port", outside("db", "10.0.0.2", func(s *configs.Service) { s.Endpoints[0].PortFor = 1 }), 400, CodeMalformed, "port 1"},
		{"an endpoint that is empty", outside("db", "10.0.0.2", func(s *configs.Service) { s.Endpoints[0] = nil }), 400, CodeMalformed, "empty"},
		{"a weight", outside("db", "10.0.0.2", func(s *configs.Service) { s.Endpoints[0].Weight = maxWeight + 1 }), 400, CodeMalformed, "weight"},
		{"more meta than the catalog takes", outside("db", "10.0.0.2", func(s *configs.Service) { s.Endpoints[0].Meta = map[string]string{"k": strings.Repeat("v", 4<<10)} }), 400, CodeMalformed, "larger than 4096 bytes"},
		{"too many endpoints", outside("db", "10.0.0.2", func(s *configs.Service) { s.Endpoints = make([]*configs.Endpoint, maxEndpoints+1) }), 400, CodeMalformed, "65 endpoints"},
		{"the place of another instance", outside("db", "10.0.0.1", func(s *configs.Service) { s.Instance = "b" }), 409, CodeTaken, "shop/db/10.0.0.1 has 10.0.0.1:5432"},
		{"the address of a host", outside("db", "10.0.0.90"), 409, CodeHost, "host h9, which has an agent"},
	} {
		_, err := r.Enroll([]*configs.Service{c.s}, Run{})
		wantError(t, c.name, err, c.status, c.code, c.says)
	}
	_, err := r.Heartbeat(ServiceRef{"shop", "db", "10.0.0.1"}, true)
	wantError(t, "a heartbeat without a ttl", err, 409, CodeNoTTL, "needs no heartbeats")
	_, err = r.Heartbeat(ServiceRef{"shop", "none", ""}, true)
	wantError(t, "a heartbeat of nothing", err, 404, CodeUnknown, "not registered")

	for _, method := range []string{http.MethodPut, http.MethodDelete} {
		if status, _, text := s.ask(method, "/v1/services/shop/db/10.0.0.1", "{}", nil); status != 401 {
			t.Errorf("%s without the token: %d %s", method, status, text)
		}
	}
	if places(s.services()) != "db 10.0.0.1" {
		t.Errorf("%s", places(s.services()))
	}
}

func TestAnAgentThatComesEndsWhatWasRegisteredForItsAddress(t *testing.T) {
	w := newWorld(t)
	w.policy(nil)
	if _, err := w.registrar.Enroll([]*configs.Service{outside("db", "127.0.0.1")}, Run{}); err != nil {
		t.Fatal(err)
	}
	w.await("the service", func(set []*registry.Service) bool { return places(set) == "db 127.0.0.1" })
	report(t, w.admit("h1", "shop/reviews")).say(&apipb.ReportRequest{Address: "127.0.0.1"})
	w.await("it to go", func(set []*registry.Service) bool { return places(set) == "" })
	if all := w.registrar.Direct(); all[0].State != StateRefused || !strings.Contains(all[0].Reason, "host h1, which has an agent") {
		t.Errorf("%+v", all)
	}
	eventually(t, "the diagnostic", func() error {
		for {
			select {
			case ds := <-w.wrong:
				for _, d := range ds {
					if d.Code == CodeHost && strings.Contains(d.Summary, "shop/db/127.0.0.1") {
						return nil
					}
				}
			default:
				return errors.New("there is none")
			}
		}
	})
	if got, err := w.registrar.Deregister(ServiceRef{"shop", "db", "127.0.0.1"}, ""); err != nil || !got.Changed {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestTheServerKeepsTheLeaseOfWhatHasNoAgent(t *testing.T) {
	s, err := store.Open(filepath.Join(t.TempDir(), "state", "wattle.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	lease := func(s *configs.Service) {
		s.TTL, s.DeregisterAfter = configs.Duration(30*time.Second), configs.Duration(2*time.Minute)
	}
	synctest.Test(t, func(t *testing.T) {
		open := func() *Registrar {
			r, err := NewRegistrar(RegistrarOptions{Log: slog.New(slog.DiscardHandler), Store: s})
			if err != nil {
				t.Fatal(err)
			}
			r.SetPolicy(&configs.Policy{})
			return r
		}
		r := open()
		ctx, stop := context.WithCancel(t.Context())
		var mu sync.Mutex
		var sets [][]*registry.Service
		last := func() []*registry.Service {
			mu.Lock()
			defer mu.Unlock()
			return sets[len(sets)-1]
		}
		count := func() int {
			mu.Lock()
			defer mu.Unlock()
			return len(sets)
		}
		ended := make(chan error)
		go func() {
			ended <- r.Run(ctx, func(set []*registry.Service) {
				mu.Lock()
				defer mu.Unlock()
				sets = append(sets, set)
			})
		}()
		for _, x := range []*configs.Service{outside("db", "10.0.0.1", lease), outside("db", "10.0.0.2", lease), outside("kv", "10.0.0.3")} {
			if _, err := r.Enroll([]*configs.Service{x}, Run{}); err != nil {
				t.Fatal(err)
			}
		}
		want := func(after time.Duration, places0 string) {
			t.Helper()
			time.Sleep(after)
			synctest.Wait()
			if got := places(last()); got != places0 {
				t.Errorf("%q, want %q", got, places0)
			}
		}
		beat := func(address string) {
			if _, err := r.Heartbeat(ServiceRef{"shop", "db", address}, true); err != nil {
				t.Error(err)
			}
		}
		want(29*time.Second, "db 10.0.0.1 10.0.0.2, kv 10.0.0.3")
		kv, n := last()[1], count()
		beat("10.0.0.1")
		want(time.Second, "db 10.0.0.1 !10.0.0.2, kv 10.0.0.3")
		if reason := last()[0].Endpoints[1].Reason; reason != "no heartbeat for 30s (ttl 30s)" || last()[1] != kv || count() != n+1 {
			t.Errorf("%q, %d publications", reason, count()-n)
		}
		if all := r.Direct(); all[1].Health != "unhealthy" || all[0].Health != "healthy" || all[2].Health != "unknown" {
			t.Errorf("%+v", all)
		}
		beat("10.0.0.2")
		want(0, "db 10.0.0.1 10.0.0.2, kv 10.0.0.3")
		want(119*time.Second, "db !10.0.0.2, kv 10.0.0.3") // one was silent for 2 minutes
		want(time.Second, "kv 10.0.0.3")
		if _, err := r.Enroll([]*configs.Service{outside("db", "10.0.0.1", lease)}, Run{}); err != nil {
			t.Fatal(err)
		}
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		time.Sleep(time.Hour)
		if got := places(open().services); got != "db 10.0.0.1, kv 10.0.0.3" {
			t.Errorf("after a restart: %q", got)
		}
	})
}

// What the store cannot delete stays registered, and goes when it can.
func TestASilentServiceStaysUntilTheStoreHasDeletedIt(t *testing.T) {
	r := newRegistrar(t)
	x := outside("db", "10.0.0.1", func(s *configs.Service) {
		s.TTL, s.DeregisterAfter = configs.Duration(time.Second), configs.Duration(2*time.Second)
	})
	if _, err := r.Enroll([]*configs.Service{x}, Run{}); err != nil {
		t.Fatal(err)
	}
	late := time.Now().Add(time.Hour)
	if err := r.o.Store.Close(); err != nil {
		t.Fatal(err)
	}
	if _, _, err := r.lease(late); err == nil {
		t.Fatal("a store that is closed deletes")
	}
	if all := r.Direct(); len(all) != 1 {
		t.Errorf("%d are registered, and the store has one", len(all))
	}
}

// A registration of many services changes only its own.
func TestWhatIsRegisteredLeavesOthersAlone(t *testing.T) {
	r := newRegistrar(t)
	for i := range 20 {
		if _, err := r.Enroll([]*configs.Service{outside(fmt.Sprintf("s%02d", i), fmt.Sprintf("10.0.1.%d", i))}, Run{}); err != nil {
			t.Fatal(err)
		}
	}
	before := r.services
	if _, err := r.Enroll([]*configs.Service{outside("s05", "10.0.2.1")}, Run{}); err != nil {
		t.Fatal(err)
	}
	for i, s := range r.services {
		if same := s == before[i]; same == (s.Name.Name == "s05") {
			t.Errorf("%s is the same: %t", s.Name, same)
		}
	}
}

func TestTheEndOfAnEarlierRunDoesNotEndALaterOne(t *testing.T) {
	s := newSite(t, "127.0.0.1:0")
	s.policy(nil)
	ctx, ref := t.Context(), ServiceRef{"shop", "db", "10.0.0.9"}
	register := func(run Run, change ...func(*configs.Service)) ServiceAnswer {
		t.Helper()
		got, err := s.client.Register(ctx, ServiceRequest{Service: outside("db", "10.0.0.9", change...), Run: run})
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	leave := func(run string) bool {
		t.Helper()
		got, err := s.client.Leave(ctx, ref, run)
		if err != nil {
			t.Fatal(err)
		}
		return got.Changed
	}
	labelled := func(s *configs.Service) { s.Meta = map[string]string{"version": "2"} }
	register(Run{ID: "old"})
	register(Run{ID: "new"}, labelled)
	if got := register(Run{ID: "old", Renew: true}); got.Changed || got.Service.Meta["version"] != "2" {
		t.Errorf("the earlier run takes it back: %+v", got)
	}
	if leave("old") {
		t.Error("the end of the earlier run ends the later one")
	}
	if !leave("new") {
		t.Error("the later run does not end it")
	}
	if got := register(Run{ID: "old", Renew: true}); !got.Changed {
		t.Error("a run that still lives is not registered again")
	}
	if leave("new") || !leave("old") {
		t.Error("it is not the run's that is left")
	}
	// The same service by another run is that run's; by a command it is nobody's news.
	register(Run{ID: "old"})
	if got := register(Run{ID: "new"}); got.Changed {
		t.Errorf("%+v", got)
	}
	register(Run{})
	if leave("old") || !leave("new") {
		t.Error("it is not the later run's")
	}
	if _, err := s.client.Register(ctx, ServiceRequest{Service: outside("db", "10.0.0.9"), Run: Run{Renew: true}}); err == nil {
		t.Error("a run without an id is taken")
	}
}

func TestARunDoesNotBringBackWhatWasDeregistered(t *testing.T) {
	s := newSite(t, "127.0.0.1:0")
	s.policy(nil)
	ctx, ref := t.Context(), ServiceRef{"shop", "db", "10.0.0.9"}
	register := func(run Run) ServiceAnswer {
		t.Helper()
		got, err := s.client.Register(ctx, ServiceRequest{Service: outside("db", "10.0.0.9"), Run: run})
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	register(Run{ID: "a"})
	if got, err := s.client.Deregister(ctx, ref); err != nil || !got.Changed {
		t.Fatalf("%+v, %v", got, err)
	}
	if got := register(Run{ID: "a", Renew: true}); got.State != StateDeregistered || got.Changed || !strings.Contains(got.Reason, "wattle service register") {
		t.Errorf("%+v", got)
	}
	again, err := NewRegistrar(s.registrar.o) // it outlives the server
	if err != nil {
		t.Fatal(err)
	}
	if got, err := again.Enroll([]*configs.Service{outside("db", "10.0.0.9")}, Run{ID: "a", Renew: true}); err != nil || got[0].State != StateDeregistered || len(again.Direct()) != 0 {
		t.Errorf("%+v, %v", got, err)
	}
	if got := register(Run{ID: "b"}); !got.Changed {
		t.Errorf("%+v", got)
	}
	if got, err := s.client.Leave(ctx, ref, "b"); err != nil || !got.Changed {
		t.Fatalf("%+v, %v", got, err)
	}
	if got := register(Run{ID: "b", Renew: true}); !got.Changed {
		t.Errorf("what its run has ended it cannot renew: %+v", got)
	}
}

func TestSeveralServicesAreRegisteredOrNone(t *testing.T) {
	s := newSite(t, "127.0.0.1:0")
	s.policy(nil)
	ctx := t.Context()
	at := func(line string) func(*configs.Service) {
		return func(s *configs.Service) { s.Origin = "f.hcl:" + line }
	}
	weird := func(s *configs.Service) { s.Endpoints[0].Weight = maxWeight + 1 }
	for name, c := range map[string]struct {
		bad  *configs.Service
		says string
	}{
		"one that is none":         {outside("kv", "10.0.0.2", at("9"), weird), "f.hcl:9: service shop/kv/10.0.0.2: weight"},
		"one twice":                {outside("db", "10.0.0.1", at("9")), "f.hcl:9: service shop/db/10.0.0.1: it is there twice"},
		"two at one place":         {outside("db", "10.0.0.1", at("9"), func(s *configs.Service) { s.Instance = "b" }), "f.hcl:9: service shop/db/b: shop/db/10.0.0.1 has 10.0.0.1:5432 already; nothing is registered"},
		"one that an agent is for": {outside("kv", "10.0.0.2", at("9"), func(s *configs.Service) { s.Endpoints = nil }), "f.hcl:9: service shop/kv/10.0.0.2: "},
	} {
		if _, err := s.client.RegisterAll(ctx, ServicesRequest{Services: []*configs.Service{outside("db", "10.0.0.1", at("1")), c.bad}}); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", name, err)
		}
		if all, err := s.client.Services(ctx); err != nil || len(all) != 0 {
			t.Errorf("%s: registered is %+v, %v", name, all, err)
		}
	}
	both := ServicesRequest{Services: []*configs.Service{outside("db", "10.0.0.1"), outside("kv", "10.0.0.2")}}
	for _, changed := range []bool{true, false} {
		got, err := s.client.RegisterAll(ctx, both)
		if err != nil || len(got) != 2 || got[0].Changed != changed || got[1].Changed != changed || got[1].Name != "kv" {
			t.Errorf("%+v, %v", got, err)
		}
	}
}

// A full disk keeps silent services registered, and ends nothing else.
func TestAFullDiskDoesNotEndTheRegistryOfTheMesh(t *testing.T) {
	smalldisk.Run(t, 4<<20, func(t *testing.T, disk smalldisk.Disk) {
		s, err := store.Open(filepath.Join(disk.Dir, "wattle.db"))
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		r, err := NewRegistrar(RegistrarOptions{Log: slog.New(slog.DiscardHandler), Store: s})
		if err != nil {
			t.Fatal(err)
		}
		var all []*configs.Service
		for i := range 400 { // in all parts of the file: deleting every other one needs more of it
			all = append(all, outside(fmt.Sprintf("s%d", i), fmt.Sprintf("10.0.%d.%d", i/200, i%200+1), func(s *configs.Service) {
				if s.Meta = map[string]string{"a": strings.Repeat("x", 900)}; i%2 == 0 {
					s.TTL, s.DeregisterAfter = configs.Duration(time.Millisecond), configs.Duration(time.Millisecond)
				}
			}))
		}
		if _, err := r.Enroll(all, Run{}); err != nil {
			t.Fatal(err)
		}
		disk.Fill()
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- r.Run(ctx, func([]*registry.Service) {}) }()
		defer func() { cancel(); <-ended }()
		registered := func(n int) func() error {
			return func() error {
				_, full := s.Fault()
				if got := len(r.Direct()); got != n || (full != nil) != (n == len(all)) {
					return fmt.Errorf("%d are registered, %w", got, full)
				}
				return nil
			}
		}
		eventually(t, "the store to be full", registered(len(all)))
		disk.Free()
		eventually(t, "what is silent to go", registered(len(all)/2))
	})
}
