package api

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc/codes"

	"github.com/wattle-mesh/wattle/configs"
	"github.com/wattle-mesh/wattle/internal/api/apipb"
	"github.com/wattle-mesh/wattle/translator"
)

func TestAHostThatLeavesIsForgotten(t *testing.T) {
	w := newWorld(t)
	w.policy(nil)
	cert := w.admitted("h1", "shop/reviews")
	// An hour later: it leaves in another second than it came.
	w.clock.pass(time.Hour)
	conn := w.conn(cert, "127.0.0.1")
	h1 := apipb.NewNodeClient(conn)
	_, envoy := w.streams(conn, "h1/host")
	r := report(t, h1)
	req := &apipb.ReportRequest{Address: "127.0.0.1", Registrations: []*apipb.Registration{register(t, service("reviews"))},
		Health: []*apipb.HealthReport{{Namespace: "shop", Service: "reviews", Healthy: true}}}
	r.say(req)
	w.awaitNames("reviews@h1")

	left, err := h1.Leave(t.Context(), &apipb.LeaveRequest{})
	if err != nil || left.GetRegistrations() != 1 {
		t.Fatalf("%v, %v", left, err)
	}
	w.awaitNames("")
	if _, err := r.stream.Recv(); err == nil {
		t.Error("its stream of reports goes on")
	}
	_, err = envoy.Recv()
	wantCode(t, "the stream of its Envoy", err, codes.Unavailable, "")
	if n := len(w.registrar.Health()); n != 0 {
		t.Errorf("the health of %d workloads is known yet", n)
	}
	nobody := func(when string, cert tls.Certificate) {
		t.Helper()
		c := w.dial(cert)
		_, err := c.Sign(t.Context(), &apipb.SignRequest{Csr: newCSR(t, newKey(t))})
		wantCode(t, when+", a certificate", err, codes.PermissionDenied, "node h1 left the mesh")
		_, err = c.Reach(t.Context(), &apipb.ReachRequest{Port: 7443})
		wantCode(t, when+", reach", err, codes.PermissionDenied, "wattle token create -node h1")
		s, err := c.Report(t.Context())
		if err == nil {
			_, err = s.Recv()
		}
		wantCode(t, when+", a report", err, codes.PermissionDenied, "left")
		x, err := discoveryv3.NewAggregatedDiscoveryServiceClient(w.conn(cert, "127.0.0.1")).DeltaAggregatedResources(t.Context())
		if err == nil {
			_ = x.Send(&discoveryv3.DeltaDiscoveryRequest{Node: &corev3.Node{Id: "h1/host"}, TypeUrl: translator.Cluster.URL()}) // Recv says why
			_, err = x.Recv()
		}
		wantCode(t, when+", xDS", err, codes.PermissionDenied, "left")
		_, err = c.Leave(t.Context(), &apipb.LeaveRequest{})
		wantCode(t, when+", leaving again", err, codes.PermissionDenied, "left")
	}
	nobody("after it left", cert)
	w.restart()
	w.policy(nil)
	nobody("after a restart", cert)
	if all, err := w.node.Nodes(); err != nil || len(all) != 0 {
		t.Errorf("nodes: %v, %v", all, err)
	}

	// It may come back, as another; what it was before is of no use yet.
	again := w.admitted("h1", "shop/reviews")
	if refused := report(t, w.dial(again)).say(req); len(refused) > 0 {
		t.Errorf("refused after it came back: %v", refused)
	}
	w.awaitNames("reviews@h1")
	nobody("after it came back", cert)
}

func TestAHostThatIsGoneIsForgottenByAnOperator(t *testing.T) {
	w := newWorld(t)
	w.policy(nil)
	report(t, w.admit("h1", "shop/reviews")).say(&apipb.ReportRequest{Registrations: []*apipb.Registration{register(t, service("reviews"))}})
	w.awaitNames("reviews@h1")
	if got, err := w.node.Forget("h1"); err != nil || got.Registrations != 1 {
		t.Errorf("%v, %v", got, err)
	}
	w.awaitNames("")
	_, err := w.node.Forget("h1")
	if e, ok := errors.AsType[*Error](err); !ok || e.Status != 404 {
		t.Errorf("a second time: %v", err)
	}
	if _, err := w.node.Forget("../h1"); !errors.Is(err, ErrInput) {
		t.Errorf("a bad name: %v", err)
	}
}

