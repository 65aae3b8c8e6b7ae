package dns

import (
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	wire "github.com/miekg/dns"
)

// patience is how long a test waits for what must come.
const patience = 30 * time.Second

// server is a DNS server of UDP and TCP on a loopback port, with a zone that tests change.
type server struct {
	t       testing.TB
	address netip.AddrPort
	running []*wire.Server

	mu      sync.Mutex
	zone    []wire.RR
	byName  map[string][]wire.RR // of a large zone, in its place
	extra   bool                 // addresses of SRV targets come along
	fault   fault                // nil: none
	queries []query              // all that came
	news    chan any             // closed and replaced when a query came
	turn    int                  // of the records, which go round
}

// query is one query that came.
type query struct {
	wire.Question
	network string
	edns    bool
	at      time.Time
}

// fault answers in the server's stead: it changes the answer and returns it, or nil for silence, or bytes to send.
type fault func(q query, answer *wire.Msg) any

// newServer starts a server that ends with the test.
func newServer(t testing.TB, zone ...string) *server {
	t.Helper()
	s := &server{t: t, extra: true, news: make(chan any)}
	s.put(zone...)
	s.start()
	t.Cleanup(s.stop)
	return s
}

// start listens, at the port that it had if there is one.
func (s *server) start() {
	s.t.Helper()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		at := "127.0.0.1:0"
		if s.address.IsValid() {
			at = s.address.String()
		}
		packets, err := net.ListenPacket("udp", at)
		if err != nil { // a query of the Source's has the port for a moment
			runtime.Gosched()
			continue
		}
		stream, err := net.Listen("tcp", packets.LocalAddr().String())
		if err != nil {
			packets.Close()
			continue // somebody else has the port for TCP
		}
		s.address = packets.LocalAddr().(*net.UDPAddr).AddrPort()
		s.serve(&wire.Server{PacketConn: packets}, "udp")
		s.serve(&wire.Server{Listener: stream}, "tcp")
		return
	}
	s.t.Fatal("no port for UDP and TCP")
}

func (s *server) serve(w *wire.Server, network string) {
	up := make(chan any)
	w.NotifyStartedFunc = func() { close(up) }
	w.Handler = wire.HandlerFunc(func(to wire.ResponseWriter, m *wire.Msg) { s.answer(to, m, network) })
	w.MsgAcceptFunc = func(wire.Header) wire.MsgAcceptAction { return wire.MsgAccept }
	go w.ActivateAndServe() //nolint:errcheck // it ends with Shutdown
	<-up
	s.running = append(s.running, w)
}

// stop ends the server; its port refuses then.
func (s *server) stop() {
	for _, w := range s.running {
		if err := w.Shutdown(); err != nil {
			s.t.Error(err)
		}
	}
	s.running = nil
}

// put makes the zone hold exactly these records.
func (s *server) put(zone ...string) {
	s.t.Helper()
	var all []wire.RR
	for _, line := range zone {
		rr, err := wire.NewRR(line)
		if err != nil {
			s.t.Fatal(err)
		}
		all = append(all, rr)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.zone = all
}

func (s *server) setFault(f fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fault = f
}

func (s *server) setExtra(along bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.extra = along
}

// answer answers one query.
func (s *server) answer(to wire.ResponseWriter, m *wire.Msg, network string) {
	q := query{m.Question[0], network, m.IsEdns0() != nil, time.Now()}
	s.mu.Lock()
	answer := s.look(m)
	s.queries = append(s.queries, q)
	close(s.news)
	s.news = make(chan any)
	f := s.fault
	s.mu.Unlock()
	var out any = answer
	if f != nil {
		out = f(q, answer)
	}
	switch out := out.(type) {
	case []byte:
		_, _ = to.Write(out)
	case *wire.Msg:
		if network == "udp" {
			size := wire.MinMsgSize
			if opt := m.IsEdns0(); opt != nil {
				size = int(opt.UDPSize())
			}
			out.Truncate(size)
		}
		_ = to.WriteMsg(out)
	}
}

// look makes the answer that the zone has.
func (s *server) look(m *wire.Msg) *wire.Msg {
	out := new(wire.Msg)
	out.SetReply(m)
	out.RecursionAvailable = true
	if m.IsEdns0() != nil {
		out.SetEdns0(4096, false)
	}
	name, known := strings.ToLower(m.Question[0].Name), false
	for range 20 {
		next := ""
		for _, rr := range s.records(name) {
			if !strings.EqualFold(rr.Header().Name, name) {
				continue
			}
			known = true
			if rr.Header().Rrtype == m.Question[0].Qtype {
				out.Answer = append(out.Answer, wire.Copy(rr))
			} else if alias, ok := rr.(*wire.CNAME); ok {
				out.Answer = append(out.Answer, wire.Copy(rr))
				next = strings.ToLower(alias.Target)
			}
		}
		if next == "" {
			break
		}
		name, known = next, false
	}
	s.turn++
	for range s.turn % max(1, len(out.Answer)) {
		out.Answer = append(out.Answer[1:], out.Answer[0])
	}
	if !known {
		out.Rcode = wire.RcodeNameError
	}
	if len(out.Answer) == 0 || out.Answer[len(out.Answer)-1].Header().Rrtype == wire.TypeCNAME {
		soa, _ := wire.NewRR("example.com. 300 IN SOA ns.example.com. root.example.com. 1 2 3 4 1")
		out.Ns = append(out.Ns, soa)
	}
	for _, rr := range out.Answer {
		if srv, ok := rr.(*wire.SRV); ok && s.extra {
			for _, rr := range s.records(srv.Target) {
				if t := rr.Header().Rrtype; rr.Header().Name == srv.Target && (t == wire.TypeA || t == wire.TypeAAAA) {
					out.Extra = append(out.Extra, wire.Copy(rr))
				}
			}
		}
	}
	return out
}

// records returns those that may have the name.
func (s *server) records(name string) []wire.RR {
	if s.byName != nil {
		return s.byName[name]
	}
	return s.zone
}

// came returns the queries that came for a question, "SRV name" or "A name".
func (s *server) came(question string) []query {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []query
	for _, q := range s.queries {
		if wire.TypeToString[q.Qtype]+" "+q.Name == question {
			out = append(out, q)
		}
	}
	return out
}

// await waits until a query came n times.
func (s *server) await(question string, n int) []query {
	s.t.Helper()
	deadline := time.After(patience)
	for {
		s.mu.Lock()
		news := s.news
		s.mu.Unlock()
		if got := s.came(question); len(got) >= n {
			return got
		}
		select {
		case <-news:
		case <-deadline:
			s.t.Fatalf("%s was asked %d times, want %d", question, len(s.came(question)), n)
		}
	}
}

// rcode lets the server answer with an error to these names, or to all.
func rcode(code int, names ...string) fault {
	return func(q query, answer *wire.Msg) any {
		if len(names) > 0 && !slices.Contains(names, q.Name) {
			return answer
		}
		out := new(wire.Msg)
		out.Id, out.Response, out.Rcode, out.Question = answer.Id, true, code, []wire.Question{q.Question}
		return out
	}
}

func silence(query, *wire.Msg) any { return nil }

// srv writes an SRV record.
func srv(name string, ttl, priority, weight, port int, target string) string {
	return fmt.Sprintf("%s %d IN SRV %d %d %d %s", name, ttl, priority, weight, port, target)
}
