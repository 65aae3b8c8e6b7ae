package dns

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	wire "github.com/miekg/dns"

	"github.com/wattle-mesh/wattle/registry"
)

// two is two services, of one address each.
const two = `
service "cache" {
  name = "cache.example.com"
  port = 6379
}
service "db" {
  name = "db.example.com"
  port = 5432
}
`

const (
	cacheIs = "default/cache 6379/\n  10.0.0.1:6379 p0 w0"
	dbIs    = "default/db 5432/\n  10.0.0.2:5432 p0 w0"
	dbMoved = "default/db 5432/\n  10.0.0.3:5432 p0 w0"
)

var (
	twoZone = []string{"cache.example.com. 0 IN A 10.0.0.1", "db.example.com. 0 IN A 10.0.0.2"}
	moved   = []string{"cache.example.com. 0 IN A 10.0.0.1", "db.example.com. 0 IN A 10.0.0.3"}
)

func TestANameThatFailsKeepsItsRecordsAndTheOthersGoOn(t *testing.T) {
	t.Parallel()
	for code, text := range map[int]string{wire.RcodeServerFailure: "SERVFAIL", wire.RcodeRefused: "REFUSED"} {
		s := newServer(t, twoZone...)
		w := watch(t, fast+two, s)
		w.want(cacheIs, dbIs)
		s.setFault(rcode(code, "cache.example.com."))
		w.report(registry.NameUnreadable, "A cache.example.com. cannot be read: "+s.address.String()+": "+text)
		s.put(moved...)
		w.want(cacheIs, dbMoved)
		s.setFault(nil)
		w.report("", "")
	}
}

func TestANameThatNeverWorkedIsReportedAndTheOthersAreThere(t *testing.T) {
	t.Parallel()
	s := newServer(t, twoZone...)
	s.setFault(rcode(wire.RcodeServerFailure, "cache.example.com."))
	w := watch(t, fast+two, s)
	w.want(dbIs)
	if d := w.report(registry.NameUnreadable, "could not be read yet"); d.Severity != registry.Error || d.Origin != "server.hcl:6" {
		t.Errorf("%+v", d)
	}
	s.setFault(nil)
	w.want(cacheIs, dbIs)
}

func TestAServerThatFailsAtAAAA(t *testing.T) {
	t.Parallel()
	s := newServer(t, twoZone...)
	s.setFault(func(q query, answer *wire.Msg) any {
		if q.Qtype == wire.TypeAAAA {
			answer.Rcode = wire.RcodeServerFailure
		}
		return answer
	})
	w := watch(t, fast+two, s)
	w.want(cacheIs, dbIs)
	if d := w.report(registry.NameUnreadable, "AAAA db.example.com."); !strings.Contains(d.Detail, `family = "ipv4"`) {
		t.Error(d.Detail)
	}
}

func TestNothingIsReadable(t *testing.T) {
	t.Parallel()
	s := newServer(t, twoZone...)
	w := watch(t, fast+two, s)
	w.want(cacheIs, dbIs)
	s.stop()
	if err := <-w.errs; !strings.Contains(err.Error(), s.address.String()+": connection refused") {
		t.Error(err)
	}
	w.still()
	s.put(moved...)
	s.start()
	w.want(cacheIs, dbMoved)
}

func TestWhatIsGoneIsHeldForAWhile(t *testing.T) {
	t.Parallel()
	const hold = 700 * time.Millisecond
	for name, c := range map[string]struct{ zone, want []string }{
		"no name":          {twoZone[:1], []string{cacheIs}},
		"no such records":  {append(twoZone[:1:1], "db.example.com. 0 IN TXT x"), []string{cacheIs, "default/db 5432/"}},
		"an alias to none": {append(twoZone[:1:1], "db.example.com. 0 IN CNAME none.example.com."), []string{cacheIs}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newServer(t, twoZone...)
			w := watch(t, fast+`negative_hold = "700ms"`+two, s)
			w.want(cacheIs, dbIs)
			start := time.Now()
			s.put(c.zone...)
			w.report(registry.NameGone, "A db.example.com. has no records any more")
			w.want(c.want...)
			if took := time.Since(start); took < hold {
				t.Errorf("gone after %s", took)
			}
			w.report("", "")
			s.put(twoZone...)
			w.want(cacheIs, dbIs)
		})
	}
}

func TestWhatComesBackInTimeWasNeverGone(t *testing.T) {
	t.Parallel()
	s := newServer(t, twoZone...)
	w := watch(t, fast+`negative_hold = "1m"`+two, s)
	w.want(cacheIs, dbIs)
	s.put(twoZone[0])
	w.report(registry.NameGone, "")
	s.put(twoZone...)
	w.report("", "")
	w.still()
}

