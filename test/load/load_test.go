package load

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/wattle-mesh/wattle/test/load/echo"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// start runs a server until the test ends, or until stop is called.
func start(t *testing.T, o echo.Options) (s *echo.Server, stop func()) {
	t.Helper()
	s, err := echo.Listen(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	var stopped bool
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(stop)
	return s, stop
}

// send sends n requests and returns what became of them.
func send(t *testing.T, n int, o Options) *Report {
	t.Helper()
	l, err := Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	err = l.Sent(t.Context(), n)
	report := l.Stop()
	if err != nil {
		t.Fatal(err)
	}
	return report
}

func TestEveryKindIsAnsweredOverTCPAndUnixSockets(t *testing.T) {
	receipts := filepath.Join(t.TempDir(), "receipts")
	tcp, _ := start(t, echo.Options{Name: "a", Version: "v1", HTTP: []string{"127.0.0.1:0"}, TCP: "127.0.0.1:0", Receipts: receipts})
	dir := t.TempDir()
	sock := "unix:" + filepath.Join(dir, "http")
	lines := "unix:" + filepath.Join(dir, "lines")
	start(t, echo.Options{Name: "b", HTTP: []string{sock}, TCP: lines})
	report := send(t, 200, Options{Rate: 1000, Targets: []Target{
		{Kind: Get, Addr: tcp.HTTPAddr()}, {Kind: Post, Addr: tcp.HTTPAddr()}, {Kind: H2, Addr: tcp.HTTPAddr()},
		{Kind: GRPC, Addr: tcp.HTTPAddr()}, {Kind: Stream, Addr: tcp.HTTPAddr()}, {Kind: TCP, Addr: tcp.TCPAddr()},
		{Kind: Get, Addr: sock}, {Kind: Post, Addr: sock}, {Kind: H2, Addr: sock}, {Kind: GRPC, Addr: sock}, {Kind: Stream, Addr: sock}, {Kind: TCP, Addr: lines},
	}})
	if all := report.All(); all.Failed > 0 || all.Sent < 200 {
		t.Fatalf("%s", report)
	}
	by := report.Count(func(r Result) string { return r.Answer.Name + r.Answer.Version })
	if by["av1"] == 0 || by["b"] == 0 || len(by) != 2 {
		t.Errorf("answered by %v", by)
	}
	if kinds := report.Kinds(); len(kinds) != 6 {
		t.Errorf("kinds: %v", kinds)
	}
	received, err := echo.Receipts(receipts)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range report.Results {
		if r.Answer.Name == "a" && received[r.ID] != 1 {
			t.Errorf("%s was received %d times", r.ID, received[r.ID])
		}
	}
}

func TestWhatFailsIsCounted(t *testing.T) {
	app, _ := start(t, echo.Options{HTTP: []string{"127.0.0.1:0"}})
	stranger := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, "hello")
	}))
	defer stranger.Close()
	liar := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set(echo.AnswerHeader, echo.Answer{ID: r.Header.Get(echo.IDHeader)}.JSON())
		_, _ = io.WriteString(w, "another body")
	}))
	defer liar.Close()
	closer, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		for {
			c, err := closer.Accept()
			if err != nil {
				return
			}
			c.Close()
		}
	}()
	defer closer.Close()
	addr := func(s *httptest.Server) string { return s.Listener.Addr().String() }
	for name, c := range map[string]struct {
		target Target
		want   string
	}{
		"a status that is not 200":              {Target{Kind: Get, Addr: app.HTTPAddr(), Path: "/?status=503"}, "status 503"},
		"an answer that comes too late":         {Target{Kind: Get, Addr: app.HTTPAddr(), Path: "/?delay=10s"}, "timeout after 200ms"},
		"an answer of something else":           {Target{Kind: Get, Addr: addr(stranger)}, `wrong answer: that of request ""`},
		"another body than the one sent":        {Target{Kind: Post, Addr: addr(liar)}, `wrong body: 12 bytes, "another body"`},
		"a connection that is closed":           {Target{Kind: TCP, Addr: closer.Addr().String()}, ""},
		"nobody there":                          {Target{Kind: H2, Addr: "unix:" + filepath.Join(t.TempDir(), "none")}, "no such file"},
		"a call of a method that is not served": {Target{Kind: GRPC, Addr: addr(stranger)}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			report := send(t, 3, Options{Rate: 100, Timeout: 200 * time.Millisecond, Targets: []Target{c.target}})
			if f := report.Failed(); len(f.Results) != len(report.Results) || len(f.Results) < 3 {
				t.Fatalf("%d of %d failed", len(f.Results), len(report.Results))
			}
			for _, r := range report.Results {
				if !strings.Contains(r.Err.Error(), c.want) {
					t.Errorf("error = %v, want %q", r.Err, c.want)
				}
			}
			if !strings.Contains(report.String(), report.Results[0].ID+" after ") {
				t.Errorf("the failures are not listed:\n%s", report)
			}
		})
	}
}

