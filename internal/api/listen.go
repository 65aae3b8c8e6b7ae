package api

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"time"
)

// Listen listens where the HTTP API may be: at a loopback address ("127.0.0.1:7500"), or at a unix socket
// ("unix:/run/wattle/api.sock") that the server's user alone may connect to. Reading needs no token, so any other
// address is an error.
func Listen(address string) (net.Listener, error) {
	if path, ok := strings.CutPrefix(address, "unix:"); ok {
		return listenUnix(path)
	}
	a, err := netip.ParseAddrPort(address)
	if err != nil {
		return nil, fmt.Errorf("http %q: %w; write \"127.0.0.1:7500\" or \"unix:/path\"", address, err)
	}
	if !a.Addr().IsLoopback() {
		return nil, fmt.Errorf("http %s: not a loopback address; use 127.0.0.1, or a unix socket with a proxy of yours before it", address)
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("http: %w; end what uses the port (ss -ltnp shows it), or choose another", err)
	}
	return l, nil
}

func listenUnix(path string) (net.Listener, error) {
	if c, err := net.DialTimeout("unix", path, time.Second); err == nil {
		return nil, errors.Join(fmt.Errorf("http unix:%s: another process listens there", path), c.Close())
	}
	if info, err := os.Lstat(path); err == nil && info.Mode().Type() == fs.ModeSocket {
		if err := os.Remove(path); err != nil { // left by a server that was killed
			return nil, fmt.Errorf("http: %w", err)
		}
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("http: %w", err)
	}
	// Between the two calls the mode is the umask's: whoever connects then may read what loopback would show, and no more.
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("http: %w", err), l.Close())
	}
	return l, nil
}

// Serve serves the HTTP API until ctx is done. Answers that are under way then have a second to end; those that would go on end at once.
func Serve(ctx context.Context, l net.Listener, h http.Handler) error {
	s := &http.Server{
		Handler: h, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 30 * time.Second, WriteTimeout: time.Minute,
		IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 16 << 10,
		BaseContext: func(net.Listener) context.Context { return ctx },
	}
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(l) }()
	select {
	case err := <-ended:
		return fmt.Errorf("http: %w", err)
	case <-ctx.Done():
	}
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	if s.Shutdown(grace) != nil {
		_ = s.Close() // what took longer than its grace is cut off
	}
	<-ended
	return nil
}

// guard refuses what a web page could have a browser send: a foreign Host (DNS rebinding), an Origin, a
// cross-site fetch. Over a unix socket the Host says nothing.
func guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		local, _ := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
		if _, unix := local.(*net.UnixAddr); !unix && !loopbackHost(r.Host) {
			fail(w, &Error{http.StatusForbidden, fmt.Sprintf("the Host %q is not this machine's loopback", clip(r.Host, 100)), "use 127.0.0.1 or localhost", ""})
			return
		}
		if site := r.Header.Get("Sec-Fetch-Site"); r.Header.Get("Origin") != "" || site != "" && site != "none" && site != "same-origin" {
			fail(w, &Error{http.StatusForbidden, "requests of web pages are refused", "use the wattle command or curl", ""})
			return
		}
		w.Header().Set("X-Content-Type-Options", "nosniff")
		w.Header().Set("Cache-Control", "no-store")
		next.ServeHTTP(w, r)
	})
}

func loopbackHost(host string) bool {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	if host == "localhost" {
		return true
	}
	a, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return err == nil && a.IsLoopback()
}
