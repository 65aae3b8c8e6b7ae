package main

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.Cleanup(func(int) { http.DefaultClient.CloseIdleConnections() }))
}

// start serves one service and returns its address.
func start(t *testing.T, a *app) string {
	t.Helper()
	if a.Timeout == 0 {
		a.Timeout = 5 * time.Second
	}
	srv := httptest.NewServer(a.Handler())
	t.Cleanup(func() { http.DefaultClient.CloseIdleConnections(); srv.Close() })
	return srv.Listener.Addr().String()
}

// shelf starts all services, with reviews of the version.
func shelf(t *testing.T, version string) (productpage string) {
	t.Helper()
	ratings := start(t, &app{Service: "ratings", Version: "v1", Host: "h2"})
	details := start(t, &app{Service: "details", Version: "v1", Host: "h2"})
	reviews := start(t, &app{Service: "reviews", Version: version, Host: "h3", Upstreams: map[string]string{"ratings": ratings}})
	return start(t, &app{Service: "productpage", Version: "v1", Host: "h1", Upstreams: map[string]string{"details": details, "reviews": reviews}})
}

func get(t *testing.T, addr, path string, header ...string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+addr+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

// brief is the part of an answer that every client may rely on.
type brief struct {
	Service string  `json:"service"`
	Version string  `json:"version"`
	Host    string  `json:"host"`
	Error   string  `json:"error"`
	Status  int     `json:"status"`
	Calls   []brief `json:"calls"`
}

func getJSON(t *testing.T, addr, path string) brief {
	t.Helper()
	status, body := get(t, addr, path, "Accept", "application/json")
	var b brief
	if err := json.Unmarshal([]byte(body), &b); err != nil || status != http.StatusOK {
		t.Fatalf("status %d, %v: %s", status, err, body)
	}
	return b
}

func TestAnswersNestTheAnswersOfTheServicesCalled(t *testing.T) {
	for version, inner := range map[string][]brief{
		"v1": {},
		"v2": {{Service: "ratings", Version: "v1", Host: "h2", Calls: []brief{}}},
	} {
		got := getJSON(t, shelf(t, version), "/productpage")
		want := brief{Service: "productpage", Version: "v1", Host: "h1", Calls: []brief{
			{Service: "details", Version: "v1", Host: "h2", Calls: []brief{}},
			{Service: "reviews", Version: version, Host: "h3", Calls: inner},
		}}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("reviews %s (-want +got):\n%s", version, d)
		}
	}
}

func TestPagesShowWhatTheServicesGave(t *testing.T) {
	for version, star := range map[string]string{"v1": "", "v2": "stars black", "v3": "stars red"} {
		addr := shelf(t, version)
		_, body := get(t, addr, "/")
		for _, want := range []string{theBook().Title, "<b>reviews " + version + "</b> on <b>h3</b>", "<b>productpage</b> v1 on <b>h1</b>", star} {
			if !strings.Contains(body, want) {
				t.Errorf("reviews %s: no %q in\n%s", version, want, body)
			}
		}
		if star == "" && strings.Contains(body, `class="stars`) {
			t.Errorf("reviews v1 shows stars:\n%s", body)
		}
	}
	for _, service := range []string{"details", "reviews", "ratings"} {
		addr := start(t, &app{Service: service, Version: "v1", Host: "h9"})
		if status, body := get(t, addr, "/"+service); status != http.StatusOK || !strings.Contains(body, "<b>"+service+"</b> v1 on <b>h9</b>") {
			t.Errorf("%s: status %d:\n%s", service, status, body)
		}
	}
}

