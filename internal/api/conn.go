package api

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc/credentials"
)

// thrifty is a connection of which no more than so many bytes are read, until freely is called: TLS alone would take
// 256 KB of certificates from anybody. Reads and freely must not overlap.
type thrifty struct {
	net.Conn
	left int // bytes; below zero: any number
}

var errTalkative = errors.New("too many bytes before the handshake was done")

// Read implements net.Conn.
func (c *thrifty) Read(b []byte) (int, error) {
	if c.left < 0 {
		return c.Conn.Read(b)
	}
	if c.left == 0 {
		return 0, errTalkative
	}
	n, err := c.Conn.Read(b[:min(len(b), c.left)])
	c.left -= n
	return n, err
}

func (c *thrifty) freely() { c.left = -1 }

// clockCheck is how often a connection's end is compared with the clock, which may be set, or stand still with the
// machine, while a timer runs.
const clockCheck = time.Minute

// admitted is a connection of a known peer, after the handshake. It is closed when its time is over.
type admitted struct {
	net.Conn
	raw   net.Conn // under TLS
	who   *Peer
	end   time.Time
	now   func() time.Time
	leave func()

	mu     sync.Mutex
	timer  *time.Timer
	closed bool
}

// watch closes the connection at its end. The raw one is closed: TLS would wait for what is being written.
func (c *admitted) watch() {
	c.mu.Lock()
	defer c.mu.Unlock()
	left := c.end.Sub(c.now())
	switch {
	case c.closed:
	case left <= 0:
		_ = c.raw.Close()
	default:
		c.timer = time.AfterFunc(min(left, clockCheck), c.watch)
	}
}

// Close implements net.Conn.
func (c *admitted) Close() error {
	c.mu.Lock()
	if !c.closed {
		c.closed = true
		if c.timer != nil {
			c.timer.Stop()
		}
		c.leave()
	}
	c.mu.Unlock()
	return c.Conn.Close()
}

// handed is the credentials of a gRPC server whose connections come from a handover.
type handed struct{}

// ServerHandshake implements credentials.TransportCredentials.
func (handed) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	conn, ok := raw.(*admitted)
	if !ok {
		return nil, nil, errors.New("not a connection of the agents' port")
	}
	return conn, conn.who, nil
}

// ClientHandshake implements credentials.TransportCredentials.
func (handed) ClientHandshake(context.Context, string, net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("only for servers")
}

// Info implements credentials.TransportCredentials.
func (handed) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "tls"}
}

// Clone implements credentials.TransportCredentials.
func (h handed) Clone() credentials.TransportCredentials { return h }

// OverrideServerName implements credentials.TransportCredentials.
func (handed) OverrideServerName(string) error { return nil }

// handover is a listener whose connections are given to it.
type handover struct {
	address net.Addr
	conns   chan net.Conn
	closed  chan struct{}
	close   func()
}

func newHandover(address net.Addr) *handover {
	h := &handover{address: address, conns: make(chan net.Conn), closed: make(chan struct{})}
	h.close = sync.OnceFunc(func() { close(h.closed) })
	return h
}

// hand gives the listener a connection, which is closed if nobody accepts any more.
func (h *handover) hand(c net.Conn) {
	select {
	case h.conns <- c:
	case <-h.closed:
		_ = c.Close()
	}
}

// Accept implements net.Listener.
func (h *handover) Accept() (net.Conn, error) {
	select {
	case c := <-h.conns:
		return c, nil
	case <-h.closed:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (h *handover) Close() error { h.close(); return nil }

// Addr implements net.Listener.
func (h *handover) Addr() net.Addr { return h.address }
