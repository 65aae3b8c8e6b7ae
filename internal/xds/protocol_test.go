package xds

import (
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/wattle-mesh/wattle/translator"
)

// dialogue is a stream in a test of the protocol: what goes in, what comes out.
type dialogue struct {
	t   *testing.T
	srv *Server
	p   *peer
	w   *world
	was *world
}

// in runs f in a bubble with a server that has two services and a proxy that sees both.
func in(t *testing.T, f func(*dialogue)) {
	synctest.Test(t, func(t *testing.T) {
		d := &dialogue{t: t, srv: New(Options{Authorize: authorizeByID}), w: newWorld(), was: newWorld()}
		m := &mesh{w: d.w}
		m.service(0, nil)
		m.service(1, nil)
		m.caller(0, []int{0, 1})
		m.proxy("p0", []int{0})
		d.apply()
		d.p = newPeer(d.srv, "p0", false)
		d.p.st = &stream{srv: d.srv, send: d.p.receive, since: now()}
		r := &request{}
		_ = r.setNode(appendString(nil, 1, "p0"))
		if err := d.srv.open(t.Context(), d.p.st, r); err != nil {
			t.Fatal(err)
		}
		f(d)
		d.srv.end(d.p.st)
	})
}

func (d *dialogue) apply() {
	d.srv.Apply(d.w.since(d.was))
	d.was = d.w.clone()
	synctest.Wait()
}

func (d *dialogue) set(t translator.Type, name, version string) {
	d.w.resources[translator.Key{Type: t, Name: name}] = version
}

func (d *dialogue) say(r request) {
	d.t.Helper()
	d.p.handle(&r)
	synctest.Wait()
}

// ack acknowledges what hear gave last of type t.
func (d *dialogue) ack(t translator.Type) {
	d.say(request{typ: t, answers: true, nonce: d.p.st.subs[t].last.gen})
}

func (d *dialogue) nack(t translator.Type, reason string) {
	d.say(request{typ: t, answers: true, nonce: d.p.st.subs[t].last.gen, refused: true, reason: reason})
}

// hear expects the responses sent since it was last called: "cluster c-0 c-1", with "-" before what is removed.
func (d *dialogue) hear(want ...string) {
	d.t.Helper()
	d.p.mu.Lock()
	defer d.p.mu.Unlock()
	got := []string{}
	for _, m := range d.p.inbox {
		text := m.typ.String()
		for _, r := range m.resources {
			text += " " + r.Name
		}
		for _, name := range m.removed {
			text += " -" + name
		}
		got = append(got, text)
	}
	d.p.inbox = nil
	if diff := cmp.Diff(append([]string{}, want...), got); diff != "" {
		d.t.Fatalf("responses (-want +got):\n%s", diff)
	}
}

func TestNamesAreAnsweredEvenIfUnchanged(t *testing.T) {
	in(t, func(d *dialogue) {
		d.say(request{typ: translator.Endpoint, subscribe: []string{"c-0"}})
		d.hear("endpoint c-0")
		d.ack(translator.Endpoint)
		d.say(request{typ: translator.Endpoint, subscribe: []string{"c-0"}})
		d.hear("endpoint c-0")
	})
}

func TestUnknownNamesAreAnsweredAsRemoved(t *testing.T) {
	in(t, func(d *dialogue) {
		d.say(request{typ: translator.Route, subscribe: []string{"r-0", "r-9"}})
		d.hear("route r-0 -r-9")
		d.ack(translator.Route)
		d.say(request{typ: translator.Route, subscribe: []string{"r-8"}})
		d.hear("route -r-8")
	})
}

func TestANameThatIsRefusedAndGivenUpIsNotSentAgain(t *testing.T) {
	in(t, func(d *dialogue) {
		d.say(request{typ: translator.Endpoint, subscribe: []string{"c-0"}})
		d.hear("endpoint c-0")
		d.nack(translator.Endpoint, "no")
		d.say(request{typ: translator.Endpoint, unsubscribe: []string{"c-0"}})
		d.say(request{typ: translator.Endpoint, subscribe: []string{"c-1"}})
		d.hear("endpoint c-1")
	})
}

