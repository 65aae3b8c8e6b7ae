package dns

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	wire "github.com/miekg/dns"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// The addresses of the tests, all of this host alone.
var (
	shop     = netip.MustParseAddr("127.0.53.1")
	other    = netip.MustParseAddr("127.0.53.2")
	host     = netip.MustParseAddr("127.0.53.3")
	upstream = "127.0.53.10"
	second   = "127.0.53.11"
)

var views = []View{
	{For: "shop/web", Address: shop, Domain: "mesh", Namespace: "shop", Forward: true, Names: map[string]netip.Addr{
		"reviews.shop": netip.MustParseAddr("127.64.1.1"), "ratings.default": netip.MustParseAddr("127.64.1.2"), "six.shop": netip.MustParseAddr("::1"),
	}},
	{For: "other/web", Address: other, Domain: "mesh", Namespace: "other", Forward: true, Names: map[string]netip.Addr{"reviews.other": netip.MustParseAddr("127.64.2.1")}},
	{For: "the host", Address: host, Domain: "mesh", Names: map[string]netip.Addr{"batch.jobs": netip.MustParseAddr("127.64.3.1")}},
}

// world is a resolver that runs.
type world struct {
	t    *testing.T
	port string
	file string // that names the host's resolvers
	*Resolver

	mu   sync.Mutex
	said []string
}

func newWorld(t *testing.T, c Config, resolvers ...string) *world {
	t.Helper()
	w := &world{t: t, port: freePort(t), file: filepath.Join(t.TempDir(), "resolv.conf")}
	w.resolvers(resolvers...)
	var port uint16
	fmt.Sscan(w.port, &port)
	w.Resolver = New(Options{
		Log: slog.New(slog.DiscardHandler), Resolvers: []string{filepath.Join(t.TempDir(), "none"), w.file}, Port: port,
		Say: func(s string) { w.mu.Lock(); defer w.mu.Unlock(); w.said = append(w.said, s) },
	})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	w.Set(t.Context(), c)
	w.says(fmt.Sprintf("answers for %d workloads", len(c.Views)))
	return w
}

// freePort returns a port that is free at all addresses of the tests.
func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.53.20:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return port
}

func (w *world) resolvers(all ...string) {
	w.t.Helper()
	text := "# of the test\n"
	for _, r := range all {
		text += "nameserver " + r + "\n"
	}
	if err := os.WriteFile(w.file, []byte(text), 0o600); err != nil {
		w.t.Fatal(err)
	}
}

// says waits until the last that was said is that.
func (w *world) says(what string) {
	w.t.Helper()
	w.until(what+" is said", func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		return len(w.said) > 0 && w.said[len(w.said)-1] == what
	})
}

func (w *world) until(what string, ok func() bool) {
	w.t.Helper()
	deadline := time.After(30 * time.Second)
	for !ok() {
		select {
		case <-time.After(5 * time.Millisecond):
		case <-deadline:
			w.t.Fatalf("never: %s", what)
		}
	}
}

// ask asks a view and returns the answer.
func (w *world) ask(network string, at netip.Addr, name string, kind uint16) *wire.Msg {
	w.t.Helper()
	m := new(wire.Msg).SetQuestion(name, kind)
	c := wire.Client{Net: network, Timeout: 10 * time.Second}
	r, _, err := c.ExchangeContext(w.t.Context(), m, net.JoinHostPort(at.String(), w.port))
	if err != nil {
		w.t.Fatalf("%s %s at %s: %v", name, wire.TypeToString[kind], at, err)
	}
	return r
}

// short is an answer in a line: its code, then the values of its records.
func short(m *wire.Msg) string {
	out := []string{wire.RcodeToString[m.Rcode]}
	for _, r := range m.Answer {
		out = append(out, strings.TrimPrefix(r.String(), r.Header().String()))
	}
	for _, r := range m.Ns {
		out = append(out, wire.TypeToString[r.Header().Rrtype]+" "+r.Header().Name)
	}
	return strings.Join(out, " ")
}

