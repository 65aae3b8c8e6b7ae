package api

import (
	"encoding/json"
	"net/netip"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/wattle-mesh/wattle/configs"
	"github.com/wattle-mesh/wattle/internal/api/apipb"
	"github.com/wattle-mesh/wattle/internal/spiffe"
	"github.com/wattle-mesh/wattle/registry"
)

func key(host, name string) registry.WorkloadKey {
	return registry.WorkloadKey{Host: host, Service: registry.Name{Namespace: "shop", Name: name}}
}

// names lists services with the hosts of their endpoints: "reviews@h1,h2 web@h1".
func names(set []*registry.Service) string {
	var out []string
	for _, s := range set {
		var hosts []string
		for _, e := range s.Endpoints {
			hosts = append(hosts, e.Workload.Host.Name)
		}
		out = append(out, s.Name.Name+"@"+strings.Join(hosts, ","))
	}
	return strings.Join(out, " ")
}

func (w *world) awaitNames(want string) []*registry.Service {
	w.t.Helper()
	return w.await(want, func(set []*registry.Service) bool { return names(set) == want })
}

func TestARegistrationBecomesAnEndpointAndACertificate(t *testing.T) {
	w := newWorld(t)
	w.policy(nil)
	h1 := w.admit("h1", "shop/reviews")
	r := report(t, h1)
	s := service("reviews")
	s.Checks = []*configs.Check{{Type: "http", Port: 9080, Path: "/", Interval: 5e9, Timeout: 2e9, Healthy: 1, Unhealthy: 2}}
	s.Upstreams = []*configs.Upstream{{Service: configs.ServiceRef{Namespace: "shop", Name: "ratings"}, Bind: netip.MustParseAddrPort("127.0.0.1:9081")}}
	s.Command, s.Env = []string{"/bin/true"}, map[string]string{"PASSWORD": "hunter2"}
	if refused := r.say(&apipb.ReportRequest{Address: "127.0.0.1", MeshPort: 7475, Registrations: []*apipb.Registration{register(t, s)}}); len(refused) > 0 {
		t.Fatalf("refused: %v", refused)
	}
	set := w.awaitNames("reviews@h1")
	want := &registry.Service{
		Name: registry.Name{Namespace: "shop", Name: "reviews"}, Origin: "h1:reviews.hcl:1",
		Ports: []registry.Port{{Number: 9080, Protocol: registry.HTTP}},
	}
	want.Endpoints = []*registry.Endpoint{{
		Address: netip.MustParseAddr("127.0.0.1"), Port: 9080, ServicePort: 9080, Meta: registry.LabelsOf(map[string]string{"version": "v1"}), Weight: 1,
		Workload: &registry.Workload{
			Host:    registry.Host{Name: "h1", Address: netip.MustParseAddr("127.0.0.1"), MeshPort: 7475},
			Service: want.Name, Origin: want.Origin,
			Ports:     []registry.WorkloadPort{{Port: want.Ports[0], Local: netip.MustParseAddrPort("127.0.0.1:9080")}},
			Upstreams: []registry.Upstream{{Service: registry.Name{Namespace: "shop", Name: "ratings"}, Bind: netip.MustParseAddrPort("127.0.0.1:9081")}},
			Checks:    []registry.Check{{Type: "http", Port: 9080, Path: "/", Interval: 5e9, Timeout: 2e9, Healthy: 1, Unhealthy: 2}},
		},
	}}
	if got := text(set[0]); got != text(want) {
		t.Errorf("the service is\n%s\nwant\n%s", got, text(want))
	}
	if _, err := h1.Sign(t.Context(), &apipb.SignRequest{Identity: "spiffe://corp.example/ns/shop/svc/reviews", Csr: newCSR(t, newKey(t))}); err != nil {
		t.Errorf("no certificate: %v", err)
	}
	w.end()
	w.start()
	kept, err := w.store.Reports()
	if err != nil || len(kept) != 1 || strings.Contains(text(kept), "hunter2") {
		t.Errorf("the store has %s, %v", text(kept), err)
	}
}

