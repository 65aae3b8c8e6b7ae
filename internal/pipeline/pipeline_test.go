package pipeline

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/wattle-mesh/wattle/internal/mesh"
	"github.com/wattle-mesh/wattle/registry"
	"github.com/wattle-mesh/wattle/translator"
)

const host = `
host "h1" {
  address = "127.0.0.2"
  service "web" {
    port = 80
    upstream "reviews" { bind = "127.0.0.1:9080" }
  }
  service "reviews" { port = 81 }
}
`

func TestTheLoopKeepsWhatIsInForceUntilSomethingBetterComes(t *testing.T) {
	w := start(t, map[string]string{"mesh.hcl": host})
	s := w.until(func(s *State) bool { return s.Ready })
	if s.Revision != 1 || len(s.Diagnostics) > 0 || s.View.Proxies.Len() != 1 {
		t.Fatalf("revision %d, %v, %d proxies", s.Revision, s.Diagnostics, s.View.Proxies.Len())
	}

	w.write("routes.hcl", routes("reviews"))
	w.until(func(s *State) bool { return s.Revision == 2 })
	in := w.State().Output

	for name, text := range map[string]string{
		"a file that does not parse":          "virtual_service {",
		"a field that does not exist":         `virtual_service "x" { nonsense = 1 }`,
		"a service that nobody knows":         strings.ReplaceAll(routes("ratings"), `"reviews"`, `"web"`),
		"a trust domain that is not the CA's": `mesh { trust_domain = "other.example" }`,
	} {
		w.write("more.hcl", text)
		s := w.until(func(s *State) bool { return s.Rejected })
		if s.Revision != 2 || s.Output != in || !s.Diagnostics.HasErrors() {
			t.Errorf("%s: revision %d, %v", name, s.Revision, s.Diagnostics)
		}
		if d := s.Diagnostics[0]; d.File != "more.hcl" || d.Line != 1 && d.Line != 5 {
			t.Errorf("%s: %s", name, s.Diagnostics.Error())
		}
		w.remove("more.hcl")
		s = w.until(func(s *State) bool { return !s.Rejected })
		if s.Revision != 2 || len(s.Diagnostics) > 0 {
			t.Errorf("after %s: revision %d, %v", name, s.Revision, s.Diagnostics)
		}
	}
	if log := w.log.String(); !strings.Contains(log, "policy rejected, revision 2 stays in force") || !strings.Contains(log, "valid again") {
		t.Errorf("log: %s", log)
	}
}

func TestAServiceThatVanishesRejectsNothing(t *testing.T) {
	w := start(t, map[string]string{"mesh.hcl": host, "routes.hcl": routes("ratings")}, service("ratings"))
	w.until(func(s *State) bool { return s.Ready && len(s.Diagnostics) == 0 })

	w.registries.set()
	s := w.until(func(s *State) bool { return len(s.Diagnostics) > 0 })
	if s.Rejected || s.Diagnostics.HasErrors() || s.Revision != 1 {
		t.Fatalf("rejected %t, revision %d: %v", s.Rejected, s.Revision, s.Diagnostics)
	}
	// Another change is not held up by what is missing already.
	w.write("mesh.hcl", strings.Replace(host, "9080", "9081", 1))
	w.until(func(s *State) bool { return s.Revision == 2 && !s.Rejected })

	w.registries.set(service("ratings"))
	w.until(func(s *State) bool { return len(s.Diagnostics) == 0 })
}

func TestAPolicyThatWaitsForAServiceIsTakenWhenItComes(t *testing.T) {
	w := start(t, map[string]string{"mesh.hcl": host})
	w.until(func(s *State) bool { return s.Ready })
	w.write("routes.hcl", routes("ratings"))
	w.until(func(s *State) bool { return s.Rejected })
	w.registries.set(service("ratings"))
	w.until(func(s *State) bool { return s.Revision == 2 && !s.Rejected })
}

