package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"time"
)

// admin asks an Envoy's admin socket.
func (w *world) admin(proxy, path string) (string, error) {
	c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", filepath.Join(w.dir, "run", proxy, "admin.sock"))
	}}}
	resp, err := c.Get("http://admin" + path)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = errors.New(resp.Status)
	}
	return string(body), err
}

// get calls an address of the world and returns status, body and error.
func (w *world) get(addr string) (int, string, error) {
	c := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := c.Get("http://" + w.at(addr) + "/")
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(body), err
}

// answers waits until a call gives the status, and returns the body.
func (w *world) answers(addr string, want int) string {
	w.t.Helper()
	var body string
	w.wait(fmt.Sprintf("%s to answer %d", addr, want), func() error {
		code, text, err := w.get(addr)
		if err == nil && code != want {
			err = fmt.Errorf("status %d: %s", code, text)
		}
		body = text
		return err
	})
	return body
}

// application serves an address of the world: it answers with the caller's identity as the proxy tells it.
func (w *world) application(addr string) {
	w.t.Helper()
	l, err := net.Listen("tcp", w.at(addr))
	if err != nil {
		w.t.Fatal(err)
	}
	srv := &http.Server{ReadHeaderTimeout: time.Second, Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		fmt.Fprint(rw, r.Header.Get("X-Forwarded-Client-Cert"))
	})}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(l) }()
	w.t.Cleanup(func() {
		srv.Close()
		if err := <-done; !errors.Is(err, http.ErrServerClosed) {
			w.t.Error(err)
		}
	})
}

// wait polls for what other goroutines and processes bring about.
func (w *world) wait(what string, ok func() error) {
	w.t.Helper()
	limit := time.After(20 * time.Second)
	for {
		err := ok()
		if err == nil {
			return
		}
		select {
		case <-time.After(5 * time.Millisecond):
		case <-limit:
			w.t.Fatalf("waited for %s: %v", what, err)
		}
	}
}
