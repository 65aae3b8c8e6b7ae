package agent

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/wattle-mesh/wattle/configs"
	"github.com/wattle-mesh/wattle/internal/admin"
	"github.com/wattle-mesh/wattle/internal/api"
	"github.com/wattle-mesh/wattle/internal/mesh/planpb"
	"github.com/wattle-mesh/wattle/internal/systemd"
	"github.com/wattle-mesh/wattle/internal/xds"
	"github.com/wattle-mesh/wattle/translator"
)

// ward is drains that run, with an Envoy whose gauges the test sets.
type ward struct {
	*drains
	t      *testing.T
	busy   atomic.Int32 // requests to web
	states value[*unitStates]
	plan   value[*planpb.HostPlan]
	units  value[map[workload]string]
	end    func()
}

func newWard(t *testing.T, dir string) *ward {
	t.Helper()
	d, err := newDrains(discard(), dir)
	if err != nil {
		t.Fatal(err)
	}
	w := &ward{drains: d, t: t}
	path := filepath.Join(t.TempDir(), "a")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	envoy := httptest.NewUnstartedServer(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(rw, `{"stats": [{"name": "http.in/default/web_80.downstream_rq_active", "value": %d}]}`, w.busy.Load())
	}))
	envoy.Listener.Close()
	envoy.Listener = l
	envoy.Start()
	t.Cleanup(envoy.Close)
	d.admin = func(string) *admin.Client { return admin.New(path) }
	d.plan, d.registered, d.states = &w.plan, &w.units, &w.states
	w.plan.Set(&planpb.HostPlan{Workloads: []*planpb.Workload{
		{Namespace: "default", Service: "web", Ports: []*planpb.Port{{Number: 80, Protocol: "http"}, {Number: 81, Protocol: "tcp"}}, Unit: "web.service"},
		{Namespace: "default", Service: "db", Ports: []*planpb.Port{{Number: 5432, Protocol: "tcp"}}},
	}})
	w.runs("1", "active")
	w.start()
	return w
}

func (w *ward) start() {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- w.run(ctx) }()
	w.end = sync.OnceFunc(func() { cancel(); <-ended })
	w.t.Cleanup(w.end)
}

func (w *ward) runs(run, active string) {
	w.states.Set(&unitStates{map[string]systemd.State{"web.service": {Load: "loaded", Active: active, Invocation: run}}})
}

// is waits for the states of all that drain: "db: drained, web: requests end 3".
func (w *ward) is(want string) {
	w.t.Helper()
	deadline := time.After(20 * time.Second)
	for {
		held, a := w.held.Load()
		_, b := w.at.Load()
		var out []string
		for _, key := range sortedWorkloads(held) {
			s := w.status(key, held[key])
			text := key.service + ": " + s.State
			if s.Busy > 0 {
				text += fmt.Sprint(" ", s.Busy)
			}
			out = append(out, text)
		}
		got := strings.Join(out, ", ")
		if got == want {
			return
		}
		select {
		case <-a:
		case <-b:
		case <-deadline:
			w.t.Fatalf("%q, want %q", got, want)
		}
	}
}

// leave has the server say that callers have left all that drains.
func (w *ward) leave() {
	left := map[workload]uint64{}
	for key, x := range w.held.Now() {
		left[key] = x.number
	}
	w.told.Set(told{online: true, left: left})
}

var web = workload{"default", "web", ""}

func (w *ward) set(key workload, on bool) {
	w.t.Helper()
	if changed, err := w.drains.set(client{uid: 7}, key, "new kernel", on); err != nil || !changed {
		w.t.Fatal(changed, err)
	}
}