func TestAClientThatAnswersNothingCannotHaveNamesRememberedWithoutEnd(t *testing.T) {
	in(t, func(d *dialogue) {
		d.say(request{typ: translator.Endpoint, subscribe: []string{"*"}})
		names := make([]string, 1<<14)
		for i := range 100 {
			for j := range names {
				names[j] = fmt.Sprint("x-", i, "-", j)
			}
			err := d.srv.handle(d.p.st, &request{typ: translator.Endpoint, known: true, subscribe: names, unsubscribe: names})
			if status.Code(err) == codes.ResourceExhausted {
				return
			}
		}
		t.Errorf("%d names are remembered", len(d.p.st.subs[translator.Endpoint].owed))
	})
}

func TestAStreamHasBounds(t *testing.T) {
	in(t, func(d *dialogue) {
		d.srv.o.MaxNames = 3
		try := func(what string, r *request, want codes.Code) {
			t.Helper()
			r.known = true
			if err := d.srv.handle(d.p.st, r); status.Code(err) != want {
				t.Errorf("%s: %v, want %s", what, err, want)
			}
		}
		claims := map[string]string{}
		for i := range maxNames + 1 {
			claims[fmt.Sprint(i)] = ""
		}
		try("too many that it holds", &request{typ: translator.Cluster, subscribe: []string{"*"}, initial: claims}, codes.ResourceExhausted)
		try("three names", &request{typ: translator.Endpoint, subscribe: []string{"a", "b", "c"}}, codes.OK)
		try("a fourth", &request{typ: translator.Endpoint, subscribe: []string{"d"}}, codes.ResourceExhausted)
		try("all there is", &request{typ: translator.Route, subscribe: []string{"*"}}, codes.OK)
		d.p.st.subs[translator.Route].owed = map[string]struct{}{"a": {}, "b": {}, "c": {}, "d": {}}
		try("an answer while much is owed", &request{typ: translator.Route, answers: true, nonce: 1 << 40}, codes.OK)
	})
}

func TestEndpointsGoWithTheirCluster(t *testing.T) {
	in(t, func(d *dialogue) {
		d.subscribeAll()
		d.set(translator.Cluster, "c-0", "new")
		d.apply()
		d.hear("cluster c-0", "endpoint c-0")
		d.ack(translator.Endpoint)
		m := &mesh{w: d.w, serial: 100}
		m.drop(1)
		d.apply()
		d.hear("listener -l-1", "route -r-1")
		d.ack(translator.Listener)
		d.ack(translator.Route)
		d.hear() // c-1 cannot be removed while c-0 is unanswered, and must not be without endpoints until then
		d.ack(translator.Cluster)
		d.hear("cluster -c-1", "endpoint -c-1")
	})
}

func TestARefusalIsOneLineThatATerminalCanShow(t *testing.T) {
	for text, want := range map[string]string{
		"\x1b]0;owned\x07no such filter": "?]0;owned?no such filter",
		"two\nlines\tand\ra half":        "two lines and a half",
		"\xff\u202e":                     "??",
		"a filter Ähnlich 100 % \"x\"":   "a filter Ähnlich 100 % \"x\"",
	} {
		if got := newNack(&message{}, text).Message; got != want {
			t.Errorf("%q is shown as %q, want %q", text, got, want)
		}
	}
	m := &message{resources: []*translator.Resource{resource(translator.Key{Type: translator.Listener, Name: "l-0"}, "1")}}
	if n := newNack(m, strings.Repeat("x", 10*maxNackText)); len(n.Message) != maxNackText {
		t.Errorf("%d bytes are kept", len(n.Message))
	}
}

func TestARefusalIsLoggedAFewTimes(t *testing.T) {
	in(t, func(d *dialogue) {
		lines := 0
		d.srv.o.Log = slog.New(slog.NewTextHandler(writer(func([]byte) { lines++ }), nil))
		d.say(request{typ: translator.Endpoint, subscribe: []string{"c-0"}})
		for range 10 * loudBurst {
			d.nack(translator.Endpoint, "no")
			d.say(request{typ: translator.Endpoint, subscribe: []string{"c-0"}})
		}
		if lines == 0 || lines > loudBurst+1 {
			t.Errorf("%d lines are logged", lines)
		}
	})
}

// writer is called for each line.
type writer func([]byte)