func TestRetriesAreRead(t *testing.T) {
	app, _ := start(t, echo.Options{HTTP: []string{"127.0.0.1:0"}})
	report := send(t, 4, Options{Rate: 500, Targets: []Target{
		{Kind: Get, Addr: app.HTTPAddr(), Header: map[string]string{echo.AttemptHeader: "2"}},
		{Kind: GRPC, Addr: app.HTTPAddr(), Header: map[string]string{echo.AttemptHeader: "3"}},
		{Kind: Post, Addr: app.HTTPAddr(), Header: map[string]string{echo.AttemptHeader: "1"}},
	}})
	for _, s := range report.Kinds() {
		if want := map[Kind]int{Get: s.Sent, GRPC: s.Sent}[s.Kind]; s.Retried != want {
			t.Errorf("%s: %d of %d retried, want %d", s.Kind, s.Retried, s.Sent, want)
		}
	}
}

func TestAFaultInTheMiddleIsSeenInItsWindow(t *testing.T) {
	dir := t.TempDir()
	opts := echo.Options{HTTP: []string{"unix:" + filepath.Join(dir, "s")}, Receipts: filepath.Join(dir, "receipts")}
	_, stop := start(t, opts)
	l, err := Start(t.Context(), Options{Rate: 500, Targets: []Target{{Kind: Post, Addr: opts.HTTP[0]}}})
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Sent(t.Context(), 50); err != nil {
		t.Fatal(err)
	}
	fault := time.Now()
	stop()
	stopped := time.Now()
	if err := l.Sent(t.Context(), 20); err != nil {
		t.Fatal(err)
	}
	mended := time.Now()
	start(t, opts)
	if err := l.Await(t.Context(), func(r Result) bool { return r.Err == nil }); err != nil {
		t.Fatal(err)
	}
	report := l.Stop()
	for _, r := range report.Results { // a request that is under way when the fault comes may fail
		if r.Err != nil && r.Due.Add(r.Took).Before(fault) {
			t.Errorf("before the fault: %+v", r)
		}
	}
	if during := report.Window(stopped, mended).All(); during.Failed < 20 {
		t.Errorf("%d of %d failed while nobody answered", during.Failed, during.Sent)
	}
	received, err := echo.Receipts(opts.Receipts)
	if err != nil {
		t.Fatal(err)
	}
	if lost, failed := report.Without(received); len(lost.Results) > 0 || len(failed.Results) != report.All().Failed {
		t.Errorf("a server that drains loses nothing that it received; lost:\n%s", lost)
	}
	one := report.Results[0]
	one.Err = io.EOF
	if lost, failed := (&Report{Results: []Result{one}}).Without(received); len(lost.Results) != 1 || len(failed.Results) != 0 {
		t.Error("a failure of a request that was received is not told apart")
	}
}

func TestTheRateDoesNotDependOnTheAnswers(t *testing.T) {
	app, _ := start(t, echo.Options{HTTP: []string{"127.0.0.1:0"}})
	report := send(t, 100, Options{Rate: 200, Targets: []Target{{Kind: Get, Addr: app.HTTPAddr(), Path: "/?delay=300ms"}}})
	first := report.Results[0].Due
	for i, r := range report.Results {
		if want := first.Add(time.Duration(i) * 5 * time.Millisecond); r.Due != want {
			t.Fatalf("request %d was due %s after the first, want %s", i, r.Due.Sub(first), want.Sub(first))
		}
	}
	if all := report.All(); all.Failed > 0 || all.P50 < 300*time.Millisecond {
		t.Errorf("%s", report)
	}
}

func TestWaitingEndsWithTheContextAndWithTheLoad(t *testing.T) {
	app, _ := start(t, echo.Options{HTTP: []string{"127.0.0.1:0"}})
	l, err := Start(t.Context(), Options{Targets: []Target{{Kind: Get, Addr: app.HTTPAddr()}}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeoutCause(t.Context(), time.Millisecond, fmt.Errorf("enough"))
	defer cancel()
	if err := l.For(ctx, time.Hour); err == nil || !strings.Contains(err.Error(), "enough") {
		t.Errorf("error = %v", err)
	}
	l.Stop()
	if err := l.For(t.Context(), time.Hour); err == nil {
		t.Error("waits for a load that was stopped")
	}
	if _, err := Start(t.Context(), Options{}); err == nil {
		t.Error("a load without targets starts")
	}
	if _, err := Start(t.Context(), Options{Targets: []Target{{Kind: "smoke"}}}); err == nil {
		t.Error("a load of a kind that there is not starts")
	}
}
