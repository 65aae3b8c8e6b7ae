package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wattle-mesh/wattle/configs"
	"github.com/wattle-mesh/wattle/internal/api"
	"github.com/wattle-mesh/wattle/internal/api/apipb"
	"github.com/wattle-mesh/wattle/internal/systemd"
)

// fakeUnits is a systemd that knows these units.
type fakeUnits map[string]uint32

func (f fakeUnits) Owner(_ context.Context, unit string) (uint32, error) {
	uid, ok := f[unit]
	if !ok {
		return 0, errors.New("systemd does not know it (not-found)")
	}
	return uid, nil
}

func (f fakeUnits) State(_ context.Context, unit string) (systemd.State, error) {
	if _, ok := f[unit]; !ok {
		return systemd.State{Load: "not-found", Active: "inactive"}, nil
	}
	return systemd.State{Load: "loaded", Active: "active", Invocation: "1"}, nil
}

func (f fakeUnits) Watch(ctx context.Context, _ func() ([]string, <-chan struct{}), _ func(map[string]systemd.State)) error {
	<-ctx.Done()
	return nil
}

// grantsOf makes unit blocks: each unit with one pattern of services.
func grantsOf(pairs ...string) (out unitGrants) {
	for i := 0; i < len(pairs); i += 2 {
		namespace, name, _ := strings.Cut(pairs[i+1], "/")
		out = append(out, &configs.UnitGrant{Unit: pairs[i], Services: []configs.ServiceRef{{Namespace: namespace, Name: name}}})
	}
	return out
}

// deskAt opens a desk whose files declare what list does.
func deskAt(t *testing.T, dir string, list ...*apipb.Registration) *desk {
	t.Helper()
	files := new(value[*registrations])
	files.Set(&registrations{list: list})
	drains, err := newDrains(discard(), dir)
	if err != nil {
		t.Fatal(err)
	}
	d, err := newDesk(deskOptions{
		log: discard(), disk: newDisk(dir, &alarms{log: discard()}), units: fakeUnits{"web.service": 1000, "db.service": 1001},
		grants: grantsOf("web.service", "*/*", "db.service", "*/*"), files: files, drains: drains,
	})
	if err != nil {
		t.Fatal(err)
	}
	drains.registered, drains.known = &d.bound, d.known
	d.uid = 500
	d.local = func() ([]address, error) { return []address{netip.MustParseAddr("10.0.0.1")}, nil }
	d.mu.Lock()
	defer d.mu.Unlock()
	d.take(files.Now())
	d.refresh(time.Now())
	return d
}

// service is a workload as somebody registers it.
func service(name string, port uint16, change ...func(*configs.Service)) *configs.Service {
	s := &configs.Service{Weight: 1, Ports: []configs.ServicePort{{Number: port, Protocol: "http", Local: netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port)}}}
	s.Namespace, s.Name = "default", name
	for _, f := range change {
		f(s)
	}
	return s
}

func unit(name string) func(*configs.Service) { return func(s *configs.Service) { s.Unit = name } }

func declaredBy(t *testing.T, origin string, s *configs.Service) *apipb.Registration {
	t.Helper()
	body, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	return &apipb.Registration{Namespace: s.Namespace, Service: s.Name, Instance: s.Instance, Body: body, Origin: origin}
}

// register registers one service, as a command does that ends nothing.
func (d *desk) register(ctx context.Context, who client, s *configs.Service) (api.ServiceAnswer, error) {
	all, err := d.enroll(ctx, who, []*configs.Service{s}, api.Run{})
	if err != nil {
		return api.ServiceAnswer{}, err
	}
	return all[0], nil
}

// reported lists what the server is told: "api/1 web".
func (d *desk) reported() string {
	var out []string
	for _, r := range d.held.Now().list {
		out = append(out, r.GetService())
	}
	return strings.Join(out, " ")
}