func (w writer) Write(b []byte) (int, error) { w(b); return len(b), nil }

func TestANameThatAppearsLaterIsSentToWhoAskedForIt(t *testing.T) {
	in(t, func(d *dialogue) {
		d.say(request{typ: translator.Endpoint, subscribe: []string{"c-2"}})
		d.hear("endpoint -c-2")
		d.ack(translator.Endpoint)
		m := &mesh{w: d.w, serial: 100}
		m.service(0, []int{2})
		d.apply()
		d.hear("endpoint c-2")
	})
}

func TestAnUnsubscribedNameIsNotSent(t *testing.T) {
	in(t, func(d *dialogue) {
		d.say(request{typ: translator.Endpoint, subscribe: []string{"c-0", "c-1"}})
		d.hear("endpoint c-0 c-1")
		d.ack(translator.Endpoint)
		d.say(request{typ: translator.Endpoint, unsubscribe: []string{"c-0"}})
		d.set(translator.Endpoint, "c-0", "new")
		d.set(translator.Endpoint, "c-1", "new")
		d.apply()
		d.hear("endpoint c-1")
	})
}

func TestTheFirstWildcardRequestIsAlwaysAnswered(t *testing.T) {
	for name, subscribe := range map[string][]string{"explicit": {"*"}, "legacy": nil} {
		t.Run(name, func(t *testing.T) {
			in(t, func(d *dialogue) {
				d.say(request{typ: translator.Secret, subscribe: subscribe})
				d.hear("secret")
				d.ack(translator.Secret)
				d.hear()
			})
		})
	}
}

func TestAWildcardAndNamesMix(t *testing.T) {
	in(t, func(d *dialogue) {
		d.say(request{typ: translator.Cluster, subscribe: []string{"*", "c-7"}})
		d.hear("cluster c-0 c-1 -c-7")
		d.ack(translator.Cluster)
		d.say(request{typ: translator.Cluster, subscribe: []string{"c-0"}})
		d.hear("cluster c-0")
		d.ack(translator.Cluster)
		// A name that the wildcard covers is sent again when it is unsubscribed: the client dropped it.
		d.say(request{typ: translator.Cluster, unsubscribe: []string{"c-0", "c-7"}})
		d.hear("cluster c-0 -c-7")
		d.ack(translator.Cluster)
		d.say(request{typ: translator.Cluster, subscribe: []string{"c-1"}})
		d.hear("cluster c-1")
		d.ack(translator.Cluster)
		d.say(request{typ: translator.Cluster, unsubscribe: []string{"*"}})
		d.set(translator.Cluster, "c-0", "new")
		d.set(translator.Cluster, "c-1", "new")
		d.apply()
		d.hear("cluster c-1")
	})
}

func TestWhatTheClientHoldsIsNotSentAgain(t *testing.T) {
	in(t, func(d *dialogue) {
		held := func(t translator.Type) map[string]string { return maps.Clone(d.w.inScope("p0")[t]) }
		d.say(request{typ: translator.Cluster, subscribe: []string{"*"}, initial: held(translator.Cluster)})
		d.say(request{typ: translator.Endpoint, subscribe: []string{"c-0", "c-1"}, initial: held(translator.Endpoint)})
		d.say(request{typ: translator.Listener, subscribe: []string{"*"}, initial: held(translator.Listener)})
		d.say(request{typ: translator.Route, subscribe: []string{"r-0", "r-1"}, initial: held(translator.Route)})
		d.hear()
		d.set(translator.Route, "r-0", "new")
		d.apply()
		d.hear("route r-0")
	})
}

func TestWhatTheClientHoldsAndShouldNotGoesAfterWhatRefersToIt(t *testing.T) {
	in(t, func(d *dialogue) {
		clusters := maps.Clone(d.w.inScope("p0")[translator.Cluster])
		clusters["old"], clusters["c-0"] = "1", "older"
		listeners := map[string]string{"l-old": "1>old"}
		d.say(request{typ: translator.Cluster, subscribe: []string{"*"}, initial: clusters})
		d.hear("cluster c-0") // and old stays: the client's listeners may refer to it
		d.ack(translator.Cluster)
		d.say(request{typ: translator.Endpoint, subscribe: []string{"c-0", "c-1", "old"},
			initial: map[string]string{"c-0": d.w.resources[translator.Key{Type: translator.Endpoint, Name: "c-0"}], "old": "1"}})
		d.hear("endpoint c-0 c-1") // the same c-0, for the changed cluster
		d.ack(translator.Endpoint)
		d.say(request{typ: translator.Listener, subscribe: []string{"*"}, initial: listeners})
		d.hear("listener l-0 l-1 -l-old")
		d.say(request{typ: translator.Route, subscribe: []string{"r-0"}})
		d.hear("route r-0")
		d.ack(translator.Route)
		d.hear()
		d.ack(translator.Listener)
		d.hear("cluster -old", "endpoint -old")
	})
}