func TestAServiceThatIsWithdrawnIsEmptyAtOnce(t *testing.T) {
	t.Parallel()
	s := newServer(t, srv(ratingsName, 0, 0, 1, 80, "h1.example.com."), "h1.example.com. 60 IN A 10.0.0.1")
	w := watch(t, fast+`negative_hold = "1h"`+ratings, s)
	w.want("shop/ratings 80/http", "  10.0.0.1:80 p0 w1")
	s.put(srv(ratingsName, 0, 0, 0, 0, "."))
	w.want("shop/ratings 80/http")
}

func TestANewTargetThatCannotBeReadHoldsTheSetUp(t *testing.T) {
	t.Parallel()
	old := []string{srv(ratingsName, 0, 0, 1, 80, "h1.example.com."), "h1.example.com. 0 IN A 10.0.0.1", "h2.example.com. 0 IN A 10.0.0.2", "h3.example.com. 0 IN A 10.0.0.3"}
	for name, c := range map[string]struct {
		targets []string
		want    string // after the hold; empty: what was
	}{
		"beside one that can": {[]string{"h2.example.com.", "h3.example.com."}, "  10.0.0.2:80 p0 w1"},
		"alone":               {[]string{"h3.example.com."}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newServer(t, old...)
			s.setExtra(false)
			w := watch(t, fast+`negative_hold = "500ms"`+ratings, s)
			w.want("shop/ratings 80/http", "  10.0.0.1:80 p0 w1")
			s.setFault(rcode(wire.RcodeServerFailure, "h3.example.com."))
			start := time.Now()
			zone := old[1:]
			for _, target := range c.targets {
				zone = append(zone, srv(ratingsName, 0, 0, 1, 80, target))
			}
			s.put(zone...)
			w.report(registry.NameUnreadable, "A h3.example.com. could not be read yet")
			if c.want != "" {
				w.want("shop/ratings 80/http", c.want)
				if took := time.Since(start); took < 500*time.Millisecond {
					t.Errorf("left out after %s", took)
				}
			} else {
				s.await("A h3.example.com.", 6)
				w.still()
			}
			s.setFault(nil)
			for { // the one that is left
				if got := w.next(); strings.Contains(got, "10.0.0.3") {
					return
				}
			}
		})
	}
}

func TestAnEndlessAlias(t *testing.T) {
	t.Parallel()
	s := newServer(t, "cache.example.com. 0 IN CNAME db.example.com.", "db.example.com. 0 IN CNAME cache.example.com.")
	w := watch(t, fast+two, s)
	if err := <-w.errs; !strings.Contains(err.Error(), "in a circle") {
		t.Error(err)
	}
}

func TestAnAliasThatTheServerDoesNotFollow(t *testing.T) {
	t.Parallel()
	s := newServer(t, twoZone...)
	alias, _ := wire.NewRR("db.example.com. 0 IN CNAME other.example.com.")
	s.put(twoZone[0], "other.example.com. 0 IN A 10.0.0.3")
	s.setFault(func(q query, answer *wire.Msg) any {
		if q.Name == "db.example.com." {
			answer.Rcode, answer.Ns, answer.Answer = wire.RcodeSuccess, nil, []wire.RR{alias}
		}
		return answer
	})
	watch(t, fast+two, s).want(cacheIs, dbMoved)
}

func TestTheNextResolverIsAsked(t *testing.T) {
	t.Parallel()
	for name, harm := range map[string]func(*server){
		"one fails":      func(s *server) { s.setFault(rcode(wire.RcodeServerFailure)) },
		"one is silent":  func(s *server) { s.setFault(silence) },
		"one is gone":    func(s *server) { s.stop() },
		"one is no good": func(s *server) { s.setFault(referral) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			good, bad := newServer(t, twoZone...), newServer(t, twoZone...)
			harm(bad)
			w := watch(t, fast+two, bad, good)
			w.want(cacheIs, dbIs)
			good.put(moved...)
			w.want(cacheIs, dbMoved)
			select {
			case err := <-w.errs:
				t.Error(err)
			default:
			}
		})
	}
}

func TestASilentResolverIsAskedLastForAWhile(t *testing.T) {
	t.Parallel()
	good, bad := newServer(t, twoZone...), newServer(t)
	bad.setFault(silence)
	watch(t, fast+two, bad, good).want(cacheIs, dbIs)
	before := len(bad.came("A db.example.com.")) + len(bad.came("A cache.example.com.")) + len(bad.came("AAAA db.example.com.")) + len(bad.came("AAAA cache.example.com."))
	good.await("A db.example.com.", len(good.came("A db.example.com."))+5)
	after := len(bad.came("A db.example.com.")) + len(bad.came("A cache.example.com.")) + len(bad.came("AAAA db.example.com.")) + len(bad.came("AAAA cache.example.com."))
	if after > before+1 {
		t.Errorf("the silent one was asked %d times more", after-before)
	}
}

