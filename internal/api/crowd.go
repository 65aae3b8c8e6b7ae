package api

import (
	"container/list"
	"net"
	"sync"
	"time"

	"golang.org/x/time/rate"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// crowd is a bounded set of connections. Safe for concurrent use.
type crowd struct {
	max int

	mu    sync.Mutex
	conns list.List // of net.Conn, oldest first
}

func newCrowd(most int) *crowd { return &crowd{max: most} }

// enter adds a connection; if there are too many, the oldest is closed. The function it returns takes it out.
func (c *crowd) enter(conn net.Conn) (leave func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.conns.PushBack(conn)
	if c.conns.Len() > c.max {
		oldest := c.conns.Front()
		c.conns.Remove(oldest)
		_ = oldest.Value.(net.Conn).Close()
	}
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.conns.Remove(e) // nothing happens if it is out already
	}
}

// list returns the connections that are in.
func (c *crowd) list() []net.Conn {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := make([]net.Conn, 0, c.conns.Len())
	for e := c.conns.Front(); e != nil; e = e.Next() {
		out = append(out, e.Value.(net.Conn))
	}
	return out
}

func (c *crowd) size() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.conns.Len()
}

// A node may send messageBurst messages at once over all its streams, and messageRate a second from then on; more has
// to wait. Acknowledgements are most of them: one for each response.
const (
	messageRate  = 1000
	messageBurst = 10_000
)

// guest is a node with its connections. It is forgotten with the last of them.
type guest struct {
	conns *crowd
	pace  *rate.Limiter // of messages

	mu      sync.Mutex
	streams int
}

// begin counts a call, until end. It refuses one that is too many.
func (g *guest) begin() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.streams >= nodeStreams {
		return status.Errorf(codes.ResourceExhausted, "more than %d calls of one node at a time", nodeStreams)
	}
	g.streams++
	return nil
}

func (g *guest) end() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.streams--
}

// guests are the nodes that are connected.
type guests struct {
	mu sync.Mutex
	of map[string]*guest
}

// enter adds a node's connection. The function it returns takes it out.
func (g *guests) enter(node string, conn net.Conn) (who *guest, leave func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	who = g.of[node]
	if who == nil {
		who = &guest{conns: newCrowd(maxOfNode), pace: rate.NewLimiter(messageRate, messageBurst)}
		g.of[node] = who
	}
	out := who.conns.enter(conn)
	return who, func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		out()
		if who.conns.size() == 0 && g.of[node] == who {
			delete(g.of, node)
		}
	}
}

// expel closes the connections that a node has now, after a while; those that it makes meanwhile are another matter.
func (g *guests) expel(node string, after time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	who := g.of[node]
	if who == nil {
		return
	}
	for _, conn := range who.conns.list() {
		time.AfterFunc(after, func() { _ = conn.Close() })
	}
}