func wantFault(t *testing.T, what string, err error, status int, code, says string) {
	t.Helper()
	e, ok := errors.AsType[*api.Error](err)
	if !ok || e.Status != status || e.Code != code || !strings.Contains(e.Error(), says) {
		t.Errorf("%s: %v, want %d %s %q", what, err, status, code, says)
	}
}

func TestWhoMayRegister(t *testing.T) {
	file := declaredBy(t, "/etc/wattle/services.d/api.hcl:3", service("api", 9000))
	for _, c := range []struct {
		name   string
		uid    uint32
		s      *configs.Service
		status int // 0: it may
		code   string
		says   string
	}{
		{"root", 0, service("x", 80), 0, "", ""},
		{"the agent's user", 500, service("x", 80), 0, "", ""},
		{"the unit's user", 1000, service("x", 80, unit("web.service")), 0, "", ""},
		{"a user without a unit", 1000, service("x", 80), 403, api.CodeUser, "uid 1000 may not register workloads that belong to no unit; name the unit"},
		{"a user with another's unit", 1000, service("x", 80, unit("db.service")), 403, api.CodeUser, "uid 1000 may not: unit db.service runs as uid 1001"},
		{"a unit that is not known", 1000, service("x", 80, unit("no.service")), 403, api.CodeUnit, "does not know it"},
		{"what a file declares, by root", 0, service("api", 80), 409, api.CodeFile, "declared by /etc/wattle/services.d/api.hcl:3"},
		{"what another user registered", 1001, service("taken", 8080, unit("db.service")), 403, api.CodeOwner, "uid 1000 registered default/taken"},
		{"what another user registered, by the agent's user", 500, service("taken", 8080), 403, api.CodeOwner, "uid 1000"},
		{"what another user registered, by root", 0, service("taken", 8081), 0, "", ""},
		{"the port of another", 0, service("x", 8080), 409, api.CodeTaken, "127.0.0.1:8080 is taken by default/taken (wattle service register by uid 1000)"},
		{"the port of a file's", 0, service("x", 9000), 409, api.CodeTaken, "api.hcl:3"},
		{"another machine's address", 0, service("x", 80, func(s *configs.Service) { s.Ports[0].Local = netip.MustParseAddrPort("10.0.0.2:80") }), 400, api.CodeForeign, "10.0.0.2 is no address of this host"},
		{"this host's address", 0, service("x", 80, func(s *configs.Service) { s.Ports[0].Local = netip.MustParseAddrPort("10.0.0.1:80") }), 0, "", ""},
		{"an endpoint elsewhere", 0, service("x", 80, func(s *configs.Service) { s.Endpoints = []*configs.Endpoint{{}} }), 400, api.CodeForeign, "register it at the server"},
		{"a socket of a user's", 1000, service("x", 80, unit("web.service"), func(s *configs.Service) { s.Upstreams = []*configs.Upstream{{Socket: "/etc/passwd"}} }), 403, api.CodeSocket, "/etc/passwd"},
		{"another user's connections", 1000, service("x", 80, unit("web.service"), func(s *configs.Service) {
			s.Capture = &configs.Capture{Mode: configs.CaptureTransparent, User: "db"}
		}), 403, api.CodeConnections, "may not have the connections of user db redirected"},
		{"its own unit's connections, and upstreams by name", 1000, service("x", 80, unit("web.service"), func(s *configs.Service) {
			s.Capture = &configs.Capture{Mode: configs.CaptureTransparent}
			s.Upstreams = []*configs.Upstream{{Service: configs.ServiceRef{Namespace: "default", Name: "a"}}, {Service: configs.ServiceRef{Namespace: "default", Name: "b"}}}
		}), 0, "", ""},
		{"too much", 0, service("x", 80, func(s *configs.Service) { s.Meta = map[string]string{"a": strings.Repeat("x", maxSaid)} }), 413, api.CodeTooMany, "at most 16384"},
	} {
		d := deskAt(t, t.TempDir(), file)
		if _, err := d.register(t.Context(), client{1000}, service("taken", 8080, unit("web.service"))); err != nil {
			t.Fatal(err)
		}
		_, err := d.register(t.Context(), client{c.uid}, c.s)
		if c.status == 0 && err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		if c.status != 0 {
			wantFault(t, c.name, err, c.status, c.code, c.says)
		}
	}
	d := deskAt(t, t.TempDir(), file)
	d.units = nil
	_, err := d.register(t.Context(), client{1000}, service("x", 80, unit("web.service")))
	wantFault(t, "no systemd", err, 403, api.CodeUnit, "no systemd")
}

