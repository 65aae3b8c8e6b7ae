package dns

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	wire "github.com/miekg/dns"

	"github.com/wattle-mesh/wattle/registry"
)

const ratings = `
service "ratings" {
  namespace = "shop"
  srv       = "_ratings._tcp.example.com"
  protocol  = "http"
}
`

const ratingsName = "_ratings._tcp.example.com."

func TestWhatRecordsBecome(t *testing.T) {
	t.Parallel()
	host := func(n int) string { return fmt.Sprintf("h%d.example.com. 60 IN A 10.0.0.%d", n, n) }
	for name, c := range map[string]struct {
		block string
		zone  []string
		want  []string
	}{
		"SRV records with one port": {ratings, []string{srv(ratingsName, 60, 0, 0, 8080, "h1.example.com."), srv(ratingsName, 60, 0, 0, 8080, "H2.Example.com."), host(1), host(2)},
			[]string{"shop/ratings 8080/http", "  10.0.0.1:8080 p0 w1", "  10.0.0.2:8080 p0 w1"}},
		"priorities and weights": {ratings, []string{srv(ratingsName, 60, 10, 60, 80, "h1.example.com."), srv(ratingsName, 60, 10, 0, 80, "h2.example.com."), srv(ratingsName, 60, 65535, 65535, 80, "h3.example.com."), host(1), host(2), host(3)},
			[]string{"shop/ratings 80/http", "  10.0.0.1:80 p10 w60", "  10.0.0.2:80 p10 w1", "  10.0.0.3:80 p65535 w65535"}},
		"several ports, and one that callers name": {strings.Replace(ratings, "srv ", "port = 9080\nsrv ", 1), []string{srv(ratingsName, 60, 0, 1, 31001, "h1.example.com."), srv(ratingsName, 60, 0, 1, 31002, "h1.example.com."), host(1)},
			[]string{"shop/ratings 9080/http", "  10.0.0.1:31001 p0 w1", "  10.0.0.1:31002 p0 w1"}},
		"both families, several addresses": {ratings, []string{srv(ratingsName, 60, 0, 5, 80, "h1.example.com."), host(1), "h1.example.com. 60 IN A 10.0.0.9", "h1.example.com. 60 IN AAAA fd00::1"},
			[]string{"shop/ratings 80/http", "  10.0.0.1:80 p0 w5", "  10.0.0.9:80 p0 w5", "  [fd00::1]:80 p0 w5"}},
		"IPv4 alone": {"family = \"ipv4\"\n" + ratings, []string{srv(ratingsName, 60, 0, 1, 80, "h1.example.com."), host(1), "h1.example.com. 60 IN AAAA fd00::1"},
			[]string{"shop/ratings 80/http", "  10.0.0.1:80 p0 w1"}},
		"IPv6 alone": {"family = \"ipv6\"\n" + ratings, []string{srv(ratingsName, 60, 0, 1, 80, "h1.example.com."), host(1), "h1.example.com. 60 IN AAAA fd00::1"},
			[]string{"shop/ratings 80/http", "  [fd00::1]:80 p0 w1"}},
		"a service that is decidedly not available": {strings.Replace(ratings, "srv ", "port = 9080\nsrv ", 1), []string{srv(ratingsName, 60, 0, 0, 0, ".")},
			[]string{"shop/ratings 9080/http"}},
		"a target without addresses": {ratings, []string{srv(ratingsName, 60, 0, 1, 80, "h1.example.com."), srv(ratingsName, 60, 0, 1, 80, "h2.example.com."), host(1)},
			[]string{"shop/ratings 80/http", "  10.0.0.1:80 p0 w1"}},
		"one target twice": {ratings, []string{srv(ratingsName, 60, 5, 1, 80, "h1.example.com."), srv(ratingsName, 60, 1, 1, 80, "h1.example.com."), srv(ratingsName, 60, 1, 7, 80, "h2.example.com."), host(1), "h2.example.com. 60 IN A 10.0.0.1"},
			[]string{"shop/ratings 80/http", "  10.0.0.1:80 p1 w7"}},
		"aliases of the name and of a target": {ratings, []string{ratingsName + " 60 IN CNAME alias.example.com.", srv("alias.example.com.", 60, 0, 1, 80, "www.example.com."), "www.example.com. 60 IN CNAME h1.example.com.", host(1)},
			[]string{"shop/ratings 80/http", "  10.0.0.1:80 p0 w1"}},
		"addresses": {"service \"legacy\" {\n name = \"db.example.com.\"\n port = 5432\n protocol = \"tcp\"\n}", []string{"db.example.com. 60 IN A 10.0.0.1", "db.example.com. 60 IN AAAA fd00::1"},
			[]string{"default/legacy 5432/tcp", "  10.0.0.1:5432 p0 w0", "  [fd00::1]:5432 p0 w0"}},
		"addresses that listen elsewhere, and SRV records beside them": {"service \"legacy\" {\n port = 80\n set {\n name = \"db.example.com\"\n endpoint_port = 8080\n meta = { a = \"b\" }\n }\n set { srv = \"" + ratingsName + "\" }\n}",
			[]string{"db.example.com. 60 IN A 10.0.0.9", srv(ratingsName, 60, 3, 4, 90, "h1.example.com."), host(1)},
			[]string{"default/legacy 80/", "  10.0.0.1:90 p3 w4", `  10.0.0.9:8080 p0 w0 {"a":"b"}`}},
		"a name that has other records": {ratings, []string{ratingsName + " 60 IN TXT x"}, []string{"shop/ratings"}},
		"no name":                       {ratings, nil, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, extra := range []bool{true, false} {
				s := newServer(t, c.zone...)
				s.setExtra(extra)
				if got := watch(t, fast+c.block, s).next(); got != strings.Join(c.want, "\n") {
					t.Errorf("addresses along with targets: %t; published\n%s\nwant\n%s", extra, got, strings.Join(c.want, "\n"))
				}
			}
		})
	}
}