// stub is a resolver of the host's.
func stub(t *testing.T, at, port string, answer func(q *wire.Msg, network string) *wire.Msg) {
	t.Helper()
	packets, err := net.ListenPacket("udp", net.JoinHostPort(at, port))
	if err != nil {
		t.Fatal(err)
	}
	stream, err := net.Listen("tcp", net.JoinHostPort(at, port))
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []*wire.Server{{PacketConn: packets}, {Listener: stream}} {
		s.Handler = wire.HandlerFunc(func(w wire.ResponseWriter, q *wire.Msg) {
			if a := answer(q, w.RemoteAddr().Network()); a != nil {
				_ = w.WriteMsg(a)
			}
		})
		started, ended := make(chan struct{}), make(chan error, 1)
		s.NotifyStartedFunc = func() { close(started) }
		go func() { ended <- s.ActivateAndServe() }()
		<-started
		t.Cleanup(func() { _ = s.Shutdown(); <-ended })
	}
}

// records answers a question with so many addresses.
func records(n int) func(*wire.Msg, string) *wire.Msg {
	return func(q *wire.Msg, network string) *wire.Msg {
		r := new(wire.Msg).SetReply(q)
		for i := range n {
			r.Answer = append(r.Answer, &wire.A{Hdr: wire.RR_Header{Name: q.Question[0].Name, Rrtype: wire.TypeA, Class: wire.ClassINET, Ttl: 60}, A: net.IPv4(192, 0, 2, byte(i))})
		}
		if network == "udp" {
			r.Truncate(wire.MinMsgSize)
		}
		return r
	}
}

func TestEachWorkloadSeesItsOwnNames(t *testing.T) {
	w := newWorld(t, Config{Views: views})
	for _, c := range []struct {
		at   netip.Addr
		name string
		kind uint16
		want string
	}{
		{shop, "reviews.shop.mesh.", wire.TypeA, "NOERROR 127.64.1.1"},
		{shop, "reviews.mesh.", wire.TypeA, "NOERROR 127.64.1.1"},
		{shop, "reviews.", wire.TypeA, "NOERROR 127.64.1.1"},
		{shop, "ReViews.MESH.", wire.TypeA, "NOERROR 127.64.1.1"},
		{shop, "ratings.default.mesh.", wire.TypeA, "NOERROR 127.64.1.2"},
		{shop, "ratings.mesh.", wire.TypeA, "NXDOMAIN SOA mesh."},
		{shop, "reviews.mesh.", wire.TypeAAAA, "NOERROR SOA mesh."},
		{shop, "six.mesh.", wire.TypeAAAA, "NOERROR ::1"},
		{shop, "six.mesh.", wire.TypeA, "NOERROR SOA mesh."},
		{shop, "reviews.mesh.", wire.TypeTXT, "NOERROR SOA mesh."},
		{shop, "none.mesh.", wire.TypeA, "NXDOMAIN SOA mesh."},
		{shop, "deep.reviews.shop.mesh.", wire.TypeA, "NXDOMAIN SOA mesh."},
		{shop, "shop.mesh.", wire.TypeA, "NOERROR SOA mesh."},
		{shop, "mesh.", wire.TypeNS, "NOERROR SOA mesh."},
		{shop, "reviews.other.mesh.", wire.TypeA, "NXDOMAIN SOA mesh."},
		{other, "reviews.mesh.", wire.TypeA, "NOERROR 127.64.2.1"},
		{other, "reviews.shop.mesh.", wire.TypeA, "NXDOMAIN SOA mesh."},
		{host, "batch.jobs.mesh.", wire.TypeA, "NOERROR 127.64.3.1"},
		{host, "reviews.mesh.", wire.TypeA, "NXDOMAIN SOA mesh."},
		{host, "example.com.", wire.TypeA, "REFUSED"},
	} {
		for _, network := range []string{"udp", "tcp"} {
			r := w.ask(network, c.at, c.name, c.kind)
			if got := short(r); got != c.want {
				t.Errorf("%s: %s %s at %s: %s, want %s", network, c.name, wire.TypeToString[c.kind], c.at, got, c.want)
			}
			if r.Rcode != wire.RcodeRefused && !r.Authoritative {
				t.Errorf("%s at %s: not authoritative", c.name, c.at)
			}
			for _, rr := range r.Answer {
				if rr.Header().Ttl != ttl {
					t.Errorf("%s may be kept for %d s", c.name, rr.Header().Ttl)
				}
			}
		}
	}
}