func TestAFailedCallIsPartOfTheAnswer(t *testing.T) {
	broken := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Error(w, "no healthy upstream", http.StatusServiceUnavailable)
	}))
	defer broken.Close()
	silent, err := net.Listen("tcp", "127.0.0.1:0") // accepts and never answers
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	addr := start(t, &app{Service: "productpage", Version: "v1", Host: "h1", Timeout: 50 * time.Millisecond, Upstreams: map[string]string{
		"details": broken.Listener.Addr().String(), "reviews": silent.Addr().String(),
	}})
	want := []brief{
		{Service: "details", Status: 503, Error: "503 Service Unavailable: no healthy upstream"},
		{Service: "reviews", Error: "no answer within 50ms"},
	}
	if d := cmp.Diff(want, getJSON(t, addr, "/productpage").Calls); d != "" {
		t.Errorf("calls (-want +got):\n%s", d)
	}
	if _, body := get(t, addr, "/productpage"); !strings.Contains(body, "details did not answer: 503") {
		t.Errorf("the page does not say that details failed:\n%s", body)
	}
}

func TestHeadersArePassedOn(t *testing.T) {
	seen := make(chan http.Header, 1)
	ratings := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen <- r.Header
		_, _ = io.WriteString(w, "{}")
	}))
	defer ratings.Close()
	addr := start(t, &app{Service: "reviews", Version: "v2", Upstreams: map[string]string{"ratings": ratings.Listener.Addr().String()}})
	sent := map[string]string{"End-User": "jason", "X-Request-Id": "42", "Traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "X-Other": "no"}
	var header []string
	for k, v := range sent {
		header = append(header, k, v)
	}
	get(t, addr, "/reviews", header...)
	got := <-seen
	for k, v := range sent {
		if k == "X-Other" {
			v = ""
		}
		if got.Get(k) != v {
			t.Errorf("%s = %q, want %q", k, got.Get(k), v)
		}
	}
}

func TestABrowserThatSignedInIsTheEndUser(t *testing.T) {
	seen := make(chan string, 2)
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen <- r.Header.Get("End-User")
		_, _ = io.WriteString(w, "{}")
	}))
	defer other.Close()
	addr := other.Listener.Addr().String()
	pp := start(t, &app{Service: "productpage", Upstreams: map[string]string{"details": addr, "reviews": addr}})
	_, body := get(t, pp, "/productpage", "Cookie", userCookie+"=jason")
	if a, b := <-seen, <-seen; a != "jason" || b != "jason" {
		t.Errorf("services saw end-user %q and %q, want jason", a, b)
	}
	if !strings.Contains(body, "signed in as <b>jason</b>") {
		t.Errorf("the page does not greet jason:\n%s", body)
	}
}

func TestWrongFlagsAreErrors(t *testing.T) {
	for args, want := range map[string]string{
		"":                             "-service is missing",
		"-service shop":                `no service "shop"`,
		"-service reviews -version v2": "give its address with -upstream ratings=ADDRESS",
		"-service details x":           `unexpected argument "x"`,
		"-service details -upstream x": "want name=address",
		"-service details -listen 127.0.0.1:notaport": "unknown port",
	} {
		err := run(t.Context(), strings.Fields(args), io.Discard)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", args, err, want)
		}
	}
	var help bytes.Buffer
	if err := run(t.Context(), []string{"-h"}, &help); err != flag.ErrHelp || !strings.Contains(help.String(), "-upstream name=address") {
		t.Errorf("-h: %v, %s", err, help.String())
	}
}

func TestRequestsInFlightEndBeforeTheServiceDoes(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	entered, release := make(chan struct{}), make(chan struct{})
	ended := make(chan error, 1)
	go func() {
		ended <- serve(ctx, l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			close(entered)
			<-release
			_, _ = io.WriteString(w, "done")
		}))
	}()
	answered := make(chan string, 1)
	go func() {
		_, body := get(t, l.Addr().String(), "/")
		answered <- body
	}()
	<-entered
	cancel()
	for { // until new connections are refused
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			break
		}
		c.Close()
	}
	close(release)
	if body := <-answered; body != "done" {
		t.Errorf("answer = %q", body)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
