// Package peers is what tests put between Wattle and a registry. The folders below it hold the modules from which the
// registries themselves are built.
package peers

import (
	"net"
	"sync"
	"testing"
)

// Cable is a TCP proxy that can be cut, as a network can, and that can hold back what it carries.
type Cable struct {
	to       string
	listener net.Listener
	all      sync.WaitGroup

	mu      sync.Mutex
	conns   map[net.Conn]bool // of those that dialled
	count   int               // connections so far
	peak    int               // at once
	cut     bool
	stalled chan struct{} // closed when bytes flow
	closed  chan struct{}
}

// NewCable starts a cable from a free port of ip to the address to. The test ends it.
func NewCable(t testing.TB, ip, to string) *Cable {
	t.Helper()
	l, err := net.Listen("tcp", net.JoinHostPort(ip, "0"))
	if err != nil {
		t.Fatal(err)
	}
	c := &Cable{to: to, listener: l, conns: map[net.Conn]bool{}, stalled: make(chan struct{}), closed: make(chan struct{})}
	close(c.stalled)
	c.all.Go(c.accept)
	t.Cleanup(func() {
		close(c.closed)
		l.Close()
		c.Cut()
		c.all.Wait()
	})
	return c
}

// Addr is where the cable begins.
func (c *Cable) Addr() string { return c.listener.Addr().String() }

func (c *Cable) accept() {
	for {
		in, err := c.listener.Accept()
		if err != nil {
			return
		}
		c.all.Go(func() { c.serve(in) })
	}
}

func (c *Cable) serve(in net.Conn) {
	defer in.Close()
	if !c.add(in) {
		return
	}
	defer c.forget(in)
	if !c.flows() {
		return
	}
	out, err := net.Dial("tcp", c.to)
	if err != nil {
		return
	}
	defer out.Close()
	var both sync.WaitGroup
	both.Go(func() { c.carry(out, in) })
	both.Go(func() { c.carry(in, out) })
	both.Wait()
}

// add reports whether a new connection may be used.
func (c *Cable) add(in net.Conn) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.count++
	if c.cut {
		return false
	}
	c.conns[in] = true
	c.peak = max(c.peak, len(c.conns))
	return true
}

func (c *Cable) forget(in net.Conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.conns, in)
}

// flows waits while the cable is stalled. It reports false once the test is over.
func (c *Cable) flows() bool {
	c.mu.Lock()
	stalled := c.stalled
	c.mu.Unlock()
	select {
	case <-stalled:
		return true
	case <-c.closed:
		return false
	}
}

func (c *Cable) carry(to, from net.Conn) {
	defer from.Close()
	defer to.Close()
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		if err != nil || !c.flows() {
			return
		}
		if _, err := to.Write(buf[:n]); err != nil {
			return
		}
	}
}

// Cut resets all connections, and every new one until Mend.
func (c *Cable) Cut() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cut = true
	for conn := range c.conns {
		conn.(*net.TCPConn).SetLinger(0) //nolint:errcheck // it is closed in any case
		conn.Close()
	}
}

// Mend ends Cut.
func (c *Cable) Mend() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cut = false
}

// Stall holds back every byte, as a network that drops packets, and closes nothing, until Flow.
func (c *Cable) Stall() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stalled = make(chan struct{})
}

// Flow ends Stall.
func (c *Cable) Flow() {
	c.mu.Lock()
	defer c.mu.Unlock()
	select {
	case <-c.stalled:
	default:
		close(c.stalled)
	}
}

// Connections returns how many there were so far, how many of them at once, and how many there are.
func (c *Cable) Connections() (all, most, now int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.count, c.peak, len(c.conns)
}