func TestTheFirstPolicyIsTakenWithWarningsThatTheLogSays(t *testing.T) {
	w := start(t, map[string]string{"mesh.hcl": host, "routes.hcl": routes("ratings")})
	s := w.until(func(s *State) bool { return s.Ready })
	if s.Rejected || s.Diagnostics.HasErrors() || len(s.Diagnostics) == 0 {
		t.Fatalf("rejected %t: %v", s.Rejected, s.Diagnostics)
	}
	for _, want := range []string{"level=WARN", "revision 1 is in force with warnings", "routes.hcl:5", "ratings"} {
		if !strings.Contains(w.log.String(), want) {
			t.Errorf("log lacks %q: %s", want, w.log.String())
		}
	}
	// They are said once, not with every revision.
	w.write("mesh.hcl", strings.Replace(host, "9080", "9081", 1))
	w.until(func(s *State) bool { return s.Revision == 2 })
	if n := strings.Count(w.log.String(), "level=WARN"); n != 1 {
		t.Errorf("%d warnings: %s", n, w.log.String())
	}
}

// A block that a rejected policy lacked is not the same block when it comes back, but it is equal.
func TestAPolicyThatIsMendedToWhatIsInForceIsNoRevision(t *testing.T) {
	const h2 = "host \"h2\" {\n  address = \"127.0.0.3\"\n  service \"ratings\" { port = 82 }\n}\n"
	w := start(t, map[string]string{"mesh.hcl": host, "h2.hcl": h2, "routes.hcl": routes("ratings")})
	before := w.until(func(s *State) bool { return s.Ready })

	w.remove("h2.hcl") // and with it the service that the route names
	w.until(func(s *State) bool { return s.Rejected })
	w.write("h2.hcl", h2)
	s := w.until(func(s *State) bool { return !s.Rejected })
	if s.Revision != 1 || s.Policy != before.Policy || s.Output != before.Output || len(s.Diagnostics) > 0 {
		t.Errorf("revision %d, %v", s.Revision, s.Diagnostics)
	}
	if log := w.log.String(); strings.Contains(log, "revision 1: ") || !strings.Contains(log, "valid again") {
		t.Errorf("log: %s", log)
	}

	// The next revision names what it changes, and nothing that only came back.
	w.remove("h2.hcl")
	w.until(func(s *State) bool { return s.Rejected })
	w.write("mesh.hcl", strings.Replace(host, "9080", "9081", 1))
	w.write("h2.hcl", h2)
	w.until(func(s *State) bool { return s.Revision == 2 && !s.Rejected })
	w.Converged(2, 1, 0, time.Millisecond)
	if log := w.log.String(); !strings.Contains(log, "revision 2: host h1 (mesh.hcl:2): 1 proxy") {
		t.Errorf("log: %s", log)
	}
}

func TestAFileThatIsRemovedStaysInForceUntilThatIsAccepted(t *testing.T) {
	w := start(t, map[string]string{"mesh.hcl": host, "routes.hcl": routes("reviews")})
	before := w.until(func(s *State) bool { return s.Ready })
	w.remove("routes.hcl")
	s := w.until(func(s *State) bool { return s.Rejected })
	if s.Revision != 1 || s.Output != before.Output || len(s.Diagnostics) != 1 || s.Diagnostics[0].File != "routes.hcl" || s.Diagnostics[0].Snippet == "" {
		t.Errorf("revision %d, %v", s.Revision, s.Diagnostics)
	}

	// Other errors are not accepted, and then the file is asked for again.
	w.write("more.hcl", "virtual_service {")
	w.until(func(s *State) bool { return s.Rejected && s.Diagnostics[0].File == "more.hcl" })
	if err := w.Accept(t.Context()); err != nil || w.State().Revision != 1 || !w.State().Rejected {
		t.Errorf("%v, revision %d", err, w.State().Revision)
	}
	w.remove("more.hcl")
	w.until(func(s *State) bool { return s.Rejected && s.Diagnostics[0].File == "routes.hcl" })

	if err := w.Accept(t.Context()); err != nil {
		t.Fatal(err)
	}
	if s := w.State(); s.Revision != 2 || s.Rejected || len(s.Diagnostics) > 0 || len(s.Policy.VirtualServices) > 0 {
		t.Errorf("revision %d, %v", s.Revision, s.Diagnostics)
	}
	w.remove("mesh.hcl") // the next one is none that was accepted
	w.until(func(s *State) bool { return s.Rejected })
}