func TestADrainWaitsForCallersThenForRequests(t *testing.T) {
	w := newWard(t, t.TempDir())
	w.told.Set(told{online: true})
	w.busy.Store(3)
	w.set(web, true)
	w.is("web: callers leave")
	if away := turnAway(w.plan.Now(), w.at.Now()); len(away.clusters) > 0 {
		t.Errorf("turned away before callers were told: %v", away)
	}
	w.leave()
	w.is("web: requests end 3")
	away := turnAway(w.plan.Now(), w.at.Now())
	if len(away.clusters) != 1 || !away.clusters["in/default/web:80"] || len(away.chains) != 1 || !away.chains["in/default/web:81"] {
		t.Errorf("%v", away)
	}
	w.busy.Store(0)
	w.is("web: drained")
	w.set(web, false)
	w.is("")
	w.set(web, true) // what was said of the first drain does not count for this one
	w.is("web: callers leave")
	if got := w.held.Now()[web].reason; got != "drained by uid 7: new kernel" {
		t.Error(got)
	}
}

func TestADrainDoesNotWaitForAServerThatIsAway(t *testing.T) {
	w := newWard(t, t.TempDir())
	began := time.Now()
	w.set(web, true)
	w.is("web: drained")
	if took := time.Since(began); took < offlineLimit || took > leaveLimit {
		t.Errorf("it took %s", took)
	}
	if note := w.status(web, w.held.Now()[web]).Detail; !strings.Contains(note, "no server answers") {
		t.Error(note)
	}
}

func TestADrainIsKeptUntilItIsTakenBack(t *testing.T) {
	dir := t.TempDir()
	w := newWard(t, dir)
	w.set(web, true)
	w.end()
	w = newWard(t, dir)
	w.is("web: drained")
	w.known = func() (map[workload]bool, bool) { return map[workload]bool{}, true }
	w.plan.Set(&planpb.HostPlan{})
	w.is("")
	w.end()
	if w = newWard(t, dir); len(w.own) > 0 {
		t.Errorf("the drain of a workload that is no more is kept: %v", w.own)
	}
	write(t, filepath.Join(dir, drainsFile), "{")
	if _, err := newDrains(discard(), dir); err == nil || !strings.Contains(err.Error(), "restore it, or remove it") {
		t.Error(err)
	}
}

func TestMaintenanceDrainsEverythingOfAHost(t *testing.T) {
	w := newWard(t, t.TempDir())
	plan := w.plan.Now()
	w.plan.Set(&planpb.HostPlan{Workloads: plan.GetWorkloads(), Draining: true})
	w.is("db: drained, web: drained")
	w.plan.Set(&planpb.HostPlan{Workloads: plan.GetWorkloads()})
	w.is("")
}

func TestAUnitThatIsBeingStoppedDrainsForThatRunOnly(t *testing.T) {
	w := newWard(t, t.TempDir())
	w.told.Set(told{online: true})
	w.stop("web.service", "1")
	w.is("web: callers leave")
	w.runs("1", "deactivating")
	w.is("")
	w.runs("2", "active")
	w.is("")
	w.stop("web.service", "2")
	w.is("web: callers leave")
	w.stop("web.service", "")
	w.is("")
}