func TestOnlyItsUserOrRootEndsARegistration(t *testing.T) {
	d := deskAt(t, t.TempDir(), declaredBy(t, "a.hcl:1", service("api", 9000)))
	web := workload{"default", "web", ""}
	if _, err := d.register(t.Context(), client{1000}, service("web", 80, unit("web.service"))); err != nil {
		t.Fatal(err)
	}
	_, err := d.deregister(client{1001}, web, "")
	wantFault(t, "another user", err, 403, api.CodeOwner, "uid 1000 registered")
	_, err = d.deregister(client{0}, workload{"default", "api", ""}, "")
	wantFault(t, "a file's", err, 409, api.CodeFile, "a.hcl:1")
	if d.reported() != "api web" {
		t.Errorf("reported is %q", d.reported())
	}
	if _, err := d.register(t.Context(), client{0}, service("web", 81)); err != nil { // it stays uid 1000's
		t.Fatal(err)
	}
	if got, err := d.deregister(client{1000}, web, ""); err != nil || !got.Changed {
		t.Errorf("its user: %+v, %v", got, err)
	}
	if got, err := d.deregister(client{1000}, web, ""); err != nil || got.Changed {
		t.Errorf("again: %+v, %v", got, err)
	}
	if d.reported() != "api" {
		t.Errorf("reported is %q", d.reported())
	}
}

func TestARegistrationIsKeptAndItsRepeatChangesNothing(t *testing.T) {
	dir := t.TempDir()
	d := deskAt(t, dir)
	first, err := d.register(t.Context(), client{1000}, service("web", 80, unit("web.service")))
	if err != nil || !first.Changed || first.State != api.StatePending || *first.UID != 1000 {
		t.Fatalf("%+v, %v", first, err)
	}
	file := filepath.Join(dir, registeredFile)
	before, err := os.Stat(file)
	if err != nil || before.Mode().Perm() != 0o600 {
		t.Fatal(before, err)
	}
	revision := d.held.Now().revision
	if again, err := d.register(t.Context(), client{1000}, service("web", 80, unit("web.service"))); err != nil || again.Changed {
		t.Errorf("%+v, %v", again, err)
	}
	after, err := os.Stat(file)
	if err != nil || !os.SameFile(before, after) || d.held.Now().revision != revision {
		t.Error("the repeat wrote or reported something", err)
	}
	next := deskAt(t, dir)
	if next.reported() != "web" || string(next.held.Now().list[0].GetBody()) != string(d.held.Now().list[0].GetBody()) {
		t.Errorf("after a restart: %v", next.held.Now().list)
	}
	if st := next.list()[0]; *st.UID != 1000 || !st.Registered.Equal(first.Registered) || st.Service.Unit != "web.service" {
		t.Errorf("after a restart: %+v", st)
	}
	if strings.Contains(string(next.held.Now().list[0].GetBody()), "web.service") {
		t.Error("the server is told of the unit")
	}
	// What cannot be kept is not registered.
	d.keep = filepath.Join(dir, "missing", "x.json")
	if _, err := d.register(t.Context(), client{0}, service("lost", 81)); err == nil || d.reported() != "web" {
		t.Errorf("%v, reported is %q", err, d.reported())
	}
}

