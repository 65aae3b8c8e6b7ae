package e2e

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"testing"
	"time"
)

// tcpProtocol is what a caller's proxy offers by ALPN on a connection that carries plain TCP.
const tcpProtocol = "wattle-tcp"

// spy plays the mesh port of a host: it answers every HTTP request, and every line on a TCP connection, with the
// identity that the caller's certificate holds and a space before what it got.
func spy(t *testing.T, addr string, cert *tls.Certificate, roots *x509.CertPool) {
	t.Helper()
	srv := &http.Server{
		Addr: addr, ReadHeaderTimeout: callLimit,
		ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError), // handshakes that are meant to fail
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprintf(w, "%s %s", caller(*r.TLS), r.URL.Path)
		}),
		TLSConfig: &tls.Config{
			MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{*cert},
			ClientAuth: tls.RequireAnyClientCert, NextProtos: []string{"h2", "http/1.1", tcpProtocol},
			VerifyConnection: func(s tls.ConnectionState) error {
				return verify(s.PeerCertificates, roots, x509.ExtKeyUsageClientAuth)
			},
		},
		TLSNextProto: map[string]func(*http.Server, *tls.Conn, http.Handler){
			tcpProtocol: func(_ *http.Server, c *tls.Conn, _ http.Handler) {
				_ = c.SetDeadline(time.Now().Add(callLimit))
				if line, err := bufio.NewReader(c).ReadString('\n'); err == nil {
					_, _ = fmt.Fprintf(c, "%s %s", caller(c.ConnectionState()), line)
				}
			},
		},
	}
	ended := make(chan error, 1)
	go func() { ended <- srv.ListenAndServeTLS("", "") }()
	t.Cleanup(func() {
		srv.Close()
		if err := <-ended; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
}

// caller returns the identity in a client's certificate.
func caller(s tls.ConnectionState) string {
	if len(s.PeerCertificates) == 0 || len(s.PeerCertificates[0].URIs) != 1 {
		return "nobody"
	}
	return s.PeerCertificates[0].URIs[0].String()
}

// say sends a line through whatever is at addr and returns the line that comes back.
func say(t *testing.T, addr, line string) (string, error) {
	t.Helper()
	c, err := connect(t.Context(), addr)
	if err != nil {
		return "", err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(callLimit)); err != nil {
		return "", err
	}
	if _, err := io.WriteString(c, line+"\n"); err != nil {
		return "", err
	}
	return bufio.NewReader(c).ReadString('\n')
}