func TestWhatWasNotGrantedGetsNeitherCertificateNorEndpoint(t *testing.T) {
	w := newWorld(t)
	w.policy(nil)
	h1 := w.admit("h1", "shop/reviews")
	r := report(t, h1)
	refused := r.say(&apipb.ReportRequest{Registrations: []*apipb.Registration{register(t, service("admin")), register(t, service("reviews"))}})
	if len(refused) != 1 || !strings.Contains(refused["shop/admin"], "was not granted") {
		t.Errorf("refused: %v", refused)
	}
	w.awaitNames("reviews@h1")
	w.holds = func(string, spiffe.ID) bool { return true }
	_, err := h1.Sign(t.Context(), &apipb.SignRequest{Identity: "spiffe://corp.example/ns/shop/svc/admin", Csr: newCSR(t, newKey(t))})
	wantCode(t, "its certificate", err, codes.PermissionDenied, "was not granted")
}

func TestAnAddressIsVerifiedNotClaimed(t *testing.T) {
	w := newWorld(t)
	w.policy(nil)
	r := report(t, w.admit("h1", "*/*"))
	say := func(address string) map[string]string {
		return r.say(&apipb.ReportRequest{Address: address, Registrations: []*apipb.Registration{register(t, service("reviews"))}})
	}
	if refused := say("10.0.0.9"); !strings.Contains(refused["shop/reviews"], "connects from 127.0.0.1") {
		t.Errorf("a foreign address: %v", refused)
	}
	if refused := say(""); len(refused) > 0 {
		t.Errorf("no address: %v", refused)
	}
	if at := w.awaitNames("reviews@h1")[0].Endpoints[0].Address.String(); at != "127.0.0.1" {
		t.Errorf("reached at %s", at)
	}
	if refused := say("10.0.0.9"); len(refused) != 1 {
		t.Errorf("a foreign address after a good one: %v", refused)
	}
	w.awaitNames("")

	// The operator's word makes it good, and is what counts.
	w.policy([]*configs.Host{{Name: "h1", Address: netip.MustParseAddr("10.0.0.9"), MeshPort: 7475, Zone: "a"}})
	if refused := r.hear(); len(refused) > 0 {
		t.Errorf("after the operator declared it: %v", refused)
	}
	e := w.awaitNames("reviews@h1")[0].Endpoints[0]
	if e.Address.String() != "10.0.0.9" || e.Workload.Host.MeshPort != 7475 || e.Locality.Zone != "a" {
		t.Errorf("endpoint %s", text(e))
	}
	if refused := say("127.0.0.1"); len(refused) > 0 {
		t.Errorf("its own address beside the declared one: %v", refused)
	}
	for _, s := range w.services() {
		if s.Endpoints[0].Address.String() != "10.0.0.9" {
			t.Errorf("a claim overrode the operator: %s", text(s))
		}
	}
	for _, bad := range []string{"host.example", "0.0.0.0", "224.0.0.1", "10.0.0.1:80"} {
		r := report(t, w.admit("h3"))
		if err := r.stream.Send(&apipb.ReportRequest{Address: bad}); err != nil {
			t.Fatal(err)
		}
		_, err := r.stream.Recv()
		wantCode(t, bad, err, codes.InvalidArgument, "not the address")
	}
}

func TestThePolicysHostBlocksAreGrants(t *testing.T) {
	w := newWorld(t)
	place := func(names ...string) {
		h := &configs.Host{Name: "h1", Address: netip.MustParseAddr("127.0.0.1")}
		for _, n := range names {
			h.Services = append(h.Services, service(n))
		}
		w.policy([]*configs.Host{h})
	}
	place("reviews")
	r := report(t, w.admit("h1"))
	if refused := r.say(&apipb.ReportRequest{Registrations: []*apipb.Registration{register(t, service("reviews")), register(t, service("web"))}}); len(refused) != 1 {
		t.Errorf("refused: %v", refused)
	}
	w.awaitNames("reviews@h1")
	place("reviews", "web")
	if refused := r.hear(); len(refused) > 0 {
		t.Errorf("after the policy placed it: %v", refused)
	}
	w.awaitNames("reviews@h1 web@h1")
	w.policy(nil)
	if refused := r.hear(); len(refused) != 2 {
		t.Errorf("after the host block went: %v", refused)
	}
	w.awaitNames("")
	w.restart() // what was revoked does not come back
	w.awaitNames("")
}