func TestAClientWithoutListenersKeepsNothingForEver(t *testing.T) {
	in(t, func(d *dialogue) {
		d.say(request{typ: translator.Cluster, subscribe: []string{"*"}, initial: map[string]string{"old": "1"}})
		d.hear("cluster c-0 c-1")
		d.ack(translator.Cluster)
		d.hear()
		time.Sleep(settle)
		synctest.Wait()
		d.hear("cluster -old")
	})
}

func (d *dialogue) subscribeAll() {
	for i := range translator.NumTypes {
		d.say(request{typ: translator.Type(i), subscribe: []string{"*"}})
	}
	d.hear("plan", "secret", "cluster c-0 c-1", "endpoint c-0 c-1", "listener l-0 l-1", "route r-0 r-1")
	for i := range translator.NumTypes {
		d.ack(translator.Type(i))
	}
	d.hear()
}

func TestARemovedClusterWaitsForListenersAndRoutes(t *testing.T) {
	in(t, func(d *dialogue) {
		d.subscribeAll()
		m := &mesh{w: d.w, serial: 100}
		m.drop(1)
		d.apply()
		d.hear("listener -l-1", "route -r-1")
		d.ack(translator.Listener)
		d.hear()
		d.ack(translator.Route)
		d.hear("cluster -c-1", "endpoint -c-1")
	})
}

func TestARefusedListenerKeepsTheClusterThatItMayReferTo(t *testing.T) {
	in(t, func(d *dialogue) {
		d.subscribeAll()
		m := &mesh{w: d.w, serial: 100}
		m.bump(translator.Key{Type: translator.Listener, Name: "l-0"})
		m.drop(1)
		d.apply()
		d.hear("listener l-0 -l-1", "route -r-1")
		d.nack(translator.Listener, "no")
		d.ack(translator.Route)
		d.hear()
		m.bump(translator.Key{Type: translator.Listener, Name: "l-0"})
		d.apply()
		d.hear("listener l-0 -l-1")
		d.ack(translator.Listener)
		d.hear("cluster -c-1", "endpoint -c-1")
	})
}

func TestEndpointsFollowAChangedCluster(t *testing.T) {
	in(t, func(d *dialogue) {
		d.subscribeAll()
		d.set(translator.Cluster, "c-0", "new")
		d.apply()
		d.hear("cluster c-0", "endpoint c-0")
	})
}

func TestListenersWaitUntilTheClientAskedForTheEndpointsOfANewCluster(t *testing.T) {
	in(t, func(d *dialogue) {
		for _, typ := range []translator.Type{translator.Cluster, translator.Listener} {
			d.say(request{typ: typ, subscribe: []string{"*"}})
		}
		d.say(request{typ: translator.Endpoint, subscribe: []string{"c-0", "c-1"}})
		d.hear("cluster c-0 c-1", "endpoint c-0 c-1", "listener l-0 l-1")
		for _, typ := range []translator.Type{translator.Cluster, translator.Listener, translator.Endpoint} {
			d.ack(typ)
		}
		m := &mesh{w: d.w, serial: 100}
		m.service(2, nil)
		m.caller(0, []int{0, 1, 2})
		d.apply()
		d.hear("cluster c-2")
		d.ack(translator.Cluster)
		d.hear()
		d.say(request{typ: translator.Endpoint, subscribe: []string{"c-2"}})
		d.hear("endpoint c-2", "listener l-2")
	})
}