func TestWhatAHostIsBecomesLabelsOfItsEndpoints(t *testing.T) {
	w := newWorld(t)
	w.policy(nil)
	r := report(t, w.admit("h1", "shop/*"))
	s := service("reviews")
	s.Meta["host.rack"] = "mine"
	req := &apipb.ReportRequest{Registrations: []*apipb.Registration{register(t, s), register(t, service("web"))},
		Facts: map[string]string{"os.name": "debian", "rack": "r7"}}
	r.say(req)
	set := w.awaitNames("reviews@h1 web@h1")
	for i, want := range []string{`host.os.name="debian" host.rack="mine" version="v1"`, `host.os.name="debian" host.rack="r7" version="v1"`} {
		if got := set[i].Endpoints[0].Meta.String(); got != want {
			t.Errorf("%s: %s, want %s", set[i].Name, got, want)
		}
	}
	for len(w.sets) > 0 {
		<-w.sets
	}
	req.Facts = map[string]string{"os.name": "debian", "rack": "r8", "zone": "b"}
	r.say(req)
	set = w.awaitNames("reviews@h1 web@h1")
	if got := set[1].Endpoints[0].Meta.String(); got != `host.os.name="debian" host.rack="r8" host.zone="b" version="v1"` {
		t.Errorf("after the facts changed: %s", got)
	}
	if len(w.sets) > 0 {
		t.Error("changed facts are more than one change")
	}
	if got := w.registrar.Facts().Of["h1"].Get("host.zone"); got != "b" {
		t.Errorf("the loop is told %q", got)
	}
	eventually(t, "the report to be kept", func() error {
		all, err := w.store.Reports()
		if err != nil || len(all) != 1 || all[0].Facts["rack"] != "r8" {
			return fmt.Errorf("%v, %w", all, err)
		}
		return nil
	})
	w.restart()
	if got := w.services()[1].Endpoints[0].Meta.Get("host.rack"); got != "r8" {
		t.Errorf("after a restart, before the agent is back: %q", got)
	}
}

func TestFactsThatCannotBeAreRefused(t *testing.T) {
	for what, facts := range map[string]map[string]string{
		"a name with a space": {"o s": "debian"}, "an empty value": {"os": ""}, "a control character": {"os": "a\x1bb"},
		"a long value": {"os": strings.Repeat("x", maxFact+1)}, "a blank at the end": {"os": "a "}, "no name": {"": "x"},
	} {
		if _, err := parseFacts(facts); err == nil {
			t.Errorf("%s is taken", what)
		}
	}
	many := map[string]string{}
	for i := range maxFacts + 1 {
		many[fmt.Sprint("f", i)] = "x"
	}
	if _, err := parseFacts(many); err == nil {
		t.Errorf("%d are taken", len(many))
	}
}

func TestAHostLearnsTheTimeAndSaysHowItIs(t *testing.T) {
	w := newWorld(t)
	w.policy(nil)
	w.clock.pass(time.Hour)
	r := report(t, w.admit("h1"))
	if err := r.stream.Send(&apipb.ReportRequest{Number: 7, ClockAhead: -3600, Alarms: []*apipb.Alarm{{Name: "clock", Text: "behind\nby much"}, {Name: "No Name"}}}); err != nil {
		t.Fatal(err)
	}
	resp, err := r.stream.Recv()
	if err != nil || resp.GetNumber() != 7 {
		t.Fatalf("%v, %v", resp, err)
	}
	if off := time.Since(resp.GetTime().AsTime()) + time.Hour; off.Abs() > time.Minute {
		t.Errorf("the time is %s off", off)
	}
	all, err := w.node.Nodes()
	if err != nil || len(all) != 1 || time.Duration(all[0].ClockAhead) != -time.Hour {
		t.Fatalf("%v, %v", all, err)
	}
	if got := all[0].Alarms; len(got) != 1 || got[0] != (Alarm{"h1", "clock", "behindby much"}) {
		t.Errorf("alarms: %q", got)
	}
	w.policy([]*configs.Host{{Name: "h2"}}) // what is refused may have changed: no answer to a report
	if reporting, silent, alarms, skew := w.registrar.tally(); reporting != 1 || silent != 0 || alarms["clock"] != 1 || skew != time.Hour {
		t.Errorf("%d, %d, %v, %s", reporting, silent, alarms, skew)
	}
}

func TestTheServerConnectsBackToTheCallerOnly(t *testing.T) {
	w := newWorld(t)
	w.policy(nil)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	port := netip.MustParseAddrPort(l.Addr().String()).Port()
	h1 := w.admit("h1")
	r := report(t, h1)
	r.say(&apipb.ReportRequest{MeshPort: uint32(port)})
	got, err := h1.Reach(t.Context(), &apipb.ReachRequest{Port: uint32(port)})
	if err != nil || got.GetError() != "" || got.GetAddress() != l.Addr().String() {
		t.Errorf("where something listens: %v, %v", got, err)
	}
	l.Close()
	got, err = h1.Reach(t.Context(), &apipb.ReachRequest{Port: uint32(port)})
	if err != nil || !strings.Contains(got.GetError(), "nothing listens") {
		t.Errorf("where nothing listens: %v, %v", got, err)
	}
	for _, p := range []uint32{0, uint32(port) - 1, uint32(port) + configs.MeshPorts, 1 << 20} {
		_, err = h1.Reach(t.Context(), &apipb.ReachRequest{Port: p})
		wantCode(t, fmt.Sprint("port ", p), err, codes.InvalidArgument, "none of the node's mesh ports")
		if p == uint32(port)+configs.MeshPorts {
			break
		}
	}
	for range reachBurst {
		_, err = h1.Reach(t.Context(), &apipb.ReachRequest{Port: uint32(port)})
	}
	wantCode(t, "too often", err, codes.ResourceExhausted, "wait")

	// The address is the caller's, not what it claims.
	h2 := w.admit("h2")
	report(t, h2).say(&apipb.ReportRequest{Address: "127.0.0.99", MeshPort: uint32(port)})
	if got, err := h2.Reach(t.Context(), &apipb.ReachRequest{Port: uint32(port)}); err != nil || !strings.HasPrefix(got.GetAddress(), "127.0.0.1:") {
		t.Errorf("with a claim: %v, %v", got, err)
	}
}