func TestMalformedRegistrationsAreRefusedByName(t *testing.T) {
	w := newWorld(t)
	w.policy(nil)
	r := report(t, w.admit("h1", "*/*"))
	change := func(f func(*configs.Service)) *apipb.Registration {
		s := service("bad")
		f(s)
		return register(t, s)
	}
	raw := func(body string) *apipb.Registration {
		return &apipb.Registration{Namespace: "shop", Service: "bad", Body: []byte(body)}
	}
	good := register(t, service("bad"))
	for name, reg := range map[string]*apipb.Registration{
		"no body":                  raw(""),
		"not JSON":                 raw("{"),
		"two values":               raw(string(good.GetBody()) + "{}"),
		"an unknown field":         raw(`{"namespace":"shop","name":"bad","admin":true}`),
		"an oversize body":         raw(`{"name":"` + strings.Repeat("a", maxBody) + `"}`),
		"another name in the body": {Namespace: "shop", Service: "bad", Body: register(t, service("good")).GetBody()},
		"endpoints elsewhere": change(func(s *configs.Service) {
			s.Endpoints = []*configs.Endpoint{{Address: netip.MustParseAddr("10.0.0.5"), Port: 80}}
		}),
		"no port":                  change(func(s *configs.Service) { s.Ports = nil }),
		"port zero":                change(func(s *configs.Service) { s.Ports[0].Number = 0 }),
		"a port twice":             change(func(s *configs.Service) { s.Ports = append(s.Ports, s.Ports[0]) }),
		"an unknown protocol":      change(func(s *configs.Service) { s.Ports[0].Protocol = "quic" }),
		"no local address":         change(func(s *configs.Service) { s.Ports[0].Local = netip.AddrPort{} }),
		"a local address for all":  change(func(s *configs.Service) { s.Ports[0].Local = netip.MustParseAddrPort("0.0.0.0:80") }),
		"weight zero":              change(func(s *configs.Service) { s.Weight = 0 }),
		"too much weight":          change(func(s *configs.Service) { s.Weight = 1 << 31 }),
		"an instance with a slash": change(func(s *configs.Service) { s.Instance = "a/b" }),
		"more meta than the catalog takes": change(func(s *configs.Service) {
			for _, k := range []string{"a", "b", "c", "d"} {
				s.Meta[k] = strings.Repeat(k, 1<<10)
			}
		}),
		"a check of another port": change(func(s *configs.Service) {
			s.Checks = []*configs.Check{{Type: "tcp", Port: 1, Interval: 1e9, Timeout: 1e9, Healthy: 1, Unhealthy: 1}}
		}),
		"a check without interval": change(func(s *configs.Service) {
			s.Checks = []*configs.Check{{Type: "tcp", Port: 9080, Timeout: 1e9, Healthy: 1, Unhealthy: 1}}
		}),
		"a check by exec":          change(func(s *configs.Service) { s.Checks = []*configs.Check{{Type: "exec", Port: 9080}} }),
		"a check that is null":     change(func(s *configs.Service) { s.Checks = []*configs.Check{nil} }),
		"an upstream that is null": change(func(s *configs.Service) { s.Upstreams = []*configs.Upstream{nil} }),
		"an upstream for everybody": change(func(s *configs.Service) {
			s.Upstreams = []*configs.Upstream{{Service: configs.ServiceRef{Namespace: "shop", Name: "a"}, Bind: netip.MustParseAddrPort("10.0.0.1:80")}}
		}),
		"an upstream without bind": change(func(s *configs.Service) {
			s.Upstreams = []*configs.Upstream{{Service: configs.ServiceRef{Namespace: "shop", Name: "a"}}}
		}),
		"a socket that climbs": change(func(s *configs.Service) {
			s.Upstreams = []*configs.Upstream{{Service: configs.ServiceRef{Namespace: "shop", Name: "a"}, Socket: "/run/../etc/x"}}
		}),
		"a capture of no kind": change(func(s *configs.Service) { s.Capture = &configs.Capture{Mode: "all"} }),
		"a capture of nobody":  change(func(s *configs.Service) { s.Capture = &configs.Capture{Mode: "transparent"} }),
		"a capture of root":    change(func(s *configs.Service) { s.Capture = &configs.Capture{Mode: "transparent", User: "00"} }),
		"a capture of a user with loopback": change(func(s *configs.Service) {
			s.Capture = &configs.Capture{Mode: "loopback", User: "web"}
		}),
		"a capture of what has no name": change(func(s *configs.Service) {
			s.Capture = &configs.Capture{Mode: "loopback", Services: []configs.ServiceRef{{Namespace: "*", Name: "a"}}}
		}),
		"an upstream to no service": change(func(s *configs.Service) {
			s.Upstreams = []*configs.Upstream{{Service: configs.ServiceRef{Name: "a"}, Bind: netip.MustParseAddrPort("127.0.0.1:80")}}
		}),
	} {
		refused := r.say(&apipb.ReportRequest{Registrations: []*apipb.Registration{reg, register(t, service("good"))}})
		if reason := refused["shop/bad"]; len(refused) != 1 || reason == "" || len(reason) > 600 {
			t.Errorf("%s: refused %v", name, refused)
		}
	}
	w.awaitNames("good@h1")
	refused := r.say(&apipb.ReportRequest{Registrations: []*apipb.Registration{register(t, service("good")), register(t, service("good"))}})
	if !strings.Contains(refused["shop/good"], "twice") {
		t.Errorf("the same workload twice: %v", refused)
	}
	if got := names(w.services()); got != "good@h1" {
		t.Errorf("services: %s", got)
	}
}

