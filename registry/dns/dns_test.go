package dns

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	wire "github.com/miekg/dns"
	"go.uber.org/goleak"

	"github.com/wattle-mesh/wattle/registry"
	"github.com/wattle-mesh/wattle/registry/registrytest"
)

// TestMain lets more tests run at once than there are processors: they mostly wait for time to pass.
func TestMain(m *testing.M) {
	flag.Parse()
	if err := flag.Set("test.parallel", "5"); err != nil {
		panic(err)
	}
	goleak.VerifyTestMain(m)
}

func parse(t testing.TB, text string) hcl.Body {
	t.Helper()
	f, diags := hclsyntax.ParseConfig([]byte(text), "server.hcl", hcl.InitialPos)
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	return f.Body
}

// fast makes a registry that has something to do every 100 ms, and hasty one that does not wait long for a silent server.
const (
	fast  = "min_ttl = \"100ms\"\nmax_ttl = \"1s\"\ntimeout = \"1s\"\n"
	hasty = "min_ttl = \"100ms\"\nmax_ttl = \"1s\"\ntimeout = \"500ms\"\n"
)

// open makes the Source of a registry block that asks these servers.
func newSource(t testing.TB, report func([]registry.Diagnostic), text string, servers ...*server) *Source {
	t.Helper()
	var names []string
	for _, s := range servers {
		names = append(names, fmt.Sprintf("%q", s.address))
	}
	if len(names) > 0 {
		text = "resolvers = [" + strings.Join(names, ", ") + "]\n" + text
	}
	source, diags := Driver().New(parse(t, text), registry.DriverOptions{Name: "old", Log: slog.New(slog.DiscardHandler), Report: report})
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	return source.(*Source)
}

// noticed is a Source of which one hears when it was run again after a failure.
type noticed struct {
	*Source
	started atomic.Bool
	err     error // of the last Run
	failed  chan error
}

func (n *noticed) Run(ctx context.Context, publish func([]*registry.Service)) error {
	n.started.Store(true)
	if n.err != nil {
		select {
		case n.failed <- n.err:
		default:
		}
	}
	n.err = n.Source.Run(ctx, publish)
	return n.err
}

// conformant is the services of the suite: the SRV records of v1 and v2 have names of their own, which say the version.
const conformant = `
negative_hold = "0s"
service "db" {
  port     = 9080
  protocol = "http"
  set {
    srv  = "v1.db.default.example.com"
    meta = { version = "v1" }
  }
  set {
    srv  = "v2.db.default.example.com"
    meta = { version = "v2" }
  }
}
service "web" {
  port     = 9080
  protocol = "http"
  set {
    srv  = "v1.web.default.example.com"
    meta = { version = "v1" }
  }
  set {
    srv  = "v2.web.default.example.com"
    meta = { version = "v2" }
  }
}
service "cart" {
  namespace = "shop"
  port      = 9080
  protocol  = "http"
  set {
    srv  = "v1.cart.shop.example.com"
    meta = { version = "v1" }
  }
  set {
    srv  = "v2.cart.shop.example.com"
    meta = { version = "v2" }
  }
}
`

// zoneOf writes services as records.
func zoneOf(services []*registry.Service) []string {
	var out []string
	for _, s := range services {
		for _, e := range s.Endpoints {
			host := "h-" + strings.ReplaceAll(e.Address.String(), ".", "-") + ".example.com."
			name := e.Meta.Get("version") + "." + s.Name.Name + "." + s.Namespace + ".example.com."
			out = append(out, srv(name, 0, 0, int(e.Weight), int(e.Port), host), host+" 0 IN A "+e.Address.String())
		}
	}
	return out
}

func TestConformance(t *testing.T) {
	for name, harm := range map[string]struct{ harm, mend func(*server) }{
		"a server that fails":      {func(s *server) { s.setFault(rcode(wire.RcodeServerFailure)) }, func(s *server) { s.setFault(nil) }},
		"a server that refuses":    {func(s *server) { s.setFault(rcode(wire.RcodeRefused)) }, func(s *server) { s.setFault(nil) }},
		"a server that is silent":  {func(s *server) { s.setFault(silence) }, func(s *server) { s.setFault(nil) }},
		"a server that is gone":    {(*server).stop, (*server).start},
		"a server that babbles":    {func(s *server) { s.setFault(babble) }, func(s *server) { s.setFault(nil) }},
		"a server that only hints": {func(s *server) { s.setFault(referral) }, func(s *server) { s.setFault(nil) }},
	} {
		t.Run(name, func(t *testing.T) {
			body := fast + conformant
			if name == "a server that is silent" {
				body = hasty + conformant
			}
			registrytest.Run(t, func(t *testing.T) registrytest.Registry {
				s := newServer(t)
				n := &noticed{Source: newSource(t, nil, body, s), failed: make(chan error, 1)}
				return registrytest.Registry{
					Source: n,
					Put:    func(services []*registry.Service) { s.put(zoneOf(services)...) },
					Break: func() {
						harm.harm(s)
						if n.started.Load() {
							<-n.failed
						}
					},
					Mend: func() { harm.mend(s) },
				}
			})
		})
	}
}