func TestAddressesThatComeAlongAreNotAskedFor(t *testing.T) {
	t.Parallel()
	s := newServer(t, srv(ratingsName, 0, 0, 1, 80, "h1.example.com."), "h1.example.com. 0 IN A 10.0.0.1")
	w := watch(t, fast+"family = \"ipv4\"\n"+ratings, s)
	w.want("shop/ratings 80/http", "  10.0.0.1:80 p0 w1")
	if came := s.came("A h1.example.com."); len(came) > 1 { // once at the same moment as the answer
		t.Errorf("asked %d times for what came along", len(came))
	}
	s.put(srv(ratingsName, 0, 0, 1, 80, "h1.example.com."), "h1.example.com. 0 IN A 10.0.0.2")
	w.want("shop/ratings 80/http", "  10.0.0.2:80 p0 w1")
}

func TestContradictionsAreReported(t *testing.T) {
	t.Parallel()
	for text, zone := range map[string][]string{
		"lead to 10.0.0.1:80":  {srv(ratingsName, 60, 5, 1, 80, "h1.example.com."), srv(ratingsName, 60, 1, 1, 80, "h1.example.com.")},
		"several ports":        {srv(ratingsName, 60, 0, 1, 80, "h1.example.com."), srv(ratingsName, 60, 0, 1, 81, "h1.example.com.")},
		"there are others":     {srv(ratingsName, 60, 0, 1, 80, "h1.example.com."), srv(ratingsName, 60, 0, 0, 0, ".")},
		"service shop/ratings": {srv(ratingsName, 60, 0, 1, 80, "h1.example.com."), srv(ratingsName, 60, 0, 0, 0, ".")},
	} {
		s := newServer(t, append(zone, "h1.example.com. 60 IN A 10.0.0.1")...)
		if d := watch(t, fast+ratings, s).report(registry.RecordIgnored, text); d.Origin != "server.hcl:6" {
			t.Errorf("origin %s", d.Origin)
		}
	}
}

func TestAnAnswerThatIsTooLargeComesByTCP(t *testing.T) {
	t.Parallel()
	var zone, want []string
	want = append(want, "shop/ratings 80/http")
	for i := 1; i <= 200; i++ {
		host := fmt.Sprintf("a-host-with-a-long-name-%d.example.com.", i)
		zone = append(zone, srv(ratingsName, 60, 0, 1, 80, host), fmt.Sprintf("%s 60 IN A 10.0.0.%d", host, i))
		want = append(want, fmt.Sprintf("  10.0.0.%d:80 p0 w1", i))
	}
	s := newServer(t, zone...)
	watch(t, fast+ratings, s).want(want...)
	came := s.came("SRV " + ratingsName)
	if len(came) < 2 || came[0].network != "udp" || came[1].network != "tcp" {
		t.Errorf("asked %v", came)
	}
}

func TestAServerThatDoesNotKnowEDNS(t *testing.T) {
	t.Parallel()
	for _, code := range []int{wire.RcodeFormatError, wire.RcodeNotImplemented} {
		s := newServer(t, srv(ratingsName, 0, 0, 1, 80, "h1.example.com."), "h1.example.com. 60 IN A 10.0.0.1")
		s.setFault(func(q query, answer *wire.Msg) any {
			if q.edns {
				out := new(wire.Msg)
				out.Id, out.Response, out.Rcode = answer.Id, true, code // not even the question
				return out
			}
			return answer
		})
		watch(t, fast+ratings, s).want("shop/ratings 80/http", "  10.0.0.1:80 p0 w1")
		s.await("SRV "+ratingsName, 5)
		n := 0
		for _, q := range s.came("SRV " + ratingsName) {
			if q.edns {
				n++
			}
		}
		if n != 1 {
			t.Errorf("%d queries with EDNS0, want only the first one", n)
		}
	}
}