func TestResolversThatDisagree(t *testing.T) {
	t.Parallel()
	knows, ignorant := newServer(t, twoZone...), newServer(t)
	for _, order := range [][]*server{{knows, ignorant}, {ignorant, knows}} {
		w := watch(t, fast+`negative_hold = "0s"`+two, order...)
		w.want(cacheIs, dbIs)
		knows.await("A db.example.com.", len(knows.came("A db.example.com."))+5)
		knows.await("A cache.example.com.", len(knows.came("A cache.example.com."))+5)
		w.still()
	}
	// Each name has a first resolver of its own: of many, some ask the ignorant one first.
	var text string
	for i := range 20 {
		text += fmt.Sprintf("service \"s%d\" {\n name = \"s%d.example.com\"\n port = 1\n}\n", i, i)
		knows.mu.Lock()
		rr, _ := wire.NewRR(fmt.Sprintf("s%d.example.com. 0 IN A 10.0.0.1", i))
		knows.zone = append(knows.zone, rr)
		knows.mu.Unlock()
	}
	w := watch(t, fast+text, knows, ignorant)
	w.report(registry.ResolversDisagree, "resolver "+ignorant.address.String()+" says that there are no such records")
	if got := w.next(); strings.Count(got, "10.0.0.1:1") != 20 {
		t.Errorf("published %s", got)
	}
}

func TestTheResolversOfTheMachine(t *testing.T) {
	dir := t.TempDir()
	c := &config{resolvConf: filepath.Join(dir, "resolv.conf")}
	read := func(text string) string {
		t.Helper()
		if err := os.WriteFile(c.resolvConf, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := c.addresses()
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprint(got)
	}
	if got, err := c.addresses(); err != nil || fmt.Sprint(got) != "[127.0.0.1:53]" {
		t.Errorf("without the file: %v, %v", got, err)
	}
	for text, want := range map[string]string{
		"nameserver 127.0.0.53\noptions edns0 trust-ad\nsearch corp.example\n": "[127.0.0.53:53]",
		"# none\n": "[127.0.0.1:53]",
		"nameserver 10.0.0.1\nnameserver fe80::1%eth0\nnameserver x\nnameserver 10.0.0.1\n": "[10.0.0.1:53 [fe80::1%eth0]:53]",
	} {
		if got := read(text); got != want {
			t.Errorf("%q: %s, want %s", text, got, want)
		}
	}
	r := &run{Source: newSource(t, nil, "")}
	r.config.resolvConf = c.resolvConf
	read("nameserver 10.0.0.1\n")
	r.pool = newPool(nil, r.config)
	was := r.pool
	if err := r.look(); err != nil || r.pool == was || r.pool.members[0].address.String() != "10.0.0.1:53" {
		t.Errorf("%v: the new resolvers are not used", err)
	}
	if was = r.pool; r.look() != nil || r.pool != was {
		t.Error("the same resolvers are new ones")
	}
}

func TestFiveThousandNamesNeedFewGoroutinesAndQueriesAtOnce(t *testing.T) {
	const names = 5000
	var text strings.Builder
	var zone []string
	for i := range names {
		fmt.Fprintf(&text, "service \"s%d\" {\n srv = \"s%d.example.com\"\n}\n", i, i)
		zone = append(zone, srv(fmt.Sprintf("s%d.example.com.", i), 60, 0, 1, 80, fmt.Sprintf("h%d.example.com.", i%50)))
	}
	for i := range 50 {
		zone = append(zone, fmt.Sprintf("h%d.example.com. 60 IN A 10.0.0.%d", i, i+1))
	}
	s := newServer(t)
	s.byName = map[string][]wire.RR{}
	for _, line := range zone {
		rr, err := wire.NewRR(line)
		if err != nil {
			t.Fatal(err)
		}
		s.byName[rr.Header().Name] = append(s.byName[rr.Header().Name], rr)
	}
	var now, most, goroutines atomic.Int64
	s.setFault(func(_ query, answer *wire.Msg) any {
		most.Store(max(most.Load(), now.Add(1)))
		goroutines.Store(max(goroutines.Load(), int64(runtime.NumGoroutine())))
		defer now.Add(-1)
		return answer
	})
	w := watch(t, "timeout = \"5s\"\nmax_queries = 8\nqueries_per_second = 100000\n"+text.String(), s)
	select {
	case set := <-w.sets:
		if len(set) != names || len(set[0].Endpoints) != 1 {
			t.Errorf("%d services", len(set))
		}
	case <-time.After(time.Minute):
		t.Fatal("nothing was published")
	}
	if n := most.Load(); n > 8 {
		t.Errorf("%d queries at once", n)
	}
	if n := goroutines.Load(); n > 100 {
		t.Errorf("%d goroutines", n)
	}
	if n := len(s.came("A h1.example.com.")); n > 2 {
		t.Errorf("one target of a hundred services was asked %d times", n)
	}
}

func TestAPaceIsKept(t *testing.T) {
	t.Parallel()
	s := newServer(t, twoZone...)
	start := time.Now()
	w := watch(t, "timeout = \"5s\"\nqueries_per_second = 10\n"+two, s)
	w.want(cacheIs, dbIs)
	if took := time.Since(start); took < 250*time.Millisecond { // four questions, the first at once
		t.Errorf("four queries in %s", took)
	}
}
