package datapath

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
)

// app is an application of one instance: it answers with its name, and does what the query says.
type app struct {
	name   string
	server *http.Server
	mu     sync.Mutex
	seen   []*http.Request
}

// startApp starts an HTTP application. It speaks HTTP/1.1, and HTTP/2 with prior knowledge.
func startApp(t *testing.T, name, addr string) *app {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	return serveApp(t, name, l)
}

func serveApp(t *testing.T, name string, l net.Listener) *app {
	t.Helper()
	a := &app{name: name}
	a.server = &http.Server{Handler: a, Protocols: new(http.Protocols)}
	a.server.Protocols.SetHTTP1(true)
	a.server.Protocols.SetUnencryptedHTTP2(true)
	done := make(chan error, 1)
	go func() { done <- a.server.Serve(l) }()
	stop(t, name, func(context.Context) error {
		defer func() { <-done }()
		return a.server.Close()
	})
	return a
}

// ServeHTTP answers. "status" is the status; "unprocessed" has it say that it has not seen the request, in so many
// words; each "header" is one of the answer's.
func (a *app) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	a.seen = append(a.seen, r)
	a.mu.Unlock()
	if r.Header.Get("Upgrade") == "websocket" {
		a.upgrade(w)
		return
	}
	status := http.StatusOK
	if text := r.URL.Query().Get("status"); text != "" {
		_, _ = fmt.Sscan(text, &status) // a test's mistake shows as a status of 0
	}
	if r.URL.Query().Has("unprocessed") {
		for _, v := range strings.Split(r.URL.Query().Get("unprocessed"), ",") {
			w.Header().Add("x-wattle-unprocessed", v)
		}
	}
	for _, h := range r.URL.Query()["header"] {
		name, value, _ := strings.Cut(h, ": ")
		w.Header().Set(name, value)
	}
	w.WriteHeader(status)
	fmt.Fprint(w, a.name)
}

// upgrade gives back what it gets.
func (a *app) upgrade(w http.ResponseWriter) {
	conn, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer conn.Close()
	fmt.Fprint(rw, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
	if rw.Flush() == nil {
		_, _ = io.Copy(conn, rw) // ends with the connection
	}
}

// requests returns what has come since the last call.
func (a *app) requests() []*http.Request {
	a.mu.Lock()
	defer a.mu.Unlock()
	out := a.seen
	a.seen = nil
	return out
}

// startLines starts an application that answers each line with its name and the line.
func startLines(t *testing.T, name, addr string) {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	serveLines(t, name, l)
}

func serveLines(t *testing.T, name string, l net.Listener) {
	t.Helper()
	var conns sync.WaitGroup
	conns.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			conns.Go(func() {
				defer c.Close()
				for s := bufio.NewScanner(c); s.Scan(); {
					fmt.Fprintf(c, "%s: %s\n", name, s.Text())
				}
			})
		}
	})
	stop(t, name, func(context.Context) error { return l.Close() })
}

// answer is a response with its body read.
type answer struct {
	*http.Response
	body string
}

// call sends a request to addr on a connection of its own; its URL needs no host.
func call(t *testing.T, addr string, r *http.Request, config *tls.Config) (*answer, error) {
	t.Helper()
	transport := &http.Transport{
		DisableKeepAlives: true,
		TLSClientConfig:   config,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", addr)
		},
	}
	resp, err := transport.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return &answer{resp, string(body)}, err
}

// mustCall fails the test if there is no answer.
func mustCall(t *testing.T, addr string, r *http.Request) *answer {
	t.Helper()
	a, err := call(t, addr, r, nil)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// request makes a request; headers are "name: value".
func request(t *testing.T, method, path string, headers ...string) *http.Request {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, "http://shop"+path, strings.NewReader(""))
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		r.Header.Set(name, value)
	}
	return r
}