func TestNothingOvertakesATypeThatWaits(t *testing.T) {
	in(t, func(d *dialogue) {
		d.subscribeAll()
		d.set(translator.Cluster, "c-0", "v2")
		d.apply()
		d.hear("cluster c-0", "endpoint c-0")
		m := &mesh{w: d.w, serial: 100}
		m.service(0, []int{2})
		d.apply()
		d.hear() // the client has not answered: the route to c-2 waits with c-2
		d.ack(translator.Endpoint)
		d.hear()
		d.ack(translator.Cluster)
		d.hear("cluster c-2", "endpoint c-2", "route r-0")
	})
}

func TestChangesWhileAResponseIsUnansweredBecomeOne(t *testing.T) {
	in(t, func(d *dialogue) {
		d.subscribeAll()
		for _, v := range []string{"v2", "v3", "v4"} {
			d.set(translator.Endpoint, "c-0", v)
			d.apply()
		}
		d.hear("endpoint c-0")
		d.ack(translator.Endpoint)
		d.hear("endpoint c-0")
		d.ack(translator.Endpoint)
		d.hear()
	})
}

func TestARefusalIsKeptAndNotSentAgainUntilItChanges(t *testing.T) {
	in(t, func(d *dialogue) {
		d.subscribeAll()
		d.set(translator.Route, "r-0", "bad")
		d.set(translator.Route, "r-1", "v2")
		d.apply()
		d.hear("route r-0 r-1")
		d.nack(translator.Route, "route configuration 'r-0': unknown field")
		d.hear()
		st := d.srv.Proxies()[0]
		i := slices.IndexFunc(st.Types, func(t TypeStatus) bool { return t.Type == "route" })
		n := st.Types[i].Nack
		if st.Synced || n == nil || n.Message != "route configuration 'r-0': unknown field" ||
			!slices.Equal(n.Resources, []NackResource{{"r-0", "policy.hcl:3"}}) {
			t.Errorf("status %+v, nack %+v", st, n)
		}
		d.set(translator.Endpoint, "c-0", "v2") // another type
		d.apply()
		d.hear("endpoint c-0")
		d.set(translator.Route, "r-0", "good")
		d.apply()
		d.hear("route r-0 r-1")
		d.ack(translator.Route)
		d.ack(translator.Endpoint)
		if st := d.srv.Proxies()[0]; !st.Synced || st.Types[i].Nack != nil {
			t.Errorf("status %+v", st)
		}
	})
}

func TestAStaleAnswerDoesNotCount(t *testing.T) {
	in(t, func(d *dialogue) {
		d.subscribeAll()
		d.set(translator.Route, "r-0", "v2")
		d.apply()
		d.hear("route r-0")
		d.say(request{typ: translator.Route, answers: true, nonce: 1})
		if !d.p.st.subs[translator.Route].inflight {
			t.Error("an answer to an older response was taken for one to the last")
		}
	})
}

func TestAnUnknownProxyIsServedOnceItAppears(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &dialogue{t: t, srv: New(Options{Authorize: authorizeByID}), w: newWorld(), was: newWorld()}
		d.p = newPeer(d.srv, "p0", false)
		d.p.connect()
		synctest.Wait()
		d.hear("plan", "secret", "cluster", "listener", "endpoint", "route")
		for i := range translator.NumTypes {
			d.ack(translator.Type(i))
		}
		m := &mesh{w: d.w}
		m.service(0, nil)
		m.caller(0, []int{0})
		m.proxy("p0", []int{0})
		d.apply()
		d.hear("cluster c-0", "endpoint c-0", "listener l-0", "route r-0")
		d.srv.end(d.p.st)
	})
}

func TestEqualContentIsEncodedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		m := &mesh{w: w}
		m.service(0, nil)
		m.caller(0, []int{0})
		m.caller(1, []int{0})
		m.proxy("p0", []int{0})
		m.proxy("p1", []int{1}) // other scopes, equal content
		srv := New(Options{Authorize: authorizeByID})
		srv.Apply(w.since(newWorld()))
		a, b := newPeer(srv, "p0", false), newPeer(srv, "p1", false)
		a.connect()
		b.connect()
		synctest.Wait()
		for i := range a.inbox {
			if a.inbox[i] != b.inbox[i] {
				t.Errorf("%s was encoded twice", a.inbox[i].typ)
			}
		}
		a.disconnect()
		b.disconnect()
	})
}
