package etcd

import (
	"context"
	"net"
	"strings"
	"sync"
	"testing"
)

// proxy is a TCP proxy that can be made to fail. It stands in for a network.
type proxy struct {
	url    string
	target string
	listen net.Listener
	all    sync.WaitGroup

	mu      sync.Mutex
	stalled chan struct{} // closed when bytes flow again; nil: they do
	refuses bool
	count   int // connections so far
	conns   map[net.Conn]bool
	closed  chan struct{}
}

// startProxy starts a proxy to a URL, which the test ends.
func startProxy(t *testing.T, url string) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", net.JoinHostPort(loopbackIP().String(), "0"))
	if err != nil {
		t.Fatal(err)
	}
	scheme, target, _ := strings.Cut(url, "://")
	p := &proxy{url: scheme + "://" + l.Addr().String(), target: target, listen: l, conns: map[net.Conn]bool{}, closed: make(chan struct{})}
	p.all.Go(p.accept)
	t.Cleanup(func() {
		close(p.closed)
		l.Close()
		p.reset()
		p.all.Wait()
	})
	return p
}

func (p *proxy) accept() {
	for {
		in, err := p.listen.Accept()
		if err != nil {
			return
		}
		p.mu.Lock()
		p.count++
		p.mu.Unlock()
		p.all.Go(func() { p.serve(in) })
	}
}

func (p *proxy) serve(in net.Conn) {
	defer in.Close()
	if p.refusing() || !p.flowing() {
		return
	}
	var d net.Dialer
	out, err := d.DialContext(context.Background(), "tcp", p.target)
	if err != nil {
		return
	}
	defer out.Close()
	if !p.add(in, out) {
		return
	}
	defer p.forget(in, out)
	var both sync.WaitGroup
	both.Go(func() { p.copy(in, out) })
	both.Go(func() { p.copy(out, in) })
	both.Wait()
}

func (p *proxy) refusing() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.refuses
}

func (p *proxy) add(conns ...net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range conns {
		p.conns[c] = true
	}
	select {
	case <-p.closed:
		return false
	default:
		return !p.refuses
	}
}

func (p *proxy) forget(conns ...net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range conns {
		delete(p.conns, c)
	}
}

// flowing waits while the proxy is stalled. It reports false once the proxy is closed.
func (p *proxy) flowing() bool {
	p.mu.Lock()
	stalled := p.stalled
	p.mu.Unlock()
	if stalled == nil {
		return true
	}
	select {
	case <-stalled:
		return true
	case <-p.closed:
		return false
	}
}

func (p *proxy) copy(from, to net.Conn) {
	defer from.Close()
	defer to.Close()
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		if err != nil || !p.flowing() {
			return
		}
		if _, err := to.Write(buf[:n]); err != nil {
			return
		}
	}
}

// stall holds back all bytes, as a network does that drops packets. Connections stay open; new ones get no answer.
func (p *proxy) stall() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stalled = make(chan struct{})
}

// flow ends stall and refuse.
func (p *proxy) flow() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stalled != nil {
		close(p.stalled)
		p.stalled = nil
	}
	p.refuses = false
}

// refuse closes all connections and every new one.
func (p *proxy) refuse() {
	p.mu.Lock()
	p.refuses = true
	p.mu.Unlock()
	p.reset()
}

// reset closes all connections with RST.
func (p *proxy) reset() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		if t, ok := c.(*net.TCPConn); ok {
			t.SetLinger(0) //nolint:errcheck // it is closed in any case
		}
		c.Close()
	}
}

// accepted returns how many connections were made to the proxy so far.
func (p *proxy) accepted() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.count
}
