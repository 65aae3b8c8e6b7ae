package agent

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"testing"
)

func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }

func logTo(book *logbook) *slog.Logger { return slog.New(slog.NewTextHandler(book, nil)) }

// shown is the state of a connection on which the peer showed a chain.
func shown(t *testing.T, chain [][]byte) tls.ConnectionState {
	t.Helper()
	var s tls.ConnectionState
	for _, der := range chain {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		s.PeerCertificates = append(s.PeerCertificates, c)
	}
	return s
}

// dialTLS makes a handshake and returns what was wrong with it.
func dialTLS(ctx context.Context, addr string, conf *tls.Config) error {
	conf = conf.Clone()
	conf.NextProtos = []string{"h2"}
	conn, err := (&tls.Dialer{Config: conf}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	return conn.Close()
}