func TestAFileThatDeclaresTheSameCounts(t *testing.T) {
	d := deskAt(t, t.TempDir())
	if _, err := d.register(t.Context(), client{0}, service("web", 80)); err != nil {
		t.Fatal(err)
	}
	refresh := func(list ...*apipb.Registration) {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.files.Set(&registrations{list: list})
		d.take(d.files.Now())
		d.refresh(time.Now())
	}
	refresh(declaredBy(t, "web.hcl:1", service("web", 81, func(s *configs.Service) {
		s.Command, s.Env = []string{"web"}, map[string]string{"PASSWORD": "hunter2"}
	})))
	all := d.list()
	if text, err := json.Marshal(all); err != nil || strings.Contains(string(text), "hunter2") {
		t.Errorf("everybody on the host reads %s, %v", text, err)
	}
	if len(all) != 2 || all[0].Origin != "web.hcl:1" || all[1].State != api.StateRefused || !strings.Contains(all[1].Reason, "web.hcl:1 declares it too") {
		t.Errorf("%+v", all)
	}
	if list := d.held.Now().list; len(list) != 1 || list[0].GetOrigin() != "web.hcl:1" {
		t.Errorf("reported is %v", list)
	}
	refresh()
	if list := d.held.Now().list; len(list) != 1 || list[0].GetOrigin() == "web.hcl:1" {
		t.Errorf("without the file reported is %v", list)
	}
}

func TestTheServersWordIsThatOnWhatItWasTold(t *testing.T) {
	d := deskAt(t, t.TempDir())
	refuse := &apipb.Refusal{Namespace: "default", Service: "web", Reason: "not granted"}
	got, err := d.register(t.Context(), client{0}, service("web", 80))
	if err != nil {
		t.Fatal(err)
	}
	key := workload{"default", "web", ""}
	d.answer.Set(answered{d.held.Now().revision - 1, []*apipb.Refusal{refuse}}) // of a report before it
	if st := d.await(t.Context(), key, got.ServiceStatus, time.Millisecond); st.State != api.StatePending {
		t.Errorf("an answer to an older report: %+v", st)
	}
	done := make(chan api.ServiceStatus)
	go func() { done <- d.await(t.Context(), key, got.ServiceStatus, time.Minute) }()
	d.answer.Set(answered{d.held.Now().revision, []*apipb.Refusal{refuse}})
	if st := <-done; st.State != api.StateRefused || st.Reason != "not granted" {
		t.Errorf("%+v", st)
	}
	d.answer.Set(answered{d.held.Now().revision, nil})
	if st := d.await(t.Context(), key, got.ServiceStatus, time.Minute); st.State != api.StateAccepted {
		t.Errorf("%+v", st)
	}
	// What is registered beside it leaves the word on it alone; what only its lease changes, too.
	if _, err := d.register(t.Context(), client{0}, service("other", 81)); err != nil {
		t.Fatal(err)
	}
	again, err := d.register(t.Context(), client{0}, service("web", 80, func(s *configs.Service) { s.TTL = configs.Duration(time.Minute) }))
	if err != nil || !again.Changed || again.State != api.StateAccepted {
		t.Errorf("%+v, %v", again, err)
	}
}