func TestAnswersToOtherQuestionsAreNotTaken(t *testing.T) {
	t.Parallel()
	forged, _ := wire.NewRR("db.example.com. 60 IN A 10.6.6.6")
	for name, forge := range map[string]func(m *wire.Msg){
		"another id":       func(m *wire.Msg) { m.Id++ },
		"another name":     func(m *wire.Msg) { m.Question[0].Name = "other.example.com." },
		"another type":     func(m *wire.Msg) { m.Question[0].Qtype = wire.TypeTXT },
		"no question":      func(m *wire.Msg) { m.Question = nil },
		"a query":          func(m *wire.Msg) { m.Response = false },
		"too few records":  func(*wire.Msg) {},
		"two questions":    func(m *wire.Msg) { m.Question = append(m.Question, m.Question[0]) },
		"records of other": func(m *wire.Msg) { m.Answer[0].Header().Name = "other.example.com." },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newServer(t, "db.example.com. 1 IN A 10.0.0.1")
			var tries atomic.Int32
			s.setFault(func(q query, answer *wire.Msg) any {
				if q.Qtype != wire.TypeA || tries.Add(1) > 1 {
					return answer
				}
				bad := answer.Copy()
				bad.Answer = []wire.RR{wire.Copy(forged)}
				forge(bad)
				raw, err := bad.Pack()
				if err != nil {
					t.Error(err)
				}
				if name == "too few records" {
					raw[7]++
				}
				return raw
			})
			w := watch(t, "min_ttl = \"100ms\"\ntimeout = \"200ms\"\nfamily = \"ipv4\"\nservice \"db\" {\n name = \"db.example.com\"\n port = 1\n}", s)
			for {
				got := w.next()
				if strings.Contains(got, "10.6.6.6") {
					t.Fatalf("published %s", got)
				}
				if strings.Contains(got, "10.0.0.1:1") {
					return
				}
			}
		})
	}
}

func TestTTLsHaveBounds(t *testing.T) {
	c := &config{minTTL: time.Second, maxTTL: time.Minute}
	for ttl, want := range map[time.Duration]time.Duration{0: time.Second, 30 * time.Second: 30 * time.Second, 24 * time.Hour: time.Minute, forever: time.Minute} {
		if got := c.bound(ttl); got != want {
			t.Errorf("%s becomes %s, want %s", ttl, got, want)
		}
	}
	for range 1000 {
		if got := late(time.Second); got < time.Second || got > 1100*time.Millisecond {
			t.Fatalf("asked after %s", got)
		}
	}
	rr, _ := wire.NewRR("a. 1 IN A 10.0.0.1")
	if rr.Header().Ttl = 1 << 31; ttlOf(rr) != 0 {
		t.Error("a TTL above 2^31-1 is not 0")
	}
}

func TestARecordIsAskedForAgainWhenItsTTLHasRunOut(t *testing.T) {
	t.Parallel()
	s := newServer(t, "db.example.com. 1 IN A 10.0.0.1")
	watch(t, "min_ttl = \"100ms\"\nfamily = \"ipv4\"\nservice \"db\" {\n name = \"db.example.com\"\n port = 1\n}", s)
	came := s.await("A db.example.com.", 3)
	for i := range 2 {
		if gap := came[i+1].at.Sub(came[i].at); gap < 950*time.Millisecond {
			t.Errorf("asked again after %s", gap)
		}
	}
}

func TestTheOrderOfRecordsSaysNothing(t *testing.T) {
	t.Parallel()
	s := newServer(t, srv(ratingsName, 0, 0, 1, 80, "h1.example.com."), srv(ratingsName, 0, 0, 1, 80, "h2.example.com."), srv(ratingsName, 0, 0, 1, 80, "h3.example.com."),
		"h1.example.com. 0 IN A 10.0.0.1", "h1.example.com. 0 IN A 10.0.0.4", "h2.example.com. 0 IN A 10.0.0.2", "h3.example.com. 0 IN A 10.0.0.3")
	w := watch(t, fast+ratings, s)
	w.next()
	s.await("SRV "+ratingsName, 8)
	w.still()
}

// FuzzRead: whatever a server says, it is read or refused.
func FuzzRead(f *testing.F) {
	for _, line := range []string{srv(ratingsName, 60, 0, 0, 80, "."), "a.example.com. 1 IN CNAME a.example.com.", "a.example.com. 1 IN AAAA ::1"} {
		rr, err := wire.NewRR(line)
		if err != nil {
			f.Fatal(err)
		}
		m := question{rr.Header().Name, rr.Header().Rrtype}.message(true)
		m.Answer = []wire.RR{rr}
		raw, err := m.Pack()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		var m wire.Msg
		if m.Unpack(raw) != nil || len(m.Question) == 0 {
			return
		}
		q := question{wire.CanonicalName(m.Question[0].Name), m.Question[0].Qtype}
		a, next, err := read(q, &m)
		if err == nil && next == "" && a.absence == "" && len(a.targets)+len(a.addresses) == 0 {
			t.Error("neither records nor none")
		}
	})
}