func TestAnswersFollowTheConfiguration(t *testing.T) {
	w := newWorld(t, Config{Views: views})
	moved := slices.Clone(views[:1])
	moved[0].Names = map[string]netip.Addr{"reviews.shop": netip.MustParseAddr("127.64.1.9")}
	w.Set(t.Context(), Config{Views: moved})
	w.says("answers for 1 workloads")
	if got := short(w.ask("udp", shop, "reviews.mesh.", wire.TypeA)); got != "NOERROR 127.64.1.9" {
		t.Error(got)
	}
	if c, err := net.Dial("tcp", net.JoinHostPort(other.String(), w.port)); err == nil {
		c.Close()
		t.Error("a view that is no more is answered")
	}
}

func TestAnAddressThatIsTakenIsHadWhenItIsFree(t *testing.T) {
	w := newWorld(t, Config{})
	l, err := net.Listen("tcp", net.JoinHostPort(shop.String(), w.port))
	if err != nil {
		t.Fatal(err)
	}
	w.Set(t.Context(), Config{Views: views})
	w.says("answers for 2 of 3 workloads; see the log")
	if got := short(w.ask("udp", other, "reviews.mesh.", wire.TypeA)); got != "NOERROR 127.64.2.1" {
		t.Error("the others wait:", got)
	}
	l.Close()
	w.says("answers for 3 workloads")
	if got := short(w.ask("udp", shop, "reviews.mesh.", wire.TypeA)); got != "NOERROR 127.64.1.1" {
		t.Error(got)
	}
}

func TestOtherNamesAreAskedOfTheHostsResolvers(t *testing.T) {
	w := newWorld(t, Config{Views: views}, upstream, second)
	var mu sync.Mutex
	var names []string
	broken := false
	stub(t, upstream, w.port, func(q *wire.Msg, network string) *wire.Msg {
		mu.Lock()
		defer mu.Unlock()
		names = append(names, q.Question[0].Name)
		if broken {
			return new(wire.Msg).SetRcode(q, wire.RcodeServerFailure)
		}
		return records(1)(q, network)
	})
	stub(t, second, w.port, records(2))
	for _, network := range []string{"udp", "tcp"} {
		if got := short(w.ask(network, shop, "example.com.", wire.TypeA)); got != "NOERROR 192.0.2.0" {
			t.Error(network, got)
		}
	}
	w.ask("udp", shop, "none.mesh.", wire.TypeA)
	w.ask("udp", shop, "reviews.", wire.TypeAAAA)
	mu.Lock()
	broken = true
	if want := []string{"example.com.", "example.com."}; !slices.Equal(names, want) {
		t.Errorf("asked %q, want %q: a name of the mesh is asked nowhere else", names, want)
	}
	mu.Unlock()
	if got := short(w.ask("udp", shop, "example.com.", wire.TypeA)); got != "NOERROR 192.0.2.0 192.0.2.1" {
		t.Error("the second was not asked:", got)
	}
}

func TestALongAnswerComesOverTCP(t *testing.T) {
	w := newWorld(t, Config{Views: views}, upstream)
	stub(t, upstream, w.port, records(100))
	if r := w.ask("udp", shop, "long.example.", wire.TypeA); !r.Truncated || len(r.Answer) == 100 {
		t.Errorf("%d records, truncated: %v", len(r.Answer), r.Truncated)
	}
	if r := w.ask("tcp", shop, "long.example.", wire.TypeA); r.Truncated || len(r.Answer) != 100 {
		t.Errorf("%d records, truncated: %v", len(r.Answer), r.Truncated)
	}
}