func TestNothingIsPublishedBeforeTheRegistriesAreReady(t *testing.T) {
	w := prepare(t, map[string]string{"mesh.hcl": host})
	w.registries.ready = make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	cancel()
	if err := <-done; err != nil || w.State().Ready {
		t.Fatalf("%v, ready %t", err, w.State().Ready)
	}
}

func TestARoundThatConvergedIsOneLine(t *testing.T) {
	w := start(t, map[string]string{"mesh.hcl": host})
	w.until(func(s *State) bool { return s.Ready })
	w.write("routes.hcl", routes("reviews"))
	w.until(func(s *State) bool { return s.Revision == 2 })
	w.Converged(2, 3, 0, 6*time.Millisecond)
	if want := "revision 2: virtual_service reviews (routes.hcl:1): 3 proxies updated in 6ms"; !strings.Contains(w.log.String(), want) {
		t.Errorf("log lacks %q: %s", want, w.log.String())
	}
}

func routes(to string) string {
	return "virtual_service \"reviews\" {\n  hosts = [\"reviews\"]\n  http \"all\" {\n    timeout = \"1s\"\n    route { host = \"" + to + "\" }\n  }\n}\n"
}

func service(name string) *registry.Service {
	return &registry.Service{
		Name:  registry.Name{Namespace: "default", Name: name},
		Ports: []registry.Port{{Number: 80, Protocol: registry.HTTP}},
	}
}

// world is a loop with a folder, a registry and a log that the test holds.
type world struct {
	*Loop
	t          *testing.T
	dir        string
	log        *buffer
	registries *registries
}

func prepare(t *testing.T, files map[string]string, services ...*registry.Service) *world {
	w := &world{t: t, dir: t.TempDir(), log: &buffer{}, registries: &registries{ready: make(chan struct{})}}
	close(w.registries.ready)
	for name, text := range files {
		w.write(name, text)
	}
	gen := uint64(0)
	w.Loop = New(Options{
		Log: slog.New(slog.NewTextHandler(w.log, nil)), Dir: w.dir, Revisions: &revisions{}, Registries: w.registries,
		Publish:     func(translator.Changes) uint64 { gen++; return gen },
		TrustDomain: "mesh.local",
	})
	w.registries.nudge = w.Nudge
	w.registries.set(services...)
	return w
}

func start(t *testing.T, files map[string]string, services ...*registry.Service) *world {
	w := prepare(t, files, services...)
	w.run()
	return w
}

// run runs the loop until the test ends.
func (w *world) run() {
	t := w.t
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
		goleak.VerifyNone(t)
	})
}

// until polls the state until ok holds.
func (w *world) until(ok func(*State) bool) *State {
	w.t.Helper()
	limit := time.After(10 * time.Second)
	for {
		if s := w.State(); ok(s) {
			return s
		}
		select {
		case <-time.After(time.Millisecond):
		case <-limit:
			s := w.State()
			w.t.Fatalf("waited 10 s; ready %t, revision %d, rejected %t, %v", s.Ready, s.Revision, s.Rejected, s.Diagnostics)
		}
	}
}

func (w *world) write(name, text string) {
	w.t.Helper()
	if err := os.WriteFile(filepath.Join(w.dir, name), []byte(text), 0o600); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) remove(name string) {
	w.t.Helper()
	if err := os.Remove(filepath.Join(w.dir, name)); err != nil {
		w.t.Fatal(err)
	}
}

type registries struct {
	ready chan struct{}
	nudge func()

	mu   sync.Mutex
	sets []registry.Set
}

func (r *registries) Ready() <-chan struct{} { return r.ready }

func (r *registries) Sets() []registry.Set {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.sets
}

func (r *registries) set(services ...*registry.Service) {
	r.mu.Lock()
	r.sets = []registry.Set{{Name: "fake", Services: services}}
	r.mu.Unlock()
	r.nudge()
}

// revisions numbers policies in memory.
type revisions struct {
	n    uint64
	hash string
}

func (r *revisions) Revision(hash string) (uint64, error) {
	if hash != r.hash {
		r.n, r.hash = r.n+1, hash
	}
	return r.n, nil
}

func (r *revisions) Allotted() (mesh.Allotted, error) { return mesh.Allotted{}, nil }
func (r *revisions) SetAllotted(mesh.Allotted) error  { return nil }

type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}