func TestWhoeverIsSilentIsUnhealthyAndGoesInTheEnd(t *testing.T) {
	dir := t.TempDir()
	lease := func(s *configs.Service) {
		s.TTL, s.DeregisterAfter = configs.Duration(30*time.Second), configs.Duration(2*time.Minute)
	}
	synctest.Test(t, func(t *testing.T) {
		d := deskAt(t, dir, declaredBy(t, "api.hcl:1", service("api", 9000, lease)))
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- d.run(ctx) }()
		web, api := workload{"default", "web", ""}, workload{"default", "api", ""}
		if _, err := d.register(ctx, client{1000}, service("web", 80, unit("web.service"), lease)); err != nil {
			t.Fatal(err)
		}
		beat := func(uid uint32, key workload) error {
			_, err := d.heartbeat(ctx, client{uid}, key)
			return err
		}
		late := func() string {
			synctest.Wait()
			var out []string
			for _, key := range []workload{web, api} {
				if h, ok := d.beats.Now()[key]; ok {
					out = append(out, key.service+": "+h.Reason)
				}
			}
			return strings.Join(out, ", ")
		}
		time.Sleep(20 * time.Second)
		if err := errors.Join(beat(1000, web), beat(0, api)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(29 * time.Second)
		if got := late(); got != "" {
			t.Errorf("after 29s: %q", got)
		}
		time.Sleep(time.Second)
		if got := late(); got != "web: no heartbeat for 30s (ttl 30s), api: no heartbeat for 30s (ttl 30s)" {
			t.Errorf("after 30s: %q", got)
		}
		time.Sleep(time.Second)
		if st := d.list()[1]; st.HealthReason != "no heartbeat for 31s (ttl 30s)" || st.Health != "unhealthy" {
			t.Errorf("after 31s: %+v", st)
		}
		if err := beat(1000, web); err != nil {
			t.Fatal(err)
		}
		if got := late(); got != "api: no heartbeat for 30s (ttl 30s)" {
			t.Errorf("after a heartbeat: %q", got)
		}
		if err := beat(1001, web); err == nil {
			t.Error("another user's heartbeat counts")
		}
		time.Sleep(89 * time.Second)
		synctest.Wait()
		if d.reported() != "web" {
			t.Errorf("after 2 minutes of api's silence reported is %q", d.reported())
		}
		if st := d.list()[0]; st.State != "refused" || !strings.Contains(st.Reason, "deregistered until the next one") {
			t.Errorf("%+v", st)
		}
		if err := beat(0, api); err != nil || d.reported() != "api web" {
			t.Errorf("%v, reported is %q", err, d.reported())
		}
		time.Sleep(31 * time.Second)
		synctest.Wait()
		if d.reported() != "api" || len(d.own) != 0 {
			t.Errorf("after 2 minutes of web's silence reported is %q", d.reported())
		}
		err := beat(1000, web)
		wantFault(t, "a heartbeat for what is gone", err, 404, "W5012", "not registered")
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	if next := deskAt(t, dir); next.reported() != "" {
		t.Errorf("after a restart reported is %q", next.reported())
	}
}

func TestAnAgentThatStartsGivesAWholeTTL(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		d := deskAt(t, dir)
		if _, err := d.register(t.Context(), client{0}, service("web", 80, func(s *configs.Service) { s.TTL = configs.Duration(30 * time.Second) })); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		next := deskAt(t, dir)
		if len(next.beats.Now()) != 0 {
			t.Errorf("late at the start: %v", next.beats.Now())
		}
		time.Sleep(30 * time.Second)
		next.mu.Lock()
		next.refresh(time.Now())
		next.mu.Unlock()
		if len(next.beats.Now()) != 1 {
			t.Error("nobody is late after a ttl")
		}
	})
}

func TestAUserHasOnlySoMuchRoom(t *testing.T) {
	d := deskAt(t, t.TempDir())
	fill := func(uid uint32, from, to int, change ...func(*configs.Service)) error {
		for i := from; i < to; i++ {
			if _, err := d.register(t.Context(), client{uid}, service(fmt.Sprintf("s%d", i), uint16(1000+i), change...)); err != nil {
				return err
			}
		}
		return nil
	}
	if err := fill(1000, 0, maxOfUser, unit("web.service")); err != nil {
		t.Fatal(err)
	}
	wantFault(t, "one more", fill(1000, 200, 201, unit("web.service")), http.StatusTooManyRequests, api.CodeTooMany, "uid 1000 has registered 32")
	if err := fill(0, maxOfUser, maxRegistered); err != nil {
		t.Fatal(err)
	}
	wantFault(t, "one more of root", fill(0, 200, 201), http.StatusTooManyRequests, api.CodeTooMany, "no room")
	if n := len(d.held.Now().list); n != maxRegistered {
		t.Errorf("%d are reported", n)
	}
}