func TestAReportHasBounds(t *testing.T) {
	w := newWorld(t)
	for name, req := range map[string]*apipb.ReportRequest{
		"many registrations":       {Registrations: make([]*apipb.Registration, maxRegistrations+1)},
		"health of many":           {Health: make([]*apipb.HealthReport, maxHealth+1)},
		"a mesh port at the end":   {MeshPort: 65505},
		"a mesh port that is none": {MeshPort: 1 << 20},
	} {
		for i := range req.Registrations {
			req.Registrations[i] = &apipb.Registration{}
		}
		for i := range req.Health {
			req.Health[i] = &apipb.HealthReport{}
		}
		r := report(t, w.admit("h1"))
		if err := r.stream.Send(req); err != nil {
			t.Fatal(err)
		}
		_, err := r.stream.Recv()
		wantCode(t, name, err, codes.InvalidArgument, "")
	}
	r := report(t, w.admit("h1"))
	r.say(&apipb.ReportRequest{Health: []*apipb.HealthReport{
		{Namespace: "shop", Service: "reviews", Reason: strings.Repeat("x", 10_000) + "\x1b[31m"},
		{Namespace: "../x", Service: "*"}, {Namespace: "shop", Service: "web", Instance: "a/b"},
		{Namespace: "shop", Service: "reviews", Healthy: true},
	}})
	got := w.registrar.Health()
	if len(got) != 1 || got[key("h1", "reviews")].Health != registry.Unhealthy || len(got[key("h1", "reviews")].Reason) > maxReason+3 {
		t.Errorf("health: %v", got)
	}
}

func TestANodeCannotGoRoundItsPace(t *testing.T) {
	w := newWorld(t)
	c := w.admit("h1")
	w.node.reports.of("h1").SetLimit(0) // nothing comes back
	for range 3 {                       // streams
		r := report(t, c)
		for range 5 {
			r.say(&apipb.ReportRequest{})
		}
		r.cancel()
	}
	if left := w.node.reports.of("h1").Tokens(); left > reportBurst-15 {
		t.Errorf("after 15 reports on 3 streams %v more may come at once", left)
	}
	w.node.signs.of("h1").SetLimit(0)
	w.node.signs.of("h1").AllowN(time.Now(), signBurst)
	_, err := c.Sign(t.Context(), &apipb.SignRequest{Csr: newCSR(t, newKey(t))})
	wantCode(t, "more certificates than a host needs", err, codes.ResourceExhausted, "too many")
	_, err = w.admit("h2").Sign(t.Context(), &apipb.SignRequest{Csr: newCSR(t, newKey(t))})
	wantCode(t, "another node", err, codes.OK, "")
}