// babble answers what nobody can read.
func babble(_ query, answer *wire.Msg) any {
	raw, err := answer.Pack()
	if err != nil {
		return nil
	}
	raw[7] = 99 // more records than there are
	return raw
}

// referral answers with the servers that would know.
func referral(_ query, answer *wire.Msg) any {
	answer.Answer, answer.Extra, answer.Rcode = nil, nil, wire.RcodeSuccess
	ns, err := wire.NewRR("example.com. 300 IN NS ns.example.com.")
	if err != nil {
		return nil
	}
	answer.Ns = []wire.RR{ns}
	return answer
}

// watching is a Source that runs, again whenever it fails, and what it said.
type watching struct {
	t       testing.TB
	sets    chan []*registry.Service
	reports chan []registry.Diagnostic
	errs    chan error
}

// run runs the Source of a block until the test ends.
func watch(t testing.TB, text string, servers ...*server) *watching {
	t.Helper()
	w := &watching{t: t, sets: make(chan []*registry.Service, 1000), reports: make(chan []registry.Diagnostic, 1000), errs: make(chan error, 1000)}
	source := newSource(t, func(ds []registry.Diagnostic) { w.reports <- ds }, text, servers...)
	w.keep(source)
	return w
}

func (w *watching) keep(source *Source) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan any)
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			if err := source.Run(ctx, func(all []*registry.Service) { w.sets <- all }); err != nil {
				w.errs <- err
				select {
				case <-ctx.Done():
				case <-time.After(20 * time.Millisecond):
				}
			} else if ctx.Err() == nil {
				w.t.Error("Run ended by itself")
				return
			}
		}
	}()
	w.t.Cleanup(func() { cancel(); <-done })
}

// next returns the next set as text: a line for each service with its ports, and one for each endpoint.
func (w *watching) next() string {
	w.t.Helper()
	select {
	case set := <-w.sets:
		return plain(set)
	case <-time.After(patience):
		w.t.Fatal("nothing was published")
		return ""
	}
}

// want waits for a set that reads like this.
func (w *watching) want(lines ...string) {
	w.t.Helper()
	last := "none"
	for want := strings.Join(lines, "\n"); ; {
		select {
		case set := <-w.sets:
			if last = plain(set); last == want {
				return
			}
		case <-time.After(patience):
			w.t.Fatalf("the last set was\n%s\nwant\n%s", last, want)
		}
	}
}

// still checks that nothing was published meanwhile.
func (w *watching) still() {
	w.t.Helper()
	select {
	case set := <-w.sets:
		w.t.Errorf("published:\n%s", plain(set))
	default:
	}
}

func plain(services []*registry.Service) string {
	var out []string
	for _, s := range services {
		line := s.Name.String()
		for _, p := range s.Ports {
			line += fmt.Sprintf(" %d/%s", p.Number, p.Protocol)
		}
		out = append(out, line)
		for _, e := range s.Endpoints {
			line := fmt.Sprintf("  %s p%d w%d", netip.AddrPortFrom(e.Address, e.Port), e.Priority, e.Weight)
			if len(s.Ports) != 1 || e.ServicePort != s.Ports[0].Number {
				line += fmt.Sprintf(" for %d", e.ServicePort)
			}
			if e.Meta != "" {
				meta, _ := json.Marshal(e.Meta)
				line += " " + string(meta)
			}
			out = append(out, line)
		}
	}
	return strings.Join(out, "\n")
}

// report waits for a report with this code and text, and returns that diagnostic; with an empty code, for an empty one.
func (w *watching) report(code, text string) registry.Diagnostic {
	w.t.Helper()
	var last []registry.Diagnostic
	for {
		select {
		case last = <-w.reports:
			if len(last) == 0 && code == "" {
				return registry.Diagnostic{}
			}
			for _, d := range last {
				if d.Code == code && strings.Contains(d.Summary, text) {
					if d.Detail == "" || d.Origin == "" {
						w.t.Errorf("no remedy or place: %+v", d)
					}
					return d
				}
			}
		case <-time.After(patience):
			w.t.Fatalf("the last report was %v, want %s %q", last, code, text)
		}
	}
}

func TestTheREADMELoads(t *testing.T) {
	page, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks := strings.Split(string(page), "```hcl\n")
	if len(blocks) < 2 {
		t.Fatal("no examples")
	}
	for _, b := range blocks[1:] {
		text, _, _ := strings.Cut(b, "```")
		for _, block := range parse(t, text).(*hclsyntax.Body).Blocks {
			if _, diags := Driver().New(block.Body, registry.DriverOptions{Log: slog.New(slog.DiscardHandler)}); diags.HasErrors() {
				t.Error(diags)
			}
		}
	}
}

func TestARegistryWithoutServicesIsEmpty(t *testing.T) {
	t.Parallel()
	w := watch(t, "", newServer(t))
	if got := w.next(); got != "" {
		t.Errorf("published %s", got)
	}
}

func TestAllCodesAreExplained(t *testing.T) {
	for _, code := range []string{registry.NameUnreadable, registry.NameGone, registry.ResolversDisagree, registry.RecordIgnored} {
		if _, ok := registry.Explain(code); !ok {
			t.Error(errors.New(code))
		}
	}
}
