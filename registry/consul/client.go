package consul

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/wattle-mesh/wattle/registry"
)

// How connections are used. An agent refuses more than 200 from one address (limits.http_max_conns_per_client), and
// takes 250 requests at once on one HTTP/2 connection.
const (
	maxTLS    = 8   // connections over HTTP/2
	laneCount = 6   // of these in use; a new one may be made while an old one ends
	perLane   = 230 // requests at once on an HTTP/2 connection
	maxPlain  = 48  // connections over HTTP/1.1
	slots     = laneCount*perLane - 100
	dialTime  = 5 * time.Second
	keepAlive = 15 * time.Second
	linger    = 100 * time.Millisecond // until the other side has seen the end of a connection
	maxAnswer = 256 << 20              // bytes
)

var errClosed = errors.New("the connection is closed")

// client speaks to one Consul agent. It is made anew for every run, so that certificates which were replaced count.
type client struct {
	*config
	api   *api.Client
	token *registry.TokenFile
	lanes []*lane // for HTTP/2; none without TLS
	wide  *lane   // for HTTP/1.1

	mu    sync.Mutex
	proto int // the major version of HTTP that the agent speaks; 0: not known yet
}

// lane is one HTTP/2 connection, or all of HTTP/1.1.
type lane struct {
	*http.Transport
	dials *dialer
	busy  int // requests under way; client.mu guards it
}

// newLane makes a lane with at most so many connections in use.
func (c *config) newLane(d *dialer, most int) (*lane, error) {
	t := &http.Transport{
		DialContext: d.dial, MaxConnsPerHost: most, MaxIdleConnsPerHost: most, IdleConnTimeout: time.Minute, ForceAttemptHTTP2: true,
		TLSHandshakeTimeout: dialTime, HTTP2: &http.HTTP2Config{SendPingTimeout: keepAlive, PingTimeout: keepAlive},
	}
	if c.base.Scheme == "https" {
		var err error
		if t.TLSClientConfig, err = api.SetupTLSConfig(&api.TLSConfig{
			Address: cmp.Or(c.tls.ServerName, c.base.Hostname()), CAFile: c.tls.CAFile, CertFile: c.tls.CertFile, KeyFile: c.tls.KeyFile,
		}); err != nil {
			return nil, fmt.Errorf("tls: %w", err)
		}
	}
	return &lane{Transport: t, dials: d}, nil
}

// dial makes a client. It reads the files of certificates, but connects to nothing yet.
func dial(c *config) (*client, error) {
	cl := &client{config: c, token: &registry.TokenFile{Path: c.tokenFile}}
	var err error
	if cl.wide, err = c.newLane(c.newDialer(maxPlain), maxPlain); err != nil {
		return nil, err
	}
	if c.base.Scheme == "https" {
		shared := c.newDialer(maxTLS)
		for range laneCount {
			l, err := c.newLane(shared, 1)
			if err != nil {
				return nil, err
			}
			cl.lanes = append(cl.lanes, l)
		}
	}
	// The token is a placeholder, or the API would read one from the environment; RoundTrip puts the right one in.
	o := &api.Config{Address: c.base.Host, Scheme: c.base.Scheme, PathPrefix: c.base.Path, HttpClient: &http.Client{Transport: cl}, Token: "-"}
	if c.base.Scheme == "unix" {
		o.Address, o.Scheme, o.PathPrefix = "localhost", "http", ""
	}
	cl.api, err = api.NewClient(o)
	return cl, err
}

// RoundTrip implements http.RoundTripper: it adds the token, and what the environment says does not count.
func (c *client) RoundTrip(req *http.Request) (*http.Response, error) {
	secret, err := c.token.Current()
	if err != nil {
		return nil, err
	}
	req = req.Clone(req.Context())
	req.Header.Del("X-Consul-Token")
	if secret != "" {
		req.Header.Set("X-Consul-Token", secret)
	}
	q := req.URL.Query()
	if c.partition == "" {
		q.Del("partition")
	}
	if len(c.namespaces) == 0 {
		q.Del("ns")
	}
	req.URL.RawQuery = q.Encode()
	l := c.enter()
	defer c.leave(l)
	res, err := l.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	c.proto = res.ProtoMajor
	c.mu.Unlock()
	if res.StatusCode == http.StatusForbidden {
		c.token.Refused()
	}
	res.Body = registry.AtMost(res.Body, maxAnswer)
	return res, nil
}

// enter chooses the lane of a request: the first that has room, so that few connections are made.
func (c *client) enter() *lane {
	c.mu.Lock()
	defer c.mu.Unlock()
	l := c.wide
	if len(c.lanes) > 0 && c.proto != 1 {
		l = slices.MinFunc(c.lanes, func(a, b *lane) int { return cmp.Compare(max(a.busy, perLane-1), max(b.busy, perLane-1)) })
	}
	l.busy++
	return l
}

func (c *client) leave(l *lane) {
	c.mu.Lock()
	defer c.mu.Unlock()
	l.busy--
}

// multiplexes reports whether the agent was found to speak HTTP/2.
func (c *client) multiplexes() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.proto == 2
}

// close closes all connections.
func (c *client) close() {
	for _, l := range append(c.lanes, c.wide) {
		l.dials.close()
		l.CloseIdleConnections()
	}
}

// dialer makes connections, up to a number at once, and knows those that are open. The transport alone does not keep to
// a number: it dials while it waits for the outcome of another dial.
type dialer struct {
	socket string // the path of a unix socket; empty: TCP
	room   chan struct{}
	over   chan struct{} // closed by close

	mu    sync.Mutex
	conns map[net.Conn]bool // nil: closed
}

func (c *config) newDialer(most int) *dialer {
	d := &dialer{room: make(chan struct{}, most), over: make(chan struct{}), conns: map[net.Conn]bool{}}
	if c.base.Scheme == "unix" {
		d.socket = c.base.Path
	}
	return d
}

func (d *dialer) dial(ctx context.Context, network, address string) (net.Conn, error) {
	select {
	case d.room <- struct{}{}:
	case <-d.over:
		return nil, errClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if d.socket != "" {
		network, address = "unix", d.socket
	}
	conn, err := (&net.Dialer{Timeout: dialTime, KeepAlive: keepAlive}).DialContext(ctx, network, address)
	if err != nil {
		<-d.room
		return nil, err
	}
	c := &tracked{Conn: conn, dialer: d}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.conns == nil {
		<-d.room
		return nil, errors.Join(errClosed, conn.Close())
	}
	d.conns[c] = true
	return c, nil
}

// close closes all connections. It may be called again.
func (d *dialer) close() {
	d.mu.Lock()
	conns := d.conns
	if conns != nil {
		close(d.over)
	}
	d.conns = nil
	d.mu.Unlock()
	for c := range conns {
		c.Close()
	}
}

// tracked is a connection that its dialer knows.
type tracked struct {
	net.Conn
	dialer *dialer
	once   sync.Once
}

// Close closes the connection and makes room for another one.
func (t *tracked) Close() error {
	t.once.Do(func() {
		t.dialer.mu.Lock()
		delete(t.dialer.conns, t)
		t.dialer.mu.Unlock()
		time.AfterFunc(linger, func() { <-t.dialer.room })
	})
	return t.Conn.Close()
}