func TestHealthIsOfTheNodesOwnWorkloadsAndStays(t *testing.T) {
	w := newWorld(t)
	before := w.registrar.Health()
	h1, h2 := report(t, w.admit("h1")), report(t, w.admit("h2"))
	sick := []*apipb.HealthReport{{Namespace: "shop", Service: "reviews", Reason: "GET /healthz: 503"}}
	h1.say(&apipb.ReportRequest{Health: sick})
	<-w.health
	if len(before) != 0 {
		t.Error("a map that was handed out changed")
	}
	h2.say(&apipb.ReportRequest{Health: []*apipb.HealthReport{{Namespace: "shop", Service: "reviews", Healthy: true}}})
	<-w.health
	want := registry.HealthMap{
		key("h1", "reviews"): {Health: registry.Unhealthy, Reason: "GET /healthz: 503"},
		key("h2", "reviews"): {Health: registry.Healthy},
	}
	same := func(when string) {
		t.Helper()
		got := w.registrar.Health()
		if len(got) != len(want) {
			t.Errorf("%s: health %v, want %v", when, got, want)
		}
		for k, v := range want {
			if got[k] != v {
				t.Errorf("%s: health of %s is %v, want %v", when, k, got[k], v)
			}
		}
	}
	same("after both reported")
	h1.cancel()
	if _, err := h1.stream.Recv(); err == nil {
		t.Error("the stream goes on")
	}
	same("after a stream ended")
	w.restart()
	same("after a restart")

	// The same report again changes nothing, one without the workload takes the word back.
	h1 = report(t, w.admit("h1"))
	h1.say(&apipb.ReportRequest{Health: sick})
	select {
	case <-w.health:
		t.Error("the same health is told as a change")
	default:
	}
	h1.say(&apipb.ReportRequest{})
	<-w.health
	delete(want, key("h1", "reviews"))
	same("after it was taken back")
}

func TestARestartedServerServesTheSame(t *testing.T) {
	w := newWorld(t)
	w.policy([]*configs.Host{{Name: "h2", Address: netip.MustParseAddr("10.0.0.2"), Services: []*configs.Service{service("web")}}})
	h1, h2 := report(t, w.admit("h1", "shop/*")), report(t, w.admit("h2"))
	h1.say(&apipb.ReportRequest{MeshPort: 7475, Registrations: []*apipb.Registration{register(t, service("reviews")), register(t, service("web"))}})
	h2.say(&apipb.ReportRequest{Address: "10.0.0.2", Registrations: []*apipb.Registration{register(t, service("web"))}})
	before := text(w.awaitNames("reviews@h1 web@h2,h1"))

	w.restart()
	after := w.awaitNames("reviews@h1 web@h2,h1")
	if text(after) != before {
		t.Errorf("after the restart:\n%s\nwant\n%s", text(after), before)
	}
	// The agents come back before the policy: what they had stays, what is new and only the policy could grant waits.
	h2 = report(t, w.admit("h2"))
	refused := h2.say(&apipb.ReportRequest{Address: "10.0.0.2", Registrations: []*apipb.Registration{register(t, service("late")), register(t, service("web"))}})
	if len(refused) != 1 || refused["shop/late"] == "" {
		t.Errorf("refused: %v", refused)
	}
	if got := names(w.services()); got != "reviews@h1 web@h2,h1" {
		t.Errorf("services: %s", got)
	}
	w.policy([]*configs.Host{{Name: "h2", Address: netip.MustParseAddr("10.0.0.2"), Services: []*configs.Service{service("web"), service("late")}}})
	if refused := h2.hear(); len(refused) > 0 {
		t.Errorf("refused: %v", refused)
	}
	w.awaitNames("late@h2 reviews@h1 web@h2,h1")
}