func TestWhoMayDrain(t *testing.T) {
	d := deskAt(t, t.TempDir(), declaredBy(t, "/etc/wattle/services.d/api.hcl:3", service("api", 9000, unit("web.service"))))
	if _, err := d.register(t.Context(), client{uid: 1001}, service("db", 5432, unit("db.service"))); err != nil {
		t.Fatal(err)
	}
	if _, err := d.register(t.Context(), client{uid: root}, service("own", 5433)); err != nil {
		t.Fatal(err)
	}
	ask := func(uid uint32, name, method string) error {
		r := httptest.NewRequestWithContext(t.Context(), method, "/", strings.NewReader(`{}`))
		if strings.HasSuffix(name, ".service") {
			r.SetPathValue("unit", name)
			_, err := d.drainUnit(client{uid: uid}, r)
			return err
		}
		_, err := d.drain(client{uid: uid}, workload{"default", name, ""}, r)
		return err
	}
	for _, ok := range []struct {
		uid  uint32
		name string
	}{{root, "api"}, {500, "own"}, {1000, "api"}, {1001, "db"}, {1001, "db.service"}, {root, "web.service"}} {
		for _, method := range []string{http.MethodPut, http.MethodDelete} {
			if err := ask(ok.uid, ok.name, method); err != nil {
				t.Errorf("uid %d, %s: %v", ok.uid, ok.name, err)
			}
		}
	}
	wantFault(t, "another unit's user", ask(1001, "api", http.MethodPut), http.StatusForbidden, api.CodeUser, "runs as uid 1000")
	wantFault(t, "no unit", ask(1001, "own", http.MethodPut), http.StatusForbidden, api.CodeUser, "may not drain default/own")
	wantFault(t, "nothing of the name", ask(root, "none", http.MethodPut), http.StatusNotFound, api.CodeUnknown, "not registered")
	wantFault(t, "another one's unit", ask(1001, "web.service", http.MethodPut), http.StatusForbidden, api.CodeUser, "runs as uid 1000")
	wantFault(t, "no unit's name", ask(root, "none\x00.service", http.MethodPut), http.StatusBadRequest, api.CodeMalformed, "no such service unit")
	if err := ask(root, "api", http.MethodPut); err != nil {
		t.Fatal(err)
	}
	d.drains.settle(nil, d.bound.Now(), nil)
	for _, s := range d.list() {
		if got := s.Drain != nil; got != (s.Name == "api") {
			t.Errorf("%s: %+v", s.Name, s.Drain)
		}
	}
	if _, err := d.register(t.Context(), client{uid: root}, service("x", 1, func(s *configs.Service) {})); err != nil {
		t.Fatal(err)
	}
	if err := ask(root, "x", http.MethodPut); err != nil {
		t.Fatal(err)
	}
	if _, err := d.deregister(client{uid: root}, workload{"default", "x", ""}, ""); err != nil || d.drains.own[workload{"default", "x", ""}] != nil {
		t.Error("what is deregistered stays drained", err)
	}
}

func TestRequestsThatAreTurnedAwayFindNoClusterAndNoChain(t *testing.T) {
	const a, b = "spiffe://a", "spiffe://b"
	table, m := newTable([]string{"h1/host"}), mirror{}
	step := func(c translator.Changes, err error) string {
		t.Helper()
		if err != nil {
			t.Error(err)
		}
		m.apply(t, c)
		text := m.String()
		for _, name := range []string{"in/x:80", "in/y:80"} {
			if m[translator.Key{Type: translator.Cluster, Name: name}] != nil {
				text += ", " + name
			}
		}
		return text
	}
	var clusters []*translator.Resource
	for _, name := range []string{"in/x:80", "in/y:80"} {
		r, err := newResource(translator.Cluster, name, &planpb.Port{}, nil)
		if err != nil {
			t.Fatal(err)
		}
		clusters = append(clusters, r)
	}
	sent := &xds.Response{Type: translator.Cluster, Resources: clusters}
	step(table.setSecrets(secretsFor(t, a, b)))
	step(table.receive(sent))
	const whole = "in:7443 a b, in/x:80, in/y:80"
	if got := step(table.receive(&xds.Response{Type: translator.Listener, Resources: []*translator.Resource{listenerFor(t, "in:7443", a, b)}})); got != whole {
		t.Fatal(got)
	}
	closed := turnedAway{map[string]bool{"in/x:80": true, "in/none:80": true}, map[string]bool{b: true}}
	const rest = "in:7443 a, in/y:80"
	if got := step(table.turnAway(closed)); got != rest {
		t.Error(got)
	}
	if got := step(table.receive(sent)); got != rest {
		t.Errorf("the server sends it again: %s", got)
	}
	if table.version(clusters[0].Key) == "" {
		t.Error("the server is told that the host does not have what it sent")
	}
	if got := step(table.turnAway(turnedAway{})); got != whole {
		t.Error(got)
	}
}
