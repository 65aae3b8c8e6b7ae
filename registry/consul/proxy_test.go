package consul

import (
	"io"
	"net"
	"sync"
	"testing"
)

// cable is a TCP proxy whose connections a test can cut and stall.
type cable struct {
	to string

	mu       sync.Mutex
	listener net.Listener
	conns    map[net.Conn]bool
	most     int // connections at once
	cut      bool
	stalled  chan struct{} // closed when bytes may flow
	all      sync.WaitGroup
}

func newCable(t testing.TB, to string) *cable {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &cable{to: to, listener: l, conns: map[net.Conn]bool{}, stalled: make(chan struct{})}
	close(c.stalled)
	c.all.Go(c.accept)
	t.Cleanup(func() {
		l.Close()
		c.flow()
		c.sever()
		c.all.Wait()
	})
	return c
}

func (c *cable) addr() string { return c.listener.Addr().String() }

func (c *cable) accept() {
	for {
		in, err := c.listener.Accept()
		if err != nil {
			return
		}
		c.mu.Lock()
		if c.cut {
			c.mu.Unlock()
			in.Close()
			continue
		}
		out, err := net.Dial("tcp", c.to)
		if err != nil {
			c.mu.Unlock()
			in.Close()
			continue
		}
		c.conns[in] = true
		c.most = max(c.most, len(c.conns))
		c.mu.Unlock()
		c.all.Go(func() { c.carry(out, in); in.Close(); out.Close() })
		c.all.Go(func() {
			c.carry(in, out)
			in.Close()
			out.Close()
			c.mu.Lock()
			delete(c.conns, in)
			c.mu.Unlock()
		})
	}
}

func (c *cable) carry(to, from net.Conn) {
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		c.mu.Lock()
		stalled := c.stalled
		c.mu.Unlock()
		<-stalled
		if n > 0 {
			if _, err := to.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			if err == io.EOF {
				return
			}
			return
		}
	}
}

// sever closes all connections and refuses new ones until mend.
func (c *cable) sever() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cut = true
	for conn := range c.conns {
		conn.(*net.TCPConn).SetLinger(0) // a reset, not an end
		conn.Close()
	}
}

func (c *cable) mend() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cut = false
}

// stall lets no byte through, and closes nothing, until flow.
func (c *cable) stall() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stalled = make(chan struct{})
}

func (c *cable) flow() {
	c.mu.Lock()
	defer c.mu.Unlock()
	select {
	case <-c.stalled:
	default:
		close(c.stalled)
	}
}

// peak returns how many connections there were at once, and how many there are.
func (c *cable) peak() (most, now int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.most, len(c.conns)
}