func TestTheNewestStreamOfANodeCounts(t *testing.T) {
	w := newWorld(t)
	w.policy(nil)
	c := w.admit("h1", "*/*")
	old := report(t, c)
	old.say(&apipb.ReportRequest{Registrations: []*apipb.Registration{register(t, service("reviews"))}})
	w.awaitNames("reviews@h1")
	next := report(t, c)
	next.say(&apipb.ReportRequest{Registrations: []*apipb.Registration{register(t, service("web"))}})
	w.awaitNames("web@h1")
	_, err := old.stream.Recv()
	wantCode(t, "the old stream", err, codes.Aborted, "newer stream")
	if got := names(w.services()); got != "web@h1" {
		t.Errorf("services: %s", got)
	}
}

func TestAGrantThatChangesIsInForceAtOnce(t *testing.T) {
	w := newWorld(t)
	w.policy(nil)
	r := report(t, w.admit("h1", "shop/reviews"))
	both := &apipb.ReportRequest{Registrations: []*apipb.Registration{register(t, service("reviews")), register(t, service("web"))}}
	if refused := r.say(both); len(refused) != 1 {
		t.Errorf("refused: %v", refused)
	}
	w.awaitNames("reviews@h1")
	w.admit("h1", "shop/web")
	if refused := r.hear(); len(refused) != 1 || refused["shop/reviews"] == "" {
		t.Errorf("refused: %v", refused)
	}
	w.awaitNames("web@h1")
}

func TestSeveralInstancesOfAServiceOnAHost(t *testing.T) {
	w := newWorld(t)
	w.policy(nil)
	a, b := service("reviews"), service("reviews")
	a.Instance, b.Instance = "a", "b"
	r := report(t, w.admit("h1", "*/*"))
	if refused := r.say(&apipb.ReportRequest{Registrations: []*apipb.Registration{register(t, b), register(t, a)}}); len(refused) > 0 {
		t.Errorf("refused: %v", refused)
	}
	set := w.awaitNames("reviews@h1,h1")
	if x, y := set[0].Endpoints[0].Workload.Instance, set[0].Endpoints[1].Workload.Instance; x != "a" || y != "b" {
		t.Errorf("instances %s, %s", x, y)
	}
}

func TestNodesAreListed(t *testing.T) {
	w := newWorld(t)
	w.policy(nil)
	w.admit("h2")
	r := report(t, w.admit("h1", "shop/reviews"))
	r.say(&apipb.ReportRequest{MeshPort: 7475, Registrations: []*apipb.Registration{register(t, service("reviews"))}})
	all, err := w.node.Nodes()
	if err != nil || len(all) != 2 {
		t.Fatalf("%v, %v", all, err)
	}
	if n := all[0]; n.Name != "h1" || n.Address != "127.0.0.1" || n.MeshPort != 7475 || !n.Reporting || n.Registrations != 1 || n.Grant.Services[0] != "shop/reviews" {
		t.Errorf("h1: %+v", n)
	}
	if n := all[1]; n.Name != "h2" || n.Reporting || n.Address != "" {
		t.Errorf("h2: %+v", n)
	}
}

func FuzzRegistration(f *testing.F) {
	body, err := json.Marshal(service("reviews"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(body)
	f.Add([]byte(`{"namespace":"shop","name":"reviews","ports":[{"number":1,"protocol":"tcp","local":"127.0.0.1:1"}],"weight":1,"checks":[null]}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		s, err := parseRegistration("h1", &apipb.Registration{Namespace: "shop", Service: "reviews", Body: body})
		if err != nil {
			return
		}
		kept, err := stored(s)
		if err != nil {
			t.Fatalf("accepted, but cannot be kept: %v", err)
		}
		again, err := decodeService(kept.Body)
		if err != nil || CheckService(again) != nil {
			t.Fatalf("accepted, but not when read again: %v", err)
		}
	})
}