func TestResolversThatDoNotAnswerFailAQuestionNotTheMesh(t *testing.T) {
	w := newWorld(t, Config{Views: views}, upstream) // nobody is there
	if got := short(w.ask("udp", shop, "example.com.", wire.TypeA)); got != "SERVFAIL" {
		t.Error(got)
	}
	if got := short(w.ask("udp", shop, "reviews.mesh.", wire.TypeA)); got != "NOERROR 127.64.1.1" {
		t.Error(got)
	}
}

func TestItNeverAsksItself(t *testing.T) {
	w := newWorld(t, Config{Views: views}, shop.String(), other.String())
	if got := short(w.ask("udp", shop, "example.com.", wire.TypeA)); got != "SERVFAIL" {
		t.Error(got)
	}
	stub(t, upstream, w.port, records(1))
	w.resolvers(shop.String(), upstream)
	w.until("the file is read again", func() bool {
		return short(w.ask("udp", shop, "example.com.", wire.TypeA)) == "NOERROR 192.0.2.0"
	})
}

func TestTooManyQuestionsAreRefusedAtOnce(t *testing.T) {
	f := newForwarder(slog.New(slog.DiscardHandler), nil, 53)
	for range maxAsked {
		f.slots <- struct{}{}
	}
	if _, err := f.ask(t.Context(), "udp", new(wire.Msg)); err != errBusy {
		t.Error(err)
	}
}

func TestOnlyThisHostIsAnswered(t *testing.T) {
	for from, want := range map[string]bool{"127.0.0.1:5": true, "127.64.1.1:5": true, "[::1]:5": true, "192.0.2.1:5": false, "[2001:db8::1]:5": false} {
		if got := local(net.UDPAddrFromAddrPort(netip.MustParseAddrPort(from))); got != want {
			t.Errorf("%s: %v", from, got)
		}
	}
}

func TestAConfigurationIsReadAsItWasWritten(t *testing.T) {
	text, err := Config{Views: views}.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	c, err := Parse(text)
	again, _ := c.Marshal()
	if err != nil || string(again) != string(text) {
		t.Errorf("%v\n%s\n%s", err, text, again)
	}
}

func TestAViewThatCannotBeServedHarmsNoOther(t *testing.T) {
	bad := append(slices.Clone(views), View{For: "a", Domain: "mesh"}, View{For: "b", Address: netip.MustParseAddr("127.9.9.9")}, View{For: "c", Address: shop, Domain: "mesh"})
	text, _ := Config{Views: bad}.Marshal()
	c, err := Parse(text)
	if len(c.Views) != len(views) || err == nil {
		t.Fatal(c, err)
	}
	for _, want := range []string{"a: no address", `b: "" is no domain`, "c: address 127.0.53.1 is that of shop/web"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%v: no %q", err, want)
		}
	}
	if _, err := Parse([]byte("{")); err == nil {
		t.Error("half a file is read")
	}
}

func FuzzAnswer(f *testing.F) {
	for _, name := range []string{"reviews.mesh.", "mesh.", "x."} {
		text, _ := new(wire.Msg).SetQuestion(name, wire.TypeA).Pack()
		f.Add(text)
	}
	r := New(Options{Log: slog.New(slog.DiscardHandler)})
	z := newZone(views[0])
	z.Forward = false
	f.Fuzz(func(t *testing.T, text []byte) {
		m := new(wire.Msg)
		if m.Unpack(text) != nil {
			return
		}
		if _, err := r.answer(t.Context(), z, "udp", m).Pack(); err != nil {
			t.Errorf("%v: %v", m, err)
		}
	})
}

func TestAWorkloadsFileKeepsWhatTheHostsSays(t *testing.T) {
	file := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(file, []byte("nameserver 192.0.2.1\nsearch corp.example . mesh\noptions ndots:2 rotate\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	const want = "# The Wattle agent's, of workload shop/web.\nnameserver 127.0.53.1\nsearch shop.mesh mesh corp.example\noptions ndots:2\n"
	if got := Conf(views[0], file); got != want {
		t.Error(got)
	}
	if got := Conf(views[0], file+".none"); !strings.HasSuffix(got, "nameserver 127.0.53.1\nsearch shop.mesh mesh\n") {
		t.Error(got)
	}
}
